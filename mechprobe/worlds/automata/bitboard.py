"""Othello on bitboards: one unsigned 64-bit number per colour, any number of games at once."""

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

Bits = npt.NDArray[np.uint64]

ONE = np.uint64(1)
NONE = np.uint64(0)


@dataclass(frozen=True)
class Rules:
    """Moves and flips on a square board; square (row, column) is bit ``row * size + column``.

    Attributes:
        size: Squares along an edge, at most 8.
        full: All squares.
    """

    size: int
    full: np.uint64 = field(init=False)
    _rays: tuple[tuple[bool, np.uint64, np.uint64], ...] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        n = self.size
        rows, columns = np.divmod(np.arange(n * n, dtype=np.uint64), np.uint64(n))
        bits = ONE << np.arange(n * n, dtype=np.uint64)
        rays: list[tuple[bool, np.uint64, np.uint64]] = []
        for down, right in [(0, 1), (1, -1), (1, 0), (1, 1), (0, -1), (-1, 1), (-1, 0), (-1, -1)]:
            # Squares that the ray may arrive at: the far edge has wrapped around.
            ok = columns != (0 if right > 0 else n - 1) if right else np.ones(n * n, dtype=bool)
            ok &= rows != (0 if down > 0 else n - 1) if down else True
            by = down * n + right
            mask = np.bitwise_or.reduce(bits[ok])
            rays.append((by > 0, np.uint64(abs(by)), mask))
        object.__setattr__(self, "full", np.bitwise_or.reduce(bits))
        object.__setattr__(self, "_rays", tuple(rays))

    def moves(self, own: Bits, other: Bits) -> Bits:
        """Return the squares where ``own`` may put a disc.

        In each direction, the other's discs next to ours are followed one square at a time; an
        empty square behind them is a move.
        """
        empty = ~(own | other) & self.full
        out = np.zeros_like(own)
        for up, by, mask in self._rays:
            inner = other & mask
            run = (own << by if up else own >> by) & inner
            for _ in range(self.size - 3):
                run |= (run << by if up else run >> by) & inner
            out |= (run << by if up else run >> by) & mask
        return out & empty

    def flips(self, own: Bits, other: Bits, square: Bits) -> Bits:
        """Return the discs that turn when ``own`` puts one on ``square``; none: not a move."""
        out = np.zeros_like(own)
        for up, by, mask in self._rays:
            inner = other & mask
            run = (square << by if up else square >> by) & inner
            for _ in range(self.size - 3):
                run |= (run << by if up else run >> by) & inner
            closed = (run << by if up else run >> by) & mask & own
            out |= np.where(closed != NONE, run, NONE)
        return out

    def start(self) -> tuple[int, int]:
        """Return the black and the white discs of the beginning: white on the falling diagonal."""
        low, high = self.size // 2 - 1, self.size // 2
        white = 1 << (low * self.size + low) | 1 << (high * self.size + high)
        black = 1 << (low * self.size + high) | 1 << (high * self.size + low)
        return black, white

    def squares(self, bits: Bits) -> npt.NDArray[np.bool_]:
        """Return bits as ``[..., size * size]``."""
        out = np.unpackbits(bits.astype("<u8")[..., None].view(np.uint8), axis=-1, bitorder="little")
        return out[..., : self.size**2].astype(np.bool_)
