"""Rules that choose heads on calibration examples and decide with them on others."""

from typing import Literal, NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

from mechprobe.stats.decisions import Readings

Method = Literal["best", "top_k_vote", "zscore_sum", "unsupervised"]
METHODS: tuple[Method, ...] = ("best", "top_k_vote", "zscore_sum", "unsupervised")

# Permutations treated at once; bounds memory at about 64 x examples x candidates x 8 bytes.
_BLOCK = 64


class Chosen(NamedTuple):
    """Heads chosen in several draws (permutations, resamples; one for the data themselves).

    Attributes:
        head: Flat index, best first.
        inverted: Whether the head's scores are to be negated.
    """

    head: Int[np.ndarray, "draw k"]
    inverted: Bool[np.ndarray, "draw k"]


def right_counts(
    decided: Int[np.ndarray, "example head"],
    labels: Int[np.ndarray, "draw example"],
    weights: Float[np.ndarray, "draw example"] | None = None,
) -> Float[np.ndarray, "draw head"]:
    r"""Count right decisions of every head under every labelling.

    .. math:: R_{dh} = \sum_c \sum_e w_{de}\, [y_{de} = c]\, [\hat y_{eh} = c]

    One matrix product per candidate instead of a loop over draws.

    Args:
        decided: Index of a candidate.
        labels: Right candidates, one labelling per draw.
        weights: How often an example counts in a draw; once without them.

    Returns:
        Counts; exact, as they stay far below 2**24.

    Example:
        >>> right_counts(np.array([[0, 1], [1, 1]]), np.array([[0, 1], [1, 0]])).tolist()
        [[2.0, 1.0], [0.0, 1.0]]
    """
    counts = np.zeros((len(labels), decided.shape[1]), np.float32)
    for c in np.unique(labels).tolist():
        is_c = (labels == c).astype(np.float32)
        if weights is not None:
            is_c *= weights.astype(np.float32)
        counts += is_c @ (decided == c).astype(np.float32)
    return counts


def highest(
    upright: Float[np.ndarray, "draw head"], inverted: Float[np.ndarray, "draw head"] | None, k: int
) -> Chosen:
    """Choose the ``k`` heads with the highest counts; of equals the lowest layer, then head.

    Args:
        upright: How good each head is.
        inverted: How good it is negated, where inverting is allowed; upright wins ties.
        k: How many, at least 1 and at most as many as there are.

    Returns:
        Heads, best first.

    Example:
        >>> highest(np.array([[1.0, 3.0, 3.0]]), None, 2).head.tolist()
        [[1, 2]]
    """
    best = upright if inverted is None else np.maximum(upright, inverted)
    turned = np.zeros(best.shape, bool) if inverted is None else inverted > upright
    head = best.argmax(1)[:, None] if k == 1 else np.argsort(-best, axis=1, kind="stable")[:, :k]
    return Chosen(head, np.take_along_axis(turned, head, axis=1))


def label_free_quality(
    heads: Readings, weights: Float[np.ndarray, "draw example"], *, is_attention: bool
) -> Float[np.ndarray, "draw head"]:
    r"""Rate heads without labels: they look at the options, and not always at the same one.

    .. math:: Q_h = \bar m_h \cdot \frac{H(\hat p_h)}{\log C}

    :math:`\hat p_h` is how often each candidate is chosen and :math:`H` its entropy, so a head that
    always takes one option gets 0. :math:`m` is the attention on all options for attention scores
    and, for other scores, the gap between the best and the second candidate, in standard
    deviations of the head's scores. The product of mass and variability is the idea of Tulchinskii
    et al. (2024); their exact formula is not public, and this one is ours.

    Args:
        heads: Scores and decisions.
        weights: How often each calibration example counts in a draw.
        is_attention: The scores are attention weights.

    Returns:
        Quality, at least 0.
    """
    calibration = heads.split.calibration
    score, decided = heads.score[calibration], heads.upright[calibration]
    if is_attention:
        strength = np.nansum(score, axis=1)
    else:
        spread = np.nanstd(score, axis=(0, 1))
        ranked = np.sort(np.where(np.isnan(score), -np.inf, score), axis=1)
        gap = ranked[:, -1] - ranked[:, -2]
        strength = gap / np.where(spread > 0, spread, 1)
    n = weights.sum(1, keepdims=True)
    entropy = np.zeros((len(weights), decided.shape[1]))
    for c in range(score.shape[1]):
        share = weights @ (decided == c) / n
        entropy -= share * np.log(np.where(share > 0, share, 1))
    return (weights @ strength / n) * entropy / np.log(score.shape[1])


def predict(
    heads: Readings, examples: Int[np.ndarray, " chosen"], rule: Chosen, method: Method
) -> Int[np.ndarray, "draw chosen"]:
    """Return what the chosen heads decide together on ``examples``.

    Args:
        heads: Scores and decisions.
        examples: Which examples.
        rule: Heads of each draw.
        method: ``"top_k_vote"`` (most votes; of equals the candidate of the best head),
            ``"zscore_sum"`` (highest sum of scores in standard deviations of the calibration
            set); any other follows the first head.

    Returns:
        Index of a candidate.
    """
    if method == "top_k_vote":
        decide = _vote
    elif method == "zscore_sum":
        decide = _sum
    else:
        stacked = np.concatenate([heads.upright[examples], heads.inverted[examples]], axis=1)
        n_heads = heads.upright.shape[1]
        return stacked[:, rule.head[:, 0] + n_heads * rule.inverted[:, 0]].T
    blocks = [
        decide(heads, examples, Chosen(rule.head[i : i + _BLOCK], rule.inverted[i : i + _BLOCK]))
        for i in range(0, len(rule.head), _BLOCK)
    ]
    return np.concatenate(blocks)


def _vote(
    heads: Readings, examples: Int[np.ndarray, " chosen"], rule: Chosen
) -> Int[np.ndarray, "draw chosen"]:
    stacked = np.concatenate([heads.upright[examples], heads.inverted[examples]], axis=1)
    votes = stacked[:, rule.head + heads.upright.shape[1] * rule.inverted]
    # Bonuses add up to less than a vote, and each is more than all that follow it.
    bonus = 1 + 0.4 * 0.5 ** np.arange(rule.head.shape[1])
    tally = [(votes == c) @ bonus for c in range(heads.score.shape[1])]
    return np.stack(tally).argmax(0).T


def _sum(
    heads: Readings, examples: Int[np.ndarray, " chosen"], rule: Chosen
) -> Int[np.ndarray, "draw chosen"]:
    known = heads.score[heads.split.calibration]
    mean, spread = np.nanmean(known, axis=(0, 1)), np.nanstd(known, axis=(0, 1))
    z = (heads.score[examples] - mean) / np.where(spread > 0, spread, np.inf)
    draws = np.arange(len(rule.head))[:, None]
    weights = np.zeros((len(rule.head), z.shape[2]))
    weights[draws, rule.head] = np.where(rule.inverted, -1.0, 1.0)
    return _summed(z, weights).argmax(2)


def _summed(
    z: Float[np.ndarray, "chosen candidate head"], weights: Float[np.ndarray, "draw head"]
) -> Float[np.ndarray, "draw chosen candidate"]:
    n, n_candidates, n_heads = z.shape
    total = weights @ np.nan_to_num(z).reshape(-1, n_heads).T
    total = total.reshape(len(weights), n, n_candidates)
    total[:, np.isnan(z[:, :, 0])] = -np.inf
    return total
