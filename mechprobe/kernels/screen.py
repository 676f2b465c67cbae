r"""Logits from a product in bfloat16, its error proven, and exact where that leaves a doubt.

The unembedding is multiplied in bfloat16, at twice the speed of float32 where the processor has
instructions for it. With :math:`\tilde x, \tilde w` the rounded row and column, :math:`\delta` what
rounding took from them and :math:`\gamma` the error of a sum of products in float32,

.. math::
    |x \cdot w - \tilde x \cdot \tilde w| \le \|x\| \|\delta_w\| + \|\delta_x\| \|\tilde w\|
    + \gamma \|\tilde x\| \|\tilde w\|

by Cauchy and Schwarz. Rows of a residual stream, and columns of an unembedding, lie mostly along a
few directions :math:`Q`, so their parts in these, :math:`(x Q)(Q^\top w)`, are multiplied in two
parts each, which hold twice the digits, and the bound is over what is left of both: less than half
of it in SmolLM2. Ids that the bound does not exclude from the most likely ones, or does not put on
one side of a target, are multiplied again in float64. The products are read as they arrive, in the
sources ``apart.c`` and ``screen.c``, and never written down.
"""

import ctypes
from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import BFloat16, Float, Float64, Int
from torch import Tensor

from mechprobe.kernels.native import Found, empty_found
from mechprobe.kernels.source import compiled
from mechprobe.kernels.topk import BLOCK, block_maxima

# Each costs three parts of the product: 16 cost a twelfth of it and take off 0.55 of the bound.
_DIRECTIONS = 16
_POWERS = 6
_COLUMNS_SEEN = 1024
# Norms and bounds are themselves rounded.
_MARGIN = 1.0001
# Less than this may be taken for zero.
_TINY = float(torch.finfo(torch.float32).tiny)


class Norms(NamedTuple):
    """Norms of vectors taken apart, in the order of the source.

    Attributes:
        along: Of the part in the directions.
        across: Of what is left without the next two.
        across_along: Of what of that lies in the directions still.
        high: Of the part in the directions, rounded.
        low: Of what that took from it, rounded.
        loss: Of what rounding took from what is left.
        loss_once: Of what it took from the part in the directions.
        loss_twice: Of that, without ``low``.
        first: Of what is left, rounded.
        parts: Of all that is multiplied.
    """

    along: Float64[Tensor, " row"]
    across: Float64[Tensor, " row"]
    across_along: Float64[Tensor, " row"]
    high: Float64[Tensor, " row"]
    low: Float64[Tensor, " row"]
    loss: Float64[Tensor, " row"]
    loss_once: Float64[Tensor, " row"]
    loss_twice: Float64[Tensor, " row"]
    first: Float64[Tensor, " row"]
    parts: Float64[Tensor, " row"]


@dataclass(frozen=True)
class Rounded:
    """Rows as they are multiplied.

    Attributes:
        rows: The rows themselves.
        parts: What is left of them without their part in the directions, rounded; that part,
            rounded, twice; what that took from it, rounded.
        share: Error of a row's products at most, over ``Screen.size``.
    """

    rows: Float[Tensor, "row d_model"]
    parts: BFloat16[Tensor, "row part"]
    share: Float[Tensor, " row"]


@dataclass(frozen=True)
class Screen:
    """An unembedding rounded to bfloat16, and what that may cost.

    Attributes:
        code: The compiled sources.
        W: The unembedding itself, a column behind the other.
        directions: Directions that are multiplied in two parts.
        parts: Columns as they are multiplied, by blocks, pairs of parts of all columns of a block
            together. ``high`` and ``low`` change places, so that a row's meets the other.
        size: Norm of the first part of each column.
        widest: The largest of each block.
        ratios: What the norms of a column are over that, at most; one row.
    """

    code: ctypes.CDLL
    W: Float[Tensor, "d_vocab d_model"]
    directions: Float[Tensor, "direction d_model"]
    parts: BFloat16[Tensor, "block pair 64 2"]
    size: Float[Tensor, " d_vocab"]
    widest: Float[Tensor, " block"]
    ratios: Norms

    def rounded(self, rows: Float[Tensor, "row d_model"]) -> Rounded:
        """Return rows as they are multiplied by ``parts``."""
        rows = rows.contiguous()
        n_parts = 2 * self.parts.shape[1]
        parts = torch.empty(len(rows), n_parts, dtype=torch.bfloat16, device=rows.device)
        of, ratios = _apart(self.code, rows, self.directions, parts, as_columns=False), self.ratios
        share = (
            of.across * ratios.loss
            + of.loss
            + of.across_along * ratios.along
            + of.high * ratios.loss_twice
            + of.low * ratios.loss_once
            # Of a sum in float32, and whatever was done in float64.
            + (of.parts * 2.0**-24 + _TINY) * ratios.parts * n_parts
        )
        return Rounded(rows, parts, (share * _MARGIN).float())

    def read(
        self,
        rows: Float[Tensor, "group pos d_model"],
        targets: Int[Tensor, "pos target"],
        k: int,
    ) -> tuple[Found, Float[Tensor, "group pos"]] | None:
        r"""Read the logits of rows, multiplying again in float64 what the product leaves undecided.

        Args:
            rows: Rows, float32.
            targets: Ids to follow, at most ``MAX_TARGETS``.
            k: How many most likely ids, at most ``MAX_TOP``.

        Returns:
            What ``Native.reduce`` returns, but for cross-entropies, which are linear in the row and
            so the caller's, exactly; and the largest error that a logit of a row may have. None
            where a logit is not finite.

        Raises:
            MemoryError: There is no room for what is noted of each row.
        """
        (n_group, n_pos, d_model), d_vocab = rows.shape, len(self.W)
        rounded, targets = self.rounded(rows.flatten(0, 1)), targets.contiguous()
        found, cells = empty_found((n_group, n_pos), k, targets.shape[1])
        tile = _Tile(
            rounded.parts.data_ptr(), self.parts.data_ptr(), rounded.rows.data_ptr(),
            self.W.data_ptr(), rounded.share.data_ptr(), self.size.data_ptr(),
            self.widest.data_ptr(), targets.data_ptr(),
            n_group * n_pos, n_pos, d_vocab, d_model, self.parts.shape[1], targets.shape[1], k,
        )  # fmt: skip
        undefined = self.code.screen(
            ctypes.byref(tile), torch.get_num_threads(), ctypes.byref(cells)
        )
        _check_memory(undefined < 0)
        error = (rounded.share * self.widest.max()).view(n_group, n_pos)
        return None if undefined else (found, error)


def sources(*extras: tuple[str, ...]) -> ctypes.CDLL:
    """Compile and load the sources.

    Args:
        extras: Flags to try, where not the usual ones.

    Raises:
        RuntimeError: There is no compiler, or it fails.
    """
    code = compiled("screen", "apart", **({"extras": extras} if extras else {}))
    code.screen.restype = ctypes.c_long
    return code


@torch.no_grad()
def screen_of(W_U: Float[Tensor, "d_model d_vocab"], code: ctypes.CDLL | None = None) -> Screen:
    """Round an unembedding.

    Args:
        W_U: The unembedding, float32 on a CPU.
        code: The compiled sources, where not those for this processor.
    """
    code = code or sources()
    W = W_U.mT.contiguous()
    directions = _directions(W)
    n_parts = W.shape[1] + 3 * len(directions)
    shape = -(-len(W) // BLOCK), -(-n_parts // 2), BLOCK, 2
    parts = torch.empty(shape, dtype=torch.bfloat16, device=W.device)
    parts[-1] = 0.0  # where there may be no columns
    of = _apart(code, W, directions, parts, as_columns=True)
    size = of.first.clamp(min=1e-30)
    ratios = Norms(*(((x + 1e-30) / size).amax(0, keepdim=True) * _MARGIN for x in of))
    sizes = (size * _MARGIN).float()
    return Screen(code, W, directions, parts, sizes, block_maxima(sizes), ratios)


def _apart(
    code: ctypes.CDLL,
    x: Float[Tensor, "vector d_model"],
    directions: Float[Tensor, "direction d_model"],
    parts: BFloat16[Tensor, "..."],
    *,
    as_columns: bool,
) -> Norms:
    """Take vectors apart into ``parts``."""
    n_pairs = parts.shape[1] if as_columns else parts.shape[1] // 2
    norms = torch.empty(len(x), len(Norms._fields), dtype=torch.float64, device=x.device)
    vectors = _Apart(
        x.data_ptr(), directions.data_ptr(), parts.data_ptr(), norms.data_ptr(),
        len(x), x.shape[1], len(directions), n_pairs, int(as_columns),
    )  # fmt: skip
    _check_memory(code.apart(ctypes.byref(vectors), torch.get_num_threads()))
    return Norms(*norms.unbind(1))


def _check_memory(failed: int) -> None:
    if failed:
        msg = "screening needs some 10 MB for what it notes of each row; there was no room for it."
        raise MemoryError(msg)


def _directions(
    W: Float[Tensor, "d_vocab d_model"],
) -> Float[Tensor, "direction d_model"]:
    """Return directions that should hold most of columns and rows, by subspace iteration.

    Rows are not there yet. They are large in those dimensions in which columns differ most, which
    is all that is used of them: taken from rows themselves, directions leave a fifth less.
    """
    n = min(_DIRECTIONS, W.shape[1])
    some = W[:: max(1, len(W) // _COLUMNS_SEEN)]
    some = some[some.isfinite().all(1)].double()
    spread = some.mT @ some
    variance = (some - some.mean(0)).square().sum(0)
    spread = spread / spread.trace() + (variance / variance.sum()).diag()
    generator = torch.Generator().manual_seed(0)
    options = {"dtype": torch.float64, "device": W.device}
    found = torch.randn(W.shape[1], n, generator=generator, **options)
    for _ in range(_POWERS):
        found = torch.linalg.qr(spread.nan_to_num() @ found).Q
    return found.float().mT.contiguous()


class _Apart(ctypes.Structure):
    _fields_ = [
        *((name, ctypes.c_void_p) for name in ("x", "Q", "parts", "norms")),
        *((name, ctypes.c_long) for name in ("n", "d_model", "n_directions", "n_pairs")),
        ("as_columns", ctypes.c_int),
    ]  # fmt: skip


class _Tile(ctypes.Structure):
    _fields_ = [
        *((name, ctypes.c_void_p) for name in (
            "rows", "columns", "x", "W", "share", "size", "widest", "targets",
        )),
        *((name, ctypes.c_long) for name in (
            "n_rows", "n_pos", "d_vocab", "d_model", "n_pairs", "n_targets", "k",
        )),
    ]  # fmt: skip
