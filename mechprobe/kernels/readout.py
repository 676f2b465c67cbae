r"""From residual rows to what the vocabulary says about them, without keeping the logits.

For a row :math:`x` (already through the final norm) the logits are :math:`z = f(x W_U + b_U)`,
where :math:`f` is the model's own logit transform (soft-cap, scale) or nothing. The kernel streams
row tiles through one reused buffer of logits and takes everything from it in that single pass:
the k most likely ids, :math:`\log Z`, entropy, log-probability and rank of chosen ids, and the
divergence from a reference row. ``[entry, row, d_vocab]`` never exists.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from mechprobe.kernels.gemm import Gemm, fastest_gemm, gemm_path
from mechprobe.kernels.topk import top_k as exact_top_k

LogitTransform = Callable[[Tensor], Tensor]

# Two [row, d_vocab] buffers live at a time: logits and the reference distribution. 48 MiB is 128
# rows of 49,152 columns; 31 x 128 rows then take 0.92 s, at 64 rows a tile 0.98 s.
SCRATCH_BYTES = 48 * 2**20
# The product is fast on many rows; what follows it is limited by memory and fast on few, which stay
# in the cache from one reduction to the next: 6.1 ms instead of 8.0 for 128 x 49,152.
_ROWS_AT_ONCE = 16


@dataclass(frozen=True, slots=True)
class Readout:
    r"""What the vocabulary says about each row of each entry.

    Attributes:
        top_id: The most likely ids, most likely first, lower id first among equals.
        top_log_prob: Their log-probabilities, nats.
        log_z: Log-sum-exp of the logits; not finite where the logits hold NaN or ``+inf``.
        entropy: Entropy of the distribution, nats.
        kl: Divergence of the entry from the reference (entry 0), :math:`KL(ref \| entry)`, nats.
        target_log_prob: Log-probability of each target, nats.
        target_rank: How many ids have a strictly larger logit than the target (0 is best).
    """

    top_id: Int[Tensor, "entry row k"]
    top_log_prob: Float[Tensor, "entry row k"]
    log_z: Float[Tensor, "entry row"]
    entropy: Float[Tensor, "entry row"]
    kl: Float[Tensor, "entry row"]
    target_log_prob: Float[Tensor, "entry row target"]
    target_rank: Int[Tensor, "entry row target"]


@torch.no_grad()
def readout(
    rows: Float[Tensor, "entry row d_model"],
    W_U: Float[Tensor, "d_model d_vocab"],
    b_U: Float[Tensor, " d_vocab"] | None = None,
    *,
    k: int,
    targets: Int[Tensor, "row target"] | None = None,
    transform: LogitTransform | None = None,
    rows_per_tile: int | None = None,
    gemm: Gemm | None = None,
) -> Readout:
    r"""Read every row through the unembedding in one pass over row tiles.

    .. math::
        z = f(x W_U + b_U), \quad \log Z = \log \sum_v e^{z_v}, \quad
        H = \log Z - \sum_v p_v z_v, \quad
        KL = \sum_v p^{ref}_v (\log p^{ref}_v - \log p_v)

    Entry 0 is the reference of the divergence; its own ``kl`` is 0. The logits are made in
    the dtype the rows come in, as the model makes its own (product, bias, transform); everything
    after that is done in float32 at least (float64 stays float64). ``-inf`` logits have
    probability 0 and :math:`0 \log 0 = 0`.

    Args:
        rows: Final-norm outputs (or raw residuals, where that is asked for), one entry per layer
            and the reference, at least one.
        W_U: Unembedding; any strides.
        b_U: Its bias, if the model has one.
        k: How many ids to keep per row, ``1 <= k <= d_vocab``.
        targets: Ids whose log-probability and rank are wanted, per row; none where omitted.
        transform: The model's map from raw to final logits; may work in place.
        rows_per_tile: Rows of logits held at once; default from ``SCRATCH_BYTES``.
        gemm: Matrix product to use; by default the fastest one found by trial.

    Returns:
        The readout, entries in the order given.

    Example:
        >>> x = torch.tensor([[[5.0, 0.0]], [[0.0, 0.0]]])
        >>> out = readout(x, torch.eye(2), k=1, targets=torch.tensor([[1]]))
        >>> out.top_id.flatten().tolist(), out.target_rank.flatten().tolist()
        ([0, 0], [1, 0])
    """
    n_entries, n_rows, _ = rows.shape
    if targets is None:
        targets = torch.empty(n_rows, 0, dtype=torch.long, device=rows.device)
    dtype = torch.promote_types(rows.dtype, torch.float32)
    if rows_per_tile is None:
        rows_per_tile = max(1, SCRATCH_BYTES // (2 * W_U.shape[1] * dtype.itemsize))
    n_pos = min(rows_per_tile, max(n_rows, 1))
    n_group = min(rows_per_tile // n_pos, n_entries)
    path = gemm or fastest_gemm(W_U, n_entries * n_rows)
    tile = _Tile(W_U, b_U, transform, path, n_group * n_pos, dtype)
    out = _empty(n_entries, n_rows, k, targets.shape[1], rows.device, dtype)
    reference = torch.empty(n_pos, W_U.shape[1], dtype=dtype, device=W_U.device)
    # Positions outside, entries inside: the reference distribution is made once per position.
    for start in range(0, n_rows, n_pos):
        span = slice(start, min(start + n_pos, n_rows))
        for first in range(0, n_entries, n_group):
            group = slice(first, min(first + n_group, n_entries))
            product = tile.multiply(rows[group, span])
            for entries, pos in _blocks(*product.shape[:2]):
                cells = _part(_part(out, group, span), entries, pos)
                z, p, log_sum = tile.read(product[entries, pos], targets[span][pos], k, cells)
                if first == 0 and entries.start == 0:
                    reference[pos] = p[0]
                kl = log_sum - _dot(reference[pos], z) - out.entropy[0, span][pos]
                cells.kl[:] = kl.clamp(min=0.0)
    out.kl[0] = 0.0
    return out


def _blocks(n_entries: int, n_pos: int) -> Iterator[tuple[slice, slice]]:
    """Cut a tile into blocks of few rows that lie together in memory."""
    pos_step = min(n_pos, _ROWS_AT_ONCE)
    entry_step = max(1, _ROWS_AT_ONCE // n_pos)
    for entry in range(0, n_entries, entry_step):
        for pos in range(0, n_pos, pos_step):
            yield slice(entry, min(entry + entry_step, n_entries)), slice(pos, pos + pos_step)


class _Tile:
    """The reused buffers of one tile of rows, and the reductions over it."""

    def __init__(
        self,
        W_U: Float[Tensor, "d_model d_vocab"],
        b_U: Float[Tensor, " d_vocab"] | None,
        transform: LogitTransform | None,
        path: Gemm,
        n_rows: int,
        accumulate: torch.dtype,
    ) -> None:
        self.W_U, self.transform, self.path = W_U, transform, path
        self.b_U = b_U if b_U is not None and bool(b_U.any()) else None
        d_vocab, device = W_U.shape[1], W_U.device
        self.product = torch.empty(n_rows, d_vocab, dtype=W_U.dtype, device=device)
        n_block = min(n_rows, _ROWS_AT_ONCE)
        self.p = torch.empty(n_block, d_vocab, dtype=accumulate, device=device)

    def multiply(self, x: Float[Tensor, "group pos d_model"]) -> Float[Tensor, "group pos d_vocab"]:
        """``einsum(x, W_U, "... d_model, d_model d_vocab -> ... d_vocab")`` into the buffer.

        ``mm(out=)`` because a fresh 25 MB tensor per tile costs 20 to 35 % in page faults alone.
        """
        flat = x.flatten(0, 1)
        with gemm_path(self.path):
            torch.mm(flat, self.W_U, out=self.product[: len(flat)])
        return self.product[: len(flat)].unflatten(0, x.shape[:2])

    def _logits(self, z: Float[Tensor, "row d_vocab"]) -> Float[Tensor, "row d_vocab"]:
        if self.b_U is not None:
            z += self.b_U
        if self.transform is not None:
            z = self.transform(z)
        return z.to(self.p.dtype)

    def read(
        self,
        product: Float[Tensor, "group pos d_vocab"],
        targets: Int[Tensor, "pos target"],
        k: int,
        out: Readout,
    ) -> tuple[
        Float[Tensor, "group pos d_vocab"],
        Float[Tensor, "group pos d_vocab"],
        Float[Tensor, "group pos"],
    ]:
        """Reduce a block of products, which are overwritten, into ``out``.

        Returns:
            Logits below their maximum, probabilities, and the log-sum-exp of the former.
        """
        shape = product.shape[:2]
        z, p = self._logits(product.flatten(0, 1)), self.p[: shape.numel()]
        top, top_id = exact_top_k(z, k)
        ids = targets.expand(shape[0], -1, -1).flatten(0, 1)
        at_target = z.gather(-1, ids)
        for t in range(targets.shape[1]):
            # Counted as floats in a reused buffer (exact to 2**24): 29 ms for 31 tiles of
            # 128 x 49,152, where summing booleans takes 470 ms.
            larger = torch.gt(z, at_target[:, t, None], out=p).sum(-1)
            out.target_rank[..., t] = larger.unflatten(0, shape)
        # Below the largest logit nothing cancels, however large the logits are.
        best = top[:, :1]
        z -= best
        torch.softmax(z, dim=-1, out=p)
        log_sum = -p.gather(-1, top_id[:, :1]).log()
        out.top_id[:] = top_id.unflatten(0, shape)
        out.top_log_prob[:] = (top - best - log_sum).unflatten(0, shape)
        out.log_z[:] = (best + log_sum).view(shape)
        out.target_log_prob[:] = (at_target - best - log_sum).unflatten(0, shape)
        z, p, log_sum = z.unflatten(0, shape), p.unflatten(0, shape), log_sum.view(shape)
        out.entropy[:] = log_sum - _dot(p, z)
        return z, p, log_sum


def _dot(
    p: Float[Tensor, "*group pos d_vocab"], z: Float[Tensor, "group pos d_vocab"]
) -> Float[Tensor, "group pos"]:
    """``einsum(p, z, "group pos d_vocab, group pos d_vocab -> group pos")``, ``0 * -inf = 0``.

    ``vecdot``: 60 ms for 31 tiles of 128 x 49,152, where ``einsum`` takes 115 ms.
    """
    total = torch.linalg.vecdot(p, z)
    undefined = total.isnan()
    if bool(undefined.any()):
        p, z = p.expand_as(z)[undefined], z[undefined]
        total[undefined] = torch.where(p == 0, 0.0, p * z).sum(-1)
    return total


def _empty(
    entries: int, rows: int, k: int, n_targets: int, device: torch.device, dtype: torch.dtype
) -> Readout:
    def floats(*shape: int) -> Tensor:
        return torch.empty(entries, rows, *shape, dtype=dtype, device=device)

    def ints(*shape: int) -> Tensor:
        return torch.empty(entries, rows, *shape, dtype=torch.long, device=device)

    return Readout(
        ints(k), floats(k), floats(), floats(), floats(), floats(n_targets), ints(n_targets)
    )


def _part(out: Readout, group: slice, span: slice) -> Readout:
    """View the cells of one tile."""
    return Readout(*(getattr(out, name)[group, span] for name in Readout.__dataclass_fields__))
