"""What all prompts begin with is read once, and no score moves for it."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from tests.test_heads_scores import (
    WITHOUT_SCORES,
    assert_scores,
    choice,
    logic,
    one_thread,  # noqa: F401 (a fixture)
    read,
)

SCORES = ("qk", "rotated", "cosine", "attention")
TASKS: dict[str, Callable[[], Any]] = {
    "candidate": lambda: led(logic(), "Read the theory, and judge the statement behind it. "),
    "last": lambda: led(choice(3), "Which word fits? "),
}


def led(task: Any, text: str) -> Any:
    """Put the same words before every prompt."""
    from mechprobe.tasks import Task

    return Task(task.name, tuple(example.within(text) for example in task))


@pytest.fixture
def shared(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Share even a few tokens, and return the length of every lead."""
    from mechprobe.heads import lead, scores

    monkeypatch.setattr(lead, "_WORTH_SHARING", 3)
    lengths: list[int] = []

    def counted(model: Any, found: Any) -> Any:
        out = lead.shared_lead(model, found)
        lengths.append(out.n_tokens)
        return out

    monkeypatch.setattr(scores, "shared_lead", counted)
    return lengths


# Rotary, learned positions, ALiBi, grouped key heads, QK-norm.
@pytest.mark.parametrize("query", TASKS)
@pytest.mark.parametrize("name", ["llama", "gpt2", "gpt_neox", "qwen3", "bloom", "phi3"])
def test_scores_stay_the_same(tiny: Callable[..., Any], shared: list[int], name: str, query: str) -> None:
    from mechprobe.heads import lead

    model, task = tiny(name, tasks=True), TASKS[query]()
    for score in SCORES[: 1 if name in WITHOUT_SCORES else None]:
        for batch_size in (None, 1, 2):
            found = read(model, task, score=score, batch_size=batch_size)
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(lead, "_WORTH_SHARING", 10_000)
                alone = read(model, task, score=score, batch_size=batch_size)
            assert_scores(found.score, alone.score.values.astype(np.float64))
            np.testing.assert_allclose(
                found.model_log_prob.values, alone.model_log_prob.values, rtol=0, atol=2e-5
            )
    assert min(shared[::2]) >= 3
    assert max(shared[1::2]) == 0


def test_the_lead_is_run_once(task_model: Any, shared: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    from mechprobe.models import cursor

    shapes: list[tuple[int, int]] = []
    plain = cursor.run

    def counted(model: Any, ids: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        shapes.append((ids.shape[0], ids.shape[1]))
        return plain(model, ids, *args, **kwargs)

    monkeypatch.setattr(cursor, "run", counted)
    task = TASKS["candidate"]()
    read(task_model, task, batch_size=2)
    lengths = [len(task_model.to_tokens(e.prompt)[0]) for e in task]
    assert shapes[0] == (1, shared[0])
    assert [n for n, width in shapes[1:] if width > 1] == [2, 2, 1], "besides the candidates"
    assert max(width for _, width in shapes[1:]) == max(lengths) - shared[0]


def test_no_key_lies_in_the_lead(task_model: Any, shared: list[int]) -> None:
    """The key of an example can be what all begin with; then nothing behind it is shared."""
    from mechprobe.heads.lead import shared_lead
    from mechprobe.heads.places import Place
    from mechprobe.models import looking_at

    ids = [list(range(5, 45)), [*range(5, 40), 60]]
    places = [Place(i, [], [[9]]) for i in ids]
    with looking_at(task_model) as session:
        for found, n in (
            (places, 9),
            ([Place(i, [], [[30]]) for i in ids], 30),
            ([Place(i, [], [[39 if len(i) > 36 else 35]]) for i in ids], 35),
            (places[:1], 0),
            ([Place(ids[0], [], [])] * 3, 39),
        ):
            assert shared_lead(session, found).n_tokens == n
    assert shared == []
