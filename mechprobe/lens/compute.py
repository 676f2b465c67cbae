"""How a lens is calculated: how much memory it may take, and by which arithmetic."""

import math
from dataclasses import asdict, dataclass
from numbers import Integral, Real

from mechprobe.lens.capture import Reader
from mechprobe.models.prompts import TOKENS_PER_BATCH

# SmolLM2 needs 150 of them: 73 MB of residuals of 1,024 tokens and 75 MB of logits.
SCRATCH_MB = 300.0
# Residuals, and logits with their reference, get so much each; the rest is for what has no choice:
# a few rows at a time through the norm, 16 through the reductions, the matrix product's own needs.
_SHARE = 0.4


@dataclass(frozen=True, slots=True)
class Compute:
    """How ``logit_lens`` calculates; no choice changes a number by more than rounding.

    Args:
        batch_size: Prompts per forward pass; by default as many as hold 1,024 tokens, or fewer
            where their residuals would not fit ``scratch_mb``.
        scratch_mb: Memory in MB (1e6 bytes) that the lens may take besides the forward pass and
            what it returns: residuals of a micro-batch, logits. It never takes less than one
            prompt and one row of logits need, nor more than is of use.
        compiled: Whether what is read off logits may be compiled from C, where a compiler is at
            hand and there is much to read; False for torch's operations alone.

    Raises:
        ValueError: ``scratch_mb`` is not positive and finite, or ``batch_size`` is less than 1.
        TypeError: One is no number.

    Example:
        >>> import mechprobe as mp
        >>> mp.Compute(scratch_mb=100.0)
        Compute(batch_size=None, scratch_mb=100.0, compiled=True)
    """

    batch_size: int | None = None
    scratch_mb: float = SCRATCH_MB
    compiled: bool = True

    def __post_init__(self) -> None:
        size, scratch_mb = self.batch_size, self.scratch_mb
        if size is not None and (isinstance(size, bool) or not isinstance(size, Integral)):
            msg = f"batch_size must be an integer or None; found {size!r}."
            raise TypeError(msg)
        if size is not None and size < 1:
            msg = f"batch_size must be at least 1; found {size}."
            raise ValueError(msg)
        if isinstance(scratch_mb, bool) or not isinstance(scratch_mb, Real):
            msg = f"scratch_mb must be a number of megabytes; found {scratch_mb!r}."
            raise TypeError(msg)
        if not 0 < scratch_mb < math.inf:
            msg = (
                f"scratch_mb must be positive and finite; found {scratch_mb}. The default is "
                f"{SCRATCH_MB:g}; what cannot be less (one prompt, one row of logits) is taken "
                "anyway."
            )
            raise ValueError(msg)

    def recorded(self, batch_size: int | None) -> dict[str, object]:
        """Return what a record says, the batch size that was really taken included."""
        return {**asdict(self), "batch_size": batch_size}


DEFAULT = Compute()


def check_compute(compute: object) -> None:
    """Refuse what is not a ``Compute``.

    Raises:
        TypeError: It is not.
    """
    if not isinstance(compute, Compute):
        msg = f"compute must be mp.Compute(batch_size=, scratch_mb=, compiled=); found {compute!r}."
        raise TypeError(msg)


@dataclass(frozen=True, slots=True)
class MemoryPlan:
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


def memory_plan(reader: Reader, scratch_mb: float) -> MemoryPlan:
    """Divide the memory between residuals and logits.

    Args:
        reader: What is read of each position.
        scratch_mb: Megabytes (1e6 bytes) in all.
    """
    share = _SHARE * 1e6 * scratch_mb
    W_U = reader.path.W_U
    bytes_per_position = (len(reader.entries) + 1) * W_U.shape[0] * W_U.itemsize
    return MemoryPlan(max(1, int(share / bytes_per_position)), int(share))
