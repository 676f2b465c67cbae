"""Debiasing takes named shortcuts away, and no more questions than it must."""

import random
from collections import Counter, defaultdict
from itertools import product
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st


def test_debiasing_keeps_pairs_of_theories_whole() -> None:
    """Denied statements that are false are too many; questions alone would be left out of pairs."""
    from mechprobe.tasks import debiased, ontology

    task = ontology(160)
    odd = [i for i, e in enumerate(task) if not (int(e.group.split()[-1]) % 4 == 0 and i % 4 == 0)]
    left = debiased(task.take(odd), ["negation"])
    sizes = Counter(e.group for e in left)
    whole = Counter(e.group for e in task.take(odd))
    assert all(sizes[g] == whole[g] for g in sizes)
    counts = Counter((e.label, " not " in e.text(e.statement)) for e in left if e.statement)
    assert counts["true", True] == counts["false", True]
    assert counts["true", False] == counts["false", False]
    assert len(left) >= 120


def test_multi_logieval_falls_to_one_half(data_folder: Path) -> None:
    from mechprobe.tasks import audit, debiased, load

    task = load(data_folder / "multi_logieval" / "samples.jsonl.gz", "multi_logieval")
    assert audit(task)["majority_answer"].accuracy > 0.65
    left = debiased(task, ["majority_answer"])
    assert Counter(e.label for e in left) == {"yes": 484, "no": 484}
    assert "kept 968 of 1651 questions" in left.notes[-1]
    assert "above chance:" in left.notes[-1]
    assert {e.prompt for e in left} <= {e.prompt for e in task}


def test_debiasing_several_options_at_once(data_folder: Path) -> None:
    from mechprobe.tasks import debiased, load

    task = load(data_folder / "hellaswag" / "val_first_2000.jsonl.gz", "hellaswag", limit=800)
    left = debiased(task, ["position", "option_overlap", "option_length"])
    assert len(set(Counter(e.label for e in left).values())) == 1
    from mechprobe.tasks.shortcuts import CHOICE, credit

    for values in CHOICE.values():
        for largest in (True, False):
            credits = [credit(e, values(e), largest) for e in left]
            assert sum(credits) / len(left) <= 0.25 + 1e-6
    assert len(left) > 550


def test_debiasing_by_options_leaves_places_as_they_were(data_folder: Path) -> None:
    from mechprobe.tasks import debiased, load

    task = load(data_folder / "hellaswag" / "val_first_2000.jsonl.gz", "hellaswag", limit=800)
    left = debiased(task, ["option_overlap"])
    kept, all_of = (Counter(e.label for e in t) for t in (left, task))
    # Some 120 of 800 go: about three standard errors.
    assert all(abs(kept[x] / len(left) - all_of[x] / len(task)) < 0.03 for x in "ABCD")


@settings(max_examples=30)
@given(st.lists(st.tuples(st.booleans(), st.booleans(), st.booleans()), min_size=2, max_size=9))
def test_no_more_is_cut_than_needed(rows: list[tuple[bool, bool, bool]]) -> None:
    """Against every subset: two shortcuts, each value with as many true as false."""
    from mechprobe.tasks import Task, debiased, logic_example

    examples = [
        logic_example(
            "The lamp is old. " + "Ben is at home. " * long,
            f"Max is {'not ' * denied}sweet.",
            ("true", "false"), "true" if label else "false", group=str(i),
        )
        for i, (long, denied, label) in enumerate(rows)
    ]  # fmt: skip

    def balanced(kept: list[tuple[bool, bool, bool]]) -> bool:
        for column in (0, 1):
            sums: dict[bool, int] = defaultdict(int)
            for row in kept:
                sums[row[column]] += 1 if row[2] else -1
            if any(sums.values()):
                return False
        return True

    best = max(
        sum(keep) for keep in product((0, 1), repeat=len(rows))
        if balanced([row for row, k in zip(rows, keep, strict=True) if k])
    )  # fmt: skip
    task = Task("small", tuple(examples))
    if best == 0:
        with pytest.raises(ValueError, match="left"):
            debiased(task, ["context_length", "negation"])
        return
    left = debiased(task, ["context_length", "negation"])
    assert len(left) == best
    kept = [rows[int(e.group)] for e in left]
    assert balanced(kept)


def test_debiasing_takes_a_planted_leak_away() -> None:
    from mechprobe.tasks import Task, audit, debiased, logic_example

    rng = random.Random(0)
    examples = []
    for i in range(400):
        long = rng.random() < 0.5
        statement = f"Max is {'big and old and sweet' if long else 'big'}."
        # Long ones are true, but for every fourth.
        answer = "true" if long == bool(i % 4) else "false"
        examples.append(logic_example("Bifs fly.", statement, ("true", "false"), answer, group=str(i)))
    leaky = Task("leaky", tuple(examples))
    before = audit(leaky)["statement_length"]
    assert before.low > 0.5
    left = debiased(leaky, seed=3)
    assert audit(left)["statement_length"].low <= 0.5
    assert len(left) < len(leaky)
    assert debiased(leaky, seed=3).digest() == left.digest() != debiased(leaky, seed=4).digest()


def test_nothing_to_take_away_is_said() -> None:
    from mechprobe.tasks import debiased, ontology

    task = ontology(200)
    left = debiased(task)
    assert left.examples == task.examples
    assert "no shortcut is above chance" in left.notes[-1]


@pytest.mark.parametrize(
    ("names", "says"),
    [
        (["luck"], "shortcuts of a logic task are majority_answer, negation.*found 'luck'"),
        ([], "found none"),
        (["bag_of_words"], "'bag_of_words' cannot be brought to chance by leaving questions out"),
        (["option_length"], "found 'option_length'"),
    ],
)
def test_unknown_shortcuts_are_refused(names: list[str], says: str) -> None:
    from mechprobe.tasks import debiased, ontology

    with pytest.raises(ValueError, match=says):
        debiased(ontology(4), names)
