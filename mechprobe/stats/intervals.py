"""How sure a share, a mean or a difference is, when examples come in groups that are alike."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int, Num
from scipy.special import betainc, betaincinv, ndtri, stdtrit

from mechprobe.stats.spread import Spread, over_examples, over_units

# What was seen counts so much among what is at least as far off.
_SEEN = 0.75
_PRECISION = 1e-10
# Chosen by simulation: the least at which few groups cover 0.93 (mechprobe.study.coverage).
_UNLIKE = 0.05


class Interval(NamedTuple):
    """An estimate between two bounds."""

    value: float
    low: float
    high: float


UNKNOWN = Interval(float("nan"), float("nan"), float("nan"))


def share_interval(n_right: float | int, n: float | int, *, level: float = 0.95) -> Interval:
    r"""Return the interval of a share of independent examples.

    The bounds are the shares :math:`p` at which as many or more right, or as many or fewer, have
    half of what the level leaves, what was seen counted three quarters,

    .. math:: P_p(X > x) + \tfrac34 P_p(X = x)
              = \tfrac34 I_p(x, n - x + 1) + \tfrac14 I_p(x + 1, n - x)

    for the lower one; 0 and 1 where none and all are right. Counted whole (Clopper & Pearson)
    intervals cover 0.96 to 0.99, counted half (mid-p) down to 0.911; so they cover 0.937 at least
    and 0.96 on average. The incomplete beta function is defined between whole numbers too, for
    examples that count in part.

    Args:
        n_right: Right ones, 0..n.
        n: Examples, more than 0.
        level: Coverage, in (0, 1).

    Returns:
        The share and its bounds.

    Raises:
        ValueError: An argument is out of its range.

    Example:
        >>> [round(v, 3) for v in share_interval(8, 10)]
        [0.8, 0.46, 0.971]

    References:
        Clopper & Pearson, The Use of Confidence or Fiducial Limits (1934); Lancaster, Significance
        Tests in Discrete Distributions (1961), on counting what was seen in part.
    """
    _check_level(level)
    if n <= 0 or not 0 <= n_right <= n:
        msg = f"a share needs 0 <= right <= n and n > 0; got {n_right} of {n}."
        raise ValueError(msg)
    low = _lower(n_right, n, level)
    return Interval(n_right / n, low, 1 - _lower(n - n_right, n, level))


def _lower(n_right: float | int, n: float | int, level: float) -> float:
    if n_right <= 0:
        return 0.0
    tail, wrong = (1 - level) / 2, n - n_right
    # Seen in full and beyond: between the tail and what it would be if nothing lay beyond.
    low, high = (float(betaincinv(n_right, wrong + 1, x)) for x in (tail, tail / _SEEN))
    while high - low > _PRECISION:
        p = (low + high) / 2
        more = betainc(n_right + 1, wrong, p) if wrong > 0 else 0.0
        if _SEEN * betainc(n_right, wrong + 1, p) + (1 - _SEEN) * more < tail:
            low = p
        else:
            high = p
    return (low + high) / 2


def accuracy_interval(
    right: Num[np.ndarray, " example"] | np.ndarray,
    group: Int[np.ndarray, " example"],
    *,
    level: float = 0.95,
) -> Interval:
    r"""Return the mean of shares over examples that come in groups, and its interval.

    The examples are worth as many independent ones as have the mean's variance,

    .. math:: n^* = \max\Big(\frac{\hat p (1 - \hat p)}{V} \frac{z^2}{t_\nu^2},\;
                    \frac{n^2}{\sum_g n_g^2}\Big)

    with V and :math:`\nu` of ``over_examples``, and never fewer than if all in a group were one:
    no share in [0, 1] varies more. V goes up by :math:`0.05 / G_a` of what is missing to that, with
    :math:`G_a` the groups that V hangs on: where hardly a group errs, the rest may be unlike.
    The bounds are ``share_interval`` of :math:`n^*`. Where all groups have one mean, they are as far
    off as for no exception among so many groups. Few groups give wide bounds, one group nearly 0 to 1.

    Args:
        right: In [0, 1]: 1 or True for a right answer; NaN entries (no answer known) are left out.
        group: Which group an example belongs to; all different for independent examples.
        level: Coverage, in (0, 1).

    Returns:
        Accuracy and bounds; NaN where no answer is known.

    Raises:
        ValueError: An argument is out of its range.

    Example:
        >>> [round(v, 3) for v in accuracy_interval(np.ones(4), np.arange(4))]
        [1.0, 0.427, 1.0]

    References:
        Korn & Graubard, Confidence Intervals for Proportions with Small Expected Number of Positive
        Counts Estimated from Survey Data (1998).
    """
    _check_level(level)
    values, known = _known(right)
    return _share(over_examples(values, np.asarray(group)[known]), level) if known.any() else UNKNOWN


def difference_interval(
    right: Num[np.ndarray, " example"] | np.ndarray,
    other: Num[np.ndarray, " example"] | np.ndarray,
    group: Int[np.ndarray, " example"],
    *,
    level: float = 0.95,
) -> Interval:
    r"""Return the mean difference of two shares on the same examples, and its interval.

    With :math:`n^*` as in ``accuracy_interval`` (the variance of the differences :math:`d_i` in
    place of that of a share), two examples are added, one for either side, each as far from 0 as
    the largest :math:`|d_i|` (1 where there is none):

    .. math:: \tilde d = \frac{n^* \bar d}{n^* + 2}, \quad
              \tilde d \pm z \sqrt{\frac{\tilde q - \tilde d^2}{n^* + 2}}, \quad
              \tilde q = \frac{n^* \overline{d^2} + 2 \max_i d_i^2}{n^* + 2}

    Args:
        right: 1 or True where the first answered rightly; NaN where unknown.
        other: The same for the second.
        group: Which group an example belongs to.
        level: Coverage, in (0, 1).

    Returns:
        First minus second, in [-1, 1], and bounds; NaN where nothing is known of both.

    Raises:
        ValueError: An argument is out of its range.

    Example:
        >>> difference_interval(np.array([1, 1, 1, 0]), np.array([0, 1, 0, 0]), np.arange(4)).value
        0.5

    References:
        Bonett & Price, Adjusted Wald Confidence Interval for a Difference of Binomial Proportions
        Based on Paired Data (2012), here for groups.
    """
    _check_level(level)
    values, known = _known(np.asarray(right, np.float64) - np.asarray(other, np.float64))
    return _difference(over_examples(values, np.asarray(group)[known]), level) if known.any() else UNKNOWN


def mean_interval(
    values: Num[np.ndarray, " example"], group: Int[np.ndarray, " example"], *, level: float = 0.95
) -> Interval:
    r"""Return the mean over examples of any number, and its interval :math:`\bar x \pm t_\nu \sqrt V`.

    Args:
        values: One number per example, finite.
        group: Which group an example belongs to; all different for independent examples.
        level: Coverage, in (0, 1).

    Returns:
        Mean and bounds of ``over_examples``. Of one group the bounds are not known, hence NaN.

    Raises:
        ValueError: No examples, or a level out of its range.

    Example:
        >>> [round(v, 2) for v in mean_interval(np.array([1.0, 2.0, 3.0]), np.arange(3))]
        [2.0, -0.48, 4.48]

    References:
        Bell & McCaffrey (2002); see ``over_examples``.
    """
    _check_level(level)
    if len(values) == 0:
        msg = "an interval needs at least one example; got none."
        raise ValueError(msg)
    spread = over_examples(np.asarray(values, np.float64), group)
    half = _t(spread.df, level) * np.sqrt(spread.variance) if spread.df > 0 else np.nan
    return Interval(spread.value, float(spread.value - half), float(spread.value + half))


def unit_interval(
    values: Float[np.ndarray, " example"],
    unit: Int[np.ndarray, " example"],
    *,
    sampled: float = 0.0,
    level: float = 0.95,
) -> Interval:
    """Return the mean over units (the states of a world) of shares in each, and its interval.

    As ``accuracy_interval``, with the variance of ``over_units``: where all units that there are
    were drawn, only what was drawn within them is uncertain.

    Args:
        values: In [0, 1]; NaN entries are left out.
        unit: Which unit an example belongs to.
        sampled: Share of all units that are in the sample, in [0, 1]; 0 where they are beyond count.
        level: Coverage, in (0, 1).

    Returns:
        Mean and bounds; NaN where no value is known.

    Raises:
        ValueError: An argument is out of its range.

    Example:
        >>> two, ten = np.array([0, 1]), np.repeat([0, 1], 10)
        >>> [round(v, 2) for v in unit_interval(1.0 - ten, ten, sampled=1.0)]  # both, and there are two
        [0.5, 0.34, 0.66]
        >>> [round(v, 2) for v in unit_interval(1.0 - ten, ten)]  # two of very many
        [0.5, 0.02, 0.98]
    """
    _check_level(level)
    _check_sampled(sampled)
    values, known = _known(values)
    return _share(over_units(values, np.asarray(unit)[known], sampled), level) if known.any() else UNKNOWN


def unit_difference_interval(
    values: Float[np.ndarray, " example"],
    other: Float[np.ndarray, " example"],
    unit: Int[np.ndarray, " example"],
    *,
    sampled: float = 0.0,
    level: float = 0.95,
) -> Interval:
    """Return the mean over units of a paired difference, and its interval.

    As ``difference_interval``, with the variance of ``over_units``.

    Args:
        values: In [0, 1]; NaN where unknown.
        other: The same of the second, on the same examples.
        unit: Which unit an example belongs to.
        sampled: Share of all units that are in the sample, in [0, 1]; 0 where they are beyond count.
        level: Coverage, in (0, 1).

    Returns:
        First minus second, in [-1, 1], and bounds; NaN where nothing is known of both.

    Raises:
        ValueError: An argument is out of its range.

    Example:
        >>> one, other = np.array([1.0, 1.0, 0.5]), np.array([0.0, 1.0, 0.5])
        >>> round(unit_difference_interval(one, other, np.array([0, 0, 1])).value, 2)
        0.25
    """
    _check_level(level)
    _check_sampled(sampled)
    gap, known = _known(np.asarray(values, np.float64) - np.asarray(other, np.float64))
    return _difference(over_units(gap, np.asarray(unit)[known], sampled), level) if known.any() else UNKNOWN


def _share(spread: Spread, level: float) -> Interval:
    value = min(max(spread.value, 0.0), 1.0)
    if spread.variance <= 0:
        slack = share_interval(0, spread.n_least, level=level).high
        return Interval(value, max(0.0, value - slack), min(1.0, value + slack))
    n = _worth(spread, value * (1 - value), level)
    return share_interval(value * n, n, level=level)._replace(value=value)


def _difference(spread: Spread, level: float) -> Interval:
    reach = spread.reach or 1.0
    n = _worth(spread, spread.square - spread.value**2, level)
    middle = spread.value * n / (n + 2)
    square = (spread.square * n + 2 * reach**2) / (n + 2)
    half = float(ndtri((1 + level) / 2) * np.sqrt((square - middle**2) / (n + 2)))
    low, high = max(-1.0, middle - half), min(1.0, middle + half)
    return Interval(spread.value, min(low, spread.value), max(high, spread.value))


def _worth(spread: Spread, variance_of_one: float, level: float) -> float:
    """Return how many independent examples have the variance that the mean has."""
    if spread.variance <= 0 or spread.df <= 0 or variance_of_one <= 0:
        return spread.n_least
    missing = max(0.0, variance_of_one / spread.n_least - spread.variance)
    student = float(ndtri((1 + level) / 2)) / _t(spread.df, level)
    variance = spread.variance + _UNLIKE * missing / spread.n_shown
    return max(spread.n_least, variance_of_one / variance * student**2)


def _t(df: float, level: float) -> float:
    return float(stdtrit(min(df, 1e9), (1 + level) / 2))


def _known(
    values: Num[np.ndarray, " example"] | np.ndarray,
) -> tuple[Float[np.ndarray, " known"], np.ndarray]:
    found = np.asarray(values, np.float64)
    known = ~np.isnan(found)
    return found[known], known


def _check_level(level: float) -> None:
    if not 0 < level < 1:
        msg = f"the level must lie between 0 and 1, 0.95 for instance; got {level}."
        raise ValueError(msg)


def _check_sampled(sampled: float) -> None:
    if not 0 <= sampled <= 1:
        msg = f"the share of units in the sample must lie in [0, 1]; got {sampled}."
        raise ValueError(msg)
