"""Tasks: what an example may be, and what can be done with many."""

import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"candidates": ("true",)}, "at least two candidates; found"),
        ({"answer": 2}, "answer 2 is not among the 2 candidates"),
        ({"answer": -1}, "answer -1 is not among"),
        ({"span": (0, 99)}, r"Span\(start=0, end=99\) lies outside the prompt of 9 characters"),
        ({"span": (3, 3)}, "lies outside the prompt"),
        ({"options": 1}, "1 options for 2 candidates"),
    ],
)
def test_an_example_that_cannot_be(change: dict[str, Any], says: str) -> None:
    from mechprobe.tasks import Example, Option, Span

    span = Span(*change.get("span", (0, 1)))
    with pytest.raises(ValueError, match=says):
        Example(
            "ab\nAnswer",
            change.get("candidates", ("true", "false")),
            change.get("answer", 0),
            statement=span,
            options=(Option(span, span, span),) * change.get("options", 0),
        )


def test_an_empty_task_is_refused_with_its_notes() -> None:
    from mechprobe.tasks import Task

    with pytest.raises(ValueError, match=r"task 'mine' has no examples \(lost them\)"):
        Task("mine", (), ("lost them",))


def test_drawing_examples() -> None:
    from mechprobe.tasks import Example, ontology

    task = ontology(40)
    drawn = task.sample(10, seed=1)
    assert len(drawn) == 10
    assert drawn.examples == task.sample(10, seed=1).examples != task.sample(10, seed=2).examples
    where = [task.examples.index(e) for e in drawn]
    assert where == sorted(set(where))
    assert task[2:4].examples == task.examples[2:4]
    assert isinstance(task[0], Example)
    assert task.take([3, 1], "two").examples == (task.examples[3], task.examples[1])
    assert task.take([3, 1], "two").notes[-1] == "two"
    for n in (0, 41):
        with pytest.raises(ValueError, match=f"cannot draw {n} of the 40 examples"):
            task.sample(n)


def test_what_was_drawn_together_stays_together() -> None:
    from mechprobe.stats import split_groups
    from mechprobe.tasks import ontology, select_and_copy

    task = ontology(48, [1, 2], [0, 1])
    design = task.design
    assert design.group.tolist() == [i // 4 for i in range(48)]
    assert design.block.tolist() == [i // 2 for i in range(48)]
    for seed in range(5):
        drawn = task.sample(22, seed=seed)
        sizes = np.bincount(drawn.design.group)
        assert sorted(sizes.tolist()) == [2, 4, 4, 4, 4, 4]
        split = split_groups(design.group, 0.5, seed=seed)
        assert {len(part) % 4 for part in split} == {0}
    assert len({e.group for e in task.with_shots(1)}) == len({e.group for e in task}) - 1
    # Answers of a theory are the other theory's, turned round.
    answers = np.array([e.answer for e in task]).reshape(-1, 2, 2)
    assert (answers[:, 0] == 1 - answers[:, 1]).all()
    # Without blocks questions are drawn one by one, as ever.
    copy = select_and_copy(40)
    where = sorted(random.Random(3).sample(range(40), 7))
    assert copy.sample(7, seed=3).examples == tuple(copy.examples[i] for i in where)


def test_questions_without_group_or_block_are_their_own() -> None:
    from mechprobe.tasks import Design

    group, block = Design.of(["b", "", "b", "a", ""], ["", "", "x", "x", "y"])
    assert group.tolist() == [0, 1, 0, 2, 3]
    assert block.tolist() == [0, 1, 2, 3, 4]
    assert Design(group, block).units() == [[0], [1], [2], [3], [4]]


def test_a_block_is_kept_in_files_and_changes_no_digest_where_there_is_none(tmp_path: Path) -> None:
    from dataclasses import asdict, replace

    from mechprobe.provenance import digest_json
    from mechprobe.tasks import load, ontology

    task = ontology(4)
    assert load(task.save(tmp_path / "task.jsonl")) == task
    alone = replace(task, examples=tuple(replace(e, block="") for e in task))
    before = [{k: v for k, v in asdict(e).items() if k != "block"} for e in task]
    assert alone.digest() == digest_json(before) != task.digest()
    assert load(alone.save(tmp_path / "alone.jsonl")) == alone


def test_shots_come_before_and_their_groups_go() -> None:
    from mechprobe.tasks import ontology

    task = ontology(8)
    led = task.with_shots(1)
    first = task.examples[0]
    # With the first question go the other one about its theory and the two about its twin.
    assert len(led) == 4
    assert first.group not in {e.group for e in led}
    for old, new in zip(task.examples[4:], led, strict=True):
        assert new.prompt == f"{first.prompt} {first.label}\n\n{old.prompt}"
        assert new.statement
        assert old.statement
        assert new.text(new.statement) == old.text(old.statement)
    assert "1 shots" in led.notes
    for n in (0, -1, 5, 8, 9):
        with pytest.raises(ValueError, match=f"^{n} of 8 examples cannot be shots"):
            task.with_shots(n)


def test_shots_of_questions_without_groups_take_nothing_else() -> None:
    from dataclasses import replace

    from mechprobe.tasks import ontology

    task = ontology(8)
    alone = replace(task, examples=tuple(replace(e, group="") for e in task))
    assert len(alone.with_shots(3)) == 5


def _chat(user: str, start: str) -> str:
    return f"<user>{user}</user>\n<assistant>{start}"


def test_spans_move_into_a_template() -> None:
    from mechprobe.tasks import ontology, select_and_copy

    for task in (ontology(4), select_and_copy(2)):
        for old, new in zip(task, task.templated(_chat), strict=True):
            assert new.prompt.startswith("<user>")
            assert new.prompt.endswith("</user>\n<assistant>Answer:")
            if old.statement and new.statement:
                assert new.text(new.statement) == old.text(old.statement)
            assert len(new.options) == len(old.options)
            for a, b in zip(old.options, new.options, strict=True):
                assert new.text(b.label) == old.text(a.label)
                assert new.text(b.content) == old.text(a.content)
                assert new.text(b.line) == old.text(a.line)


def test_a_template_that_trims_costs_the_last_newline_only() -> None:
    from mechprobe.tasks import select_and_copy

    def trimming(user: str, start: str) -> str:
        return _chat(user.strip(), start)

    task = select_and_copy(2, 3)
    for old, new in zip(task, task.templated(trimming), strict=True):
        lines = [new.text(o.line) for o in new.options]
        assert lines == [*(old.text(o.line) for o in old.options[:2]), lines[-1]]
        assert lines[-1] + "\n" == old.text(old.options[-1].line)


def test_templates_that_hide_the_question_are_refused() -> None:
    from dataclasses import replace

    from mechprobe.tasks import ontology

    task = ontology(4)

    def shouting(user: str, start: str) -> str:
        return f"{user.upper()} {start}"

    with pytest.raises(ValueError, match="the template changes the text of the prompt"):
        task.templated(shouting)
    first = task.examples[0]
    ended = replace(task, examples=(replace(first, prompt=f"{first.prompt} true"),))
    with pytest.raises(ValueError, match="the prompt does not end in 'Answer:'"):
        ended.templated(_chat)


def test_a_task_shows_itself(tmp_path: Path) -> None:
    from dataclasses import replace

    from mechprobe.tasks import ontology, select_and_copy

    task = replace(ontology(4), name="<i>mine</i>", notes=("once <b>noted</b>",))
    assert "n=4" in repr(task)
    assert "true 2" in repr(task)
    assert "once" in repr(task)
    shown = task._repr_html_()
    assert "<i>" not in shown
    assert "<b>noted" not in shown
    frame = task.to_dataframe()
    assert list(frame["answer"]) == [e.label for e in task]
    assert (task.layout, select_and_copy(2).layout) == ("logic", "choice")
    assert (task.n_candidates, select_and_copy(2, 7).n_candidates) == (2, 7)
    with pytest.raises(FileNotFoundError):
        task.save(tmp_path / "nowhere" / "t.jsonl")
