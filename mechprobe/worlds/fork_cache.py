"""A cache whose rows share what they have in common: each continues one of some prompts.

Only what a row has read since its prompt lies in its slot, so that to repeat a row copies little,
and a step reads the keys and values of a prompt once for all rows that continue it.
"""

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from mechprobe.models.forks import PromptCache
from mechprobe.worlds.kv_cache import SlotCache, SlotLayer
from mechprobe.worlds.protocol import Ids

# Share of prompts that rows still continue, below which the others are given up.
DENSE_ENOUGH = 0.75


class ForkCache(SlotCache):
    """What some rows have read since their prompts.

    Attributes:
        prompts: Keys and values of the prompts.
        prompt: Prompt of each row.
    """

    def __init__(
        self, layers: list[SlotLayer], n_rows: int, prompts: PromptCache, prompt: Ids
    ) -> None:
        super().__init__(layers, n_rows)
        self.prompts, self.prompt = prompts, prompt

    @classmethod
    def behind(cls, cache: SlotCache, mask: Int[Tensor, "row pos"] | None) -> "ForkCache":
        """Return a cache of rows that each continue one row of another."""
        n = cache.n_slots
        layers = [SlotLayer() for _ in cache.layers]
        return cls(layers, n, PromptCache.of(cache.cache, mask), np.arange(n))

    def select(self, rows: Ids) -> None:
        """Let new row ``i`` be old row ``rows[i]``."""
        super().select(rows)
        self._continue(self.prompt[rows])

    def taken(self, rows: Ids) -> "ForkCache":
        """Return a new cache in which row ``i`` is row ``rows[i]`` of this one."""
        layers = super().taken(rows).layers
        out = ForkCache(layers, len(rows), self.prompts, self.prompt)
        out._continue(self.prompt[rows])
        return out

    def joined(self) -> tuple[SlotCache, Int[Tensor, "row pos"] | None]:
        """Return a cache in which every row holds its prompt too, and the mask of its padding."""
        kept = self.prompts.taken(self.prompt)
        slots = torch.as_tensor(self.slot)
        layers = [
            layer.taken(slots, before=(key.transpose(2, 3), value))
            for layer, key, value in zip(self.layers, kept.keys, kept.values, strict=True)
        ]
        out = SlotCache(layers, len(self.slot))
        if kept.bias is None:
            return out, None
        mask = (kept.bias[:, 0, 0] == 0).long()
        since = layers[0].get_seq_length() - mask.shape[1]
        return out, torch.nn.functional.pad(mask, (0, since), value=1)

    def _continue(self, prompt: Ids) -> None:
        there, prompt_there = np.unique(prompt, return_inverse=True)
        if len(there) < DENSE_ENOUGH * len(self.prompts):
            self.prompts, prompt = self.prompts.taken(there), prompt_there
        self.prompt = prompt
