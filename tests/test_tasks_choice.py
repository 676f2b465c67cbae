"""Multiple-choice questions: their layout, select-and-copy, reordered options."""

from collections import Counter
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
texts = st.text(st.characters(codec="utf-8", exclude_categories=["C", "Z"]), min_size=1)


def _assert_laid_out(example: Any, contents: list[str]) -> None:
    assert len(example.options) == len(contents)
    for letter, content, option in zip(LETTERS, contents, example.options, strict=False):
        assert example.text(option.label) == letter
        assert example.text(option.content) == content
        assert example.text(option.line) == f"{letter}. {content}\n"
    lines = "".join(example.text(o.line) for o in example.options)
    assert example.prompt.endswith(f"Options:\n{lines}Answer:")
    assert example.candidates == tuple(LETTERS[: len(contents)])


@given(contents=st.lists(texts, min_size=2, max_size=24), context=st.just("") | texts,
       data=st.data())  # fmt: skip
def test_layout(contents: list[str], context: str, data: st.DataObject) -> None:
    from mechprobe.tasks import choice_example

    answer = data.draw(st.integers(0, len(contents) - 1))
    example = choice_example("Which?", contents, answer, context=context)
    _assert_laid_out(example, contents)
    assert example.label == LETTERS[answer]
    head = f"Context: {context}\n" if context else ""
    assert example.prompt.startswith(f"{head}Question: Which?\nOptions:\nA. ")
    six = choice_example("Which?", contents, answer, extra_options=True)
    _assert_laid_out(six, [*contents, "None of the above", "I don't know"])
    assert six.answer == answer


def test_an_option_is_one_line() -> None:
    from mechprobe.tasks import choice_example

    example = choice_example("Which?", ["one\n  two", " three "], 0)
    _assert_laid_out(example, ["one two", "three"])


@pytest.mark.parametrize(
    ("contents", "answer", "says"),
    [
        (["a"], 0, "2 to 24 options; found 1"),
        (["a"] * 25, 0, "2 to 24 options; found 25"),
        (["a", " "], 0, "option 1 is empty"),
        (["a", "b"], 2, r"label 2 is not among the 2 options \(0\.\.1\)"),
        (["a", "b"], -1, "label -1 is not among"),
    ],
)
def test_questions_that_cannot_be_asked(contents: list[str], answer: int, says: str) -> None:
    from mechprobe.tasks import choice_example

    with pytest.raises(ValueError, match=says):
        choice_example("Which?", contents, answer)


def test_statements_that_cannot_be_asked() -> None:
    from mechprobe.tasks import choice_example, logic_example

    with pytest.raises(ValueError, match="the question is empty"):
        choice_example(" ", ["a", "b"], 0)
    with pytest.raises(ValueError, match="the context is empty"):
        logic_example(" ", "Max is sweet.", ("true", "false"), "true")
    with pytest.raises(ValueError, match="the statement is empty"):
        logic_example("Max is sweet.", "", ("true", "false"), "true")
    with pytest.raises(ValueError, match="label 'maybe' is not among the candidates true, false"):
        logic_example("Max is sweet.", "Max is sweet.", ("true", "false"), "maybe")


@settings(max_examples=40)
@given(n=st.integers(1, 60), options=st.integers(2, 24), seed=st.integers(0, 999),
       extra=st.booleans())  # fmt: skip
def test_select_and_copy(n: int, options: int, seed: int, extra: bool) -> None:
    from mechprobe.tasks import select_and_copy
    from mechprobe.tasks.words import COMMON_WORDS

    task = select_and_copy(n, options, seed=seed, extra_options=extra)
    assert len(task) == n
    assert task.layout == "choice"
    for example in task:
        contents = [example.text(o.content) for o in example.options]
        _assert_laid_out(example, contents)
        words = contents[:-2] if extra else contents
        assert len(set(words)) == len(words) == options
        assert set(words) <= set(COMMON_WORDS)
        assert f'the word "{words[example.answer]}"?' in example.prompt
        if extra:
            assert contents[-2:] == ["None of the above", "I don't know"]
    places = Counter(e.answer for e in task)
    counts = [places[i] for i in range(options)]
    assert max(counts) - min(counts) <= (1 if n % options else 0)
    assert len({e.group for e in task}) == n
    assert task.digest() == select_and_copy(n, options, seed=seed, extra_options=extra).digest()


@pytest.mark.parametrize(("n", "options"), [(0, 4), (4, 1), (4, 25)])
def test_select_and_copy_refuses(n: int, options: int) -> None:
    from mechprobe.tasks import select_and_copy

    with pytest.raises(ValueError, match=r"n must be at least 1 and options 2\.\.24; found"):
        select_and_copy(n, options)


@settings(max_examples=30)
@given(seed=st.integers(0, 999), options=st.integers(2, 8), by=st.integers(-9, 9),
       led=st.booleans())  # fmt: skip
def test_reordered_options_keep_letters_and_answers(seed: int, options: int, by: int, led: bool) -> None:
    from mechprobe.tasks import select_and_copy
    from mechprobe.tasks.choice import permuted, rotated

    task = select_and_copy(6, options, seed=seed, extra_options=True)
    task = task.with_shots(1) if led else task
    for new in (permuted(task, seed=seed, keep_last=2), rotated(task, by, keep_last=2)):
        assert len(new.notes) == len(task.notes) + 1
        for a, b in zip(task, new, strict=True):
            before = [a.text(o.content) for o in a.options]
            after = [b.text(o.content) for o in b.options]
            _assert_laid_out(b, after)
            assert sorted(before) == sorted(after)
            assert before[-2:] == after[-2:]
            assert after[b.answer] == before[a.answer]
            at = a.options[0].line.start
            assert a.prompt[:at] == b.prompt[:at]
            order: Any = b.meta["order"]
            assert [before[i] for i in order] == after


def test_rotation_goes_round() -> None:
    from mechprobe.tasks import select_and_copy
    from mechprobe.tasks.choice import rotated

    task = select_and_copy(8, 4)
    by_one = rotated(task, 1)
    assert [e.answer for e in by_one] == [(e.answer + 1) % 4 for e in task]
    assert [e.prompt for e in rotated(by_one, 3)] == [e.prompt for e in task]
    places = {tuple(e.answer for e in rotated(task, by)) for by in range(4)}
    assert {sum(p) % 4 for p in places} == {0}
    assert len(places) == 4


def test_permutation_depends_on_seed_and_place_alone() -> None:
    from mechprobe.tasks import select_and_copy
    from mechprobe.tasks.choice import permuted

    task = select_and_copy(40, 4)
    assert permuted(task, seed=1)[:10].examples == permuted(task[:10], seed=1).examples
    assert permuted(task, seed=1).digest() != permuted(task, seed=2).digest()
    orders = Counter(str(e.meta["order"]) for e in permuted(task))
    assert len(orders) > 10


def test_what_has_no_options_is_not_reordered() -> None:
    from mechprobe.tasks import ontology, select_and_copy
    from mechprobe.tasks.choice import permuted, rotated

    with pytest.raises(ValueError, match=r"question 0 of .* has no lettered options to reorder"):
        permuted(ontology(4))
    with pytest.raises(ValueError, match="has no lettered options"):
        rotated(ontology(4), 1)
    with pytest.raises(ValueError, match="keep_last=3 leaves 1 of the 4 options"):
        permuted(select_and_copy(4), keep_last=3)
    with pytest.raises(ValueError, match="keep_last is not negative"):
        rotated(select_and_copy(4), 1, keep_last=-1)
