"""What all prompts begin with, few-shot examples for instance: read once, not for each."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from mechprobe.heads.places import Place
from mechprobe.models import Batch, Cursor, Session, branching, window
from mechprobe.models.protocol import Sink

# Fewer shared tokens than this cost more to go on from than to read again.
_WORTH_SHARING = 32


@dataclass(frozen=True)
class Lead:
    """What all prompts begin with.

    Attributes:
        n_tokens: How many tokens; 0 where nothing is shared.
        cursor: One row that has read them; None where nothing is shared.
    """

    n_tokens: int = 0
    cursor: Cursor | None = None

    def read(
        self, session: Session, batch: Batch, capture: Mapping[str, Sink], *, keep: bool = False
    ) -> Cursor:
        """Read a batch of prompts behind the lead; sinks see only the tokens that follow it.

        Args:
            session: The model that the lead was read with.
            batch: Whole prompts, lead included.
            capture: As ``models.run``.
            keep: Whether to go on behind the prompts.

        Returns:
            What has read them.
        """
        every = np.zeros(len(batch.ids), dtype=np.int64)
        cursor = Cursor(session) if self.cursor is None else self.cursor.fork(every)
        ids = batch.ids[:, self.n_tokens :]
        mask = None if batch.mask is None else batch.mask[:, self.n_tokens :]
        cursor.read(ids, capture, mask=mask, logits="none", keep=keep)
        return cursor

    def after(self, at: Int[Tensor, "..."]) -> Int[Tensor, "..."]:
        """Return where positions of the whole prompt lie among those that sinks see."""
        return at - self.n_tokens


def shared_lead(session: Session, found: Sequence[Place]) -> Lead:
    """Read what all prompts begin with, up to the first token that a score needs.

    Args:
        session: Its model must keep a cache whose rows can be repeated, without a sliding window;
            otherwise nothing is shared.
        found: Tokens of every prompt, and which of them are keys.
    """
    if len(found) < 2 or not branching(session.model) or window(session.model) is not None:
        return Lead()
    n = min(_common(found), *(_first_needed(place) for place in found))
    if n < _WORTH_SHARING:
        return Lead()
    ids = torch.tensor([found[0].ids[:n]], device=session.device)
    cursor = Cursor(session)
    cursor.read(ids, logits="none")
    return Lead(n, cursor)


def _common(found: Sequence[Place]) -> int:
    # What the smallest and the largest sequence share, all those between them share too.
    ends = min(p.ids for p in found), max(p.ids for p in found)
    differs = (i for i, (a, b) in enumerate(zip(*ends, strict=False)) if a != b)
    return next(differs, min(map(len, ends)))


def _first_needed(place: Place) -> int:
    keys = [at for tokens in place.keys for at in tokens]
    return min([*keys, len(place.ids) - 1])
