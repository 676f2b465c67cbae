"""The audit finds what was planted, and nothing where nothing was."""

import random
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

N = 400
FILLER: list[str] = [
    "river", "stone", "cloud", "paper", "garden", "lamp", "bridge", "winter", "table", "forest",
    "music", "ticket",
]  # fmt: skip


def _filler(rng: random.Random, n: int) -> str:
    return " ".join(f"The {rng.choice(FILLER)} is near the {rng.choice(FILLER)}." for _ in range(n))


def _logic(make: Callable[[random.Random, bool, bool], tuple[str, str]]) -> Any:
    """Return a task of ``make(rng, label, denied)`` -> context, statement."""
    from mechprobe.tasks import Task, logic_example

    rng = random.Random(0)
    examples = []
    for i in range(N):
        label, denied = rng.random() < 0.5, rng.random() < 0.5
        context, statement = make(rng, label, denied)
        answer = "true" if label else "false"
        examples.append(
            logic_example(context, statement, ("true", "false"), answer, group=f"g{i}")
        )  # fmt: skip
    return Task("planted", tuple(examples))


def _is(denied: bool) -> str:
    return "is not" if denied else "is"


def _negation(rng: random.Random, label: bool, _: bool) -> tuple[str, str]:
    return _filler(rng, 3), f"Max {_is(not label)} sweet."


def _last_polarity(rng: random.Random, label: bool, denied: bool) -> tuple[str, str]:
    last = denied == label
    context = f"The lamp {_is(not last)} sweet. The cloud {_is(last)} sweet. {_filler(rng, 2)}"
    return context, f"Max {_is(denied)} sweet."


def _majority_polarity(rng: random.Random, label: bool, denied: bool) -> tuple[str, str]:
    most = denied == label
    said = [f"The {noun} {_is(p)} sweet." for noun, p in
            zip(rng.sample(FILLER, 3), (most, most, not most), strict=True)]  # fmt: skip
    rng.shuffle(said)
    return " ".join(said), f"Max {_is(denied)} sweet."


def _subject_frequency(rng: random.Random, label: bool, denied: bool) -> tuple[str, str]:
    """Write what PrOntoQA writes: a chain, and a counter-rule whose subject comes but once."""
    proof = denied == label
    said = ["Every bif is a dop.", f"Every dop {_is(proof)} sweet.",
            f"Every kel {_is(not proof)} sweet."]  # fmt: skip
    rng.shuffle(said)
    return f"{' '.join(said)} Max is a bif.", f"Max {_is(denied)} sweet."


def _last_sentence_overlap(rng: random.Random, label: bool, _: bool) -> tuple[str, str]:
    said = ["Max saw something sweet today.", "Nobody was near the lamp."]
    return f"{_filler(rng, 2)} {' '.join(said if not label else said[::-1])}", "Max is sweet."


def _word_overlap(rng: random.Random, label: bool, _: bool) -> tuple[str, str]:
    noun = rng.choice(FILLER)
    others = [w for w in FILLER if w != noun]
    said = [f"The {w} is old." for w in rng.sample(others, 3)] + [f"The {noun} is old."]
    rng.shuffle(said)
    asked = noun if label else next(w for w in others if w not in " ".join(said))
    return " ".join(said), f"The {asked} was seen."


def _statement_length(rng: random.Random, label: bool, _: bool) -> tuple[str, str]:
    words = rng.sample(FILLER, rng.randint(7, 9) if label else rng.randint(2, 5))
    return _filler(rng, 2), f"Max likes {' and '.join(words)}."


def _context_length(rng: random.Random, label: bool, _: bool) -> tuple[str, str]:
    return _filler(rng, rng.randint(6, 9) if label else rng.randint(2, 5)), "Max is sweet."


def _bag_of_words(rng: random.Random, label: bool, _: bool) -> tuple[str, str]:
    odd = "The zebra is near the lamp." if label else "The otter is near the lamp."
    return f"{_filler(rng, rng.randint(0, 2))} {odd} {_filler(rng, 2)}", "Max is sweet."


def _majority_answer(rng: random.Random, *_: bool) -> tuple[str, str]:
    return _filler(rng, 3), "Max is sweet."


LEAKS = {
    "negation": _negation,
    "last_polarity": _last_polarity,
    "majority_polarity": _majority_polarity,
    "subject_frequency": _subject_frequency,
    "last_sentence_overlap": _last_sentence_overlap,
    "word_overlap": _word_overlap,
    "statement_length": _statement_length,
    "context_length": _context_length,
    "bag_of_words": _bag_of_words,
}


def _with_labels(task: Any, labels: list[int]) -> Any:
    from dataclasses import replace

    return replace(
        task, examples=tuple(replace(e, answer=a) for e, a in zip(task, labels, strict=True))
    )  # fmt: skip


@pytest.mark.parametrize("name", LEAKS)
def test_a_planted_leak_is_found_and_chance_is_not_taken_for_one(name: str) -> None:
    from mechprobe.tasks import audit

    task = _logic(LEAKS[name])
    found = audit(task)
    assert found[name].accuracy >= 0.97, found
    assert found[name].low > found.chance == 0.5
    labels = [e.answer for e in task]
    random.Random(1).shuffle(labels)
    shuffled = audit(_with_labels(task, labels))
    # 400 questions: five standard errors.
    assert 0.36 < shuffled[name].accuracy < 0.64, shuffled
    assert shuffled[name].low <= 0.5


@pytest.mark.parametrize("name", ["last_polarity", "majority_polarity", "subject_frequency"])
def test_a_leak_in_the_context_is_not_one_of_the_statement(name: str) -> None:
    from mechprobe.tasks import audit

    found = audit(_logic(LEAKS[name]))
    for other in ("negation", "statement_length", "context_length", "majority_answer"):
        assert found[other].accuracy < 0.64, found


@pytest.mark.parametrize(
    ("name", "context", "statement", "value"),
    [
        ("negation", "Max is big.", "Max isn\u2019t sweet.", "negated"),
        ("negation", "Max is not big.", "Max is sweet.", "affirmed"),
        ("last_polarity", "A bif is sweet. A dop is not sweet.", "Max is not sweet.", "same"),
        ("last_polarity", "A bif is sweet. A dop is not sweet.", "Max is sweet.", "other"),
        ("last_polarity", "If it is not big then it is sweet.", "Max is sweet.", "same"),
        ("last_polarity", "If it is not sweet then it is big.", "Max is sweet.", "other"),
        ("last_polarity", "Bifs are sweet. If it is not sweet it is big.", "Max is sweet.", "same"),
        ("last_polarity", "Max is big.", "Max is sweet.", "not mentioned"),
        ("majority_polarity", "A is sweet. B is sweet. C is not sweet.", "Max is sweet.", "same"),
        ("majority_polarity", "A is not sweet. B is sweet.", "Max is sweet.", "tie"),
        ("subject_frequency", "Bifs are not sweet. Dops are sweet. Kels are sweet. Kels and bifs "
         "and kels are big.", "Max is sweet.", "same"),
        ("subject_frequency", "Bifs are not sweet. Dops are sweet. A bif is big. Kels are sweet.",
         "Max is sweet.", "other"),
        ("subject_frequency", "Bifs are not sweet. Dops are sweet.", "Max is sweet.", "tie"),
        ("connectivity", "Max is a bif. Dops are bifs. Dops are sweet. Kels are not sweet.",
         "Max is sweet.", "same"),
        ("connectivity", "Max is a bif. Dops are bifs. Dops are sweet. Kels are not sweet. A kel is a "
         "dop.", "Max is sweet.", "tie"),
        ("connectivity", "Dops are sweet.", "Max is sweet.", "tie"),
        ("connectivity", "Max is sweet.", "Max is not sweet.", "other"),
        ("shortest_path", "Max is a bif. Dops are bifs. Dops are sweet. Kels are not sweet. A kel is a "
         "dop.", "Max is sweet.", "same"),
        ("shortest_path", "Max is a bif. Dops are bifs. Dops are sweet. Bifs are not sweet.",
         "Max is sweet.", "other"),
        ("shortest_path", "Max is a bif. Bifs are sweet. Bifs are not sweet.", "Max is sweet.", "tie"),
        ("last_sentence_overlap", "Max is sweet. Max is big.", "Max is sweet.", 0.5),
        ("word_overlap", "Max is sweet. Max is big.", "Max is sweet.", 1.0),
        ("statement_length", "Max is big.", "Max is not sweet.", 4.0),
        ("context_length", "Max is big. Bifs fly.", "Max is sweet.", 5.0),
    ],
)  # fmt: skip
def test_what_a_shortcut_sees(name: str, context: str, statement: str, value: object) -> None:
    from mechprobe.tasks import logic_example
    from mechprobe.tasks.shortcuts import LOGIC

    assert LOGIC[name](logic_example(context, statement, ("yes", "no"), "no")) == value


def test_without_a_marked_statement_the_last_line_is_it() -> None:
    from mechprobe.tasks import Example
    from mechprobe.tasks.shortcuts import parts

    example = Example("Bifs fly.\nMax is a bif.\nDoes Max fly?\nAnswer:", ("yes", "no"), 0)
    assert parts(example) == ("Bifs fly.\nMax is a bif.", "Does Max fly?")


def test_unequal_answers_are_the_most_frequent_answer() -> None:
    from mechprobe.tasks import audit

    task = _with_labels(_logic(_majority_answer), [int(i % 10 == 0) for i in range(N)])
    found = audit(task)
    assert found["majority_answer"].accuracy == pytest.approx(0.9, abs=0.03)
    assert found["majority_answer"].rule == "always: true"


def _choice(make: Callable[[random.Random], tuple[list[str], int]]) -> Any:
    from mechprobe.tasks import Task, choice_example

    rng = random.Random(0)
    made = [make(rng) for _ in range(N)]
    examples = [choice_example("Which one is near the river?", *m, group=str(i))
                for i, m in enumerate(made)]  # fmt: skip
    return Task("planted", tuple(examples))


def _planted_choice(right: Callable[[random.Random], str]) -> Callable[..., tuple[list[str], int]]:
    """Return a maker of four options of three words, the right one written by ``right``."""

    def make(rng: random.Random) -> tuple[list[str], int]:
        words = [w for w in FILLER if w != "river"]
        options = [" ".join(rng.sample(words, 3)) for _ in range(4)]
        place = rng.randrange(4)
        options[place] = right(rng)
        return options, place

    return make


@pytest.mark.parametrize(
    ("name", "right", "rule"),
    [
        ("option_length", "table winter bridge ticket lamp garden", "longest"),
        ("option_length", "lamp", "shortest"),
        ("option_overlap", "stone river lamp", "most overlap"),
        ("bag_of_words", "zebra lamp stone", "words"),
    ],
)
def test_a_leak_in_the_options_is_found(name: str, right: str, rule: str) -> None:
    from mechprobe.tasks import audit

    def planted(_: random.Random) -> str:
        return right

    found = audit(_choice(_planted_choice(planted)))
    assert found[name].accuracy >= 0.97, found
    assert rule in found[name].rule
    assert found["position"].accuracy < 0.4
    assert found.chance == 0.25


def test_options_alike_leave_nothing_to_find_and_places_do_if_unequal() -> None:
    from mechprobe.tasks import audit

    def alike(rng: random.Random) -> str:
        return " ".join(rng.sample(FILLER[1:], 3))

    task = _choice(_planted_choice(alike))
    assert audit(task).worst.accuracy < 0.4
    seconds = task.take([i for i, e in enumerate(task) if e.answer == 1 or i % 6 == 0])
    found = audit(seconds)
    assert found.worst.name == "position"
    assert found["position"].rule == "always B"
    assert found["position"].accuracy > 0.5


def test_select_and_copy_is_solved_by_overlap_alone() -> None:
    from mechprobe.tasks import audit, select_and_copy

    found = audit(select_and_copy(300, 4, extra_options=True))
    assert found.worst == ("option_overlap", 1.0)
    assert found["position"].accuracy < 0.4
    assert found.chance == pytest.approx(1 / 6)


def test_halves_never_cut_a_group_and_hold_every_answer_equally_often() -> None:
    from mechprobe.tasks import ontology, select_and_copy
    from mechprobe.tasks.audit import halves

    task = ontology(240, [1, 2], [0, 3])
    for seed in range(5):
        half = halves(task, seed)
        assert sorted(half.tolist()) == [0] * 120 + [1] * 120
        sides = [{e.group for e, h in zip(task, half, strict=True) if h == side} for side in (0, 1)]
        assert not sides[0] & sides[1]
    assert halves(task, 0).tolist() != halves(task, 1).tolist()
    assert halves(task, 0).tolist() == halves(task, 0).tolist()
    for n in (40, 41, 43):
        copy = select_and_copy(n)
        half = halves(copy, 0)
        counts = [Counter(e.answer for e, h in zip(copy, half, strict=True) if h == s) for s in (0, 1)]
        assert all(abs(counts[0][place] - counts[1][place]) <= 1 for place in range(4))


def test_the_most_frequent_answer_of_a_balanced_task_is_at_chance() -> None:
    """By halves drawn at random it was at 0.475."""
    from mechprobe.tasks import audit

    task = _logic(_majority_answer)
    for seed, n_true in enumerate((N // 2, N // 2 - 1)):
        labels = [int(i < n_true) for i in range(N)]
        random.Random(seed).shuffle(labels)
        found = audit(_with_labels(task, labels), seed=seed)["majority_answer"].accuracy
        assert found == pytest.approx(max(n_true, N - n_true) / N, abs=1e-9)


@pytest.mark.parametrize(("n_contexts", "each", "shared"), [(100, 1, True), (40, 9, True), (40, 3, False)])
def test_random_labels_are_not_called_a_shortcut(n_contexts: int, each: int, shared: bool) -> None:
    """Some shortcut was above chance in 10 % of such audits, and in 50 % with labels by context."""
    from dataclasses import replace

    from mechprobe.tasks import Task, audit, logic_example

    rng = random.Random(0)
    made = [
        logic_example(
            context, f"The {rng.choice(FILLER)} {_is(rng.random() < 0.5)} sweet.", ("true", "false"), "true",
            group=context,
        )
        for g in range(n_contexts)
        for context in [f"{g}. {_filler(rng, rng.randint(2, 9))} The lamp is sweet."]
        for _ in range(each)
    ]  # fmt: skip
    called = 0
    for seed in range(10):
        by_context = [rng.randrange(2) for _ in range(n_contexts)]
        labels = [by_context[i // each] if shared else rng.randrange(2) for i in range(len(made))]
        task = Task("random", tuple(replace(e, answer=a) for e, a in zip(made, labels, strict=True)))
        called += bool(audit(task, seed=seed).above_chance)
    # At 5 % three or more of ten come once in ninety times; at 50 %, nineteen times in twenty.
    assert called <= 2


def test_every_question_is_tried_by_what_was_learnt_on_the_other_half() -> None:
    from mechprobe.tasks import audit

    task = _logic(_context_length)
    found = audit(task)
    assert found.right.shape == (len(found.scores), N)
    for score, right in zip(found.scores, found.right, strict=True):
        assert right.mean() == pytest.approx(score.accuracy)
    # By hand: no statement is negated, so the answer that is more frequent in the other half.
    row = [s.name for s in found.scores].index("negation")
    for i in range(0, N, 37):
        other = [e.label for e, h in zip(task, found.half, strict=True) if h != found.half[i]]
        most = min(set(other), key=lambda label: (-other.count(label), label))
        assert found.right[row, i] == (task[i].label == most)


def test_one_group_cannot_be_audited() -> None:
    from mechprobe.tasks import audit, ontology

    with pytest.raises(ValueError, match="is one group of 4 questions; an audit needs two groups"):
        audit(ontology(4))


def test_an_audit_shows_itself() -> None:
    from dataclasses import replace

    from mechprobe.tasks import audit, ontology

    found = audit(replace(ontology(40), name="<b>mine</b>"))
    frame = found.to_dataframe()
    assert list(frame["name"]) == [s.name for s in found.scores]
    assert set(frame["n"]) == {40}
    assert "40 questions in 10 groups" in repr(found)
    assert frame["accuracy"].max() == found.worst.accuracy
    assert ((frame["low"] <= frame["accuracy"]) & (frame["accuracy"] <= frame["high"])).all()
    assert all(s.name in repr(found) for s in found.scores)
    assert "<b>mine" not in found._repr_html_()
    with pytest.raises(KeyError, match="no shortcut 'luck'; audited: majority_answer, negation"):
        found["luck"]


def test_pararule_plus_is_solved_by_polarity(data_folder: Path) -> None:
    from mechprobe.tasks import audit, debiased, load

    for depth in (2, 3, 4):
        path = data_folder / "pararule_plus" / f"depth{depth}_test.jsonl.gz"
        task = load(path, "pararule_plus", limit=None if depth == 2 else 300)
        found = audit(task)
        assert found.worst == ("negation", 1.0)
        assert found["negation"].rule in (
            "affirmed: true; negated: false", "negated: false; affirmed: true",
        )  # fmt: skip
        with pytest.raises(ValueError, match="'negation' determines the label of every question"):
            debiased(task)


def test_solved_examples_before_a_question_are_not_its_context() -> None:
    from mechprobe import tasks

    task = tasks.ontology(48, 2, 3)
    led, plain = task.with_shots(1), task[4:]
    assert led[0].lead > 0
    assert [s.accuracy for s in tasks.audit(led).scores] == [s.accuracy for s in tasks.audit(plain).scores]
    assert led[0].prompt[led[0].lead :] == plain[0].prompt
