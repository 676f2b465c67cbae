"""Heads chosen on other data: whether they are above chance here, and whether maps of heads agree."""

import numpy as np
from jaxtyping import Bool, Float, Int, Num
from scipy.special import stdtrit
from scipy.stats import rankdata

from mechprobe.stats.intervals import UNKNOWN, Interval
from mechprobe.stats.permutation import Scheme, exchange

# Parts that are left out one at a time: bounds time and memory, and more tell nothing more.
_MOST_PARTS = 100
# Short of 1, where Fisher's z ends.
_MOST = 1 - 1e-9


def fixed_rule_p(
    decided: Int[np.ndarray, " example"],
    answer: Int[np.ndarray, " example"],
    group: Int[np.ndarray, " example"],
    n_candidates: Int[np.ndarray, " example"],
    scheme: Scheme,
    *,
    block: Int[np.ndarray, " example"] | None = None,
    n_permutations: int = 1000,
    seed: int = 0,
) -> float:
    r"""Return how often permuted labels agree as well with decisions that saw none of them.

    .. math:: p = \frac{1 + \#\{b : R_b \ge R\}}{1 + B}

    Nothing is chosen anew, as nothing was chosen by these labels.

    Args:
        decided: What a rule that was chosen on other data decides.
        answer: Index of the right candidate.
        group: Which group an example belongs to.
        n_candidates: Candidates of each example.
        scheme: How labels may be exchanged, from ``permutation_scheme``.
        block: Which block inside its group; each example by itself by default.
        n_permutations: B, at least 1.
        seed: Of the permutations.

    Returns:
        One-sided p-value, 1 / (1 + B) at least.

    Raises:
        ValueError: ``n_permutations`` is below 1.

    Example:
        >>> found = fixed_rule_p(np.arange(40) % 2, np.arange(40) % 2, np.arange(40),
        ...                      np.full(40, 2), "examples", n_permutations=99)
        >>> found
        0.01

    References:
        Phipson & Smyth, Permutation P-values Should Never Be Zero (2010).
    """
    if n_permutations < 1:
        msg = f"n_permutations must be at least 1; got {n_permutations}."
        raise ValueError(msg)
    rng = np.random.default_rng(seed)
    labels = exchange(answer, group, n_candidates, scheme, block).permuted(n_permutations, rng)
    null = (labels == decided).sum(1)
    return float((1 + (null >= (decided == answer).sum()).sum()) / (1 + n_permutations))


def rank_correlation(
    right: Bool[np.ndarray, "one head"],
    group: Int[np.ndarray, " one"],
    other: Bool[np.ndarray, "two head"],
    other_group: Int[np.ndarray, " two"],
    *,
    level: float = 0.95,
) -> Interval:
    r"""Return Spearman's correlation of heads' accuracies on two sets of questions.

    .. math:: z_{ij} = \operatorname{artanh} \rho(\hat a_{(-i)}, \hat b_{(-j)}), \quad
              \hat V = V_i + V_j - V_{ij}, \quad \tanh(z \pm t \sqrt{\hat V})

    Questions are what is drawn, not heads: those of a model resemble each other, so that neither
    resampling heads nor Fisher's 1 / (H - 3) is an error of anything. Groups of either set are left
    out one at a time, both maps made again, and the variances of rows, columns and residuals of
    :math:`z_{ij}` put together as of a crossed design (the jackknife), with t of the smaller set's
    degrees of freedom. A bootstrap would add to the sampling noise that it measures, which pulls a
    correlation towards 0.

    The bounds are for the correlation that *as many* questions give on average. Few questions make
    it smaller than that of the heads' true accuracies; compare with the correlation of a task with
    itself, which is made smaller likewise.

    Args:
        right: Whether each head is right on each question.
        group: Which group a question belongs to.
        other: The same for other questions, of no common group.
        other_group: Their groups.
        level: Coverage, in (0, 1). At 0.95, simulated: 0.94 to 0.99; 0.86 to 0.90 where one taste
            common to all heads outweighs everything else (1 / (H - 3): 0.35).

    Returns:
        Correlation and bounds; NaN where all heads are alike, bounds NaN where either set has one
        group only or nothing varies.

    Example:
        >>> right = np.array([[True, True, False], [True, False, False]])
        >>> found = rank_correlation(right, np.arange(2), right[:, ::-1], np.arange(2))
        >>> round(found.value, 6)
        -1.0

    References:
        Efron & Stein, The Jackknife Estimate of Variance (1981); Owen, The Pigeonhole Bootstrap
        (2007), section 3 (crossed designs).
    """
    whole = [_ranks(some.sum(0)[None]) for some in (right, other)]
    if not all(map(np.any, whole)):
        return UNKNOWN
    value = float((whole[0] @ whole[1].T).item())
    maps = [_left_out(*pair) for pair in ((right, group), (other, other_group))]
    least = min(map(len, maps))
    if least < 2:
        return UNKNOWN._replace(value=value)
    products = _ranks(maps[0]) @ _ranks(maps[1]).T
    variance = _jackknife(np.arctanh(np.clip(products, -_MOST, _MOST)))
    if variance == 0:
        return UNKNOWN._replace(value=value)
    half = float(stdtrit(least - 1, (1 + level) / 2)) * variance**0.5
    z = np.arctanh(np.clip(value, -_MOST, _MOST))
    return Interval(value, float(np.tanh(z - half)), float(np.tanh(z + half)))


def _ranks(accuracies: Num[np.ndarray, "map head"]) -> Float[np.ndarray, "map head"]:
    """Return ranks of mean 0 and length 1, whose products are correlations; 0 of equal heads."""
    ranks = rankdata(accuracies, axis=1) - (accuracies.shape[1] + 1) / 2
    length = np.sqrt((ranks**2).sum(1, keepdims=True))
    return ranks / np.where(length > 0, length, 1)


def _left_out(
    right: Bool[np.ndarray, "example head"], group: Int[np.ndarray, " example"]
) -> Float[np.ndarray, "part head"]:
    """Return accuracies without each part of the groups; none if there is one group only."""
    codes = np.unique(group, return_inverse=True)[1] % _MOST_PARTS
    n_parts = int(codes.max()) + 1
    if n_parts < 2:
        return np.zeros((0, right.shape[1]))
    member = np.zeros((n_parts, len(codes)))
    member[codes, np.arange(len(codes))] = 1
    kept = len(codes) - member.sum(1, keepdims=True)
    # Counts are whole numbers, so that equal accuracies stay equal.
    return (right.sum(0) - member @ right) / kept


def _jackknife(z: Float[np.ndarray, "row column"]) -> float:
    """Return the variance of a statistic of two samples, from what it is without parts of either."""
    rows, columns = (z.mean(axis) - z.mean() for axis in (1, 0))
    rest = z - z.mean() - rows[:, None] - columns
    left, right = ((n - 1) / n for n in z.shape)
    first, second = left * float((rows**2).sum()), right * float((columns**2).sum())
    # What only both together do is in either; counted once.
    both = left * right * float((rest**2).sum())
    return max(first, second, first + second - both)
