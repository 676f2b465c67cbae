"""A TransformerLens model as a predictor: words to ids, keys and values kept, many rows at once."""

from collections.abc import Callable, Mapping
from copy import copy
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from mechprobe.models.forks import continue_rows, forking_body
from mechprobe.models.protocol import Edit, input_device
from mechprobe.worlds.fork_cache import ForkCache
from mechprobe.worlds.kv_cache import SlotCache
from mechprobe.worlds.predictor import LogProbs
from mechprobe.worlds.predictors import RereadCursor, require_log_probs
from mechprobe.worlds.protocol import PAD, Ids, World
from mechprobe.worlds.residual import LayerReading, answer, layer_reading

# Numbers in the residual stream of one forward pass, and rows of one cache that advance together.
STREAM_AT_ONCE = 2**20
ROWS_AT_ONCE = 4096
# Bytes of keys and values that a run of the metrics may hold.
CACHE_BYTES = 256 * 2**20

Edits = Callable[[Ids], Mapping[str, Edit]]
"""Rows of some prefixes, read together, to what is changed in reading them."""


@dataclass(frozen=True, slots=True, eq=False)
class LanguageModel:
    """A TransformerLens model that predicts the words of a world; see ``language_model``.

    Attributes:
        name: What tables and figures call it.
        model: The TransformerLens model.
        world: Whose words it predicts.
        ids: Model id of each word, ``[token]``.
        start_id: Model id that begins every sequence, or None.
        cached: Whether keys and values are kept from word to word.
        padded: Whether sequences of unequal length share a batch.
        reading: The layer that is read; None for the model's own answer.
    """

    name: str
    model: Any
    world: World
    ids: Int[Tensor, " token"]
    start_id: int | None
    cached: bool
    padded: bool
    reading: LayerReading | None = None

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
        some = np.arange(min(len(self.ids), self.longest, 8))[None]
        reading = layer_reading(self.model, name, layer, self.rectangle(some))
        return replace(self, name=f"{name}, layer {layer}", reading=reading)

    def start(self, prefixes: Ids) -> "NetworkCursor | RereadCursor":
        """Read prefixes ``[n, length]``, filled up with -1 on the right, and stand behind them.

        Raises:
            ValueError: An empty prefix where the model has no start token, or one that is longer
                than the context; NaN among the probabilities.
        """
        self._require_lengths(prefixes)
        if self.cached:
            return NetworkCursor(self, prefixes)
        n_rows = max(1, self.words_at_once // prefixes.shape[1])
        return RereadCursor(self._read_last, prefixes, len(self.ids), n_rows)

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
            logits, _ = answer(self.model, self.rectangle(ids), "all", self.reading)
            found = self.log_probs(logits[:, -longest:])
            last = found[np.arange(len(rows)), lengths[rows] - 1]
            out[rows, :longest] = found
            behind = np.arange(width) >= lengths[rows][:, None]
            out[rows] = np.where(behind[:, :, None], last[:, None], out[rows])
        return out

    def rectangle(self, ids: Ids) -> Int[Tensor, "row pos"]:
        """Return words as ids of the model, on its device, behind the start token."""
        found = self.ids[torch.as_tensor(ids)]
        if self.start_id is not None:
            found = torch.nn.functional.pad(found, (1, 0), value=self.start_id)
        return found.to(input_device(self.model))

    def log_probs(self, logits: Float[Tensor, "*rows d_vocab"]) -> LogProbs:
        """Return log-probabilities of the world's words, normalised over all that can be said."""
        wide = logits.detach().to(torch.promote_types(logits.dtype, torch.float32))
        every = torch.log_softmax(wide, dim=-1)
        out: LogProbs = every[..., self.ids.to(every.device)].float().cpu().numpy()
        require_log_probs(out.reshape(-1, out.shape[-1]), self.name)
        return out

    def _read_last(self, ids: Ids) -> LogProbs:
        logits, _ = answer(self.model, self.rectangle(ids), "last", self.reading)
        return self.log_probs(logits[:, -1])

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

    def __init__(self, network: LanguageModel, prefixes: Ids, edits: Edits | None = None) -> None:
        self._network = network
        self._groups: list[_Group] = []
        lengths = (prefixes != PAD).sum(axis=1)
        order = np.argsort(lengths, kind="stable")
        rows: list[Ids] = []
        while len(order):
            some = order[: self._size(lengths[order])]
            rows.append(some)
            edit = edits(some) if edits else None
            self._groups.append(_Group.read(network, prefixes[some], lengths[some], edit))
            order = order[len(some) :]
        self._place(rows, len(prefixes))

    @property
    def log_probs(self) -> LogProbs:
        """Log-probability of every word of the world after each sequence, ``[row, token]``."""
        return self._log_probs

    def fork(self) -> "NetworkCursor":
        """Return a second cursor that stands where this one does."""
        out = copy(self)
        out._groups = [group.forked() for group in self._groups]
        return out

    def advance(self, rows: Ids, tokens: Ids) -> None:
        """Go on with some rows, each by one word: new row ``i`` is old row ``rows[i]``."""
        group = self._group[rows]
        groups: list[_Group] = []
        placed: list[Ids] = []
        for g, old in enumerate(self._groups):
            chosen = np.flatnonzero(group == g)
            pieces = [chosen[i : i + ROWS_AT_ONCE] for i in range(0, len(chosen), ROWS_AT_ONCE)]
            for i, piece in enumerate(pieces):
                inner = self._inner[rows[piece]]
                groups.append(old.advanced(inner, tokens[piece], keep=i == len(pieces) - 1))
                placed.append(piece)
        self._groups = groups
        self._place(placed, len(rows))

    def _place(self, rows: list[Ids], n: int) -> None:
        """Note which rows each group holds, and put their answers in order."""
        self._group, self._inner = np.zeros(n, dtype=np.int64), np.zeros(n, dtype=np.int64)
        self._log_probs = np.zeros((n, len(self._network.ids)), dtype=np.float32)
        for g, (some, group) in enumerate(zip(rows, self._groups, strict=True)):
            self._group[some], self._inner[some] = g, np.arange(len(some))
            self._log_probs[some] = group.log_probs

    def _size(self, ascending: Ids) -> int:
        """How many of the shortest rows left are read together."""
        if not self._network.padded:
            return min(int((ascending == ascending[0]).sum()), ROWS_AT_ONCE)
        fits = np.arange(1, len(ascending) + 1) * ascending <= self._network.words_at_once
        return min(max(1, int(fits.sum())), ROWS_AT_ONCE)


@dataclass(frozen=True, slots=True, eq=False)
class _Group:
    """Rows that share a cache; padding is on the left, so that all grow in one column.

    Attributes:
        network: The model.
        cache: Its keys and values; those of the prefixes apart, where the model can go on so.
        mask: 1 for words and 0 for padding, by slot; None where nothing is padded, or the cache
            knows.
        lengths: Words read by each row, with the start token.
        log_probs: After each row.
    """

    network: LanguageModel
    cache: SlotCache
    mask: Int[Tensor, "slot pos"] | None
    lengths: Ids
    log_probs: LogProbs

    @classmethod
    def read(
        cls, network: LanguageModel, prefixes: Ids, lengths: Ids, edit: Mapping[str, Edit] | None
    ) -> "_Group":
        n, width = len(prefixes), int(lengths.max(initial=0))
        column = np.arange(width) - (width - lengths)[:, None]
        ids = np.take_along_axis(prefixes, np.maximum(column, 0), axis=1)
        tokens = network.ids[torch.as_tensor(np.where(column < 0, 0, ids))]
        real = torch.as_tensor(column >= 0)
        if network.start_id is not None:
            first = torch.as_tensor(width - lengths)[:, None]
            tokens = torch.nn.functional.pad(tokens, (1, 0))
            tokens.scatter_(1, first, network.start_id)
            real = torch.nn.functional.pad(real, (1, 0)).scatter_(1, first, True)
            lengths = lengths + 1
        whole = bool(real.all())
        mask = None if whole else real.to(torch.int64)
        positions = None if mask is None else (mask.cumsum(1) - 1).clamp(min=0)
        cache = SlotCache.empty(int(network.model.cfg.n_layers), n)
        read = cls._after(network, cache, mask, lengths, tokens, positions, edit)
        if network.reading is not None or not network.padded or forking_body(network.model) is None:
            return read
        return replace(read, cache=ForkCache.behind(cache, mask), mask=None)

    def forked(self) -> "_Group":
        """Return a copy with a cache of its own."""
        cache = self.cache.taken(np.arange(len(self.lengths)))
        mask = None if self.mask is None else self.mask[torch.as_tensor(self.cache.slot)]
        return replace(self, cache=cache, mask=mask)

    def advanced(self, rows: Ids, tokens: Ids, *, keep: bool) -> "_Group":
        """Return the group one word on; ``keep`` lets it take over this one's cache."""
        body = forking_body(self.network.model) if isinstance(self.cache, ForkCache) else None
        if isinstance(self.cache, ForkCache) and body is None:
            # Since the prompts were read somebody has begun to listen.
            cache, mask = self.cache.joined()
            return replace(self, cache=cache, mask=mask).advanced(rows, tokens, keep=True)
        before = self.cache.slot
        if keep:
            self.cache.select(rows)
            cache = self.cache
        else:
            cache = self.cache.taken(rows)
        by_slot = cache.row_of_slot()
        lengths = self.lengths[rows] + 1
        words = self.network.ids[torch.as_tensor(tokens[by_slot])][:, None]
        positions = torch.as_tensor(lengths[by_slot] - 1)[:, None]
        if isinstance(cache, ForkCache):
            return self._branched(body, cache, lengths, words, positions)
        mask = self.mask
        if mask is not None:
            mask = mask[torch.as_tensor(before[rows][by_slot])]
            mask = torch.nn.functional.pad(mask, (0, 1), value=1)
        at = None if mask is None else positions
        return self._after(self.network, cache, mask, lengths, words, at)

    def _branched(
        self, body: Any, cache: ForkCache, lengths: Ids, words: Tensor, positions: Tensor
    ) -> "_Group":
        net, by_slot = self.network, cache.row_of_slot()
        device = input_device(net.model)
        logits = continue_rows(net.model, body, words.to(device), positions.to(device),
                               cache.prompts, cache.prompt[by_slot], cache.cache)  # fmt: skip
        found = net.log_probs(logits)[cache.slot]
        return replace(self, cache=cache, lengths=lengths, log_probs=found)

    @classmethod
    def _after(
        cls,
        network: LanguageModel,
        cache: SlotCache,
        mask: Tensor | None,
        lengths: Ids,
        tokens: Tensor,
        positions: Tensor | None,
        edit: Mapping[str, Edit] | None = None,
    ) -> "_Group":
        device = input_device(network.model)
        seen, at = (None if x is None else x.to(device) for x in (mask, positions))
        logits, _ = answer(network.model, tokens.to(device), "last", network.reading, edit=edit,
                           mask=seen, positions=at, cache=cache.cache, keep_cache=True)  # fmt: skip
        found = network.log_probs(logits[:, -1])[cache.slot]
        return cls(network, cache, mask, lengths, found)
