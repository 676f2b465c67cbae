"""Rows of tokens that a model reads on from where they are: the one way to continue anything."""

from collections.abc import Collection, Iterator, Mapping
from copy import copy, deepcopy
from functools import partial
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from mechprobe.models.forks import FOREIGN, ForkCache, continue_rows, forking_body
from mechprobe.models.internals import last_stream, stream_name
from mechprobe.models.protocol import Edit, Sink
from mechprobe.models.run import Logits, run, takes_positions
from mechprobe.models.session import Session, opened
from mechprobe.models.slots import Rows, SlotCache
from mechprobe.models.support import require_kv_cache
from mechprobe.models.twin import near

# Of a call, rows on which the first step of forked rows is compared with the ordinary one.
_ROWS_COMPARED = 8
_NOTHING: Mapping[str, Sink] = {}


class Cursor:
    """Rows that a model is reading side by side, each as far as it has come.

    Keys and values, which of them are padding, and where the next token of each row stands are kept
    in here. What sinks, edits and callers see is by row, ``[row, pos, ...]``, of new tokens only. A
    cursor may be used in several public calls, one after the other.

    Args:
        session: The model.
        many: Rows will be repeated and dropped at every step. They then stay where they lie, and
            what was read together is kept once for all rows that continue it, where the model can
            be told so. Needs a cache whose rows can be repeated, and no sliding window.
        layer: Where logits are read, as the logit lens does; None for the model's own.
    """

    def __init__(self, session: Session, *, many: bool = False, layer: int | None = None) -> None:
        self._model, self._many, self._layer = session.model, many, layer
        self._cache: Any = None
        # 1 for tokens and 0 for padding, of what was read together; all since are tokens.
        self._mask: Int[Tensor, "row read"] | None = None
        self._lengths = torch.zeros(0, dtype=torch.int64, device=session.device)
        self._width = 0
        # The model's calls, as they were when these rows were seen to fork rightly.
        self._forked_in: object = None

    @property
    def n_rows(self) -> int:
        """How many rows there are."""
        return len(self._lengths)

    def read(
        self,
        ids: Int[Tensor, "row new"],
        capture: Mapping[str, Sink] = _NOTHING,
        *,
        mask: Int[Tensor, "row new"] | None = None,
        edit: Mapping[str, Edit] | None = None,
        logits: Logits = "last",
        keep: bool = True,
    ) -> Float[Tensor, "row read d_vocab"] | None:
        """Read more tokens of all rows, the first time of as many rows as there are.

        Args:
            ids: The tokens.
            capture: As ``models.run``.
            mask: 1 for tokens, 0 for padding on either side; None where nothing is padded.
            edit: As ``models.run``.
            logits: Whether to compute logits nowhere, at the last column, or everywhere.
            keep: Whether to go on afterwards; without, a first pass costs less.

        Returns:
            The logits asked for.

        Raises:
            NotImplementedError: As ``models.run``; the model keeps no cache; or padding moves
                tokens and the model cannot be told where they stand.
        """
        session, (n, new) = opened(self._model), ids.shape
        if keep:
            require_kv_cache(session.model)
        if not self._width:
            self._lengths = self._lengths.new_zeros(n)
            self._cache = SlotCache.empty(session.n_layers, n) if self._many and keep else None
        elif isinstance(self._held(), SlotCache):
            self._cache = self._cache.in_order()
        real = ids.new_ones(n, new) if mask is None else mask.to(ids.device)
        if mask is not None or self._mask is not None:
            self._mask = torch.cat([self._whole_mask(), real], dim=1)
        self._lengths, self._width = self._lengths + real.sum(1), self._width + new
        found = self._pass(session, ids, capture, logits, edit, keep=keep)
        wanted = self._many and self._layer is None and keep
        if wanted and _seen(session)[self._mask is not None] is not False:
            self._cache, self._forked_in = ForkCache.behind(self._cache, self._mask), None
        return found

    def advance(
        self,
        rows: Rows,
        tokens: Int[Tensor, " row"],
        capture: Mapping[str, Sink] = _NOTHING,
        *,
        logits: Logits = "last",
    ) -> Float[Tensor, "row 1 d_vocab"] | None:
        """Go on with some rows, each by one token: new row ``i`` is old row ``rows[i]``.

        Args:
            rows: At least one; a row may be named several times, or not at all.
            tokens: What each reads.
            capture: As ``models.run``.
            logits: Whether to compute logits.

        Returns:
            The logits asked for.
        """
        session, cache = opened(self._model), self._held()
        self._select(rows)
        ids = tokens.to(self._lengths.device)[:, None]
        heard = bool(capture) or logits == "none"
        if isinstance(cache, ForkCache) and (heard or not self._forks(session, ids[:, 0])):
            self._cache = cache = cache.in_order()
        self._lengths, self._width = self._lengths + 1, self._width + 1
        if isinstance(cache, ForkCache):
            return continue_rows(session, ids, self._lengths[:, None] - 1, cache)
        return self._pass(session, ids, capture, logits)

    def fork(self, rows: Rows | None = None) -> "Cursor":
        """Return a second cursor that stands where this one does.

        Args:
            rows: Its row ``i`` is row ``rows[i]`` of this one; all rows if None.
        """
        out, cache = copy(self), self._held()
        chosen = np.arange(self.n_rows) if rows is None else rows
        if isinstance(cache, SlotCache):
            out._cache = cache.taken(chosen)
            out._choose(chosen)
        else:
            out._cache = deepcopy(cache)
            out._select(chosen)
        return out

    def greedy(
        self,
        ids: Int[Tensor, "1 new"],
        n: int,
        stop: Collection[int] = (),
        capture: Mapping[str, Sink] = _NOTHING,
    ) -> Iterator[int]:
        """Read one row and say the likeliest token, again and again.

        Args:
            ids: What it reads first.
            n: Most tokens to say.
            stop: Ids behind which nothing is said.
            capture: As ``models.run``; sinks have seen the pass that chose a token when it comes.
        """
        for _ in range(n):
            found = self.read(ids, capture)
            assert found is not None
            token = int(found[0, -1].argmax())
            yield token
            if token in stop:
                return
            ids = ids.new_tensor([[token]])

    def _held(self) -> Any:
        if self._cache is None:
            msg = "this cursor has read nothing that it could go on from."
            raise RuntimeError(msg)
        return self._cache

    def _select(self, rows: Rows) -> None:
        """Let new row ``i`` be old row ``rows[i]``."""
        if isinstance(self._cache, SlotCache):
            self._cache.select(rows)
        elif not np.array_equal(rows, np.arange(self.n_rows)):
            self._cache.batch_select_indices(torch.as_tensor(rows))
        self._choose(rows)

    def _choose(self, rows: Rows) -> None:
        chosen = torch.as_tensor(rows, device=self._lengths.device)
        self._lengths = self._lengths[chosen]
        self._mask = None if self._mask is None else self._mask[chosen]

    def _whole_mask(self) -> Int[Tensor, "row width"]:
        read = self._lengths.new_ones(self.n_rows, 0) if self._mask is None else self._mask
        return torch.nn.functional.pad(read, (0, self._width - read.shape[1]), value=1)

    def _positions(
        self, session: Session, mask: Int[Tensor, "row width"], new: int
    ) -> Int[Tensor, "row new"] | None:
        """Return where the last columns stand; None where every token stands in its column."""
        real = mask[:, -new:]
        before = self._lengths - real.sum(1) - 1
        at = (before[:, None] + real.cumsum(1)).clamp(min=0)
        columns = torch.arange(self._width - new, self._width, device=at.device)
        if bool(((at == columns) | (real == 0)).all()):
            return None
        if not takes_positions(session):
            msg = (
                f"{session.name} cannot be told where tokens stand, and padding moves them: read "
                "rows of equal length together."
            )
            raise NotImplementedError(msg)
        return at

    def _pass(
        self,
        session: Session,
        ids: Int[Tensor, "row new"],
        capture: Mapping[str, Sink],
        logits: Logits,
        edit: Mapping[str, Edit] | None = None,
        *,
        keep: bool = True,
    ) -> Float[Tensor, "row read d_vocab"] | None:
        """Run new tokens of all rows, that were counted already, in the ordinary way."""
        mask = None if self._mask is None else self._whole_mask()
        at = None if mask is None else self._positions(session, mask, ids.shape[1])
        cache, found, sinks = self._cache, list[Tensor](), dict(capture)
        if self._layer is not None and logits != "none":
            sinks[stream_name(self._layer)] = partial(_read_out, session, logits, found)
            logits = "none"
        slot: Tensor | None = None
        if isinstance(cache, SlotCache) and not cache.is_ordered:
            slot, row = torch.as_tensor(cache.slot), torch.as_tensor(cache.row_of_slot())
            ids = ids[row]
            mask, at = (None if x is None else x[row] for x in (mask, at))
            sinks = {name: partial(_by_row, sink, slot) for name, sink in sinks.items()}
        done = run(
            session,
            ids,
            sinks,
            edit=edit,
            mask=mask,
            positions=at,
            logits=logits,
            cache=cache,
            keep_cache=keep or cache is not None,
        )
        self._cache = done.cache if keep else None
        if done.logits is not None:
            return done.logits if slot is None else done.logits[slot]
        return found[0] if found else None

    def _forks(self, session: Session, tokens: Int[Tensor, " row"]) -> bool:
        """Whether forked rows say what they say in the ordinary way, some of the call's first."""
        seen, padded = _seen(session), self._mask is not None
        if seen[padded] is None and self._forked_in is _calls(session):
            return True  # this one's rows were compared, when the model was the same
        if seen[padded] is None:
            n = min(self.n_rows, _ROWS_COMPARED)
            some = np.linspace(0, self.n_rows - 1, n).astype(np.int64)
            plain, forked, rows = self.fork(some), self.fork(some), np.arange(len(some))
            plain._cache, seen[padded] = plain._cache.in_order(), True
            said = tokens[torch.as_tensor(some)]
            try:  # twice: at first, rows have nothing of their own behind them
                pairs = [[c.advance(rows, said) for c in (plain, forked)] for _ in range(2)]
                seen[padded] = all(near(*(x[:, 0] for x in p if x is not None)) for p in pairs)
            except FOREIGN:
                seen[padded] = False
        self._forked_in = _calls(session) if seen[padded] else None
        return bool(seen[padded])


def _calls(session: Session) -> WeakKeyDictionary[Session, dict[bool, bool | None]]:
    """Return what was seen in each call, for as long as nothing about the model changes."""
    return session.fact("forks seen", WeakKeyDictionary[Session, dict[bool, bool | None]])


def _seen(session: Session) -> dict[bool, bool | None]:
    """Return whether forked rows were right in this call, without padding and with; None: untried.

    Nobody may have begun to listen meanwhile.
    """
    if forking_body(session) is None:
        return {False: False, True: False}
    return _calls(session).setdefault(session, {False: None, True: None})


def require_read_out(session: Session, ids: Int[Tensor, "row pos"], name: str) -> None:
    """Refuse to read layers of a model whose last layer, so read, is not the model's own answer.

    Args:
        session: The model.
        ids: A few to try it on, if that was not done of the model as it is.
        name: What messages call it.

    Raises:
        ValueError: Norm and unembedding are not all that makes the answer.
    """

    def tried() -> bool:
        last: list[Tensor] = []
        done = run(session, ids, {last_stream(session.model): last.append}, logits="all")
        assert done.logits is not None
        session.unembedding.require_identity(last[0].flatten(0, 1), done.logits.flatten(0, 1), name)
        return True

    session.fact(("layers read as the model reads", session.unembedding.mark), tried)


def _read_out(session: Session, logits: Logits, found: list[Tensor], resid: Tensor) -> None:
    # Within the pass, before later blocks could write to it.
    rows = resid if logits == "all" else resid[:, -1:]
    found.append(session.unembedding.logits(rows.flatten(0, 1)).unflatten(0, rows.shape[:2]))


def _by_row(sink: Sink, slot: Int[Tensor, " row"], activation: Tensor) -> None:
    sink(activation[slot])
