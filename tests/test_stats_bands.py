"""Bands over many positions: they hold the whole curve, which pointwise intervals do not."""

import numpy as np
import pytest


@pytest.mark.parametrize("together", [0.0, 0.9])
def test_a_band_holds_the_whole_curve(together: float) -> None:
    """Six layers, 40 groups of 5; layers share most of their noise, or none."""
    from mechprobe.stats import accuracy_interval, curve, influence_of_groups

    rng, group = np.random.default_rng(2), np.repeat(np.arange(40), 5)
    p, runs = np.linspace(0.5, 0.9, 6), 100
    held, pointwise = 0, 0
    for _ in range(runs):
        shared = np.where(rng.random(200) < together, rng.random(200), np.nan)
        noise = np.where(np.isnan(shared), rng.random((6, 200)), shared)
        right = (noise < p[:, None]).astype(float)
        found = curve(
            lambda i, level, right=right: accuracy_interval(right[i], group, level=level),
            influence_of_groups(right, group),
        )
        held += bool(((found.band_low <= p) & (p <= found.band_high)).all())
        pointwise += bool(((found.low <= p) & (p <= found.high)).all())
        assert (found.band_low <= found.low).all()
        assert (found.high <= found.band_high).all()
    # Three standard errors of 100 draws at 0.95 are 0.065.
    assert held / runs > 0.95 - 0.065
    assert pointwise < held - (5 if together else 10)


def test_the_level_is_that_of_the_largest_normal() -> None:
    """Equicorrelated normals: SciPy integrates the same probability."""
    from scipy.stats import multivariate_normal, norm

    from mechprobe.stats import simultaneous_level

    n, rho = 6, 0.6
    cov = np.full((n, n), rho) + (1 - rho) * np.eye(n)
    level = simultaneous_level(np.linalg.cholesky(cov).T)
    c = float(norm.ppf((1 + level) / 2))
    box = multivariate_normal(np.zeros(n), cov).cdf(np.full(n, c), lower_limit=np.full(n, -c))
    # 2,000 draws: three standard errors at 0.95.
    assert box == pytest.approx(0.95, abs=0.015)


def test_the_level_is_seeded_and_bounded() -> None:
    from mechprobe.stats import simultaneous_level

    moves = np.random.default_rng(0).normal(size=(30, 8))
    a, b, c = (simultaneous_level(moves, seed=s) for s in (1, 1, 2))
    assert a == b != c
    for level in (a, c):
        assert 0.95 <= level <= 0.95 ** (1 / 8)
    assert simultaneous_level(moves[:, :1]) == 0.95
    assert simultaneous_level(np.zeros((30, 8))) == 0.95


def test_positions_without_examples_stay_unknown() -> None:
    from mechprobe.stats import accuracy_interval, curve, influence_of_groups

    right = np.array([[1.0, 0.0, 1.0, np.nan], [np.nan] * 4])
    group = np.array([0, 0, 1, 2])
    found = curve(
        lambda i, level: accuracy_interval(right[i], group, level=level), influence_of_groups(right, group)
    )
    assert found.value[0] == pytest.approx(2 / 3)
    assert np.isnan(np.array(found)[:, 1]).all()


def test_influence_over_units_adds_up_to_the_variance() -> None:
    from mechprobe.stats import influence_of_units
    from mechprobe.stats.spread import over_units

    rng = np.random.default_rng(4)
    values, state = (rng.random(400) < 0.6).astype(float), rng.integers(8, size=400)
    for sampled in (0.0, 0.4, 1.0):
        own = (influence_of_units(values[None], state, sampled) ** 2).sum()
        assert own == pytest.approx(over_units(values, state, sampled).variance, rel=0.2)
