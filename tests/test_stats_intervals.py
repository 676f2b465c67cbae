"""Intervals: against tails and matrices written out, and how often they hold a known truth."""

import inspect

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st


@given(st.integers(1, 400).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_a_share_ends_where_the_tails_do(counts: tuple[int, int]) -> None:
    from scipy.stats import binom

    from mechprobe.stats import share_interval

    n_right, n = counts
    value, low, high = share_interval(n_right, n)
    assert value == n_right / n
    assert (low == 0) == (n_right == 0)
    assert (high == 1) == (n_right == n)
    for bound, tail in ((low, binom.sf), (high, binom.cdf)):
        if 0 < bound < 1:
            beyond = float(tail(n_right, n, bound))
            seen = float(binom.pmf(n_right, n, bound))
            beyond -= seen if bound == high else 0.0
            assert beyond + 0.75 * seen == pytest.approx(0.025, abs=1e-7)


@pytest.mark.parametrize("n", [1, 3, 5, 8, 20, 100])
def test_a_share_covers_whatever_is_true(n: int) -> None:
    """Enumerated: every count of every p, so that no draw can flatter."""
    from scipy.stats import binom

    from mechprobe.stats import accuracy_interval

    counts = np.arange(n + 1)
    bounds = np.array([accuracy_interval(np.arange(n) < k, np.arange(n))[1:] for k in counts])
    for p in np.linspace(0.005, 0.5, 100):
        held = (bounds[:, 0] <= p) & (p <= bounds[:, 1])
        assert binom.pmf(counts, n, p) @ held > 0.93, p


def sandwich(values: np.ndarray, group: np.ndarray) -> tuple[float, float]:
    """Return variance and degrees of freedom of CR2 by matrices, a regression on a constant."""
    n, labels = len(values), np.unique(group)
    x, resid = np.ones((n, 1)), values - values.mean()
    make = np.eye(n) - x @ x.T / n
    columns: list[np.ndarray] = []
    variance = 0.0
    for g in labels:
        inside = group == g
        block = make[np.ix_(inside, inside)]
        size, axes = np.linalg.eigh(block)
        adjust = axes @ np.diag(1 / np.sqrt(size)) @ axes.T
        row = x[inside].T @ adjust / n
        variance += float((row @ resid[inside])[0] ** 2)
        columns.append((row @ make[inside])[0])
    gram = np.array(columns) @ np.array(columns).T
    return variance, float(np.trace(gram) ** 2 / (gram**2).sum())


def test_the_variance_is_the_sandwich_by_matrices() -> None:
    from mechprobe.stats.spread import influence_of_groups, over_examples

    rng = np.random.default_rng(0)
    for sizes in ([3, 3, 3, 3], [2, 3, 4, 5, 6, 7], [1, 1, 9, 2, 30]):
        group = np.repeat(np.arange(len(sizes)), sizes)
        values = rng.normal(size=len(sizes))[group] + 0.1 * rng.normal(size=len(group))
        variance, df = sandwich(values, group)
        found = over_examples(values, group)
        assert found.variance >= variance * (1 - 1e-12)
        assert found.df <= df + 1e-9
        assert (influence_of_groups(values[None], group) ** 2).sum() == pytest.approx(variance)


def test_equal_groups_are_students_t() -> None:
    """Bounds of the mean of group means, where those are evenly spread."""
    from scipy.stats import ttest_1samp

    from mechprobe.stats import mean_interval

    means = np.linspace(-1, 1, 12)
    low, high = ttest_1samp(means, 0).confidence_interval(0.95)
    found = mean_interval(np.repeat(means, 6), np.repeat(np.arange(12), 6))
    np.testing.assert_allclose(found, (0, low, high), atol=1e-12)
    np.testing.assert_allclose(mean_interval(means, np.arange(12)), (0, low, high), atol=1e-12)


@pytest.mark.parametrize(
    ("sizes", "icc", "p"),
    [([10] * 3, 0.5, 0.5), ([10] * 6, 0.5, 0.15), ([2] * 10, 0.5, 0.9), ([1, 2, 5, 12] * 5, 1.0, 0.2)],
)
def test_few_groups_cover_as_often_as_they_say(sizes: list[int], icc: float, p: float) -> None:
    from mechprobe.stats import accuracy_interval

    rng, group = np.random.default_rng(5), np.repeat(np.arange(len(sizes)), sizes)
    inside, runs = 0, 300
    for _ in range(runs):
        own = np.where(rng.random(len(sizes)) < icc, rng.random(len(sizes)) < p, np.nan)
        # A group has one answer or none of its own: two of its examples correlate by icc.
        right = np.where(np.isnan(own[group]), rng.random(len(group)) < p, own[group])
        _, low, high = accuracy_interval(right, group)
        inside += low <= p <= high
    # Three standard errors of 300 draws at 0.93 are 0.044.
    assert inside / runs > 0.93 - 0.044


def test_copies_of_an_example_are_no_further_evidence() -> None:
    from mechprobe.stats import accuracy_interval

    right = (np.random.default_rng(0).random(80) < 0.7).astype(float)
    one = accuracy_interval(right, np.arange(80))
    five = accuracy_interval(np.repeat(right, 5), np.repeat(np.arange(80), 5))
    blind = accuracy_interval(np.repeat(right, 5), np.arange(400))
    np.testing.assert_allclose(five, one, atol=1e-12)
    assert blind.high - blind.low < 0.6 * (one.high - one.low)


def test_groups_of_different_sizes_count_by_their_examples() -> None:
    from mechprobe.stats import accuracy_interval

    found = accuracy_interval(np.array([1.0, 0.0, 0.0, 0.0]), np.array([5, 2, 2, 2]))
    assert found.value == 0.25
    assert found.low < 0.02
    assert found.high > 0.9


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_all_right_is_not_certainty(share: float) -> None:
    """None wrong among ten groups: their true share is below b, where 0.75 (1 - b)^10 = 0.025."""
    from mechprobe.stats import accuracy_interval

    slack = 1 - (0.025 / 0.75) ** 0.1
    found = accuracy_interval(np.full(20, share), np.repeat(np.arange(10), 2))
    np.testing.assert_allclose(found, (share, max(0, share - slack), min(1, share + slack)), atol=1e-9)


def test_groups_that_all_score_alike_are_not_certainty() -> None:
    from mechprobe.stats import accuracy_interval

    found = accuracy_interval(np.tile([1, 0], 10), np.repeat(np.arange(10), 2))
    slack = 1 - (0.025 / 0.75) ** 0.1
    np.testing.assert_allclose(found, (0.5, 0.5 - slack, 0.5 + slack), atol=1e-9)


def test_one_group_is_one_example() -> None:
    from mechprobe.stats import accuracy_interval, mean_interval

    found = accuracy_interval(np.array([1.0, 0.0, 1.0, 1.0]), np.zeros(4, int))
    assert found == (0.75, 0.0, 1.0)
    assert np.isnan(mean_interval(np.array([1.0, 2.0]), np.zeros(2, int))[1:]).all()


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


def test_single_pairs_are_bonett_and_prices() -> None:
    """12 and 5 of 100 pairs differ: the published formula, written out with its own counts."""
    from mechprobe.stats import difference_interval

    kinds = np.repeat([0, 1, 2, 3], [12, 5, 50, 33])
    found = difference_interval(np.isin(kinds, (0, 2)), np.isin(kinds, (1, 2)), np.arange(100))
    p, q = (12 + 1) / (100 + 2), (5 + 1) / (100 + 2)
    half = 1.959964 * np.sqrt((p + q - (p - q) ** 2) / (100 + 2))
    # One standard error more: Student's t of 99, of which the 17 pairs that differ show fewer.
    assert found.low == pytest.approx(p - q - half, abs=0.006)
    assert found.high == pytest.approx(p - q + half, abs=0.006)
    assert found.high - found.low >= 2 * half - 1e-6


def test_all_states_drawn_leave_only_pairs_uncertain() -> None:
    """By hand: three states, of which the pairs alone vary; unlike them, three of very many."""
    from mechprobe.stats import unit_interval
    from mechprobe.stats.spread import over_units

    right = np.concatenate([np.tile([1.0, 1, 1, 0], 10), np.tile([1.0, 0], 20), np.tile([0.0, 0, 0, 1], 10)])
    state = np.repeat(np.arange(3), 40)
    within = np.mean([0.75 * 0.25, 0.25, 0.25 * 0.75]) * 40 / 39
    assert over_units(right, state, 1.0).variance == pytest.approx(within / 120, rel=0.01)
    between = np.var([0.75, 0.5, 0.25], ddof=1) / 3
    assert over_units(right, state, 0.0).variance == pytest.approx(between)
    all_three, of_many = (unit_interval(right, state, sampled=f) for f in (1.0, 0.0))
    assert all_three.value == of_many.value == 0.5
    assert all_three.high - all_three.low < 0.4 * (of_many.high - of_many.low)


def test_nothing_is_resampled() -> None:
    from mechprobe import stats

    for name in ("share", "accuracy", "difference", "mean", "unit", "unit_difference"):
        asked = inspect.signature(getattr(stats, f"{name}_interval")).parameters
        assert not {"seed", "n_bootstrap"} & set(asked), name


def test_bad_requests_of_intervals() -> None:
    from mechprobe.stats import mean_interval, share_interval, unit_difference_interval, unit_interval

    with pytest.raises(ValueError, match=r"0 <= right <= n and n > 0; got 5 of 4"):
        share_interval(5, 4)
    with pytest.raises(ValueError, match=r"level must lie between 0 and 1, .* got 95"):
        share_interval(1, 4, level=95.0)
    with pytest.raises(ValueError, match="at least one example; got none"):
        mean_interval(np.array([]), np.array([], int))
    with pytest.raises(ValueError, match=r"share of units in the sample must lie in \[0, 1\]; got 3.0"):
        unit_interval(np.ones(2), np.arange(2), sampled=3.0)
    with pytest.raises(ValueError, match=r"share of units in the sample must lie in \[0, 1\]; got -1.0"):
        unit_difference_interval(np.ones(2), np.ones(2), np.arange(2), sampled=-1.0)
