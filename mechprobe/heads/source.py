"""Head scores as the arrays that statistics take, and what the model and the shortcuts score."""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import xarray as xr
from jaxtyping import Bool, Float, Int, Num

from mechprobe.provenance import Call, Provenance
from mechprobe.stats import (
    Interval,
    accuracy_interval,
    best_by_permutation,
    centred,
    crossed_interval,
    decisions,
)
from mechprobe.stats.decisions import check_scores
from mechprobe.stats.intervals import UNKNOWN

ENDS = ("", "_low", "_high")
TASK_ARGUMENTS = ("task", "score", "query", "key")


class Source(NamedTuple):
    """A data set of head scores, heads in one axis: layer by layer, head by head."""

    score: Float[np.ndarray, "example candidate head"]
    answer: Int[np.ndarray, " example"]
    group: Int[np.ndarray, " example"]
    block: Int[np.ndarray, " example"]
    exists: Bool[np.ndarray, "example candidate"]


def source(data: xr.Dataset) -> Source:
    """Return scores, answers, groups and which candidates exist."""
    score = data["score"].transpose("example", "candidate", "layer", "head").values
    text = data["candidate_text"].transpose("example", "candidate").values
    return Source(
        score.reshape(*score.shape[:2], -1),
        data["answer"].values.astype(np.int64),
        data["group"].values.astype(np.int64),
        data["block"].values.astype(np.int64),
        np.asarray(text != "", dtype=bool),
    )


def checked(found: Source) -> Source:
    """Return the source if every example can be decided by every head.

    Raises:
        ValueError: A score is missing or infinite, or an answer is no candidate.
    """
    check_scores(found.score, found.answer, found.exists)
    return found


def head_name(layer: int, head: int) -> str:
    """Return ``L3H7`` for head 7 of layer 3."""
    return f"L{layer}H{head}"


def chance_level(exists: Bool[np.ndarray, "example candidate"]) -> float:
    """Return what guessing scores: the mean of one over the number of candidates."""
    return float((1 / exists.sum(1)).mean())


def chance_ceiling(found: Source) -> float:
    """Return the expected best accuracy of these heads if none knew answers; NaN if not known."""
    decided, n_candidates = decisions(found.score), found.exists.sum(1)
    return best_by_permutation(decided, found.answer, found.group, n_candidates, block=found.block)


class ModelChoice(NamedTuple):
    """The model's own answer, read from its logits in one way.

    Attributes:
        spelling: Which spelling of the answers was read.
        calibrated: Whether each candidate's median was taken away.
        right: 1, 0, or NaN where a candidate has no single token of this spelling.
    """

    spelling: str
    calibrated: bool
    right: Float[np.ndarray, " example"]

    @property
    def name(self) -> str:
        """What tables call it."""
        return f"model, {self.spelling}" + (", calibrated" if self.calibrated else "")


def model_choices(data: xr.Dataset, calibration: Int[np.ndarray, " chosen"]) -> list[ModelChoice]:
    """Return what the model answers in each spelling, as it is and median-centred.

    Args:
        data: Data of a ``HeadScores``.
        calibration: Examples whose medians are taken away.

    Returns:
        Two choices per spelling; one that is no single token knows no answer.
    """
    found = source(data)
    log_prob = data["model_log_prob"].transpose("example", "candidate", "spelling").values
    choices = []
    for i, spelling in enumerate(data["spelling"].values.tolist()):
        read = np.where(found.exists, log_prob[:, :, i], np.nan)[:, :, None]
        known = np.asarray(~(np.isnan(read[:, :, 0]) & found.exists).any(1))
        usable = calibration[known[calibration]]
        plain = _right(read, found.answer, known)
        moved = np.full(len(plain), np.nan)
        if len(usable):
            moved = _right(centred(read, usable), found.answer, known)
        choices.append(ModelChoice(str(spelling), False, plain))
        choices.append(ModelChoice(str(spelling), True, moved))
    return choices


def _right(
    read: Float[np.ndarray, "example candidate 1"],
    answer: Int[np.ndarray, " example"],
    known: Bool[np.ndarray, " example"],
) -> Float[np.ndarray, " example"]:
    return np.where(known, decisions(read)[:, 0] == answer, np.nan)


def better(
    choices: list[ModelChoice], examples: Int[np.ndarray, " chosen"], *, calibrated: bool
) -> ModelChoice:
    """Return the spelling that is right more often on ``examples``, to the model's advantage.

    The accuracy of the chosen one on the same examples is that of the best of several, too high;
    it is reported on others.

    Args:
        choices: From ``model_choices``.
        examples: Where to compare: the calibration examples.
        calibrated: Among median-centred readings or among plain ones.

    Returns:
        The reading; one that knows no answer where no spelling is a single token.
    """
    kind = [c for c in choices if c.calibrated == calibrated]
    known = [c for c in kind if not np.isnan(c.right[examples]).all()]
    if not known:
        return kind[0]._replace(spelling="no single token")
    return max(known, key=lambda c: float(np.nanmean(c.right[examples])))


def accuracy_of(choice: ModelChoice, examples: Int[np.ndarray, " chosen"], data: xr.Dataset) -> Interval:
    """Return a reading's accuracy on ``examples`` with its grouped interval."""
    group = data["group"].values.astype(np.int64)[examples]
    return accuracy_interval(choice.right[examples], group)


class Shortcut(NamedTuple):
    """One of the audited shortcuts.

    Attributes:
        name: Which one.
        right: How right it is on every example, 0 to 1; NaN where none was audited.
    """

    name: str
    right: Float[np.ndarray, " example"]


def best_shortcut(data: xr.Dataset, examples: Int[np.ndarray, " chosen"]) -> Shortcut:
    """Return the shortcut that is right most often on ``examples``.

    Args:
        data: Data of a ``HeadScores``.
        examples: Where to compare; where it is to be tried, the best one would be flattered.

    Returns:
        The shortcut; one that knows no answer where there was no audit.
    """
    right = data["shortcut_right"].transpose("shortcut", "example").values.astype(np.float64)
    if len(right) == 0:
        return Shortcut("none audited", np.full(right.shape[1], np.nan))
    best = int(right[:, examples].mean(1).argmax())
    return Shortcut(str(data["shortcut"].values[best]), right[best])


def shortcut_accuracy(data: xr.Dataset, shortcut: Shortcut, examples: Int[np.ndarray, " chosen"]) -> Interval:
    """Return how often a shortcut that was chosen on other examples is right on ``examples``."""
    if np.isnan(shortcut.right).all():
        return UNKNOWN
    group, half = (data[name].values.astype(np.int64)[examples] for name in ("group", "shortcut_half"))
    return crossed_interval(shortcut.right[examples], group, half)


def beyond_shortcuts(
    data: xr.Dataset,
    right: Num[np.ndarray, " chosen"] | Bool[np.ndarray, " chosen"],
    examples: Int[np.ndarray, " chosen"],
) -> dict[str, Float[np.ndarray, " shortcut"]]:
    """Return a head's accuracy less that of each shortcut, on the same examples.

    Args:
        data: Data of a ``HeadScores``.
        right: Where the head is right.
        examples: On which examples.

    Returns:
        ``beyond_shortcut`` and its bounds, which hold for all shortcuts together with 95 %.
    """
    rules = data["shortcut_right"].transpose("shortcut", "example").values.astype(np.float64)
    group, half = (data[name].values.astype(np.int64)[examples] for name in ("group", "shortcut_half"))
    found = [
        crossed_interval(right, group, half, other=rule[examples], n_intervals=len(rules)) for rule in rules
    ]
    ends = np.array(found, np.float64).reshape(-1, 3).T
    return {f"beyond_shortcut{end}": values for end, values in zip(ENDS, ends, strict=True)}


def derived(call: Call, scores: Mapping[str, Provenance], seed: int) -> Provenance:
    """Return the record of a statistic: of what scores, chosen how.

    Args:
        call: Of the function that makes it.
        scores: Records of the scores behind it, by name.
        seed: Random seed.

    Returns:
        A record with the model of the first scores; ``models`` names all where they differ.
    """
    first = next(iter(scores.values()))
    told: dict[str, object] = {"scores": {name: p.arguments for name, p in scores.items()}}
    if len(scores) == 1:
        told |= {key: first.arguments[key] for key in TASK_ARGUMENTS if key in first.arguments}
    models = {name: p.model.get("name") for name, p in scores.items()}
    if len(set(models.values())) > 1:
        told["models"] = models
    digests = {name: p.data_digest for name, p in scores.items()}
    return call.record(first.model, dict(digests), seed=seed, **told)


def require_kind(kind: str, only: str, what: str) -> None:
    """Refuse a kind of figure that a result does not have.

    Raises:
        ValueError: ``kind`` is not ``only``.
    """
    if kind != only:
        msg = f"{what} has no figure {kind!r}; the only kind is {only!r}."
        raise ValueError(msg)
