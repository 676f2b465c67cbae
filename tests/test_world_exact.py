"""The exact trees of many pairs, when they do not fit together."""

from typing import Any

import numpy as np
import pytest


def test_trees_that_are_too_large_together_are_grown_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    from mechprobe.worlds import Seating, evaluate_world_model, true_automaton
    from mechprobe.worlds.metrics import suffixes

    world = Seating(3)
    asked: dict[str, Any] = {"n": 60, "k": 2, "mode": "exact", "baselines": False, "seed": 3,
                             "progress": False}  # fmt: skip
    whole = evaluate_world_model(true_automaton(world), world, **asked)
    monkeypatch.setattr(suffixes, "LIMIT", 400)
    apart = evaluate_world_model(true_automaton(world), world, **asked)
    np.testing.assert_array_equal(apart.data["score"].values, whole.data["score"].values)
    monkeypatch.setattr(suffixes, "LIMIT", 3)
    with pytest.raises(ValueError, match=r"the exact tree has \d+ strings of 1 words in one batch"):
        evaluate_world_model(true_automaton(world), world, **asked)
