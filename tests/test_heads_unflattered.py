"""What is the better of several on some examples is reported on others: nobody is flattered."""

from typing import Any

import numpy as np
import pytest
import xarray as xr

from tests.test_head_results import scores_of

RUNS = 100


def noise(n: int, seed: int) -> xr.Dataset:
    """Return questions to which two heads, both spellings of the model and shortcuts toss a coin."""
    rng = np.random.default_rng(seed)
    return xr.Dataset(
        {
            "score": (("example", "candidate", "layer", "head"), rng.normal(size=(n, 2, 1, 2))),
            "answer": ("example", rng.permutation(n) % 2),
            "group": ("example", np.arange(n)),
            "block": ("example", np.arange(n)),
            "steps": ("example", np.ones(n, np.int64)),
            "distractors": ("example", np.zeros(n, np.int64)),
            "candidate_text": (("example", "candidate"), np.array([["true", "false"]] * n, dtype=object)),
            "model_log_prob": (("example", "candidate", "spelling"), rng.normal(size=(n, 2, 2))),
            "shortcut_accuracy": ("shortcut", [0.5] * 4),
            "shortcut_low": ("shortcut", [0.4] * 4),
            "shortcut_high": ("shortcut", [0.6] * 4),
            "shortcut_right": (("shortcut", "example"), rng.integers(0, 2, (4, n)).astype(float)),
            "shortcut_half": ("example", np.arange(n) % 2),
        },
        coords={
            "layer": [0],
            "head": [0, 1],
            "spelling": np.array(["space", "bare"], dtype=object),
            "shortcut": np.array(["length", "overlap", "position", "polarity"], dtype=object),
        },
    )


def assert_mean(values: list[float], truth: float) -> None:
    """Compare a mean over runs with the truth, within four Monte Carlo errors."""
    error = float(np.std(values)) / np.sqrt(len(values))
    assert error < 0.013
    assert np.mean(values) == pytest.approx(truth, abs=4 * error)


def test_a_model_that_guesses_in_both_spellings_is_right_half_the_time() -> None:
    """The spelling that is better on the 20 held-out questions would be right on 0.56 of them."""
    found: dict[str, list[float]] = {"model": [], "model_calibrated": [], "shortcut": []}
    for seed in range(RUNS):
        data = scores_of(noise(40, seed)).select(n_permutations=1, n_bootstrap=1).data
        for name, values in found.items():
            values.append(float(data[name]))
    assert_mean(found["model"], 0.5)
    assert_mean(found["model_calibrated"], 0.5)
    # Of four, the best on these 20 questions would be right on 0.61 of them.
    assert_mean(found["shortcut"], 0.5)


def test_it_is_right_half_the_time_in_a_transfer_and_by_difficulty_too() -> None:
    from mechprobe.heads import difficulty_of, transfer

    by_task: list[float] = []
    by_cell: list[float] = []
    for seed in range(RUNS // 2):
        scores: dict[str, Any] = {"a": scores_of(noise(40, seed)), "b": scores_of(noise(40, RUNS + seed))}
        by_task += transfer(scores).data["model"].values.tolist()
        by_cell += [difficulty_of(s).data["model_accuracy"].item() for s in scores.values()]
    assert_mean(by_task, 0.5)
    assert_mean(by_cell, 0.5)


def test_the_summary_of_all_examples_chooses_no_spelling() -> None:
    table = scores_of(noise(40, 0)).summary()
    names = ["model, space", "model, space, calibrated", "model, bare", "model, bare, calibrated"]
    assert [name for name in table.index if name.startswith("model")] == names
