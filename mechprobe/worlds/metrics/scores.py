"""Scores of one model on pairs of prefixes, batch by batch: compression, precision, recall."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from mechprobe.worlds.automata.arrays import Ids, pad
from mechprobe.worlds.automata.base import World
from mechprobe.worlds.automata.language import boundary
from mechprobe.worlds.metrics.judged import Judged, Tally
from mechprobe.worlds.metrics.pairs import Pairs
from mechprobe.worlds.metrics.recall import recalled
from mechprobe.worlds.metrics.suffixes import (
    ModelBoundary,
    Sampling,
    TreeTooLargeError,
    model_boundary,
    stacked,
)
from mechprobe.worlds.predictors.callables import CELLS, Forkable
from mechprobe.worlds.predictors.oracles import Oracle
from mechprobe.worlds.predictors.predictor import Cursor, Predictor

Test = Literal["compression_precision", "distinction_precision", "distinction_recall"]
Scores = npt.NDArray[np.float64]

TESTS: tuple[Test, ...] = ("compression_precision", "distinction_precision", "distinction_recall")

SILENT = "the model accepts no word after the first prefix"
NO_MODEL_BOUNDARY = "the model tells nothing apart"
NO_TRUE_BOUNDARY = "nothing tells the states apart within k words"


@dataclass(frozen=True, slots=True)
class Scored:
    """Scores of some pairs.

    Attributes:
        index: Which pairs.
        values: Their scores; NaN for pairs that are dropped.
        reasons: Why they are; empty for the others.
        judged: Single words that were judged for them.
        suffix_error: Share of their samples accepted after the first prefix and refused after the
            second; NaN where nothing was sampled or it is no error.
    """

    index: Ids
    values: Scores
    reasons: tuple[str, ...]
    judged: Judged
    suffix_error: Scores


class Gathered(NamedTuple):
    """Scores of all pairs of one test, in order.

    Attributes:
        values: NaN for pairs that were dropped.
        reasons: Why they were.
        judged: Single words that were judged.
        suffix_error: As in ``Scored``.
    """

    values: Scores
    reasons: list[str]
    judged: Judged
    suffix_error: Scores


def batches_of(
    predictor: Predictor, world: World, pairs: Pairs, rows_each: int, batch_size: int | None
) -> list[Ids]:
    """Return which pairs go together: of similar length, as many as memory allows.

    Args:
        predictor: Says how many rows it holds (``rows_at_once``), if it knows.
        world: Its vocabulary bounds the rows of a predictor that does not.
        pairs: Prefixes.
        rows_each: Rows that one pair may come to.
        batch_size: Pairs at once; None for as many as fit.
    """
    rows = int(getattr(predictor, "rows_at_once", CELLS // len(world.tokens)))
    size = batch_size or max(1, rows // rows_each)
    order = np.argsort(pairs.lengths, kind="stable")
    return np.array_split(order, -(-len(order) // size)) if len(order) else []


def scored(
    tests: tuple[Test, ...],
    predictor: Predictor,
    world: World,
    pairs: Pairs,
    how: Sampling,
    batch_size: int | None = None,
    done: Mapping[Test, Ids] | None = None,
) -> Iterator[tuple[Test, Scored]]:
    """Score pairs batch by batch; several tests of a batch read its prefixes once.

    Args:
        tests: Which of the three.
        predictor: The model.
        world: Whose words it predicts.
        pairs: Of one state for compression, of two for distinction.
        how: Suffixes, acceptance, lengths.
        batch_size: Pairs at once; None for as many as memory allows.
        done: Pairs that are done already, by test.

    Yields:
        Scores of one batch and test after another.
    """
    rows_each = 2 * (how.samples or 2**how.depth)
    run: dict[Test, Callable[[Predictor, World, Pairs, Ids, Sampling], Scored]] = {
        "compression_precision": _compression,
        "distinction_precision": _precision,
        "distinction_recall": _recall,
    }
    for index in batches_of(predictor, world, pairs, rows_each, batch_size):
        once = _ReadOnce(predictor)
        for test in tests:
            left = index[~np.isin(index, done[test])] if done else index
            for part in _in_parts(run[test], once, world, pairs, left, how):
                yield test, part


def _in_parts(
    score: Callable[[Predictor, World, Pairs, Ids, Sampling], Scored],
    once: "_ReadOnce",
    world: World,
    pairs: Pairs,
    index: Ids,
    how: Sampling,
) -> Iterator[Scored]:
    """Score some pairs, in halves where their exact trees are too large together."""
    waiting = [index] if len(index) else []
    while waiting:
        some = waiting.pop()
        try:
            found = score(once.of(some), world, pairs, some, how)
        except TreeTooLargeError:
            if len(some) == 1:
                raise
            waiting += np.array_split(some, 2)
        else:
            yield found


class _ReadOnce:
    """A predictor that reads the same prefixes once, where its cursor can be forked."""

    def __init__(self, predictor: Predictor) -> None:
        self._predictor = predictor
        self._prefixes: Ids | None = None
        self._fork: Cursor | None = None
        self._pairs = np.zeros(0, dtype=np.int64)

    def of(self, pairs: Ids) -> "_ReadOnce":
        """Say which pairs are asked about next: some oracles err by pair."""
        self._pairs = pairs
        return self

    @property
    def name(self) -> str:
        return self._predictor.name

    def start(self, prefixes: Ids) -> Cursor:
        if isinstance(self._predictor, Oracle):
            return self._predictor.start(prefixes, np.tile(self._pairs, 2))
        before, kept = self._prefixes, self._fork
        self._prefixes = self._fork = None
        if kept is not None and before is not None and np.array_equal(before, prefixes):
            return kept
        cursor = self._predictor.start(prefixes)
        if isinstance(cursor, Forkable):
            self._prefixes, self._fork = prefixes, cursor.fork()
        return cursor


def gather(n: int, parts: list[Scored]) -> Gathered:
    """Return scores of all pairs in order."""
    values, reasons, errors = np.full(n, np.nan), [""] * n, np.full(n, np.nan)
    for part in parts:
        values[part.index] = part.values
        errors[part.index] = part.suffix_error
        for i, reason in zip(part.index.tolist(), part.reasons, strict=True):
            reasons[i] = reason
    return Gathered(values, reasons, sum((part.judged for part in parts), Judged()), errors)


def _compression(predictor: Predictor, world: World, pairs: Pairs, index: Ids, how: Sampling) -> Scored:
    """Score 1 where the model accepts after both prefixes of a state the same suffixes.

    A string that it accepts after one of them only is wrong, whatever it is: precision is then 0.
    """
    found = model_boundary(predictor, world, pairs, index, how, first_only=how.samples is None)
    values = (found.sizes == 0).astype(np.float64)
    part = _scored(index, values, found, how.published)
    if how.samples is None:
        return part
    errors = found.n_refused / how.samples
    return replace(part, suffix_error=np.where(np.isnan(part.values), np.nan, errors))


def _precision(predictor: Predictor, world: World, pairs: Pairs, index: Ids, how: Sampling) -> Scored:
    """Score the share of the model's boundary that really tells the two states apart."""
    found = model_boundary(predictor, world, pairs, index, how, first_only=False)
    sizes, values = found.sizes, np.full(len(index), np.nan)
    if len(found.strings):
        strings, at = pad(found.strings), index[found.pair]
        good = world.accepts(pairs.states1[at], strings)
        good &= ~world.accepts(pairs.states2[at], strings)
        hits = np.bincount(found.pair, good, minlength=len(index))
        values[sizes > 0] = hits[sizes > 0] / sizes[sizes > 0]
    if how.published:
        values[sizes == 0] = 1.0
    part = _scored(index, values, found, how.published)
    reasons = [
        reason or (NO_MODEL_BOUNDARY if np.isnan(value) else "")
        for reason, value in zip(part.reasons, values.tolist(), strict=True)
    ]
    return replace(part, reasons=tuple(reasons))


def _recall(predictor: Predictor, world: World, pairs: Pairs, index: Ids, how: Sampling) -> Scored:
    """Score the share of the true boundary that the model has."""
    true = boundary(world, pairs.states1[index], pairs.states2[index], how.depth, published=how.published)
    tally = Tally(world, np.concatenate([pairs.states1[index], pairs.states2[index]]))
    values = recalled(predictor, stacked(pairs, index), true, how.acceptance, tally)
    if how.published:
        values[np.isnan(values)] = 1.0
    reasons = tuple(NO_TRUE_BOUNDARY if np.isnan(v) else "" for v in values.tolist())
    return Scored(index, values, reasons, tally.judged, np.full(len(index), np.nan))


def _scored(index: Ids, values: Scores, found: ModelBoundary, published: bool) -> Scored:
    """Drop pairs about which a model that says nothing cannot be asked, unless published."""
    silent = found.silent & (not published)
    reasons = tuple(SILENT if s else "" for s in silent.tolist())
    values = np.where(silent, np.nan, values)
    return Scored(index, values, reasons, found.judged, np.full(len(index), np.nan))
