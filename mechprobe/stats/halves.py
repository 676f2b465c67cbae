"""How sure an accuracy is whose rules were learnt on one half of the examples and tried on the other."""

import numpy as np
from jaxtyping import Int, Num

from mechprobe.stats.intervals import UNKNOWN, Interval, accuracy_interval, difference_interval


def crossed_interval(
    right: Num[np.ndarray, " example"] | np.ndarray,
    group: Int[np.ndarray, " example"],
    half: Int[np.ndarray, " example"],
    *,
    other: Num[np.ndarray, " example"] | np.ndarray | None = None,
    n_intervals: int = 1,
) -> Interval:
    r"""Return an accuracy over two halves, each tried by what was learnt on the other.

    .. math:: \hat A = \sum_h \frac{n_h}{n} \hat A_h, \quad
              \Big[\sum_h \frac{n_h}{n} l_h,\; \sum_h \frac{n_h}{n} u_h\Big], \quad
              \text{each } [l_h, u_h] \text{ at the level } 1 - \frac{0.05}{2 m}

    What is learnt on noise is right or wrong on both halves alike, so their accuracies hang
    together and one interval over all examples would be too narrow (up to 1.3 times with a table of
    many values). Each half's interval holds given what was learnt on the other, and whatever the
    dependence both hold at once (Bonferroni), for all of m rules together.

    Args:
        right: How right the rule is, 0 to 1; NaN entries are left out.
        group: Which group an example belongs to.
        half: Which half, 0 or 1; no group is in both.
        other: What is taken away from ``right``, for the interval of a difference.
        n_intervals: m, rules that are compared together; at least 1.

    Returns:
        The accuracy, or the difference, and bounds that hold with 95 % for all m together; NaN
        where nothing is known.

    Raises:
        ValueError: ``n_intervals`` is below 1.

    Example:
        >>> right, half = np.ones(80), np.arange(80) // 40
        >>> [round(v, 3) for v in crossed_interval(right, np.arange(80), half)]
        [1.0, 0.903, 1.0]

    References:
        Bengio & Grandvalet, No Unbiased Estimator of the Variance of K-Fold Cross-Validation
        (2004); Dunn, Multiple Comparisons among Means (1961).
    """
    if n_intervals < 1:
        msg = f"n_intervals must be at least 1; got {n_intervals}."
        raise ValueError(msg)
    level = 1 - 0.05 / (2 * n_intervals)
    known = ~np.isnan(right if other is None else right - other)
    found: list[tuple[int, Interval]] = []
    for part in (known & (half == h) for h in np.unique(half[known])):
        if other is None:
            one = accuracy_interval(right[part], group[part], level=level)
        else:
            one = difference_interval(right[part], other[part], group[part], level=level)
        found.append((int(part.sum()), one))
    n = sum(size for size, _ in found)
    if n == 0:
        return UNKNOWN
    return Interval(*(sum(size * one[end] for size, one in found) / n for end in range(3)))
