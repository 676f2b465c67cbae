"""What one treatment does beyond random controls, where all of them answer the same questions."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int, Num
from scipy.special import stdtr, stdtrit

from mechprobe.stats.intervals import share_interval

# With four or fewer, whose spread has at most three degrees of freedom, 95 % intervals cover 0.83 to 0.95.
FEWEST_CONTROLS = 5


class Contrast(NamedTuple):
    """A treatment minus the mean of its controls.

    Attributes:
        value: The difference; NaN without controls.
        low: Lower bound; NaN with fewer than two groups, or than five controls of more.
        high: Upper bound.
        p_value: Of no difference, two-sided; NaN where there are no bounds.
        control_sd: Standard deviation of the controls' means, over controls; NaN below two.
        rank_p: Of the treatment being one more control; 1 / (controls + 1) at least.
    """

    value: float
    low: float
    high: float
    p_value: float
    control_sd: float
    rank_p: float


_NONE = Contrast(*[float("nan")] * 6)


def above_controls(
    treated: Num[np.ndarray, " example"] | np.ndarray,
    controls: Num[np.ndarray, "control example"] | np.ndarray,
    group: Int[np.ndarray, " example"],
    *,
    population: float | int = np.inf,
    bounds: tuple[float, float] = (-np.inf, np.inf),
    level: float = 0.95,
) -> Contrast:
    r"""Return how far a treatment lies above random controls on the same questions.

    .. math:: \hat\delta = \frac{1}{nK} \sum_{q, c} D_{qc}, \quad D_{qc} = Y_q - Y_{cq}, \quad
              \hat V = V_Q + \left(1 - \frac KN\right) \max(0, V_C - V_{QC})

    Questions and controls (K different ones of N) are both drawn, and each control answers every
    question, so that the differences are a crossed design. :math:`V_Q` is the variance of the mean
    over groups of questions (CR2), :math:`V_C` that over controls, and :math:`V_{QC}`, of the
    residuals of both, is in either and counted once. The bounds are
    :math:`\hat\delta \pm t_\nu \sqrt{\hat V}` with Satterthwaite's :math:`\nu`: five controls know
    their own spread with four degrees of freedom.

    ``rank_p`` asks another thing: whether the treatment is further from the rest than each
    control is from its own, which a treatment that is one more random control would be with
    probability 1 / (K + 1). It is exact and small only with many controls.

    Args:
        treated: One number per question.
        controls: The same under each control.
        group: Which group a question belongs to.
        population: N, how many controls there are, these ones included.
        bounds: Least and largest difference there is; (-1, 1) of shares.
        level: Coverage, in (0, 1).

    Returns:
        The difference. Where all questions and controls differ alike there is no p, and no interval
        either; within finite bounds one as far off as that of no exception among as many
        examples as groups.

    Example:
        >>> found = above_controls(np.array([1, 1, 0, 1]), np.array([[0, 1, 0, 0], [1, 1, 0, 0]]),
        ...                        np.arange(4), bounds=(-1.0, 1.0))
        >>> found.value, round(found.rank_p, 2)
        (0.375, 0.67)

    References:
        Cameron, Gelbach & Miller, Robust Inference with Multiway Clustering (2011), eq. 2.11;
        Bell & McCaffrey, Bias Reduction in Standard Errors (2002); Satterthwaite (1946); Cochran,
        Sampling Techniques (3rd ed., 1977), section 2.6 (1 - K / N).
    """
    y = np.asarray(treated, np.float64)
    gap = y - np.asarray(controls, np.float64)
    n_controls = len(gap)
    if n_controls == 0:
        return _NONE
    means = gap.mean(1)
    value = float(means.mean())
    rank_p = _rank_p(np.concatenate([[0.0], -means]))
    codes = np.unique(group, return_inverse=True)[1]
    spread = float(means.std(ddof=1)) if n_controls > 1 else float("nan")
    n_groups = int(codes.max()) + 1
    if n_controls < min(FEWEST_CONTROLS, population) or n_groups < 2:
        return _NONE._replace(value=value, control_sd=spread, rank_p=rank_p)
    half, p = float("nan"), float("nan")
    if np.ptp(gap) > 1e-12 * np.abs(gap).max():
        variance, freedom = _variance(gap, codes, 1 - n_controls / population)
        half = float(stdtrit(freedom, (1 + level) / 2)) * variance**0.5
        p = float(2 * stdtr(freedom, -abs(value) / variance**0.5))
    elif np.isfinite(bounds).all():
        half = share_interval(0, n_groups, level=level).high
    return Contrast(value, max(bounds[0], value - half), min(bounds[1], value + half), p, spread, rank_p)


def _variance(
    gap: Float[np.ndarray, "control example"], codes: Int[np.ndarray, " example"], unseen: float
) -> tuple[float, float]:
    """Return the variance of the mean over a crossed design, and its degrees of freedom.

    ``unseen`` is the share of the controls there are that were not drawn.
    """
    n_controls, n = gap.shape
    sizes = np.bincount(codes).astype(np.float64)
    share = sizes / n
    scale = 1 / (n * np.sqrt(1 - share))
    by_control = gap.mean(1) - gap.mean()
    sums = np.stack([np.bincount(codes, weights=row) for row in gap - gap.mean()]) * scale
    of_questions = float((sums.mean(0) ** 2).sum())
    # Bell and McCaffrey's degrees of freedom, for questions that are alike within no group.
    between = -np.sqrt(np.outer(share / (1 - share), share / (1 - share)) * np.outer(share, share)) / n
    np.fill_diagonal(between, share / n)
    df = float(np.trace(between) ** 2 / (between**2).sum())
    pairs = max(1, n_controls * (n_controls - 1))
    of_controls = float((by_control**2).sum()) / pairs
    rest = sums - sums.mean(0) - np.outer(by_control, sizes * scale)
    of_both = float((rest**2).sum()) / pairs
    if unseen <= 0 or of_controls <= of_both:
        return of_questions, df
    total = of_questions + unseen * (of_controls - of_both)
    spread = of_questions**2 / df + unseen**2 * (of_controls**2 + of_both**2 / df) / (n_controls - 1)
    return total, total**2 / spread


def _rank_p(means: Float[np.ndarray, " condition"]) -> float:
    """Return the share of conditions that lie as far from the mean of the others as the first."""
    n = len(means)
    far = np.abs(means - means.mean()) * n / (n - 1)
    return float((far >= far[0] - 1e-12).mean())


def holm(p: Float[np.ndarray, " test"]) -> Float[np.ndarray, " test"]:
    r"""Return p-values adjusted for being several, whatever their dependence.

    .. math:: \tilde p_{(i)} = \max_{j \le i} \min(1, (m - j + 1)\, p_{(j)})

    Args:
        p: p-values in [0, 1]; NaN where there is none, which does not count.

    Returns:
        Adjusted ones; one at or below :math:`\alpha` is significant with probability of any false
        one at most :math:`\alpha`.

    Example:
        >>> holm(np.array([0.01, np.nan, 0.04, 0.03])).tolist()
        [0.03, nan, 0.06, 0.06]

    References:
        Holm, A Simple Sequentially Rejective Multiple Test Procedure (1979).
    """
    known = np.flatnonzero(~np.isnan(p))
    order = known[np.argsort(p[known], kind="stable")]
    steps = p[order] * np.arange(len(order), 0, -1)
    adjusted = np.full(p.shape, np.nan)
    adjusted[order] = np.minimum(1.0, np.maximum.accumulate(steps))
    return adjusted
