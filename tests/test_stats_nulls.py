"""What chance scores: the published table, simulation, and heads that stand out."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

# Expected best accuracy of guessing heads, by simulation; rounded to two digits.
SIZES = (20, 50, 100, 200, 500, 1000)
TABLE = {
    448: (0.82, 0.71, 0.65, 0.61, 0.57, 0.55),
    1024: (0.85, 0.73, 0.66, 0.62, 0.57, 0.55),
    5120: (0.89, 0.75, 0.68, 0.63, 0.58, 0.56),
}
FOUR_WAY = {448: 0.31, 1024: 0.31, 5120: 0.32}


@pytest.mark.parametrize("n_heads", TABLE)
def test_the_table_of_the_best_head_by_chance(n_heads: int) -> None:
    from mechprobe.stats import expected_best_by_chance

    found = [expected_best_by_chance(n_heads, n) for n in SIZES]
    np.testing.assert_allclose(found, TABLE[n_heads], atol=0.01)
    four = expected_best_by_chance(n_heads, 500, 4)
    assert four == pytest.approx(FOUR_WAY[n_heads], abs=0.01)


@given(st.integers(1, 30), st.integers(1, 12), st.integers(2, 5))
def test_the_expectation_is_that_of_the_distribution(n_heads: int, n: int, c: int) -> None:
    from scipy.stats import binom

    from mechprobe.stats import best_by_chance_quantile, expected_best_by_chance

    below = binom.cdf(np.arange(n + 1), n, 1 / c) ** n_heads
    mass = np.diff(below, prepend=0)
    expected = float(mass @ np.arange(n + 1)) / n
    assert expected_best_by_chance(n_heads, n, c) == pytest.approx(expected, abs=1e-10)
    at = best_by_chance_quantile(n_heads, n, c, q=0.5) * n
    assert below[round(at)] >= 0.5 - 1e-12
    assert round(at) == 0 or below[round(at) - 1] < 0.5 + 1e-12


def test_one_head_guesses_at_chance_and_more_heads_do_better() -> None:
    from mechprobe.stats import expected_best_by_chance

    assert expected_best_by_chance(1, 37, 4) == pytest.approx(0.25)
    found = [expected_best_by_chance(h, 100) for h in (1, 10, 100, 100_000)]
    assert found == sorted(found)
    assert found[-1] < 1


def test_simulated_heads_reach_it() -> None:
    from mechprobe.stats import best_by_chance_quantile, expected_best_by_chance

    best = np.random.default_rng(0).binomial(60, 0.5, (20_000, 50)).max(1) / 60
    # Standard error of the simulated mean: 0.0002.
    assert expected_best_by_chance(50, 60) == pytest.approx(best.mean(), abs=0.001)
    assert best_by_chance_quantile(50, 60, q=0.9) == np.quantile(best, 0.9)


def test_discoveries_are_those_of_the_step_up_rule() -> None:
    from mechprobe.stats import discoveries

    p = np.array([0.9, 0.011, 0.001, 0.03, 0.2])
    # Sorted thresholds 0.01, 0.02, 0.03, 0.04, 0.05: 0.03 is third and at its own.
    assert discoveries(p).tolist() == [False, True, True, True, False]
    assert discoveries(p, 0.02).tolist() == [False, False, True, False, False]


def test_bad_requests_of_nulls() -> None:
    from mechprobe.stats import best_by_chance_quantile, discoveries, expected_best_by_chance

    with pytest.raises(ValueError, match="n_heads must be at least 1; got 0"):
        expected_best_by_chance(0, 10)
    with pytest.raises(ValueError, match="n_examples must be at least 1; got 0"):
        expected_best_by_chance(3, 0)
    with pytest.raises(ValueError, match="n_candidates must be at least 2; got 1"):
        best_by_chance_quantile(3, 10, 1)
    with pytest.raises(ValueError, match="q must lie between 0 and 1; got 1"):
        best_by_chance_quantile(3, 10, q=1.0)
    with pytest.raises(ValueError, match="false discovery rate must lie between 0 and 1; got 5"):
        discoveries(np.array([0.1]), 5.0)
