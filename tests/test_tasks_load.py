"""Tasks from files and from the hub, whole or with what can be read of them."""

import gzip
import json
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

PARARULE = {
    "id": "1",
    "context": "Max is big. All big people are sad. ",
    "questions": [
        {"id": "11", "text": "Max is sad.", "label": "true", "meta": {"QDep": "2"}},
        {"id": "12", "text": "Max is not sad.", "label": "false", "meta": {"QDep": "2"}},
    ],
}
MCQA = {"subject": "birds", "question": "Which flies?", "choices": ["dog", "crow"], "answer": 1}


def _write(path: Path, *records: object) -> Path:
    text = "".join(json.dumps(r) + "\n" for r in records)
    if path.suffix == ".gz":
        path.write_bytes(gzip.compress(text.encode()))
    else:
        path.write_text(text, encoding="utf-8")
    return path


def _assert_statement(example: Any, lead: str, statement: str) -> None:
    assert example.text(example.statement) == statement
    assert example.prompt.endswith(f"\n{lead} {statement}\nAnswer:")


@pytest.mark.parametrize(
    ("file", "format", "counts", "groups"),
    [
        ("pararule_plus/depth2_test", "pararule_plus", {"true": 1354, "false": 1354}, 300),
        ("pararule_plus/depth3_test", "pararule_plus", {"true": 1347, "false": 1347}, 300),
        ("pararule_plus/depth4_test", "pararule_plus", {"true": 1352, "false": 1352}, 300),
        ("multi_logieval/samples", "multi_logieval", {"yes": 1167, "no": 484}, 1601),
        ("folio/validation", "folio", {"True": 72, "False": 63, "Uncertain": 69}, 73),
        ("hellaswag/val_first_2000", "hellaswag", {"A": 521, "B": 469, "C": 521, "D": 489}, 2000),
        ("mmlu_dev/questions", "mcqa", {"A": 66, "B": 70, "C": 68, "D": 77}, 281),
    ],
)
def test_published_files(
    data_folder: Path, file: str, format: Any, counts: dict[str, int], groups: int
) -> None:
    from mechprobe.tasks import load

    task = load(data_folder / f"{file}.jsonl.gz", format)
    assert Counter(e.label for e in task) == counts
    assert len({e.group for e in task}) == groups
    assert task.name == file.split("/")[1]
    assert task.notes == ()
    assert set(task.examples[0].candidates) == set(counts)
    assert all(e.prompt.endswith("\nAnswer:") for e in task)
    if task.layout == "choice":
        for example in task:
            lines = [example.text(o.line) for o in example.options]
            assert all(line.count("\n") == 1 and line.endswith("\n") for line in lines)
            assert "".join(lines) in example.prompt
    else:
        assert all(e.statement and e.text(e.statement).strip() for e in task)


def test_pararule_plus_is_read_as_it_says(tmp_path: Path) -> None:
    from mechprobe.tasks import load

    task = load(_write(tmp_path / "d2.jsonl", PARARULE, PARARULE | {"context": "Max is sad."}),
                "pararule_plus")  # fmt: skip
    first = task.examples[0]
    assert first.prompt == ("Max is big. All big people are sad.\nTrue or false: Max is sad.\nAnswer:")
    assert [e.label for e in task] == ["true", "false"] * 2
    assert [e.group for e in task] == ["context 0"] * 2 + ["context 1"] * 2
    assert (first.steps, first.meta) == (2, {"id": "11"})


def test_subjects_context_and_extra_options(tmp_path: Path) -> None:
    from mechprobe.tasks import load

    path = _write(tmp_path / "q.jsonl.gz", MCQA, MCQA | {"answer": "A", "context": "On wings."})
    task = load(path, "mcqa", extra_options=True, name="mine", first_number=0)
    assert task.name == "mine"
    first, second = task.examples
    assert first.meta == {"subject": "birds"}
    assert first.prompt == (
        "Question: Which flies?\nOptions:\nA. dog\nB. crow\nC. None of the above\nD. I don't know\nAnswer:"
    )
    assert (first.label, second.label) == ("B", "A")
    assert second.prompt.startswith("Context: On wings.\nQuestion: ")


def test_folio_and_multi_logieval(tmp_path: Path) -> None:
    from mechprobe.tasks import load

    folio = {"premises": ["All bifs fly. ", "Max is a bif."], "conclusion": "Max flies."}
    path = _write(tmp_path / "f", *(folio | {"label": x} for x in ("True", "Uncertain", "Unknown")))
    task = load(path, "folio")
    assert [e.label for e in task] == ["True", "Uncertain", "Uncertain"]
    assert {e.group for e in task} == {"context 0"}
    _assert_statement(task.examples[0], "True, false or uncertain:", "Max flies.")
    assert task.examples[0].prompt.startswith("All bifs fly. Max is a bif.\n")
    logic = {"context": "It rains.", "question": "Is it wet?", "answer": "Yes", "depth": "d3"}
    (one,) = load(_write(tmp_path / "m", logic), "multi_logieval")
    _assert_statement(one, "Yes or no:", "Is it wet?")
    assert (one.label, one.candidates, one.steps) == ("yes", ("yes", "no"), 3)


def test_boolq(tmp_path: Path) -> None:
    from mechprobe.tasks import load

    swims = {"question": "can it swim", "title": "Penguin", "passage": "It swims. ", "answer": True}
    other = {"question": "is water wet", "passage": "Water is wet.", "answer": True}
    task = load(
        _write(tmp_path / "b", swims, other, swims | {"question": "can it fly", "answer": False}), "boolq"
    )
    first = task.examples[0]
    assert first.prompt == "It swims.\nYes or no: can it swim\nAnswer:"
    _assert_statement(first, "Yes or no:", "can it swim")
    assert {e.candidates for e in task} == {("yes", "no")}
    assert [e.label for e in task] == ["yes", "yes", "no"]
    assert [e.group for e in task] == ["context 0", "context 1", "context 0"]
    assert [e.meta for e in task] == [{"title": "Penguin"}, {}, {"title": "Penguin"}]


def test_prontoqa_in_every_shape(tmp_path: Path) -> None:
    from mechprobe.tasks import load

    question = {
        "question": "Every bif is sweet. Max is a bif.",
        "query": "True or false: Max is not sweet.",
        "chain_of_thought": ["Max is a bif.", "Every bif is sweet.", "Max is sweet."],
        "answer": "False",
    }
    whole = {"example1": {"in_context_example0": question, "test_example": question}}
    (tmp_path / "p.json").write_text(json.dumps(whole))
    (tmp_path / "l.json").write_text(json.dumps([question, question]))
    of_hub = {
        "id": "P1", "context": question["question"], "options": ["A) True", "B) False"],
        "question": "Is the following statement true or false? Max is not sweet.", "answer": "B",
    }  # fmt: skip
    for path, n in (
        (tmp_path / "p.json", 1),
        (tmp_path / "l.json", 2),
        (_write(tmp_path / "q.jsonl", question), 1),
        (_write(tmp_path / "h.jsonl", of_hub), 1),
    ):
        task = load(path, "prontoqa")
        assert len(task) == n
        for example in task:
            _assert_statement(example, "True or false:", "Max is not sweet.")
            assert example.label == "false"
            assert example.prompt.startswith("Every bif is sweet. Max is a bif.\nTrue")
            assert example.steps == (-1 if path.name == "h.jsonl" else 1)
    prove = {**question, "query": "Prove: Max is sweet."}
    with pytest.raises(ValueError, match=r"l.jsonl, line 1: query 'Prove: .*' asks for no truth"):
        load(_write(tmp_path / "l.jsonl", prove), "prontoqa")
    with pytest.raises(ValueError, match="line 1: question 'Which one"):
        load(_write(tmp_path / "l.jsonl", of_hub | {"question": "Which one? Max"}), "prontoqa")


def test_hellaswag_loses_the_marks_of_its_extraction(tmp_path: Path) -> None:
    from mechprobe.tasks import load

    released = {"context": "Cooking [header] Soup [title] Boil  it. [step] Then", "label": 0,
                "endings": ["eat [substeps] it.", "sleep."]}  # fmt: skip
    hub = {"activity_label": "Cooking", "ctx": "Boil it. Then", "label": "1",
           "endings": ["eat it.", "sleep."]}  # fmt: skip
    first, second = load(_write(tmp_path / "h.jsonl", released, hub), "hellaswag")
    assert first.prompt.startswith("Context: Cooking Soup. Boil it. Then\nQuestion: ")
    assert first.text(first.options[0].content) == "eat it."
    assert second.prompt.startswith("Context: Cooking: Boil it. Then\n")
    assert (first.label, second.label) == ("A", "B")


def test_saved_tasks_come_back(tmp_path: Path) -> None:
    from dataclasses import replace

    from mechprobe.tasks import load, ontology, select_and_copy

    for task in (ontology(8, 2, 3), select_and_copy(5, extra_options=True).with_shots(1)):
        noted = replace(task, notes=(*task.notes, "a note \u2013 with a dash"))
        again = load(noted.save(tmp_path / "t.jsonl"))
        assert again == noted
        assert again.digest() == noted.digest()
        packed = noted.save(tmp_path / "t.jsonl.gz")
        assert gzip.decompress(packed.read_bytes()) == (tmp_path / "t.jsonl").read_bytes()
        assert load(packed) == noted
        assert sorted(p.name for p in tmp_path.iterdir()) == ["t.jsonl", "t.jsonl.gz"]
        assert len(load(tmp_path / "t.jsonl", limit=2)) == 2
        assert load(tmp_path / "t.jsonl", name="other").name == "other"


BAD_LINES = [
    (b'{"question": "\xff"}', r"line 2: not UTF-8 \(byte 15 is 0xff\)"),
    (b'{"question": ', "line 2: not JSON"),
    (rb'{"question": "\ud83d?", "choices": ["a", "b"], "answer": 0}', "line 2: an escape stands"),
    (b'["question"]', "line 2: a JSON object is needed"),
    (b"null", "line 2: a JSON object is needed; found 'null'"),
    (b'{"question": "Which?", "choices": ["a", "b"]}', "line 2: field 'answer' is missing"),
    (b'{"choices": ["a", "b"], "answer": 0}', "line 2: field 'question' is missing; found choices"),
    (b'{"question": "", "choices": ["a", "b"], "answer": 0}', "line 2: field 'question' must be a"),
    (b'{"question": "Which?", "choices": [], "answer": 0}', "line 2: field 'choices' must be a"),
    (b'{"question": "Which?", "choices": [1, 2], "answer": 0}', "field 'choices' must hold texts"),
    (b'{"question": "Which?", "choices": ["a", "b"], "answer": 2}', "label 2 is not among the 2"),
    (b'{"question": "Which?", "choices": ["a", "b"], "answer": -1}', "label -1 is not among"),
    (b'{"question": "Which?", "choices": ["a", "b"], "answer": "C"}', "label 'C' is not among"),
    (b'{"question": "Which?", "choices": ["a", "b"], "answer": true}', "label True is not among"),
    (b'{"question": "Which?", "choices": ["a"], "answer": 0}', "2 to 24 options; found 1"),
]


@pytest.mark.parametrize(("line", "says"), BAD_LINES)
def test_a_line_that_cannot_be_read_is_named_or_left_out(tmp_path: Path, line: bytes, says: str) -> None:
    from mechprobe.tasks import load

    good = json.dumps(MCQA).encode()
    path = tmp_path / "questions.jsonl"
    path.write_bytes(b"\n".join([good, line, b"", good, b""]))
    with pytest.raises(ValueError, match=says) as caught:
        load(path, "mcqa", first_number=0)
    assert str(path) in str(caught.value)
    task = load(path, "mcqa", keep_readable=True, first_number=0)
    assert len(task) == 2
    assert task.notes[0].startswith("dropped 1 unreadable: line 2 (")
    path.write_bytes(line)
    with pytest.raises(ValueError, match=r"holds no question. dropped 1 unreadable: line 1"):
        load(path, "mcqa", keep_readable=True, first_number=0)


@pytest.mark.parametrize(
    ("format", "record", "says"),
    [
        ("pararule_plus", PARARULE | {"questions": [{"text": "Max.", "label": "maybe"}]},
         "label 'maybe' is not among the candidates true, false"),
        ("pararule_plus", PARARULE | {"questions": ["Max."]}, "an object with 'text' is needed"),
        ("pararule_plus", PARARULE | {"questions": [{"text": "Max.", "meta": 1}]},
         "field 'label' is missing"),
        ("multi_logieval", {"context": "A.", "question": "B?", "answer": "perhaps"},
         "label 'perhaps' is not among the candidates yes, no"),
        *(("boolq", {"passage": "A.", "question": "B?", "answer": answer},
           f"field 'answer' must be true or false; found {answer!r}")
          for answer in ("yes", "true", 1, None)),
        ("boolq", {"passage": "A.", "question": "B?"}, "field 'answer' is missing"),
        ("boolq", {"passage": " ", "question": "B?", "answer": True}, "field 'passage' must be a text"),
        ("folio", {"premises": ["A."], "conclusion": "B.", "label": "Maybe"},
         "label 'Maybe' is not among the candidates True, False, Uncertain"),
        ("folio", {"premises": "A.", "conclusion": "B.", "label": "True"},
         "field 'premises' must be a list"),
        ("prontoqa", {"question": "A.", "query": "True or false: B.", "answer": "None"},
         "label 'none' is not among"),
        ("hellaswag", {"context": "A", "endings": ["b", "c"], "label": ""},
         "label '' is not among the 2 options"),
    ],
)  # fmt: skip
def test_records_that_do_not_fit_their_format(
    tmp_path: Path, format: Any, record: dict[str, Any], says: str
) -> None:
    from mechprobe.tasks import load

    path = _write(tmp_path / "data.jsonl", record)
    with pytest.raises(ValueError, match=says) as caught:
        load(path, format)
    assert f"{path}, line 1: " in str(caught.value)


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    from mechprobe.tasks import load, ontology

    with pytest.raises(FileNotFoundError, match=r"there is no file .*missing.jsonl"):
        load(tmp_path / "missing.jsonl", "mcqa")
    empty = _write(tmp_path / "empty.jsonl")
    with pytest.raises(ValueError, match=r"empty.jsonl holds no question\."):
        load(empty, "mcqa")
    with pytest.raises(ValueError, match=r"empty.jsonl holds no question\."):
        load(empty)
    with pytest.raises(ValueError, match=r"does not begin with the head line of Task.save; say"):
        load(_write(tmp_path / "raw.jsonl", MCQA))
    short = tmp_path / "short.jsonl.gz"
    short.write_bytes(gzip.compress(json.dumps(MCQA).encode() * 50)[:-20])
    with pytest.raises(ValueError, match=r"short.jsonl.gz is not a whole gzip file"):
        load(short, "mcqa")
    (tmp_path / "plain.gz").write_text("not gzip")
    with pytest.raises(ValueError, match=r"plain.gz is not a whole gzip file"):
        load(tmp_path / "plain.gz", "mcqa")
    saved = ontology(4)[:2].save(tmp_path / "saved.jsonl")
    head, first, second = saved.read_text().splitlines()
    saved.write_text("\n".join([head, first, second.replace('"prompt"', '"text"')]))
    with pytest.raises(ValueError, match=r"saved.jsonl, line 3: not a line of Task.save"):
        load(saved)
    assert len(load(saved, keep_readable=True)) == 1
    saved.write_text("\n".join([head, first.replace('"candidates": ["true", "false"]',
                                                    '"candidates": ["true"]')]))  # fmt: skip
    with pytest.raises(ValueError, match=r"line 2: .* at least two candidates"):
        load(saved)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (b"3", "holds neither an object nor a list"),
        (b'[\n{"question": }]', "broken.json, line 2: not JSON"),
        (b'["\xff"]', r"is not UTF-8 \(byte 3\)"),
        (b"[1]", "record 0: a JSON object is needed; found 1"),
        (b"{}", "holds no question"),
    ],
)
def test_whole_json_files_that_cannot_be_read(tmp_path: Path, text: bytes, says: str) -> None:
    from mechprobe.tasks import load

    (tmp_path / "broken.json").write_bytes(text)
    with pytest.raises(ValueError, match=says):
        load(tmp_path / "broken.json", "prontoqa")


@pytest.mark.usefixtures("as_users_run_it")
def test_wrong_requests(tmp_path: Path) -> None:
    from mechprobe.tasks import load

    path: Any = _write(tmp_path / "q.jsonl", MCQA)
    wrong: Any = "csv"
    with pytest.raises(ValueError, match=r"format must be one of pararule_plus, multi_logieval.*found 'csv'"):
        load(path, wrong)
    with pytest.raises(ValueError, match="extra_options are for multiple-choice formats"):
        load(path, "folio", extra_options=True)
    with pytest.raises(ValueError, match="limit must be at least 1; found 0"):
        load(path, "mcqa", limit=0)


def test_importing_tasks_is_cheap() -> None:
    import subprocess

    heavy = ("torch", "pandas", "sklearn", "scipy", "datasets", "transformer_lens", "plotly")
    code = f"import sys, mechprobe.tasks; print([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )  # fmt: skip
    assert done.stdout.strip() == "[]"


@pytest.mark.usefixtures("as_users_run_it")
def test_the_guide_and_the_errors_know_every_format(tmp_path: Path) -> None:
    from mechprobe import tasks
    from mechprobe.tasks.formats import CHOICE, READERS

    assert set(CHOICE) == {"hellaswag", "mcqa", "cosmos_qa"}
    guide = (Path(__file__).parents[1] / "docs" / "guide" / "tasks.md").read_text(encoding="utf-8")
    words = "".join(c for c in guide.lower() if c.isalnum())
    (tmp_path / "t.jsonl").write_text("{}\n")
    wrong: Any = "chess"
    with pytest.raises(ValueError, match="format must be one of") as refused:
        tasks.load(tmp_path / "t.jsonl", wrong)
    for name in READERS:
        assert name in str(refused.value)
        assert name == "mcqa" or name.replace("_", "") in words, name
