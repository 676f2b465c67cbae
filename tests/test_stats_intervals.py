"""Intervals: against textbook values and SciPy, and honest where resampling is blind."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st


@given(st.integers(1, 400).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_wilson_is_scipys(counts: tuple[int, int]) -> None:
    from scipy.stats import binomtest

    from mechprobe.stats import wilson_interval

    n_right, n = counts
    expected = binomtest(n_right, n).proportion_ci(method="wilson")
    found = wilson_interval(n_right, n)
    assert found.value == n_right / n
    np.testing.assert_allclose(found[1:], [expected.low, expected.high], atol=1e-12)


@pytest.mark.parametrize("method", ["bca", "percentile"])
@pytest.mark.parametrize("skewed", [False, True])
def test_single_examples_are_resampled_as_scipy_does(method: Any, skewed: bool) -> None:
    from scipy.stats import bootstrap

    from mechprobe.stats import grouped_bootstrap

    rng = np.random.default_rng(3)
    values = rng.exponential(size=60) if skewed else (rng.random(200) < 0.8).astype(float)
    # SciPy takes the name "BCa"; 20,000 resamples leave an error of about 0.002 in a bound.
    name = "BCa" if method == "bca" else method
    theirs = bootstrap(
        (values,), np.mean, n_resamples=20_000, method=name, rng=np.random.default_rng(1)
    ).confidence_interval
    ours = grouped_bootstrap(values, np.arange(len(values)), n_bootstrap=20_000, method=method, seed=2)
    assert ours.value == pytest.approx(values.mean())
    np.testing.assert_allclose(ours[1:], [theirs.low, theirs.high], atol=0.01)


def test_bca_differs_from_percentiles_where_values_are_skewed() -> None:
    from mechprobe.stats import grouped_bootstrap

    values = np.random.default_rng(3).exponential(size=30)
    a, b = (
        grouped_bootstrap(values, np.arange(30), n_bootstrap=5000, method=m) for m in ("bca", "percentile")
    )
    assert a.high > b.high + 0.005


def test_copies_of_an_example_are_no_further_evidence() -> None:
    from mechprobe.stats import accuracy_interval

    right = (np.random.default_rng(0).random(80) < 0.7).astype(float)
    one = accuracy_interval(right, np.arange(80), n_bootstrap=4000)
    five = accuracy_interval(np.repeat(right, 5), np.repeat(np.arange(80), 5), n_bootstrap=4000)
    blind = accuracy_interval(np.repeat(right, 5), np.arange(400), n_bootstrap=4000)
    np.testing.assert_allclose(five, one, atol=1e-12)
    assert blind.high - blind.low < 0.6 * (one.high - one.low)


def test_groups_of_different_sizes_count_by_their_examples() -> None:
    from mechprobe.stats import grouped_bootstrap

    found = grouped_bootstrap(np.array([1.0, 0.0, 0.0, 0.0]), np.array([5, 2, 2, 2]))
    assert found.value == 0.25
    assert (found.low, found.high) == (0.0, 1.0)


def test_the_interval_covers_as_often_as_it_says() -> None:
    from mechprobe.stats import accuracy_interval

    rng = np.random.default_rng(0)
    group = np.repeat(np.arange(60), 4)
    inside = 0
    for seed in range(300):
        p = rng.beta(3.5, 1.5, 60)
        right = rng.random(240) < p[group]
        _, low, high = accuracy_interval(right, group, n_bootstrap=500, seed=seed)
        inside += low <= 0.7 <= high
    # Three standard errors of 300 draws at 0.95 are 0.038.
    assert inside / 300 > 0.912


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_all_right_is_not_certainty(share: float) -> None:
    from mechprobe.stats import accuracy_interval, wilson_interval

    found = accuracy_interval(np.full(20, share), np.repeat(np.arange(10), 2))
    expected = wilson_interval(round(10 * share), 10)
    np.testing.assert_allclose(found, expected, atol=1e-12)


def test_groups_that_all_score_alike_are_not_certainty() -> None:
    from mechprobe.stats import accuracy_interval

    found = accuracy_interval(np.tile([1, 0], 10), np.repeat(np.arange(10), 2))
    assert found.value == 0.5
    assert found.low == pytest.approx(0.5 - 0.2775, abs=1e-4)
    assert found.high == pytest.approx(0.5 + 0.2775, abs=1e-4)


def test_unknown_answers_are_left_out() -> None:
    from mechprobe.stats import accuracy_interval

    found = accuracy_interval(np.array([1.0, np.nan, 0.0, 1.0]), np.arange(4))
    assert found.value == pytest.approx(2 / 3)
    assert np.isnan(accuracy_interval(np.full(3, np.nan), np.arange(3))).all()


def test_a_paired_difference_is_sharper_than_two_accuracies() -> None:
    from mechprobe.stats import accuracy_interval, difference_interval

    rng = np.random.default_rng(1)
    one = (rng.random(300) < 0.6).astype(float)
    other = one.copy()
    other[:15] = 1 - other[:15]
    gap = difference_interval(one, other, np.arange(300))
    alone = accuracy_interval(one, np.arange(300))
    assert gap.value == pytest.approx(one.mean() - other.mean())
    assert gap.high - gap.low < 0.5 * (alone.high - alone.low)
    same = difference_interval(one, one, np.arange(300))
    assert same.value == 0
    assert 0 < same.high == -same.low < 0.02


def test_resampling_is_seeded() -> None:
    from mechprobe.stats import grouped_bootstrap

    values = np.random.default_rng(0).normal(size=50)
    a, b, c = (grouped_bootstrap(values, np.arange(50), seed=s) for s in (1, 1, 2))
    assert a == b != c


def test_bad_requests_of_intervals() -> None:
    from mechprobe.stats import grouped_bootstrap, wilson_interval

    with pytest.raises(ValueError, match=r"0 <= right <= n and n >= 1; got 5 of 4"):
        wilson_interval(5, 4)
    with pytest.raises(ValueError, match=r"level must lie between 0 and 1, .* got 95"):
        wilson_interval(1, 4, level=95.0)
    with pytest.raises(ValueError, match="at least one example; got none"):
        grouped_bootstrap(np.array([]), np.array([], int))
    with pytest.raises(ValueError, match="n_bootstrap must be at least 1; got 0"):
        grouped_bootstrap(np.ones(2), np.arange(2), n_bootstrap=0)
