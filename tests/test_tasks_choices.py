"""Multiple choice as data sets write it down: labels mean what their makers meant, or are refused."""

import json
from pathlib import Path
from typing import Any

import pytest

QUESTIONS = [
    ("Which metal is liquid at room temperature?", ["Iron", "Mercury", "Tin", "Zinc"], 1),
    ("Which of these is a root?", ["Carrot", "Apple", "Pea", "Plum"], 0),
    ("How many legs has a spider?", ["four", "six", "8", "ten"], 2),
    ("Which is the last letter?", ["a", "b", "c", "z"], 3),
]
RIGHT = ["Mercury", "Carrot", "8", "z"]


def loaded(folder: Path, records: list[Any], **options: Any) -> Any:
    from mechprobe import tasks

    file = folder / "q.jsonl"
    file.write_text("".join(json.dumps(r) + "\n" for r in records), encoding="utf-8")
    return tasks.load(file, "mcqa", **options)


def right(task: Any) -> list[str]:
    return [e.text(e.options[e.answer].content) for e in task]


LAYOUTS: dict[str, Any] = {
    "from 0": lambda q, o, a: {"question": q, "choices": o, "answer": a},
    "from 0, as text": lambda q, o, a: {"question": q, "choices": o, "answer": str(a)},
    "from 1": lambda q, o, a: {"question": q, "choices": o, "answer": a + 1},
    "from 1, as text": lambda q, o, a: {"question": q, "choices": o, "answer": f"{a + 1}"},
    "from 1, as a float": lambda q, o, a: {"question": q, "choices": o, "answer": a + 1.0},
    "letters": lambda q, o, a: {"question": q, "choices": o, "answer": "ABCD"[a]},
    "letters in brackets": lambda q, o, a: {"question": q, "choices": o, "answer": f"({'ABCD'[a]})"},
    "letters before the texts": lambda q, o, a: {
        "question": q, "choices": [f"{x}. {t}" for x, t in zip("ABCD", o, strict=True)], "answer": "ABCD"[a]
    },
    "ARC": lambda q, o, a: {
        "question": q, "choices": {"text": o, "label": ["1", "2", "3", "4"]}, "answerKey": str(a + 1)
    },
    "OpenBookQA": lambda q, o, a: {
        "question_stem": q, "choices": {"text": o, "label": list("ABCD")}, "answerKey": "ABCD"[a]
    },
    "a mapping": lambda q, o, a: {
        "question": q, "choices": dict(zip("ABCD", o, strict=True)), "answer": "ABCD"[a]
    },
    "MMLU-Pro": lambda q, o, a: {"question": q, "options": o, "answer": "ABCD"[a], "answer_index": a},
    "LogiQA": lambda q, o, a: {"context": "c", "query": q, "options": o, "correct_option": a},
    "ReClor": lambda q, o, a: {"context": "c", "question": q, "answers": o, "label": a},
    "the text": lambda q, o, a: {"question": q, "choices": o, "answer": o[a]},
}  # fmt: skip


@pytest.mark.parametrize("layout", LAYOUTS)
def test_labels_mean_what_the_data_set_means(layout: str, tmp_path: Path) -> None:
    task = loaded(tmp_path, [LAYOUTS[layout](*q) for q in QUESTIONS])
    assert right(task) == RIGHT
    assert [e.text(o.content) for e in task for o in e.options] == [t for q in QUESTIONS for t in q[1]]


def test_small_letters(tmp_path: Path) -> None:
    made = [{"question": q, "choices": o, "answer": "abcd"[a]} for q, o, a in QUESTIONS[:3]]
    assert right(loaded(tmp_path, made)) == RIGHT[:3]


def test_numbers_that_may_count_from_either_are_refused(tmp_path: Path) -> None:
    made = [{"question": q, "choices": o, "answer": a} for q, o, a in QUESTIONS if a in (1, 2)]
    with pytest.raises(ValueError, match="from 1 to 2, which may count from 0 or from 1; say first_number=0"):
        loaded(tmp_path, made)
    assert right(loaded(tmp_path, made, first_number=0)) == ["Mercury", "8"]
    assert right(loaded(tmp_path, made, first_number=1)) == ["Iron", "six"]


def test_numbers_that_count_from_neither_are_refused(tmp_path: Path) -> None:
    """A single damaged line must not shift all the others."""
    made = [LAYOUTS["from 1"](*q) for q in QUESTIONS] + [LAYOUTS["from 0"](*QUESTIONS[1])]
    for keep in (False, True):
        with pytest.raises(ValueError, match="from 0 to 4, which cannot all count from either 0 or 1"):
            loaded(tmp_path, made, keep_readable=keep)
    assert right(loaded(tmp_path, made, keep_readable=True, first_number=1)) == RIGHT


def test_a_number_is_a_label_where_options_have_labels(tmp_path: Path) -> None:
    labelled = {"text": ["a", "b", "c"], "label": ["1", "2", "3"]}
    for said in (2, "2", 2.0):
        made = [{"question": "?", "choices": labelled, "answer": said}]
        assert right(loaded(tmp_path, made)) == ["b"]
    turned = labelled | {"label": ["C", "B", "A"]}
    for letter in ("A", "a", "(a)"):
        assert right(loaded(tmp_path, [{"question": "?", "choices": turned, "answer": letter}])) == ["c"]
    letters = labelled | {"label": ["A", "B", "C"]}
    with pytest.raises(ValueError, match=r"label 1 is not among the 3 options \(A, B, C\)"):
        loaded(tmp_path, [{"question": "?", "choices": letters, "answer": 1}])


@pytest.mark.usefixtures("as_users_run_it")
def test_first_number_is_for_mcqa(tmp_path: Path) -> None:
    from mechprobe import tasks

    made = [LAYOUTS["from 1"](*q) for q in QUESTIONS]
    with pytest.raises(ValueError, match="first_number is 0 or 1, for format 'mcqa'; found 2 for 'mcqa'"):
        loaded(tmp_path, made, first_number=2)
    with pytest.raises(ValueError, match="found 1 for 'cosmos_qa'"):
        tasks.load(tmp_path / "q.jsonl", "cosmos_qa", first_number=1)


def test_the_readable_lines_of_a_file_from_1_are_not_shifted(tmp_path: Path) -> None:
    made: list[Any] = [LAYOUTS["from 1"](*q) for q in QUESTIONS]
    task = loaded(tmp_path, [*made, {"question": "?"}], keep_readable=True)
    assert right(task) == RIGHT
    assert task.notes[0].startswith("dropped 1 unreadable: line 5")


@pytest.mark.parametrize(("options", "said"), [(["2", "1", "0"], "2"), (["b", "a"], "a")])
def test_a_label_that_may_be_another_option_s_text_is_refused(
    options: list[str], said: str, tmp_path: Path
) -> None:
    made = [{"question": "Which?", "choices": options, "answer": said}, LAYOUTS["from 0"](*QUESTIONS[1])]
    with pytest.raises(ValueError, match="of one option and the text of another"):
        loaded(tmp_path, made)


def test_questions_of_one_passage_share_a_group(tmp_path: Path) -> None:
    named: list[Any] = [{"context": "On metals."}, {"passage": "On metals."}, {"article": "On roots."}, {}]
    made = [LAYOUTS["from 0"](*q) | more for q, more in zip(QUESTIONS, named, strict=True)]
    task = loaded(tmp_path, made)
    assert [e.group for e in task] == ["context 0", "context 0", "context 1", "question 3"]
    assert [e.prompt.partition("\n")[0] for e in task][:3] == [
        "Context: On metals.", "Context: On metals.", "Context: On roots.",
    ]  # fmt: skip
    with pytest.raises(ValueError, match="passage, article hold different passages"):
        loaded(tmp_path, [made[1] | {"article": "Other."}])


def test_a_passage_with_several_questions(tmp_path: Path) -> None:
    race = {
        "article": "A passage.", "questions": [q for q, _, _ in QUESTIONS],
        "options": [o for _, o, _ in QUESTIONS], "answers": ["ABCD"[a] for _, _, a in QUESTIONS],
    }  # fmt: skip
    task = loaded(tmp_path, [race])
    assert right(task) == RIGHT
    assert {e.group for e in task} == {"context 0"}
    with pytest.raises(ValueError, match="questions, options, answers differ in length: 4, 4, 3"):
        loaded(tmp_path, [race | {"answers": ["A", "B", "C"]}])


def test_extra_options_that_are_there_are_not_added_again(tmp_path: Path) -> None:
    said = ["iron", "tin", "I don\u2019t know", "None of the above."]
    made = [{"question": "q?", "choices": said, "answer": "A"}]
    only = loaded(tmp_path, made, extra_options=True).examples[0]
    assert [only.text(o.content) for o in only.options] == said
    half = [{**made[0], "choices": ["iron", "I don't know"]}]
    more = loaded(tmp_path, half, extra_options=True).examples[0]
    assert [more.text(o.content) for o in more.options] == ["iron", "I don't know", "None of the above"]


def test_letters_of_some_options_only_are_part_of_their_text(tmp_path: Path) -> None:
    made = [{"question": "q?", "choices": ["A. Milne", "Kipling"], "answer": "A"}]
    assert right(loaded(tmp_path, made)) == ["A. Milne"]


@pytest.mark.parametrize(
    "file",
    ["arc_hub.jsonl", "csqa.jsonl", "obqa.jsonl", "race.jsonl", "mmlu_pro.jsonl", "logiqa_hub.jsonl",
     "choices_dict.jsonl"],
)  # fmt: skip
def test_files_in_the_field_s_layouts(file: str, data_folder: Path) -> None:
    from mechprobe import tasks

    assert right(tasks.load(data_folder / "task_files" / file, "mcqa"))[:3] == RIGHT[:3]


def test_a_file_that_counts_from_1(data_folder: Path) -> None:
    from mechprobe import tasks

    task = tasks.load(data_folder / "task_files" / "one_based.jsonl", "mcqa")
    assert [e.answer for e in task] == [i % 4 for i in range(8)]
