"""How sure a share or a mean is, when examples come in groups that share a passage or a theory."""

from typing import Literal, NamedTuple

import numpy as np
from jaxtyping import Float, Int, Num
from scipy.special import ndtr, ndtri

BootstrapMethod = Literal["bca", "percentile"]


class Interval(NamedTuple):
    """An estimate between two bounds."""

    value: float
    low: float
    high: float


UNKNOWN = Interval(float("nan"), float("nan"), float("nan"))


def wilson_interval(n_right: int, n: int, *, level: float = 0.95) -> Interval:
    r"""Return the score interval of a share.

    .. math:: \frac{\hat p + z^2 / 2n}{1 + z^2 / n} \pm
              \frac{z}{1 + z^2 / n} \sqrt{\frac{\hat p (1 - \hat p)}{n} + \frac{z^2}{4 n^2}}

    For independent examples; it stays inside [0, 1] and has a width also at 0 and n right.

    Args:
        n_right: Right ones, 0..n.
        n: Examples, at least 1.
        level: Coverage, in (0, 1).

    Returns:
        The share and its bounds.

    Raises:
        ValueError: An argument is out of its range.

    Example:
        >>> [round(v, 3) for v in wilson_interval(8, 10)]
        [0.8, 0.49, 0.943]

    References:
        Wilson, Probable Inference (1927).
    """
    _check_level(level)
    if n < 1 or not 0 <= n_right <= n:
        msg = f"a share needs 0 <= right <= n and n >= 1; got {n_right} of {n}."
        raise ValueError(msg)
    z = float(ndtri((1 + level) / 2))
    share = n_right / n
    middle = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * np.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    return Interval(share, max(0.0, float(middle - half)), min(1.0, float(middle + half)))


def grouped_bootstrap(
    values: Num[np.ndarray, " example"],
    group: Int[np.ndarray, " example"],
    *,
    n_bootstrap: int = 1000,
    level: float = 0.95,
    seed: int = 0,
    method: BootstrapMethod = "bca",
) -> Interval:
    r"""Return the mean over examples and its bootstrap interval, whole groups resampled.

    Groups :math:`g` are drawn with replacement and the mean taken over all examples in them,
    :math:`\bar x^* = \sum_g w_g s_g / \sum_g w_g n_g`. ``"bca"`` corrects the percentiles for bias
    and for skewness, whose acceleration comes from leaving out one group at a time.

    Args:
        values: One number per example, finite.
        group: Which group an example belongs to; all different for independent examples.
        n_bootstrap: Resamples, at least 1.
        level: Coverage, in (0, 1).
        seed: Of the resampling.
        method: ``"bca"`` or ``"percentile"``.

    Returns:
        Mean and bounds. Where every resample has the same mean (one group, equal values) the
        bounds coincide with it: the data say nothing about their own spread.

    Raises:
        ValueError: No examples, or an argument out of its range.

    Example:
        >>> grouped_bootstrap(np.array([0.0, 1.0, 1.0, 0.0]), np.array([0, 0, 1, 1])).value
        0.5

    References:
        Efron & Tibshirani, An Introduction to the Bootstrap (1993), section 14.3; Davison &
        Hinkley, Bootstrap Methods (1997), section 3.8 (hierarchical data).
    """
    _check_level(level)
    if len(values) == 0:
        msg = "an interval needs at least one example; got none."
        raise ValueError(msg)
    if n_bootstrap < 1:
        msg = f"n_bootstrap must be at least 1; got {n_bootstrap}."
        raise ValueError(msg)
    codes = np.unique(group, return_inverse=True)[1]
    sums = np.bincount(codes, weights=values.astype(np.float64))
    counts = np.bincount(codes).astype(np.float64)
    weights = group_weights(len(counts), n_bootstrap, np.random.default_rng(seed))
    means = (weights @ sums) / (weights @ counts)
    value = float(sums.sum() / counts.sum())
    tails = np.array([(1 - level) / 2, (1 + level) / 2])
    if method == "bca":
        tails = _bca_tails(tails, means, value, sums, counts)
    low, high = np.quantile(means, tails)
    return Interval(value, float(low), float(high))


def group_weights(
    n_groups: int, n_bootstrap: int, rng: np.random.Generator
) -> Float[np.ndarray, "resample group"]:
    """Return how often each group is drawn in each resample."""
    even = np.full(n_groups, 1 / n_groups)
    return rng.multinomial(n_groups, even, size=n_bootstrap).astype(np.float64)


def _bca_tails(
    tails: Float[np.ndarray, " 2"],
    means: Float[np.ndarray, " resample"],
    value: float,
    sums: Float[np.ndarray, " group"],
    counts: Float[np.ndarray, " group"],
) -> Float[np.ndarray, " 2"]:
    # Half of the ties count as below: a share has many.
    below = float(((means < value).mean() + (means <= value).mean()) / 2)
    if not 0 < below < 1 or len(sums) < 2:
        return tails
    z0 = ndtri(below)
    left_out = (sums.sum() - sums) / (counts.sum() - counts)
    gap = left_out.mean() - left_out
    spread = float((gap**2).sum())
    skew = float((gap**3).sum() / (6 * spread**1.5)) if spread > 0 else 0.0
    z = z0 + ndtri(tails)
    return np.asarray(ndtr(z0 + z / (1 - skew * z)))


def accuracy_interval(
    right: Num[np.ndarray, " example"] | np.ndarray,
    group: Int[np.ndarray, " example"],
    *,
    n_bootstrap: int = 1000,
    level: float = 0.95,
    seed: int = 0,
) -> Interval:
    """Return an accuracy with its grouped bootstrap interval.

    Where all groups score alike (everything right, or one answer to both polarities of every
    theory), resampling has nothing to vary and would report certainty. The bounds are then as far
    off as Wilson's for no exception among as many examples as there are groups.

    Args:
        right: 1 or True for a right answer; NaN entries (no answer known) are left out.
        group: Which group an example belongs to.
        n_bootstrap: Resamples, at least 1.
        level: Coverage, in (0, 1).
        seed: Of the resampling.

    Returns:
        Accuracy and bounds; NaN where no answer is known.

    Raises:
        ValueError: An argument is out of its range.

    Example:
        >>> [round(v, 3) for v in accuracy_interval(np.ones(4), np.arange(4))]
        [1.0, 0.51, 1.0]
    """
    return _bounded(right, group, (0.0, 1.0), n_bootstrap, level, seed)


def difference_interval(
    right: Num[np.ndarray, " example"] | np.ndarray,
    other: Num[np.ndarray, " example"] | np.ndarray,
    group: Int[np.ndarray, " example"],
    *,
    n_bootstrap: int = 1000,
    level: float = 0.95,
    seed: int = 0,
) -> Interval:
    """Return the difference of two accuracies on the same examples, resampled in pairs.

    Args:
        right: 1 or True where the first answered rightly; NaN where unknown.
        other: The same for the second.
        group: Which group an example belongs to.
        n_bootstrap: Resamples, at least 1.
        level: Coverage, in (0, 1).
        seed: Of the resampling.

    Returns:
        First minus second, in [-1, 1], and bounds. Where it is the same in all groups, the
        bounds are as far off as Wilson's for no exception among as many examples as groups.

    Raises:
        ValueError: An argument is out of its range.

    Example:
        >>> difference_interval(np.array([1, 1, 1, 0]), np.array([0, 1, 0, 0]), np.arange(4)).value
        0.5
    """
    gap = np.asarray(right, np.float64) - np.asarray(other, np.float64)
    return _bounded(gap, group, (-1.0, 1.0), n_bootstrap, level, seed)


def _bounded(
    values: np.ndarray,
    group: Int[np.ndarray, " example"],
    bounds: tuple[float, float],
    n_bootstrap: int,
    level: float,
    seed: int,
) -> Interval:
    values = np.asarray(values, np.float64)
    known = ~np.isnan(values)
    if not known.any():
        return UNKNOWN
    values, group = values[known], group[known]
    codes = np.unique(group, return_inverse=True)[1]
    means = np.bincount(codes, weights=values) / np.bincount(codes)
    if np.ptp(means) == 0:
        slack = wilson_interval(0, len(means), level=level).high
        value = float(means[0])
        return Interval(value, max(bounds[0], value - slack), min(bounds[1], value + slack))
    return grouped_bootstrap(values, group, n_bootstrap=n_bootstrap, level=level, seed=seed)


def _check_level(level: float) -> None:
    if not 0 < level < 1:
        msg = f"the level must lie between 0 and 1, 0.95 for instance; got {level}."
        raise ValueError(msg)
