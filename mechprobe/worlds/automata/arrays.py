"""What worlds, predictors and metrics hand to each other: states, words, sequences."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

States = npt.NDArray[np.int64]
"""``[n, state_size]``; a row whose first number is negative is reject."""

Ids = npt.NDArray[np.int64]
"""Token ids; in a rectangle of unequal sequences, -1 fills up on the right."""

Mask = npt.NDArray[np.bool_]

REJECT = -1
PAD = -1


@dataclass(frozen=True, slots=True)
class Prefixes:
    """Sequences that reach given states, and why there is none where there is none.

    Attributes:
        ids: ``[n, longest]``, filled up with -1.
        lengths: ``[n]``; 0 where it failed.
        reasons: ``""``, or why no prefix was found.
    """

    ids: Ids
    lengths: Ids
    reasons: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.lengths)

    def __getitem__(self, i: int) -> Ids:
        return self.ids[i, : self.lengths[i]]

    @property
    def ok(self) -> Mask:
        """Where a prefix was found, ``[n]``."""
        return np.array([not reason for reason in self.reasons], dtype=np.bool_)

    def failures(self) -> dict[str, int]:
        """Return how often each reason occurs."""
        return {r: self.reasons.count(r) for r in sorted(set(self.reasons)) if r}


def pad(sequences: Sequence[Ids]) -> Ids:
    """Return sequences as one rectangle, filled up with -1 on the right.

    Example:
        >>> pad([np.array([3, 4]), np.array([5])]).tolist()
        [[3, 4], [5, -1]]
    """
    lengths = np.array([len(s) for s in sequences], dtype=np.int64)
    out = np.full((len(sequences), int(lengths.max(initial=0))), PAD, dtype=np.int64)
    if len(sequences):
        out[np.arange(out.shape[1]) < lengths[:, None]] = np.concatenate(list(sequences))
    return out


def unpad(ids: Ids, lengths: Ids) -> list[Ids]:
    """Return the rows of a rectangle, each cut to its length."""
    return [row[:length].copy() for row, length in zip(ids, lengths.tolist(), strict=True)]
