"""p-values of single heads: how often permuted labels would make a head as often right."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int, Real

from mechprobe.stats.choice import right_counts
from mechprobe.stats.exact import Law, matches_law, units_law
from mechprobe.stats.permutation import Exchange

# Steps of the law of whole units that are taken per head; where more are needed, permutations count.
_MOST_STEPS = 2_000_000


class HeadP(NamedTuple):
    """p-values of heads.

    Attributes:
        p: Chance to be right as often or more often, upright or, if allowed, inverted.
        mid: The same with half the chance of equally often.
        exact: From the exact law; otherwise from random permutations.
    """

    p: Float[np.ndarray, " head"]
    mid: Float[np.ndarray, " head"]
    exact: bool


def head_p_values(
    directions: list[Int[np.ndarray, "example head"]],
    answer: Int[np.ndarray, " example"],
    parts: list[tuple[Int[np.ndarray, " _"], Exchange]],
    labels: Int[np.ndarray, "permutation example"],
) -> HeadP:
    r"""Return the p-value of every head under permuted labels.

    For T right decisions under permuted labels and t under the given ones,

    .. math:: p = P(T \ge t), \qquad p_\mathrm{mid} = P(T > t) + P(T = t) / 2

    T is a sum over parts and pools, in which labels are permuted independently; its law is the
    convolution of theirs. Where whole groups of three or more kinds of labels are exchanged, that
    may take too long; then every head's p is (1 + b) / (1 + B), b of B random permutations as
    accurate. p is at most nominal under the null, mid-p only about so, and nearer to it.

    A head that may be inverted has two chances: its p is twice the smaller of the two directions',
    at most 1. By Boole's inequality that is valid whatever their dependence, with any number of
    candidates; with two candidates and no ties it is twice the smaller tail.

    Args:
        directions: What heads decide: upright and, if allowed, inverted.
        answer: Index of the right candidate.
        parts: Examples of each part and what is exchanged in it.
        labels: Random permutations, which count where there is no exact law.

    Returns:
        p-values, and where they are from.

    References:
        Lancaster, Significance Tests in Discrete Distributions (1961), and Agresti, Categorical
        Data Analysis (2nd ed., 2002), section 1.4.5 (mid-p); Phipson & Smyth, Permutation P-values
        Should Never Be Zero (2010).
    """
    found = []
    exact = True
    for decided in directions:
        count = right_counts(decided, answer[None])[0].astype(np.int64)
        law = _law(decided, parts)
        if law is None:
            exact = False
            null = right_counts(decided, labels)
            found.append(permutation_p(null, count))
        else:
            found.append(law.tails(count))
    p, mid = (np.minimum(1, len(found) * np.minimum.reduce(side)) for side in zip(*found, strict=True))
    return HeadP(p, mid, exact)


def permutation_p(
    null: Real[np.ndarray, "permutation head"], count: Int[np.ndarray, " head"]
) -> tuple[Float[np.ndarray, " head"], Float[np.ndarray, " head"]]:
    """Return p and mid-p of counts among those of permuted labels; the given labels count as one.

    Args:
        null: Counts under permuted labels.
        count: Counts under the given ones.

    Returns:
        (1 + b) / (1 + B), b permutations at least as good; and the same with half of those that
        are equally good, the given labelling among them.
    """
    n = 1 + len(null)
    above, equal = (null > count).sum(0), 1 + (null == count).sum(0)
    return (above + equal) / n, (above + equal / 2) / n


def _law(
    decided: Int[np.ndarray, "example head"], parts: list[tuple[Int[np.ndarray, " _"], Exchange]]
) -> Law | None:
    """Return the law of the right decisions on all parts; none where it would take too long."""
    n_heads = decided.shape[1]
    total = Law(np.ones((n_heads, 1)), np.zeros(n_heads))
    single: dict[tuple[int, ...], list[np.ndarray]] = {}
    for examples, swap in parts:
        members = np.bincount(swap.unit)
        first = examples[np.argsort(swap.unit, kind="stable")[np.cumsum(members) - members]]
        for units in _pools(swap):
            one, sizes = np.unique(swap.kind[units], return_index=True, return_counts=True)[1:]
            labels = swap.label[units[one]]
            if (members[units] == 1).all():
                said = decided[first[units]]
                same = [(said == label).sum(0) for label in labels[:, 0].tolist()]
                single.setdefault(tuple(sizes.tolist()), []).append(np.stack(same, axis=1))
                continue
            steps = np.prod(np.sort(sizes)[:-1] + 1.0) * members[units].sum() * len(units) * len(sizes)
            if steps > _MOST_STEPS:
                return None
            total = total.plus(_units_law(decided[examples], swap, units, labels, sizes))
    for sizes, pools in single.items():
        # Pools of as many labels each are told together: there may be hundreds.
        law = matches_law(np.array(sizes), np.concatenate(pools), sum(sizes))
        for i in range(0, len(law.error), n_heads):
            total = total.plus(Law(law.share[i : i + n_heads], law.error[i : i + n_heads]))
    return total


def _pools(swap: Exchange) -> list[Int[np.ndarray, " _"]]:
    """Return the units of every pool."""
    ends = np.cumsum(np.bincount(swap.pool))
    return np.split(np.argsort(swap.pool, kind="stable"), ends[:-1])


def _units_law(
    decided: Int[np.ndarray, "example head"],
    swap: Exchange,
    units: Int[np.ndarray, " unit"],
    labels: Int[np.ndarray, "kind place"],
    sizes: Int[np.ndarray, " kind"],
) -> Law:
    right = np.empty((decided.shape[1], len(units), len(sizes)), np.int64)
    for i, unit in enumerate(units.tolist()):
        member = np.flatnonzero(swap.unit == unit)
        for k, label in enumerate(labels):
            right[:, i, k] = (decided[member] == label[swap.place[member], None]).sum(0)
    return units_law(right, sizes)
