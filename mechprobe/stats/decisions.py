"""What heads decide, and how often they are right."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int

from mechprobe.stats.split import Split


def decisions(score: Float[np.ndarray, "example candidate head"]) -> Int[np.ndarray, "example head"]:
    r"""Return the candidate with the highest score, :math:`\arg\max_c S_{ech}`.

    Of equal scores the lowest candidate is taken, whichever is right: a head that scores all
    candidates alike always answers the first, and ties favour no answer.

    Args:
        score: NaN where an example has fewer candidates; each example has at least one.

    Returns:
        Index of a candidate.

    Example:
        >>> decisions(np.array([[[0.5, 2.0], [1.0, 2.0], [np.nan, np.nan]]])).tolist()
        [[1, 0]]
    """
    return np.where(np.isnan(score), -np.inf, score).argmax(1)


def accuracy(
    decided: Int[np.ndarray, "example head"], answer: Int[np.ndarray, " example"]
) -> Float[np.ndarray, " head"]:
    """Return each head's share of right decisions.

    Args:
        decided: Index of a candidate, from ``decisions``.
        answer: Index of the right one.

    Returns:
        Accuracy in [0, 1]; NaN without examples.

    Example:
        >>> accuracy(np.array([[0, 1], [1, 1]]), np.array([0, 1])).tolist()
        [1.0, 0.5]
    """
    if len(answer) == 0:
        return np.full(decided.shape[1], np.nan)
    return (decided == answer[:, None]).mean(0)


def centred(
    score: Float[np.ndarray, "example candidate head"], calibration: Int[np.ndarray, " chosen"]
) -> Float[np.ndarray, "example candidate head"]:
    r"""Take away each head's taste for a candidate: its median over the calibration examples.

    .. math:: S'_{ech} = S_{ech} - \mathrm{median}_{e' \in \mathrm{cal}} S_{e'ch}

    No label is used. A candidate that no calibration example has is centred on the head's median
    over all candidates.

    Args:
        score: NaN where an example has fewer candidates.
        calibration: Examples the medians are taken over.

    Returns:
        Scores of the same shape.

    Example:
        >>> centred(np.array([[[3.0], [0.0]], [[5.0], [2.0]]]), np.array([0, 1]))[:, :, 0].tolist()
        [[-1.0, -1.0], [1.0, 1.0]]
    """
    known = score[calibration]
    seen = ~np.isnan(known).all((0, 2))
    middle = np.nanmedian(known.reshape(-1, score.shape[2]), axis=0)
    middle = np.tile(middle, (score.shape[1], 1))
    middle[seen] = np.nanmedian(known[:, seen], axis=0)
    return score - middle


@dataclass(frozen=True, slots=True)
class Readings:
    """Everything a selection needs to know about heads before it sees a label.

    Attributes:
        score: Scores, centred where that was asked, NaN where there is no candidate.
        upright: What each head decides.
        inverted: What it decides when its scores are negated.
        group: Which group an example belongs to.
        split: Calibration and test examples.
    """

    score: Float[np.ndarray, "example candidate head"]
    upright: Int[np.ndarray, "example head"]
    inverted: Int[np.ndarray, "example head"]
    group: Int[np.ndarray, " example"]
    split: Split

    @property
    def n_candidates(self) -> Int[np.ndarray, " example"]:
        """Candidates of each example."""
        return (~np.isnan(self.score[:, :, 0])).sum(1)


def readings(
    score: Float[np.ndarray, "example candidate head"],
    group: Int[np.ndarray, " example"],
    split: Split,
    *,
    centre: bool = False,
) -> Readings:
    """Return what heads decide on every example, as the calibration set centres them.

    Args:
        score: NaN where an example has fewer candidates.
        group: Which group an example belongs to.
        split: Calibration and test examples.
        centre: Take away each head's calibration median of each candidate.

    Returns:
        Decisions upright and inverted.
    """
    if centre:
        score = centred(score, split.calibration)
    return Readings(score, decisions(score), decisions(-score), group, split)


def check_scores(
    score: Float[np.ndarray, "example candidate head"],
    answer: Int[np.ndarray, " example"],
    exists: Bool[np.ndarray, "example candidate"] | None = None,
) -> None:
    """Refuse scores from which no decision follows.

    Args:
        score: NaN where an example has fewer candidates.
        answer: Index of the right candidate.
        exists: Which candidates there are; without it, those that any head has a score of.

    Raises:
        ValueError: No heads or examples, a score that is missing or infinite, an answer that is no
            candidate, or an example with fewer than two candidates.
    """
    if 0 in score.shape:
        n, _, n_heads = score.shape
        msg = f"there is nothing to decide: {n} examples, {n_heads} heads."
        raise ValueError(msg)
    missing = np.isnan(score)
    there = np.asarray(~missing.all(2)) if exists is None else exists
    # Padding that holds numbers would be chosen; a candidate that holds none could never be.
    wrong = np.where(there[:, :, None], ~np.isfinite(score), ~missing)
    if wrong.any():
        e, c, h = (int(i) for i in np.argwhere(wrong)[0])
        what = f"is {score[e, c, h]}" if there[e, c] else "stands where there is no candidate"
        msg = (
            f"{int(wrong.sum())} scores cannot be compared; the first (example {e}, candidate {c}, "
            f"head {h}) {what}. Scores must be finite; NaN marks candidates that do not exist."
        )
        raise ValueError(msg)
    few = there.sum(1) < 2
    if few.any():
        msg = f"example {int(np.argmax(few))} has fewer than two candidates to choose from."
        raise ValueError(msg)
    inside = (answer >= 0) & (answer < score.shape[1])
    inside[inside] = there[np.flatnonzero(inside), answer[inside]]
    if not inside.all():
        e = int(np.argmin(inside))
        msg = f"example {e} has the answer {int(answer[e])}, which is none of its candidates."
        raise ValueError(msg)
