"""Any function of a sequence as a predictor, and what all predictors have in common."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np

from mechprobe.worlds.automata.arrays import PAD, Ids, Mask
from mechprobe.worlds.automata.base import World
from mechprobe.worlds.predictors.acceptance import Acceptance
from mechprobe.worlds.predictors.oracles import OracleCursor
from mechprobe.worlds.predictors.predictor import Cursor, LogProbs, Predictor

# Cells of one array of log-probabilities, [row, token]: 32 MB of float32.
CELLS = 8_000_000


@runtime_checkable
class Reader(Protocol):
    """A predictor that reads whole sequences at once, faster than word by word."""

    def read(self, sequences: Ids) -> LogProbs:
        """Return log-probabilities after every word, ``[n, length, token]``."""
        ...


@runtime_checkable
class Forkable(Protocol):
    """A cursor that can be copied, with what it has read."""

    def fork(self) -> Cursor:
        """Return a second cursor that stands where this one does."""
        ...


class RereadCursor:
    """Sequences that are read again from the beginning whenever they have grown.

    Args:
        read_last: Ids ``[n, length]`` without padding to log-probabilities of the next word.
        prefixes: ``[n, length]``, filled up with -1 on the right.
        n_tokens: Words of the world.
        n_rows: Sequences read at once.
    """

    def __init__(
        self, read_last: Callable[[Ids], LogProbs], prefixes: Ids, n_tokens: int, n_rows: int = 4096
    ) -> None:
        self._read_last, self._n_rows, self._n_tokens = read_last, n_rows, n_tokens
        self._lengths = (prefixes != PAD).sum(axis=1)
        self._ids = prefixes
        self._found: LogProbs | None = None

    @property
    def log_probs(self) -> LogProbs:
        """Log-probability of every word after each sequence, ``[row, token]``."""
        if self._found is None:
            self._found = np.zeros((len(self._ids), self._n_tokens), dtype=np.float32)
            for length in np.unique(self._lengths).tolist():
                rows = np.flatnonzero(self._lengths == length)
                for start in range(0, len(rows), self._n_rows):
                    some = rows[start : start + self._n_rows]
                    self._found[some] = self._read_last(self._ids[some, :length])
        return self._found

    def advance(self, rows: Ids, tokens: Ids) -> None:
        """Go on with some rows, each by one word."""
        self._found = None
        self._lengths = self._lengths[rows] + 1
        width = int(self._lengths.max(initial=0))
        kept = self._ids[rows, :width]
        self._ids = np.pad(kept, ((0, 0), (0, width - kept.shape[1])), constant_values=PAD)
        self._ids[np.arange(len(rows)), self._lengths - 1] = tokens


@dataclass(frozen=True, slots=True)
class CallablePredictor:
    """A function from sequences to next-word log-probabilities; see ``callable_model``.

    Attributes:
        name: What tables and figures call it.
        fn: The function.
        world: Whose words it predicts.
    """

    name: str
    fn: Callable[[Ids], Any]
    world: World

    def start(self, prefixes: Ids) -> RereadCursor:
        """Read prefixes ``[n, length]``, filled up with -1 on the right."""
        return RereadCursor(self._read_last, prefixes, len(self.world.tokens))

    def _read_last(self, ids: Ids) -> LogProbs:
        found = as_array(self.fn(ids.copy()))
        shape = (len(ids), len(self.world.tokens))
        if found.shape != shape:
            msg = (
                f"{self.name} gave an array of shape {found.shape} for {len(ids)} sequences; "
                f"expected log-probabilities of the next word, {list(shape)}."
            )
            raise ValueError(msg)
        require_log_probs(found, self.name)
        return found


def as_array(found: Any) -> LogProbs:
    """Return what a function gave as float32: an array, a list, or a tensor wherever it lies."""
    if hasattr(found, "detach"):  # a tensor, without loading torch to ask
        found = found.detach().float().cpu().numpy()
    return np.asarray(found, dtype=np.float32)


def callable_model(fn: Callable[[Ids], Any], world: World, *, name: str | None = None) -> CallablePredictor:
    """Return any function of a sequence as a predictor.

    Args:
        fn: Takes ids of the world's words ``[n, length]``, without padding, and returns natural
            log-probabilities of the next word, ``[n, token]``; -inf is probability 0.
        world: Whose words they are.
        name: What tables and figures call it; the function's own name if None.

    Returns:
        A predictor without a cache: every step reads the whole sequence.

    Raises:
        TypeError: ``fn`` cannot be called.

    Example:
        >>> from mechprobe.worlds import Dyck
        >>> world = Dyck(1, 2)
        >>> model = callable_model(lambda ids: np.log(np.full((len(ids), 2), 0.5)), world)
        >>> model.start(world.encode("( )")[None]).log_probs.round(2).tolist()
        [[-0.6899999976158142, -0.6899999976158142]]
    """
    if not callable(fn):
        msg = f"a model must be a function of ids [n, length]; found {type(fn).__name__}."
        raise TypeError(msg)
    found = getattr(fn, "__name__", type(fn).__name__)
    return CallablePredictor(name or ("callable" if found == "<lambda>" else found), fn, world)


def require_log_probs(log_probs: LogProbs, name: str) -> None:
    """Refuse what cannot be log-probabilities.

    Raises:
        ValueError: NaN, or a probability above 1.
    """
    if not log_probs.size:
        return
    # The largest is NaN if any is, so that one pass sees both.
    most = float(log_probs.max())
    if np.isnan(most):
        row, token = np.argwhere(np.isnan(log_probs))[0].tolist()
        msg = (
            f"{name} gave NaN for word id {token} in row {row} of {len(log_probs)}; every metric "
            "would be meaningless. Look at its weights, or at what made its probabilities."
        )
        raise ValueError(msg)
    if most > 1e-3:
        msg = (
            f"{name} gave a log-probability of {most:g}, a probability above 1; return natural "
            "log-probabilities (log_softmax of the logits), not logits or probabilities."
        )
        raise ValueError(msg)


def accepted(cursor: Cursor, acceptance: Acceptance, log_probs: LogProbs | None = None) -> Mask:
    """Return which words a model accepts after each sequence; oracles answer themselves.

    Args:
        cursor: Where the model stands.
        acceptance: The rule for models that give probabilities.
        log_probs: Those of the cursor, where they are at hand.
    """
    if isinstance(cursor, OracleCursor):
        return cursor.accepted
    return acceptance.accepts(cursor.log_probs if log_probs is None else log_probs)


def read(predictor: Predictor, sequences: Ids) -> LogProbs:
    """Return log-probabilities after every word, ``[n, length, token]``.

    Behind the end of a sequence they are those after its last word.

    Args:
        predictor: Read at once where it can, otherwise word by word.
        sequences: ``[n, length]``, filled up with -1 on the right; no row empty.
    """
    if isinstance(predictor, Reader):
        return predictor.read(sequences)
    cursor = predictor.start(sequences[:, :1])
    found = [cursor.log_probs]
    rows = np.arange(len(sequences))
    going = rows
    for column in sequences.T[1:]:
        staying = column[going] != PAD
        cursor.advance(np.flatnonzero(staying), column[going][staying])
        going = going[staying]
        after = found[-1].copy()
        after[going] = cursor.log_probs
        found.append(after)
    return np.stack(found, axis=1)
