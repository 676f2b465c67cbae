"""A treatment against random controls on the same questions: exact cases, coverage, level."""

from itertools import combinations
from typing import Any

import numpy as np
import pytest
from scipy import stats as scipy_stats


def test_equal_controls_are_a_t_test_of_groups() -> None:
    """Without any spread between controls, only the questions' groups are left."""
    from mechprobe.stats import above_controls

    rng = np.random.default_rng(0)
    group = np.repeat(np.arange(9), 4)
    y, c = rng.normal(size=(2, 36)) + rng.normal(size=9)[group]
    found = above_controls(y, np.stack([c] * 5), group)
    means = (y - c).reshape(9, 4).mean(1)
    known = scipy_stats.ttest_1samp(means, 0)
    low, high = known.confidence_interval()
    assert found[:4] == pytest.approx((means.mean(), low, high, known.pvalue))
    assert found.control_sd == 0


def test_equal_questions_are_a_t_test_of_controls() -> None:
    """Where every question says the same, five controls know their spread with 4 degrees."""
    from mechprobe.stats import above_controls

    level = np.array([0.1, 0.5, -0.2, 0.3, 0.9])
    found = above_controls(np.ones(30), np.tile(level[:, None], 30), np.arange(30))
    known = scipy_stats.ttest_1samp(1 - level, 0)
    low, high = known.confidence_interval()
    assert found[:5] == pytest.approx((0.68, low, high, known.pvalue, level.std(ddof=1)))
    assert found.rank_p == 2 / 6  # -0.2 is further from the mean of the others than 1 is


def draw(rng: Any, sizes: Any, n_controls: int, between: float) -> Any:
    """Return what all conditions would score alike but for random controls, and the questions."""
    group = np.repeat(np.arange(len(sizes)), sizes)
    shared = rng.normal(size=len(sizes))[group]
    effect = rng.normal(size=n_controls) * between
    noise = rng.normal(size=(n_controls + 1, len(group)))
    noise += rng.normal(size=(n_controls + 1, len(sizes)))[:, group]
    return shared + 0.5 * noise[0], shared + effect[:, None] + 0.5 * noise[1:], group


@pytest.mark.parametrize("between", [0.0, 0.3])
@pytest.mark.parametrize("sizes", [[1] * 40, [2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13]])
def test_intervals_cover_and_p_keeps_its_level(between: float, sizes: list[int]) -> None:
    """The true difference is 0, over new questions and new controls."""
    from mechprobe.stats import above_controls

    rng = np.random.default_rng(1)
    found = [above_controls(*draw(rng, sizes, 5, between)) for _ in range(600)]
    covered = np.mean([x.low <= 0 <= x.high for x in found])
    # Binomial(600, 0.95) lies within 0.925 and 0.972 with probability 0.99.
    assert 0.925 <= covered <= 0.98
    assert np.mean([x.p_value <= 0.05 for x in found]) == pytest.approx(1 - covered)
    least = np.mean([x.rank_p <= 1 / 6 for x in found])
    assert least <= 1 / 6 + 0.04
    # Without an effect of their own, the six conditions are exchangeable.
    assert between or least == pytest.approx(1 / 6, abs=0.04)


def test_without_the_spread_of_controls_it_would_not_cover() -> None:
    """A paired interval against the mean of five controls covers a third."""
    from mechprobe.stats import mean_interval

    rng = np.random.default_rng(2)
    covered = 0
    for _ in range(100):
        y, controls, group = draw(rng, [1] * 200, 5, 0.6)
        _, low, high = mean_interval(y - controls.mean(0), group)
        covered += low <= 0 <= high
    assert covered < 60


@pytest.mark.parametrize("n_drawn", [3, 8, 12])
def test_controls_of_a_few_that_there_are(n_drawn: int) -> None:
    """Of twelve sets of heads, or all: the mean over those that there are is what is compared with."""
    from mechprobe.stats import above_controls

    rng = np.random.default_rng(5)
    effect = rng.normal(size=12)
    found: list[Any] = []
    covered: list[bool] = []
    for _ in range(500):
        y, controls, group = draw(rng, [1] * 50, 12, 0.0)
        drawn = rng.permutation(12)[:n_drawn]
        some = controls[drawn] + effect[drawn, None]
        x = above_controls(y, some, group, population=12)
        found.append(x)
        covered.append(x.low <= -effect.mean() <= x.high)
    if n_drawn < 5:
        assert np.isnan([x.low for x in found]).all()
    else:
        assert 0.92 <= np.mean(covered) <= 0.98
    few = above_controls(y, controls[:3], group, population=3)
    gap = (y - controls[:3]).mean(0)
    low, high = scipy_stats.ttest_1samp(gap, 0).confidence_interval()
    assert few[:3] == pytest.approx((gap.mean(), low, high))


def test_shares_stay_within_their_bounds_and_certainty_is_never_claimed() -> None:
    from mechprobe.stats import above_controls, share_interval

    same = above_controls(np.ones(20), np.ones((5, 20)), np.arange(20), bounds=(-1.0, 1.0))
    slack = share_interval(0, 20).high
    assert (same.value, same.low, same.high) == (0, -slack, slack)
    assert np.isnan(same.p_value)
    rng = np.random.default_rng(0)
    rare = above_controls(np.ones(6), rng.integers(0, 2, (5, 6)), np.arange(6), bounds=(-1.0, 1.0))
    assert rare.low <= rare.value <= rare.high <= 1


@pytest.mark.parametrize(("n_controls", "n_groups"), [(0, 10), (1, 10), (4, 10), (5, 1)])
def test_what_cannot_be_known_is_not_told(n_controls: int, n_groups: int) -> None:
    from mechprobe.stats import above_controls

    rng = np.random.default_rng(0)
    group = np.arange(20) % n_groups
    found = above_controls(rng.normal(size=20), rng.normal(size=(n_controls, 20)), group)
    assert np.isnan(found[1:4]).all()
    assert np.isnan(found.value) == (n_controls == 0)
    assert np.isnan(found.control_sd) == (n_controls < 2)


def test_holm_is_the_closed_test_of_bonferroni() -> None:
    from mechprobe.stats import holm

    p = np.array([0.02, 0.01, 0.2, 0.013, 0.5])
    every = [s for k in range(1, 6) for s in combinations(range(5), k)]
    expected = [max(min(1, len(s) * min(p[list(s)])) for s in every if i in s) for i in range(5)]
    assert holm(p).tolist() == pytest.approx(expected)
    assert np.isnan(holm(np.array([np.nan, 0.01]))).tolist() == [True, False]
