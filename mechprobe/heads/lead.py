"""What all prompts begin with, few-shot examples for instance: read once, not for each."""

from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

from mechprobe.heads.places import Place
from mechprobe.models import Batch, Model, Run, branching, run, window
from mechprobe.models.protocol import Sink, input_device

# Fewer shared tokens than this cost more to go on from than to read again.
_WORTH_SHARING = 32


@dataclass(frozen=True)
class Lead:
    """What all prompts begin with.

    Attributes:
        n_tokens: How many tokens; 0 where nothing is shared.
        cache: Their keys and values, of one row; None where nothing is shared.
    """

    n_tokens: int = 0
    cache: Any = None

    def run(
        self, model: Model, batch: Batch, capture: Mapping[str, Sink], *, keep_cache: bool = False
    ) -> Run:
        """Run a batch of prompts behind the lead; sinks see only the tokens that follow it.

        Args:
            model: The model that the lead was read with.
            batch: Whole prompts, lead included.
            capture: As ``models.run``.
            keep_cache: Return keys and values of the whole prompts.
        """
        if not self.n_tokens:
            return run(model, batch.ids, capture, mask=batch.mask, keep_cache=keep_cache)
        cache = deepcopy(self.cache)
        cache.batch_repeat_interleave(len(batch.ids))
        ids = batch.ids[:, self.n_tokens :]
        return run(model, ids, capture, mask=batch.mask, cache=cache, keep_cache=True)

    def after(self, at: Int[Tensor, "..."]) -> Int[Tensor, "..."]:
        """Return where positions of the whole prompt lie among those that sinks see."""
        return at - self.n_tokens


def shared_lead(model: Model, found: Sequence[Place]) -> Lead:
    """Read what all prompts begin with, up to the first token that a score needs.

    Args:
        model: Must keep a cache whose rows can be repeated, without a sliding window; otherwise
            nothing is shared.
        found: Tokens of every prompt, and which of them are keys.
    """
    if len(found) < 2 or not branching(model) or window(model) is not None:
        return Lead()
    n = min(_common(found), *(_first_needed(place) for place in found))
    if n < _WORTH_SHARING:
        return Lead()
    ids = torch.tensor([found[0].ids[:n]], device=input_device(model))
    return Lead(n, run(model, ids, {}, keep_cache=True).cache)


def _common(found: Sequence[Place]) -> int:
    # What the smallest and the largest sequence share, all those between them share too.
    ends = min(p.ids for p in found), max(p.ids for p in found)
    differs = (i for i, (a, b) in enumerate(zip(*ends, strict=False)) if a != b)
    return next(differs, min(map(len, ends)))


def _first_needed(place: Place) -> int:
    keys = [at for tokens in place.keys for at in tokens]
    return min([*keys, len(place.ids) - 1])
