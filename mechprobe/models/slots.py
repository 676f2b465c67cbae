"""Key-value caches whose rows are chosen anew at every step, by copies or in place.

Hugging Face's own cache is concatenated anew at every step: for 2,000 rows of 50 words that is four
fifths of the time of a step. Here rows lie in slots of buffers that grow now and then; a row that
goes on stays where it is, and only rows that are repeated, or moved into the slots of dropped ones,
are copied.
"""

from typing import Any

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor
from transformers.cache_utils import DynamicCache, DynamicLayer

Rows = Int[np.ndarray, " row"]

# Columns that a buffer grows by, and how many times as many rows it is made for: on a CPU, memory
# that nobody has written to takes no room.
ROOM = 32
SPARE_ROWS = 8
# Share of slots below which rows are moved together: for some steps, to compute a dropped row costs
# less than to move another one into its place.
DENSE_ENOUGH = 0.9
# So few that a copy stays in the processor's cache on its way.
ROWS_COPIED = 32


class SlotLayer(DynamicLayer):
    """Keys and values of one layer with room to grow.

    They lie as ``[slot, head, d_head, column]``: a product with one query then runs along memory,
    and takes two thirds of the time.
    """

    def __init__(self) -> None:
        super().__init__()
        self._buffers: list[Tensor] = []
        self._n_rows, self._length = 0, 0

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        """Write new columns and return all."""
        del args, kwargs
        new = tuple(x.transpose(2, 3) for x in (key_states, value_states))
        before, self._length = self._length, self._length + key_states.shape[2]
        if not self._buffers:
            self._n_rows = len(key_states)
            self._buffers = [self._empty(x, self._n_rows) for x in new]
            self.dtype, self.device = key_states.dtype, key_states.device
            self.is_initialized = True
        elif self._length > self._buffers[0].shape[3]:
            old = self._buffers
            self._buffers = [self._empty(x, len(x)) for x in old]
            for wide, narrow in zip(self._buffers, old, strict=True):
                wide[: self._n_rows, ..., :before] = narrow[: self._n_rows, ..., :before]
        for buffer, x in zip(self._buffers, new, strict=True):
            buffer[: self._n_rows, ..., before : self._length] = x
        used = slice(self._n_rows)
        views: Any = [self._read(buffer, used) for buffer in self._buffers]
        self.keys, self.values = views
        return self.keys, self.values

    def get_seq_length(self) -> int:
        """Return how many columns are filled."""
        return self._length

    def rearrange(self, source: Tensor, target: Tensor, n_rows: int) -> None:
        """Copy rows to slots that nobody needs any more, and keep the first ``n_rows`` slots."""
        for i, buffer in enumerate(self._buffers):
            if n_rows > len(buffer):
                grown = self._empty(buffer, _with_spare(n_rows, buffer.device))
                before = buffer[: self._n_rows, ..., : self._length]
                grown[: self._n_rows, ..., : self._length] = before
                self._buffers[i] = buffer = grown
            filled = buffer[..., : self._length]
            for some, to in zip(source.split(ROWS_COPIED), target.split(ROWS_COPIED), strict=True):
                filled.index_copy_(0, to, filled.index_select(0, some))
        self._n_rows = n_rows

    def __deepcopy__(self, memo: dict[int, Any]) -> "SlotLayer":
        # Without the room to grow, which nobody has written to.
        return self.taken(torch.arange(self._n_rows))

    def taken(self, rows: Tensor, before: tuple[Tensor, Tensor] | None = None) -> "SlotLayer":
        """Return a new layer with some of the rows, behind what else is given for each."""
        out = SlotLayer()
        if before is not None:
            out.update(*before)
        if self._buffers:
            keys, values = (self._read(buffer, rows) for buffer in self._buffers)
            out.update(keys, values)
        return out

    def _read(self, buffer: Tensor, rows: slice | Tensor) -> Tensor:
        """Return some rows as the model takes them, ``[row, head, column, d_head]``."""
        return buffer[rows, ..., : self._length].transpose(2, 3)

    def _empty(self, like: Tensor, n_rows: int) -> Tensor:
        return like.new_empty((n_rows, *like.shape[1:3], self._length + ROOM))


def _with_spare(n_rows: int, device: torch.device) -> int:
    return n_rows * SPARE_ROWS if device.type == "cpu" else n_rows + n_rows // 4


class SlotCache(DynamicCache):
    """The cache of some rows of a model, and the slot that each row lies in.

    Args:
        layers: Its layers.
        n_rows: How many rows.

    Attributes:
        slot: Slot of each row, ``[row]``.
        n_slots: Slots in use; a few may hold rows that were dropped.
    """

    def __init__(self, layers: list[SlotLayer], n_rows: int) -> None:
        super().__init__()
        self.layers: list[Any] = list(layers)
        self.slot, self.n_slots = np.arange(n_rows), n_rows

    @classmethod
    def empty(cls, n_layers: int, n_rows: int) -> "SlotCache":
        """Return a cache for a model of so many layers that has read nothing yet."""
        return cls([SlotLayer() for _ in range(n_layers)], n_rows)

    @property
    def is_ordered(self) -> bool:
        """Whether slots are rows."""
        return np.array_equal(self.slot, np.arange(self.n_slots))

    def in_order(self) -> "SlotCache":
        """Return a cache whose slots are rows."""
        return self if self.is_ordered else self.taken(np.arange(len(self.slot)))

    def row_of_slot(self) -> Rows:
        """Return a row for each slot; where it was dropped, any."""
        out = np.zeros(self.n_slots, dtype=np.int64)
        out[self.slot] = np.arange(len(self.slot))
        return out

    def select(self, rows: Rows) -> None:
        """Let new row ``i`` be old row ``rows[i]``, copying as little as possible."""
        wanted, n = self.slot[rows], len(rows)
        few_dropped = n >= DENSE_ENOUGH * self.n_slots
        n_slots = max(n, self.n_slots) if few_dropped else n
        # The first to name a slot stays in it; the others need one of their own.
        kept, first = np.unique(wanted, return_index=True)
        slot = np.full(n, n_slots, dtype=np.int64)
        slot[first] = kept
        homeless = np.flatnonzero(slot >= n_slots)
        free = np.ones(n_slots, dtype=np.bool_)
        free[kept[kept < n_slots]] = False
        target = np.flatnonzero(free)[: len(homeless)]
        slot[homeless] = target
        if len(homeless) or n_slots != self.n_slots:
            source, to = torch.as_tensor(wanted[homeless]), torch.as_tensor(target)
            for layer in self.layers:
                layer.rearrange(source, to, n_slots)
        self.slot, self.n_slots = slot, n_slots

    def taken(self, rows: Rows) -> "SlotCache":
        """Return a new cache in which row ``i`` is row ``rows[i]`` of this one."""
        slots = torch.as_tensor(self.slot[rows])
        return SlotCache([layer.taken(slots) for layer in self.layers], len(rows))
