"""How much memory a lens may take, and in how many pieces it therefore reads."""

import math
from dataclasses import dataclass

from mechprobe.lens.capture import Reader
from mechprobe.models.prompts import TOKENS_PER_BATCH

# SmolLM2 needs 150 of them: 73 MB of residuals of 1,024 tokens and 75 MB of logits.
SCRATCH_MB = 300.0
# Residuals, and logits with their reference, get so much each; the rest is for what has no choice:
# a few rows at a time through the norm, 16 through the reductions, the matrix product's own needs.
_SHARE = 0.4


@dataclass(frozen=True, slots=True)
class Room:
    """What fits into the memory that a lens may take.

    Attributes:
        positions: Positions whose residuals of all layers fit; at least 1.
        tile_bytes: Bytes for logits.
    """

    positions: int
    tile_bytes: int

    def batch_size(self, lengths: list[int], n_read: list[int]) -> int | None:
        """Return how many prompts to run at a time, or None where the usual number is no more.

        Args:
            lengths: Tokens of each prompt.
            n_read: Positions read in each.
        """
        if self.positions >= TOKENS_PER_BATCH:
            return None
        return max(1, min(self.positions // max(n_read), TOKENS_PER_BATCH // max(lengths)))


def check_scratch(scratch_mb: float) -> float:
    """Return ``scratch_mb``.

    Raises:
        ValueError: It is not a positive number.
        TypeError: It is not a number.
    """
    if isinstance(scratch_mb, bool) or not isinstance(scratch_mb, int | float):
        msg = f"scratch_mb must be a number of megabytes; found {scratch_mb!r}."
        raise TypeError(msg)
    if not 0 < scratch_mb < math.inf:
        msg = (
            f"scratch_mb must be positive and finite; found {scratch_mb}. The default is "
            f"{SCRATCH_MB:g}; what cannot be less (one prompt, one row of logits) is taken anyway."
        )
        raise ValueError(msg)
    return float(scratch_mb)


def room_for(reader: Reader, scratch_mb: float) -> Room:
    """Divide the memory between residuals and logits.

    Args:
        reader: What is read of each position.
        scratch_mb: Megabytes (1e6 bytes) in all.
    """
    share = _SHARE * 1e6 * scratch_mb
    W_U = reader.path.W_U
    bytes_per_position = (len(reader.entries) + 1) * W_U.shape[0] * W_U.itemsize
    return Room(max(1, int(share / bytes_per_position)), int(share))
