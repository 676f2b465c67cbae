"""Head scores as the arrays that statistics take, and what the model and the shortcuts score."""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import xarray as xr
from jaxtyping import Bool, Float, Int

from mechprobe.provenance import Call, Provenance
from mechprobe.stats import Interval, accuracy_interval, centred, decisions, expected_best_by_chance
from mechprobe.stats.decisions import check_scores

ENDS = ("", "_low", "_high")
TASK_ARGUMENTS = ("task", "score", "query", "key")


class Source(NamedTuple):
    """A data set of head scores, heads in one axis: layer by layer, head by head."""

    score: Float[np.ndarray, "example candidate head"]
    answer: Int[np.ndarray, " example"]
    group: Int[np.ndarray, " example"]
    exists: Bool[np.ndarray, "example candidate"]


def source(data: xr.Dataset) -> Source:
    """Return scores, answers, groups and which candidates exist."""
    score = data["score"].transpose("example", "candidate", "layer", "head").values
    text = data["candidate_text"].transpose("example", "candidate").values
    return Source(
        score.reshape(*score.shape[:2], -1),
        data["answer"].values.astype(np.int64),
        data["group"].values.astype(np.int64),
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


def chance_ceiling(n_heads: int, exists: Bool[np.ndarray, "example candidate"]) -> float:
    """Return the expected best accuracy of ``n_heads`` guessing heads on these examples."""
    n_candidates = max(2, round(1 / chance_level(exists)))
    return expected_best_by_chance(n_heads, len(exists), n_candidates)


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
    """The best of the audited shortcuts."""

    name: str
    accuracy: Interval


def best_shortcut(data: xr.Dataset) -> Shortcut:
    """Return the shortcut that scores highest in the audit made with the scores."""
    share = data["shortcut_accuracy"].values.astype(np.float64)
    if share.size == 0 or np.isnan(share).all():
        unknown = float("nan")
        return Shortcut("none audited", Interval(unknown, unknown, unknown))
    i = int(np.nanargmax(share))
    low, high = (float(data[f"shortcut_{end}"].values[i]) for end in ("low", "high"))
    return Shortcut(str(data["shortcut"].values[i]), Interval(float(share[i]), low, high))


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
