"""Along what cost is watched as it grows, and how theory says that it does."""

from collections.abc import Sequence
from dataclasses import dataclass

PARTS = ("lens", "heads", "world")
_NAMED = {0.0: "flat", 1.0: "linear", 2.0: "quadratic"}


@dataclass(frozen=True, slots=True)
class Axis:
    """One size that is varied, everything else fixed.

    Attributes:
        name: ``"lens/tokens"``: part of the package and what is varied.
        unit: What the sizes count.
        sizes: From small to large.
        time: Theory's exponent: time grows as size to this power.
        memory: That of the extra peak memory.
        behind_forward: The forward pass, which does not grow along this axis or is not ours, is
            timed in every repetition and taken off.
        time_from: The smallest size that is fitted: below it, what every call costs weighs too
            much.
        memory_from: The smallest size whose memory is fitted: below it, less than one tile is in
            use, or nothing that rises above what the process had before.
    """

    name: str
    unit: str
    sizes: tuple[int, ...]
    time: float
    memory: float
    behind_forward: bool = False
    time_from: int = 0
    memory_from: int = 0

    @property
    def part(self) -> str:
        """Which part of the package it belongs to."""
        return self.name.split("/")[0]

    def fitted_from(self, quantity: str) -> int:
        """Return the smallest size that counts for the exponent of ``"time"`` or ``"memory"``."""
        return self.time_from if quantity == "time" else self.memory_from


_STREETS = (1024, 2304, 4096, 9216)

AXES = (
    Axis("lens/tokens", "tokens of one prompt", (32, 64, 128, 256, 512, 1024), 1.0, 0.0, True),
    Axis("lens/prompts", "prompts of 64 tokens", (1, 2, 4, 8, 16), 1.0, 0.0, True),
    Axis("lens/layers", "layers read, 128 tokens", (1, 2, 4, 8, 16, 31), 1.0, 0.0, True,
         time_from=8, memory_from=2),
    Axis("lens/vocabulary", "words of the vocabulary",
         tuple(2**x for x in (10, 12, 14, 15, 16, 17)), 1.0, 0.0,
         time_from=2**14, memory_from=2**12),
    Axis("heads/prompts", "prompts of 200 tokens", (2, 4, 8, 16), 1.0, 0.0, memory_from=8),
    Axis("heads/heads", "heads, 8 to a layer", (32, 64, 128, 256), 1.0, 1.0, memory_from=64),
    Axis("world/distances", "crossings", _STREETS, 2.5, 2.0, memory_from=_STREETS[1]),
    Axis("world/boundaries", "crossings, 1,000 pairs of states", _STREETS, 0.0, 0.0),
    Axis("world/metrics", "crossings, 100 pairs", (256, *_STREETS[:3]), 1.0, 0.0,
         memory_from=_STREETS[1]),
)  # fmt: skip


def chosen_axes(names: Sequence[str]) -> list[Axis]:
    """Return the axes that are asked for, in their usual order.

    Args:
        names: Axes, or parts of the package for all axes of each.

    Raises:
        ValueError: One that there is not, or none at all.
    """
    known = [*PARTS, *(axis.name for axis in AXES)]
    unknown = [name for name in names if name not in known]
    if unknown or not names:
        found = f"there is no axis {unknown[0]!r}" if unknown else "no axis was named"
        msg = f"{found}; choose from {', '.join(known)}."
        raise ValueError(msg)
    return [axis for axis in AXES if axis.name in names or axis.part in names]


def called(exponent: float) -> str:
    """Return a power law in words.

    Example:
        >>> called(1.0), called(2.5)
        ('linear', 'size^2.5')
    """
    return _NAMED.get(exponent, f"size^{exponent:g}")
