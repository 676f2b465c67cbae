"""Bands that hold a whole curve: intervals of many positions that are read side by side."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from scipy.special import ndtr

from mechprobe.stats.intervals import Interval

BAND_ENDS = ("", "_low", "_high", "_band_low", "_band_high")
_DRAWS = 2000
_DRAWS_AT_ONCE = 100


class Curve(NamedTuple):
    """Estimates at many positions: each with its own interval, and all within one band."""

    value: Float[np.ndarray, " position"]
    low: Float[np.ndarray, " position"]
    high: Float[np.ndarray, " position"]
    band_low: Float[np.ndarray, " position"]
    band_high: Float[np.ndarray, " position"]


def simultaneous_level(
    influence: Float[np.ndarray, "source position"], *, level: float = 0.95, seed: int = 0
) -> float:
    r"""Return the level at which pointwise intervals hold a whole curve as often as ``level`` says.

    With :math:`\psi_{sl}` how far source s (a group, a state, a pair) moves the estimate at
    position l, and standard normal :math:`\xi_s`,

    .. math:: c = q_{level}\Big(\max_l \frac{|\sum_s \xi_s \psi_{sl}|}
                                            {\sqrt{\sum_s \psi_{sl}^2}}\Big), \qquad
              \text{level}' = 2 \Phi(c) - 1

    Positions that move together cost little; independent ones cost as much as Šidák's level, which
    is never exceeded.

    Args:
        influence: From ``influence_of_groups`` or ``influence_of_units``; positions that nothing
            moves are left out.
        level: Coverage of the whole curve, in (0, 1).
        seed: Of the multipliers.

    Returns:
        The level, at least ``level``.

    Example:
        >>> same = np.ones((50, 4))
        >>> apart = np.kron(np.eye(4), np.ones((50, 1)))
        >>> round(simultaneous_level(same), 2), round(simultaneous_level(apart), 3)
        (0.95, 0.987)

    References:
        Montiel Olea & Plagborg-Møller, Simultaneous Confidence Bands: Theory, Implementation, and
        an Application to SVARs (2019), algorithm 2, with multipliers for resampled groups.
    """
    size = np.sqrt((influence**2).sum(axis=0))
    known = influence[:, size > 0] / size[size > 0]
    if known.shape[1] < 2:
        return level
    rng = np.random.default_rng(seed)
    largest: list[Float[np.ndarray, " draw"]] = []
    for _ in range(_DRAWS // _DRAWS_AT_ONCE):
        moved = rng.normal(size=(_DRAWS_AT_ONCE, len(known))) @ known
        largest.append(np.abs(moved).max(axis=1))
    critical = float(np.quantile(np.concatenate(largest), level))
    return min(max(level, float(2 * ndtr(critical) - 1)), level ** (1 / known.shape[1]))


def curve(
    interval: Callable[[int, float], Interval],
    influence: Float[np.ndarray, "source position"],
    *,
    level: float = 0.95,
    seed: int = 0,
) -> Curve:
    """Return the estimates of all positions with pointwise intervals and a simultaneous band.

    The band is made of the same intervals at the ``simultaneous_level``, so that what they do for
    few groups and for shares near 0 and 1 holds for it too.

    Args:
        interval: Gives the interval of a position at a level.
        influence: How far each source moves each position.
        level: Coverage of each interval, and of the whole band, in (0, 1).
        seed: Of the multipliers.

    Returns:
        Values and bounds.
    """
    wide = simultaneous_level(influence, level=level, seed=seed)
    rows = []
    for i in range(influence.shape[1]):
        found, band = interval(i, level), interval(i, wide)
        rows.append((*found, band.low, band.high))
    return Curve(*np.array(rows, dtype=np.float64).reshape(-1, len(BAND_ENDS)).T)
