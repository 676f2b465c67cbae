"""How far a mean may be off: its variance and degrees of freedom, from few groups or few units."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

# Differences below this are rounding.
_ROUNDING = 1e-9


class Spread(NamedTuple):
    """A mean and how sure it is.

    Attributes:
        value: The mean.
        variance: Of the mean.
        df: Degrees of freedom of the variance; 0 where there is none.
        square: Mean of the squares, counted as the value is.
        n_least: Independent examples that the mean is worth at least.
        n_shown: Groups that the variance hangs on; infinite where examples of a group are
            independent.
        reach: Largest absolute value.
    """

    value: float
    variance: float
    df: float
    square: float
    n_least: float
    n_shown: float
    reach: float


class _Groups(NamedTuple):
    """Examples by group: the group of each, and size, mean and squares about the mean of each."""

    code: Int[np.ndarray, " example"]
    size: Float[np.ndarray, " group"]
    mean: Float[np.ndarray, " group"]
    inside: Float[np.ndarray, " group"]

    @classmethod
    def of(cls, values: Float[np.ndarray, " example"], group: Int[np.ndarray, " example"]) -> "_Groups":
        code = np.unique(group, return_inverse=True)[1].reshape(-1)
        size = np.bincount(code).astype(np.float64)
        mean = np.bincount(code, weights=values) / size
        return cls(code, size, mean, np.bincount(code, weights=_whole(values - mean[code]) ** 2))


def over_examples(values: Float[np.ndarray, " example"], group: Int[np.ndarray, " example"]) -> Spread:
    r"""Return the spread of a mean over examples, whose groups :math:`g` were drawn.

    With shares :math:`h_g = n_g / n`, group means :math:`m_g` and :math:`d_g = m_g - \bar x`,

    .. math:: V = \max\Big(\sum_g \frac{h_g^2 d_g^2}{1 - h_g},\;
        s^2 \sum_g h_g^2 \big(\rho + (1 - \rho) / n_g\big)\Big), \qquad
        \rho = 1 - \frac{\sum_i (x_i - m_{g(i)})^2}{(n - G)\, s^2}

    The first is the bias-reduced sandwich (CR2), the second what equally alike groups would give:
    where sizes differ and few groups err, the sandwich depends on which ones. Degrees of freedom
    are the lesser of Satterthwaite's for CR2 and of those that the terms themselves show,
    :math:`2 / (\sum_g a_g^2 / (\sum_g a_g)^2 - 1 / G)` with :math:`a_g = h_g^2 d_g^2`: a variance
    that hangs on two groups is hardly known, however many there are.

    Args:
        values: One number per example, finite; at least one.
        group: Which group an example belongs to; all different for independent examples.

    Returns:
        The spread; variance 0 where all groups have one mean, or there is one group only.

    References:
        Bell & McCaffrey, Bias Reduction in Standard Errors for Linear Regression with Multi-Stage
        Samples (2002); Pan & Wall, Small-sample adjustments in using the sandwich variance
        estimator (2002), for degrees of freedom from the terms; Fleiss & Cuzick, The Reliability
        of Dichotomous Judgments: Unequal Numbers of Judges per Subject (1979), for rho.
    """
    by = _Groups.of(values, group)
    n, n_groups, value = len(values), len(by.size), float(values.mean())
    share = by.size / n
    about = {"square": float((values**2).mean()), "reach": float(np.abs(values).max())}
    n_least = float(1 / (share**2).sum())
    if n_groups == 1:
        return Spread(value, 0.0, 0.0, n_least=1.0, n_shown=1.0, **about)
    terms = (share * _whole(by.mean - value)) ** 2
    variance = float((terms / (1 - share)).sum())
    total = float((_whole(values - value) ** 2).mean())
    # Groups that all have one mean say nothing of how they differ.
    if n > n_groups and variance > 0:
        alike = 1 - float(by.inside.sum()) / ((n - n_groups) * total)
        variance = max(variance, total * float((share**2 * (alike + (1 - alike) / by.size)).sum()))
    df = min(_satterthwaite(share), _shown(terms))
    shown = _ratio(terms.sum() ** 2, (terms**2).sum()) if n > n_groups else np.inf
    return Spread(value, variance, df, n_least=n_least, n_shown=shown, **about)


def over_units(
    values: Float[np.ndarray, " example"], unit: Int[np.ndarray, " example"], sampled: float
) -> Spread:
    r"""Return the spread of a mean over units (states), of which a share f was drawn.

    Every unit counts alike: :math:`\bar x = \sum_u m_u / U`. Units were drawn from finitely many
    and examples within units, so that the differences of units are error only as far as units are
    missing:

    .. math:: V = (1 - f) \frac{s_m^2}{U} + f \sum_u \frac{s_u^2}{n_u U^2}

    with :math:`s_u^2` the variance within a unit, helped by one degree of freedom of the pooled
    one. Degrees of freedom are Satterthwaite's for the sum.

    Args:
        values: One number per example, finite; at least one.
        unit: Which unit an example belongs to.
        sampled: f, in [0, 1]: 1 where all units are in the sample, 0 where they are beyond count.

    Returns:
        The spread.

    References:
        Cochran, Sampling Techniques (1977), section 10.4 (two-stage sampling).
    """
    by = _Groups.of(values, unit)
    n, n_units, value = len(values), len(by.size), float(by.mean.mean())
    f = sampled if n > n_units else 0.0
    about = {
        "square": float((np.bincount(by.code, weights=values**2) / by.size).mean()),
        "reach": float(np.abs(values).max()),
    }
    n_least = float(1 / ((1 - f) / n_units + f * (1 / by.size).sum() / n_units**2))
    gap = _whole(by.mean - value)
    pooled = by.inside.sum() / max(1, n - n_units)
    within = f * (by.inside + pooled) / by.size**2 / n_units**2
    parts = [
        ((1 - f) * float((gap**2).sum()) / max(1, n_units - 1) / n_units, min(n_units - 1, _shown(gap**2))),
        (float(within.sum()), min(n - n_units, _ratio(within.sum() ** 2, (within**2 / by.size).sum()))),
    ]
    variance = parts[0][0] + parts[1][0]
    uncertain = sum((part**2 / df for part, df in parts if part > 0), 0.0)
    return Spread(value, variance, _ratio(variance**2, uncertain), n_least=n_least, n_shown=np.inf, **about)


def influence_of_groups(
    values: Float[np.ndarray, "position example"], group: Int[np.ndarray, " example"]
) -> Float[np.ndarray, "source position"]:
    """Return how far each group moves the mean at each position, as in ``over_examples``.

    Args:
        values: NaN where an example is not at a position.
        group: Which group an example belongs to.

    Returns:
        One row per group; their squares add up to the variance.
    """
    code = np.unique(group, return_inverse=True)[1].reshape(-1)
    out = np.zeros((int(code.max()) + 1, len(values)))
    for i, row in enumerate(values):
        known = ~np.isnan(row)
        if known.any():
            by = _Groups.of(row[known], code[known])
            share = by.size / known.sum()
            gap = by.mean - row[known].mean()
            out[np.unique(code[known]), i] = share * gap / np.sqrt(np.maximum(1 - share, _ROUNDING))
    return out


def influence_of_units(
    values: Float[np.ndarray, "position example"], unit: Int[np.ndarray, " example"], sampled: float
) -> Float[np.ndarray, "source position"]:
    """Return how far each unit, and each example in it, moves the mean, as in ``over_units``.

    Args:
        values: NaN where an example is not at a position.
        unit: Which unit an example belongs to.
        sampled: Share of all units that are in the sample.

    Returns:
        One row per unit, then one per example.
    """
    code = np.unique(unit, return_inverse=True)[1].reshape(-1)
    between = np.zeros((int(code.max()) + 1, len(values)))
    inside = np.zeros((len(code), len(values)))
    for i, row in enumerate(values):
        known = ~np.isnan(row)
        if known.any():
            by = _Groups.of(row[known], code[known])
            f, n_units = sampled if known.sum() > len(by.size) else 0.0, len(by.size)
            between[np.unique(code[known]), i] = np.sqrt(1 - f) * (by.mean - by.mean.mean()) / n_units
            away = (row[known] - by.mean[by.code]) / by.size[by.code] / n_units
            inside[known, i] = np.sqrt(f) * away
    return np.concatenate([between, inside])


def _whole(gap: Float[np.ndarray, " x"]) -> Float[np.ndarray, " x"]:
    return np.where(np.abs(gap) < _ROUNDING, 0.0, gap)


def _satterthwaite(share: Float[np.ndarray, " group"]) -> float:
    """Return the degrees of freedom of CR2 for a mean of independent, equally variable examples."""
    r = share**2 / (1 - share)
    return float(1 / ((share**2).sum() + r.sum() ** 2 - (r**2).sum()))


def _shown(terms: Float[np.ndarray, " group"]) -> float:
    """Return the degrees of freedom that squared terms themselves show."""
    uneven = _ratio((terms**2).sum(), terms.sum() ** 2) - 1 / len(terms)
    return 2 / uneven if 0 < uneven < np.inf else np.inf


def _ratio(a: float, b: float) -> float:
    return float(a / b) if b > 0 else np.inf
