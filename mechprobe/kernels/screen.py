r"""Logits from a product in bfloat16, its error proven, and exact where that leaves a doubt.

The unembedding is multiplied in bfloat16, at twice the speed of float32. With :math:`\tilde x,
\tilde w` the rounded row and column, :math:`\delta` what rounding took from them and :math:`\gamma`
the error of a sum of products in float32,

.. math::
    |x \cdot w - \tilde x \cdot \tilde w| \le \|x\| \|\delta_w\| + \|\delta_x\| \|\tilde w\|
    + \gamma \|\tilde x\| \|\tilde w\|

by Cauchy and Schwarz. Rows of a residual stream, and columns of an unembedding, lie mostly along a
few directions :math:`Q`, so their parts in these, :math:`(x Q)(Q^\top w)`, are multiplied in two
parts each, which hold twice the digits, and the bound is over what is left of both: two fifths of
it in SmolLM2. Ids that the bound does not exclude from the k most likely ones, or does not put on
one side of a target, are multiplied again in float64.
"""

import ctypes
from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import BFloat16, Float, Float64
from torch import Tensor

from mechprobe.kernels.topk import BLOCK, block_maxima

# Each costs three columns of the product: 16 cost a twelfth of it and take off 0.58 of the bound.
_DIRECTIONS = 16
_POWERS = 6
_COLUMNS_SEEN = 4096
# Columns that take a shift off every logit of a row; three would do, sixteen keep the product fast.
_SHIFT = 16
_COLUMNS_AT_ONCE = 8 * BLOCK
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
        parts: Columns without their part in the directions, rounded; that part, rounded; what
            that took from it, rounded; the part once more; -1 to take a shift off.
        size: Norm of the first of these, for each column.
        widest: The largest of each block.
        ratios: Norms over that, at most: of the column; of its part in the directions; of what
            rounding took from the rest, and from the part, once and twice; of all of ``parts``.
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
        split = _split(rows, self.directions)
        first = split.across.bfloat16()
        shift = _in_three(about)
        parts = torch.cat([first, split.high, split.high, split.low, shift], dim=1)
        across = _norm(split.across)
        of_whole, of_along, of_rest, of_low, of_lowest, of_all = self.ratios
        share = (
            across * of_rest
            + _norm(split.across - first.float())
            + _norm(split.across.double() @ self.directions) * of_along
            + _norm(split.high) * of_lowest
            + _norm(split.low) * of_low
            + across * of_whole * 2.0**-23
            + _norm(parts) * of_all * 2.0**-24 * parts.shape[1]
        )
        share = (share * _MARGIN + torch.finfo(torch.float32).tiny).float()
        return Rounded(rows.contiguous(), parts, share, shift.double().sum(1))


class _Split(NamedTuple):
    """Vectors taken apart.

    Attributes:
        along: Their part in the directions.
        high: It, rounded.
        low: What that took from it, rounded.
        across: What is left of a vector without ``high`` and ``low``, to float32.
    """

    along: Float64[Tensor, "row direction"]
    high: BFloat16[Tensor, "row direction"]
    low: BFloat16[Tensor, "row direction"]
    across: Float[Tensor, "row d_model"]


def _split(
    rows: Float[Tensor, "row d_model"], directions: Float64[Tensor, "d_model direction"]
) -> _Split:
    wide = rows.double()
    along = wide @ directions
    high = along.bfloat16()
    low = (along - high.double()).bfloat16()
    across = (wide - (high.double() + low.double()) @ directions.mT).float()
    return _Split(along, high, low, across)


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
    W = W_U.mT.contiguous()
    directions = _directions(rows, W)
    n = directions.shape[1]
    parts = torch.empty(len(W), W.shape[1] + 3 * n + _SHIFT, dtype=torch.bfloat16)
    sizes: list[Tensor] = []
    ratios = torch.zeros(6, dtype=torch.float64)
    for some, out in zip(W.split(_COLUMNS_AT_ONCE), parts.split(_COLUMNS_AT_ONCE), strict=True):
        split = _split(some, directions)
        first, left = split.across.bfloat16(), split.along - split.high.double()
        minus = torch.zeros(len(some), _SHIFT, dtype=torch.bfloat16)
        minus[:, :3] = -1
        torch.cat([first, split.high, split.low, split.high, minus], dim=1, out=out)
        size = _norm(first).clamp(min=1e-30)
        rest = split.across - first.float()
        norms = (some, split.along, rest, left, left - split.low.double(), out)
        ratios = ratios.maximum(torch.stack([(_norm(x) / size).max() for x in norms]))
        sizes.append((size * _MARGIN).float())
    size = torch.cat(sizes)
    taken: tuple[float, ...] = tuple((ratios * _MARGIN).tolist())
    return Screen(W, directions, parts, size, block_maxima(size), taken)


def _directions(
    rows: Float[Tensor, "row d_model"], W: Float[Tensor, "d_vocab d_model"]
) -> Float64[Tensor, "d_model direction"]:
    """Return the directions that hold most of rows and columns, by subspace iteration."""
    n = min(_DIRECTIONS, rows.shape[1])
    # Each weighs half; some of the columns tell enough.
    spread = _spread(rows) + _spread(W[:: max(1, len(W) // _COLUMNS_SEEN)])
    generator = torch.Generator().manual_seed(0)
    found = torch.randn(rows.shape[1], n, generator=generator, dtype=torch.float64)
    for _ in range(_POWERS):
        found = torch.linalg.qr(spread @ found).Q
    # Rounded, so that the same directions meet columns and rows, whatever they are.
    return found.float().double()


def _spread(rows: Float[Tensor, "row d_model"]) -> Float64[Tensor, "d_model d_model"]:
    wide = rows.double()
    return wide.mT @ wide / wide.square().sum().clamp(min=1e-30)


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
