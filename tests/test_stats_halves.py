"""Accuracies of what was learnt on one half and tried on the other."""

import numpy as np
import pytest


def _table_of_noise(n: int, n_values: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Return how right a table of random answers is on the half that it was not learnt on."""
    value, answer = rng.integers(0, n_values, n), rng.integers(0, 2, n)
    half = rng.permutation(np.arange(n) % 2)
    right = np.empty(n)
    for tried in (0, 1):
        learnt = np.zeros(n_values)
        np.add.at(learnt, value[half != tried], 2 * answer[half != tried] - 1)
        here = half == tried
        right[here] = (learnt[value[here]] > 0) == answer[here]
    return right, half


def test_both_halves_lean_the_same_way_and_the_interval_allows_for_it() -> None:
    from mechprobe.stats import accuracy_interval, crossed_interval

    rng = np.random.default_rng(0)
    plain, crossed, runs = 0, 0, 1600
    for _ in range(runs):
        right, half = _table_of_noise(200, 32, rng)
        alone = np.arange(len(right))
        plain += accuracy_interval(right, alone).low > 0.5
        crossed += crossed_interval(right, alone, half).low > 0.5
    # One interval over all examples takes noise for knowledge twice as often as it says (2.5 %).
    assert plain / runs > 0.04
    assert crossed / runs <= 0.025


def test_bounds_are_those_of_the_halves_by_size() -> None:
    from mechprobe.stats import accuracy_interval, crossed_interval, difference_interval

    rng = np.random.default_rng(1)
    right, other = rng.integers(0, 2, 60), rng.random(60)
    group, half = np.arange(60) // 2, np.repeat([0, 0, 1], 20)
    first, second = half == 0, half == 1
    level = 1 - 0.05 / 6
    parts = [accuracy_interval(right[h], group[h], level=level) for h in (first, second)]
    found = crossed_interval(right, group, half, n_intervals=3)
    np.testing.assert_allclose(found, (2 * np.array(parts[0]) + np.array(parts[1])) / 3)
    assert found.value == pytest.approx(right.mean())
    gaps = [difference_interval(right[h], other[h], group[h], level=level) for h in (first, second)]
    found = crossed_interval(right, group, half, other=other, n_intervals=3)
    np.testing.assert_allclose(found, (2 * np.array(gaps[0]) + np.array(gaps[1])) / 3)
    assert found.value == pytest.approx((right - other).mean())


def test_one_half_alone_and_nothing_known() -> None:
    from mechprobe.stats import accuracy_interval, crossed_interval

    right, group = np.array([1.0, 0, 1, np.nan]), np.arange(4)
    found = crossed_interval(right, group, np.array([0, 0, 0, 1]))
    assert found == accuracy_interval(right[:3], group[:3], level=0.975)
    assert np.isnan(crossed_interval(np.full(4, np.nan), group, group % 2)).all()
    with pytest.raises(ValueError, match="n_intervals must be at least 1; got 0"):
        crossed_interval(right, group, group % 2, n_intervals=0)
