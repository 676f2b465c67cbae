"""A TransformerLens model as a predictor: words to ids and back, many rows at once."""

from collections.abc import Callable, Mapping
from copy import copy
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from mechprobe.models import (
    Cursor,
    Session,
    alone,
    branching,
    describe,
    opened,
    pads_left,
    require_read_out,
    window,
)
from mechprobe.models.protocol import Edit, input_device
from mechprobe.provenance import Json, digest_json
from mechprobe.worlds.automata.arrays import PAD, Ids
from mechprobe.worlds.automata.base import World
from mechprobe.worlds.predictors.callables import RereadCursor, require_log_probs
from mechprobe.worlds.predictors.predictor import LogProbs
from mechprobe.worlds.predictors.residual import LayerReading, chosen_layers

# Numbers in the residual stream of one forward pass, and rows of one cache that advance together.
STREAM_AT_ONCE = 2**20
ROWS_AT_ONCE = 4096
# Bytes of keys and values that a run of the metrics may hold.
CACHE_BYTES = 256 * 2**20

Edits = Callable[[Ids], Mapping[str, Edit]]
"""Rows of some prefixes, read together, to what is changed in reading them."""

# What reads some rows on, which rows, and what is said behind them.
_Part = tuple[Cursor, Ids, LogProbs]


@dataclass(frozen=True, slots=True, eq=False)
class LanguageModel:
    """A TransformerLens model that predicts the words of a world; see ``language_model``.

    Attributes:
        name: What tables and figures call it.
        model: The TransformerLens model.
        world: Whose words it predicts.
        ids: Model id of each word, ``[token]``.
        start_id: Model id that begins every sequence, or None.
        cached: Whether keys and values are kept from word to word, where the model can.
        reading: The layer that is read; None for the model's own answer.
    """

    name: str
    model: Any
    world: World
    ids: Int[Tensor, " token"]
    start_id: int | None
    cached: bool
    reading: LayerReading | None = None

    @property
    def session(self) -> Session:
        """Its model in this call."""
        return opened(self.model)

    def describe(self) -> dict[str, Json]:
        """Return what a record says of the model and of the words it predicts."""
        words = digest_json([self.ids.tolist(), self.start_id])
        return {**describe(self.session), "name": self.name, "vocabulary_sha256": words}

    @property
    def keeps_cache(self) -> bool:
        """Whether words are read on from keys and values, of the model as it is now."""
        return self.cached and branching(self.model) and window(self.model) is None

    @property
    def longest(self) -> int:
        """Words that fit into the model's context."""
        return int(self.model.cfg.n_ctx) - (self.start_id is not None)

    @property
    def words_at_once(self) -> int:
        """Words that are read in one forward pass."""
        return max(1, STREAM_AT_ONCE // int(self.model.cfg.d_model))

    @property
    def rows_at_once(self) -> int:
        """Rows of ``world.max_length`` words whose keys and values fit the memory set aside."""
        cfg = self.model.cfg
        heads = int(getattr(cfg, "n_key_value_heads", None) or cfg.n_heads)
        word = 2 * int(cfg.n_layers) * heads * int(cfg.d_head) * 4
        return max(1, CACHE_BYTES // (word * self.world.max_length))

    @alone
    def at_layer(self, layer: int) -> "LanguageModel":
        """Return the predictor that stops after a layer, as a logit lens reads it.

        Args:
            layer: -1 for the embedding, l for the residual stream after block l.

        Returns:
            A predictor like this one; at the last layer it answers as the model does.

        Raises:
            ValueError: No such layer, or a read-out path that is not the model's.

        Example:
            >>> net.at_layer(0).name  # doctest: +SKIP
            'street_grid_6x6, layer 0'
        """
        name = self.reading.of if self.reading else self.name
        chosen_layers(name, self.session.n_layers, [layer])
        found = replace(self, name=f"{name}, layer {layer}", reading=LayerReading(layer, name))
        found.cursor()  # refuses a model whose layers cannot be read so
        return found

    @alone
    def start(self, prefixes: Ids) -> "NetworkCursor | RereadCursor":
        """Read prefixes ``[n, length]``, filled up with -1 on the right, and stand behind them.

        Raises:
            ValueError: An empty prefix where the model has no start token, or one that is longer
                than the context; NaN among the probabilities.
        """
        self._require_lengths(prefixes)
        if self.keeps_cache:
            return NetworkCursor(self, prefixes)
        n_rows = max(1, self.words_at_once // prefixes.shape[1])
        return RereadCursor(self._read_last, prefixes, len(self.ids), n_rows)

    @alone
    def read(self, sequences: Ids) -> LogProbs:
        """Return log-probabilities after every word, ``[n, length, token]``."""
        self._require_lengths(sequences)
        n, width = sequences.shape
        out = np.zeros((n, width, len(self.ids)), dtype=np.float32)
        lengths = (sequences != PAD).sum(axis=1)
        order = np.argsort(lengths, kind="stable")
        size = max(1, self.words_at_once // max(width, 1))
        for begin in range(0, n, size):
            rows = order[begin : begin + size]
            longest = int(lengths[rows].max())
            # Padding behind a sequence is not seen by any of its words.
            ids = np.where(sequences[rows, :longest] == PAD, 0, sequences[rows, :longest])
            found = self._read(ids, "all")[:, -longest:]
            last = found[np.arange(len(rows)), lengths[rows] - 1]
            out[rows, :longest] = found
            behind = np.arange(width) >= lengths[rows][:, None]
            out[rows] = np.where(behind[:, :, None], last[:, None], out[rows])
        return out

    def rectangle(self, ids: Ids) -> Int[Tensor, "row pos"]:
        """Return words as ids of the model, on its device, behind the start token."""
        return self.left_padded(ids, np.full(len(ids), ids.shape[1]))[0]

    def log_probs(self, logits: Float[Tensor, "*rows d_vocab"] | None) -> LogProbs:
        """Return log-probabilities of the world's words, normalised over all that can be said."""
        if logits is None:
            msg = f"{self.name} gives no logits; there is nothing to read."
            raise NotImplementedError(msg)
        wide = logits.detach().to(torch.promote_types(logits.dtype, torch.float32))
        every = torch.log_softmax(wide, dim=-1)
        out: LogProbs = every[..., self.ids.to(every.device)].float().cpu().numpy()
        require_log_probs(out.reshape(-1, out.shape[-1]), self.name)
        return out

    def left_padded(
        self, prefixes: Ids, lengths: Ids
    ) -> tuple[Int[Tensor, "row pos"], Int[Tensor, "row pos"] | None]:
        """Return prefixes as ids of the model, which all end in the last column, and their mask."""
        started = int(self.start_id is not None)
        words, lengths = np.pad(prefixes, ((0, 0), (started, 0))), lengths + started
        width = int(lengths.max(initial=0))
        column = np.arange(width) - (width - lengths)[:, None]
        found = self.ids[torch.as_tensor(np.take_along_axis(words, np.maximum(column, 0), axis=1))]
        if self.start_id is not None:
            found[torch.as_tensor(column == 0)] = self.start_id
        real = torch.as_tensor(column >= 0)
        device = input_device(self.model)
        mask = None if bool(real.all()) else real.to(device, torch.int64)
        return found.to(device), mask

    def cursor(self) -> Cursor:
        """Return what reads rows of words on, and says what the model or its layer says."""
        if self.reading is None:
            return Cursor(self.session, many=True)
        # Again at every call: the model may be another than when the layer was chosen.
        some = np.arange(min(len(self.ids), self.longest, 8))[None]
        require_read_out(self.session, self.rectangle(some), self.reading.of)
        return Cursor(self.session, many=True, layer=self.reading.layer)

    @alone
    def _read_last(self, ids: Ids) -> LogProbs:
        return self._read(ids, "last")[:, -1]

    def _read(self, ids: Ids, logits: Literal["last", "all"]) -> LogProbs:
        found = self.cursor().read(self.rectangle(ids), logits=logits, keep=False)
        return self.log_probs(found)

    def _require_lengths(self, ids: Ids) -> None:
        lengths = (ids != PAD).sum(axis=1)
        if self.start_id is None and int(lengths.min(initial=1)) < 1:
            msg = (
                f"{self.name} has no start token, so nothing can be asked before the first word; "
                "pass start_id, or prefixes of at least one word."
            )
            raise ValueError(msg)
        self.require_room(int(lengths.max(initial=0)))

    def require_room(self, length: int) -> None:
        """Refuse sequences longer than the context.

        Raises:
            ValueError: They are.
        """
        if length > self.longest:
            msg = (
                f"sequences of {length} words were asked for; {self.name} holds {self.longest}. "
                "Pass a smaller max_tokens, or give the world a smaller max_length."
            )
            raise ValueError(msg)


class NetworkCursor:
    """Sequences that a cached model is reading side by side; see ``Cursor``.

    Args:
        network: The model.
        prefixes: ``[n, length]``, filled up with -1 on the right.
        edits: What is changed while they are read, and only then; column -p of an activation is
            the p-th word from the end of every prefix.
    """

    @alone
    def __init__(self, network: LanguageModel, prefixes: Ids, edits: Edits | None = None) -> None:
        self._network = network
        lengths = (prefixes != PAD).sum(axis=1)
        order = np.argsort(lengths, kind="stable")
        parts: list[_Part] = []
        while len(order):
            some = order[: self._size(lengths[order])]
            ids, mask = network.left_padded(prefixes[some], lengths[some])
            group = network.cursor()
            logits = group.read(ids, mask=mask, edit=edits(some) if edits else None)
            parts.append((group, some, network.log_probs(logits)[:, -1]))
            order = order[len(some) :]
        self._place(parts, len(prefixes))

    @property
    def log_probs(self) -> LogProbs:
        """Log-probability of every word of the world after each sequence, ``[row, token]``."""
        return self._log_probs

    def fork(self) -> "NetworkCursor":
        """Return a second cursor that stands where this one does."""
        out = copy(self)
        out._groups = [group.fork() for group in self._groups]
        return out

    @alone
    def advance(self, rows: Ids, tokens: Ids) -> None:
        """Go on with some rows, each by one word: new row ``i`` is old row ``rows[i]``."""
        of_row, words = self._group[rows], self._network.ids[torch.as_tensor(tokens)]
        parts: list[_Part] = []
        for g, old in enumerate(self._groups):
            chosen = np.flatnonzero(of_row == g)
            pieces = [chosen[i : i + ROWS_AT_ONCE] for i in range(0, len(chosen), ROWS_AT_ONCE)]
            for piece in pieces:
                inner = self._inner[rows[piece]]
                group = old
                if piece is not pieces[-1]:
                    group, inner = old.fork(inner), np.arange(len(piece))
                logits = group.advance(inner, words[torch.as_tensor(piece)])
                parts.append((group, piece, self._network.log_probs(logits)[:, -1]))
        self._place(parts, len(rows))

    def _place(self, parts: list[_Part], n: int) -> None:
        """Note which rows each group holds, and put their answers in order."""
        self._groups = [group for group, _, _ in parts]
        self._group, self._inner = np.zeros(n, dtype=np.int64), np.zeros(n, dtype=np.int64)
        self._log_probs = np.zeros((n, len(self._network.ids)), dtype=np.float32)
        for g, (_, some, log_probs) in enumerate(parts):
            self._group[some], self._inner[some] = g, np.arange(len(some))
            self._log_probs[some] = log_probs

    def _size(self, ascending: Ids) -> int:
        """How many of the shortest rows left are read together."""
        if not pads_left(self._network.session):
            return min(int((ascending == ascending[0]).sum()), ROWS_AT_ONCE)
        fits = np.arange(1, len(ascending) + 1) * ascending <= self._network.words_at_once
        return min(max(1, int(fits.sum())), ROWS_AT_ONCE)
