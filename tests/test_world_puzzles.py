"""Seating puzzles: judges whose scores are known, and what is asked of a chat model."""

from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch


def test_right_answers_score_one() -> None:
    from mechprobe.worlds import Seating
    from mechprobe.worlds.puzzles.puzzles import _ask_all, erring_answers

    asked = _ask_all(erring_answers(1.0), Seating(3), (0, 60, 5), 0)
    assert set(asked.compression) == set(asked.recall) == {1.0}
    assert len(asked.compression) == 60
    assert len(asked.recall) + asked.dropped["distinction_recall"] == 60


@pytest.mark.parametrize(
    ("accuracy", "compression", "recall"),
    [(0.7, 0.07, 0.49), (0.8, 0.15, 0.63), (0.9, 0.36, 0.81), (0.95, 0.61, 0.89), (0.99, 0.91, 0.98)],
)
def test_erring_at_random(accuracy: float, compression: float, recall: float) -> None:
    """The published class, with a simulated judge of this accuracy."""
    from mechprobe.worlds import Seating
    from mechprobe.worlds.puzzles.puzzles import _ask_all, erring_answers

    asked = _ask_all(erring_answers(accuracy, 1), Seating(3), (0, 400, 5), 1)
    assert np.mean(asked.answers) == pytest.approx(accuracy, abs=0.03)
    agree = accuracy**2 + (1 - accuracy) ** 2
    for found, exact, published in (
        (asked.compression, agree**5, compression),
        (asked.recall, accuracy**2, recall),
    ):
        error = 4 * np.std(found) / np.sqrt(len(found)) + 0.01
        assert abs(np.mean(found) - exact) < error
        assert abs(np.mean(found) - published) < error + 0.04, "theirs had fewer trials"


def solve(prompt: str) -> str:
    """Work a puzzle out from its words alone."""
    import itertools
    import re

    people = re.findall(r"[A-E]", prompt.split(" each take")[0])
    facts = re.findall(r"^- (.*)\.$", prompt, re.MULTILINE)

    def holds(fact: str, order: tuple[int, ...]) -> bool:
        seat = dict(zip(people, order, strict=True))
        if found := re.fullmatch(r"(\w) is in seat (\d)", fact):
            return seat[found[1]] == int(found[2])
        found = re.fullmatch(r"(\w) is (\d) away from (\w)", fact)
        assert found
        return abs(seat[found[1]] - seat[found[3]]) == int(found[2])

    orders = itertools.permutations(range(1, len(people) + 1))
    left = [o for o in orders if all(holds(f, o) for f in facts)]
    if claim := re.search(r"possible that (.*), given", prompt):
        able = any(holds(claim[1], o) for o in left)
        return f"Hm. ANSWER: {'Yes' if able else 'no'}."
    person = re.search(r"which seat is (\w)\?", prompt)
    assert person
    seats = {o[people.index(person[1])] for o in left}
    assert len(seats) == 1, "the puzzle has one solution"
    return f"It follows.\nANSWER: {seats.pop()}"


@pytest.mark.parametrize("n", [3, 4])
def test_prompts_say_all_that_is_needed(n: int) -> None:
    from mechprobe.worlds import Seating
    from mechprobe.worlds.puzzles.puzzles import seating_puzzles

    data = seating_puzzles(solve, Seating(n), puzzles=15, trials=15).data
    for name in ("task_accuracy", "answer_accuracy", "compression", "distinction_recall"):
        assert float(data[name][0]) == 1
    assert int(data["n_unread"][0]) == 0
    assert float(data["compression"][1]) == 1, "the judge that errs never errs, either"


def test_always_yes() -> None:
    """A judge without a world compresses perfectly and tells nothing apart."""
    from mechprobe.worlds.puzzles.puzzles import seating_puzzles

    def yes(_prompt: str) -> str:
        return "ANSWER: yes"

    found = seating_puzzles(yes, puzzles=4, trials=40)
    data = found.data
    assert float(data["compression"][0]) == 1
    assert float(data["distinction_recall"][0]) == 0
    assert float(data["task_accuracy"][0]) == 0
    assert float(data["compression"][1]) < 0.5
    assert data["judge"].values.tolist() == ["yes", "errs at random"]


def test_prefixes_lead_to_their_state() -> None:
    from mechprobe.worlds import Seating
    from mechprobe.worlds.puzzles.puzzles import _prefix, _state

    world, rng = Seating(4), np.random.default_rng(0)
    lengths = set()
    for _ in range(100):
        state = _state(world, rng)
        found = _prefix(world, state, rng)
        lengths.add(len(found))
        assert world.run(world.initial(), found[None])[0, 0] == state
    assert len(lengths) > 2


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("ANSWER: yes", True), ("answer: NO.", False), ("ANSWER: **2**", 2), ("yes", None),
        ("", None), ("'ANSWER: yes' or 'ANSWER: no'? ANSWER: no", False), ("ANSWER: maybe", None),
    ],
)  # fmt: skip
def test_reading_answers(text: str, answer: Any) -> None:
    from mechprobe.worlds.puzzles.puzzles import read_answer

    found = read_answer(text)
    assert found == answer
    assert type(found) is type(answer)


def test_answers_that_cannot_be_read() -> None:
    from mechprobe.worlds.puzzles.puzzles import seating_puzzles

    def mute(_prompt: str) -> str:
        return "well"

    with pytest.raises(ValueError, match=r"mute gave no answer that could be read in \d+ question"):
        seating_puzzles(mute, puzzles=1, trials=3)
    replies: dict[str, str] = {}

    def sometimes(prompt: str) -> str:
        return replies.setdefault(prompt, "ANSWER: yes" if len(replies) % 3 else "?")

    data = seating_puzzles(sometimes, puzzles=1, trials=10).data
    assert int(data["n_unread"][0]) > 0
    kept = data["n_kept"].values[0] + data["n_dropped"].values[0]
    assert kept.tolist() == [10, 10]


@pytest.mark.usefixtures("as_users_run_it")
@pytest.mark.parametrize("what", ["puzzles", "trials", "suffixes"])
def test_numbers_below_one(what: str) -> None:
    from mechprobe.worlds.puzzles.puzzles import chat_judge, seating_puzzles

    with pytest.raises(ValueError, match=rf"{what} must be at least 1; got 0"):
        seating_puzzles(solve, **cast("Any", {what: 0}))
    with pytest.raises(ValueError, match=r"max_new_tokens must be at least 1"):
        chat_judge(cast("Any", None), max_new_tokens=0)


def test_saved_and_drawn(tmp_path: Path) -> None:
    from mechprobe import load_result
    from mechprobe.worlds.puzzles.puzzles import seating_puzzles

    found = seating_puzzles(solve, puzzles=2, trials=5)
    again = load_result(found.save(tmp_path / "s.nc"))
    assert again.data.identical(found.data)
    figure: Any = again.plot()
    assert [t.name for t in figure.data] == ["solve", "errs at random"]
    with pytest.raises(ValueError, match=r"no figure 'map' of seating puzzles"):
        found.plot("map")


def test_chat_judge_says_the_likeliest_words(tiny_text_model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from mechprobe.models import token_ids
    from mechprobe.worlds.puzzles.puzzles import chat_judge

    model = tiny_text_model
    monkeypatch.setattr(model.tokenizer, "chat_template", "{{ messages[0]['content'] }}:")
    ids = token_ids(model, "who?:")[0]
    said: list[int] = []
    for _ in range(6):
        with torch.no_grad():
            logits = model(torch.tensor([ids + said]), return_type="logits")
        said.append(int(logits[0, -1].argmax()))
        if said[-1] == model.tokenizer.eos_token_id:
            break
    expected = model.tokenizer.decode(said, skip_special_tokens=True)
    assert chat_judge(model, max_new_tokens=6)("who?") == expected
    assert len(chat_judge(model, max_new_tokens=1)("who?")) <= len(expected)
