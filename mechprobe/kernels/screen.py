r"""Logits from a product in bfloat16, its error proven, and exact where that leaves a doubt.

The unembedding is multiplied in bfloat16, at twice the speed of float32. With :math:`\tilde x,
\tilde w` the rounded row and column, :math:`\delta` what rounding took from them and :math:`\gamma`
the error of a sum of products in float32,

.. math::
    |x \cdot w - \tilde x \cdot \tilde w| \le \|x\| \|\delta_w\| + \|\delta_x\| \|\tilde w\|
    + \gamma \|\tilde x\| \|\tilde w\|

by Cauchy and Schwarz. Rows of a residual stream lie mostly along a few directions :math:`Q`, so
their part in these, :math:`(x Q)(Q^\top w)`, is multiplied in two parts each, which hold twice the
digits, and the bound is over what is left of :math:`x`: less than half of it in SmolLM2. Ids that
the bound does not exclude from the k most likely ones, or does not put on one side of a target, are
multiplied again in float64.
"""

import ctypes
from dataclasses import dataclass

import torch
from jaxtyping import BFloat16, Float, Float64
from torch import Tensor

from mechprobe.kernels.topk import BLOCK, block_maxima

# Each costs three columns of the product: 32 cost a sixth of it and take three fifths of the bound.
_DIRECTIONS = 32
_POWERS = 3
# Columns that take a shift off every logit of a row; three would do, sixteen keep the product fast.
_SHIFT = 16
_COLUMNS_AT_ONCE = 64 * BLOCK
# Norms and bounds are themselves rounded.
_MARGIN = 1.0001


@dataclass(frozen=True)
class Rounded:
    """Rows as they are multiplied.

    Attributes:
        rows: The rows themselves.
        parts: What ``Screen.parts`` is multiplied by.
        share: Error of a row's products at most, over ``Screen.size``.
        shift: What is taken off its logits.
    """

    rows: Float[Tensor, "row d_model"]
    parts: BFloat16[Tensor, "row parts"]
    share: Float[Tensor, " row"]
    shift: Float64[Tensor, " row"]


@dataclass(frozen=True)
class Screen:
    """An unembedding rounded to bfloat16, and what that may cost.

    Attributes:
        W: The unembedding itself, a column behind the other.
        directions: Directions that are multiplied in two parts.
        parts: Rounded columns; their part in the directions, rounded, what that left, rounded,
            and the first once more; -1 to take a shift off.
        size: Norm of each rounded column.
        widest: The largest of each block.
        ratios: Over a column's own, at most: norm of the column; what rounding took from it; from
            its part in the directions, once and twice; of the whole of ``parts``.
    """

    W: Float[Tensor, "d_vocab d_model"]
    directions: Float64[Tensor, "d_model direction"]
    parts: BFloat16[Tensor, "d_vocab parts"]
    size: Float[Tensor, " d_vocab"]
    widest: Float[Tensor, " block"]
    ratios: tuple[float, ...]

    def rounded(self, rows: Float[Tensor, "row d_model"], about: Float[Tensor, " row"]) -> Rounded:
        """Return rows to multiply ``parts`` by.

        Args:
            rows: Rows.
            about: A number to be taken off all logits of a row. The products are rounded too,
                so it had better be where they matter, at a target's logit.
        """
        wide = rows.double()
        along = wide @ self.directions
        high = along.bfloat16()
        low = (along - high.double()).bfloat16()
        # Exactly what ``parts`` does not hold in two parts, but for the rounding to float32.
        across = (wide - (high.double() + low.double()) @ self.directions.mT).float()
        first = across.bfloat16()
        shift = _in_three(about)
        parts = torch.cat([first, high, high, low, shift], dim=1)
        of_whole, of_rest, of_low, of_lowest, of_all = self.ratios
        share = (
            _norm(across) * of_rest
            + _norm(across - first.float())
            + _norm(high) * of_lowest
            + _norm(low) * of_low
            + _norm(across) * of_whole * 2.0**-24
            + _norm(parts) * of_all * 2.0**-24 * parts.shape[1]
        )
        share = (share * _MARGIN + torch.finfo(torch.float32).tiny).float()
        return Rounded(rows.contiguous(), parts, share, shift.double().sum(1))


def _in_three(values: Float[Tensor, " row"]) -> BFloat16[Tensor, "row 16"]:
    """Return numbers of bfloat16 whose sum is, to float32, what was given; zeros behind them."""
    out = torch.zeros(len(values), _SHIFT, dtype=torch.bfloat16)
    left = values.float()
    for i in range(3):
        out[:, i] = left.bfloat16()
        left = left - out[:, i].float()
    return out


def _norm(rows: Tensor) -> Float64[Tensor, " row"]:
    """Return norms; the margin makes up for their rounding in float32."""
    return rows.float().norm(dim=1).double()


@torch.no_grad()
def screen_of(W_U: Float[Tensor, "d_model d_vocab"], rows: Float[Tensor, "row d_model"]) -> Screen:
    """Round an unembedding.

    Args:
        W_U: The unembedding, float32 on a CPU.
        rows: Some of the rows that will be read; they decide on the directions, and so on how
            tight the bound is, not on whether it holds.
    """
    W, directions = W_U.mT.contiguous(), _directions(rows)
    n = directions.shape[1]
    parts = torch.empty(len(W), W.shape[1] + 3 * n + _SHIFT, dtype=torch.bfloat16)
    sizes: list[Tensor] = []
    ratios = torch.zeros(5, dtype=torch.float64)
    for some, out in zip(W.split(_COLUMNS_AT_ONCE), parts.split(_COLUMNS_AT_ONCE), strict=True):
        first, along = some.bfloat16(), some.double() @ directions
        high = along.bfloat16()
        low = (along - high.double()).bfloat16()
        minus = torch.zeros(len(some), _SHIFT, dtype=torch.bfloat16)
        minus[:, :3] = -1
        torch.cat([first, high, low, high, minus], dim=1, out=out)
        left = along - high.double()
        size = _norm(first).clamp(min=1e-30)
        norms = (some, some - first.float(), left, left - low.double(), out)
        ratios = ratios.maximum(torch.stack([(_norm(x) / size).max() for x in norms]))
        sizes.append((size * _MARGIN).float())
    size = torch.cat(sizes)
    taken: tuple[float, ...] = tuple((ratios * _MARGIN).tolist())
    return Screen(W, directions, parts, size, block_maxima(size), taken)


def _directions(rows: Float[Tensor, "row d_model"]) -> Float64[Tensor, "d_model direction"]:
    """Return the directions along which rows are longest, by a few steps of subspace iteration."""
    wide = rows.double()
    n = min(_DIRECTIONS, rows.shape[1])
    generator = torch.Generator().manual_seed(0)
    found = torch.randn(rows.shape[1], n, generator=generator, dtype=torch.float64)
    for _ in range(_POWERS):
        found = torch.linalg.qr(wide.mT @ (wide @ found)).Q
    # Rounded, so that the same directions meet columns and rows, whatever they are.
    return found.float().double()


class Screened(ctypes.Structure):
    """What the source is told of a screened tile."""

    _fields_ = [
        *((name, ctypes.c_void_p) for name in (
            "z", "x", "W", "size", "widest", "share", "shift", "targets",
        )),
        *((name, ctypes.c_long) for name in (
            "n_rows", "d_vocab", "d_model", "n_pos", "n_targets", "k",
        )),
    ]  # fmt: skip
