r"""From residual rows to what the vocabulary says about them, without keeping the logits.

For a row :math:`x` (already through the final norm) the logits are :math:`z = f(x W_U + b_U)`,
where :math:`f` is the model's own logit transform (soft-cap, scale) or nothing. The kernel streams
row tiles through one reused buffer of logits and takes everything from it in that single pass:
the k most likely ids, :math:`\log Z`, entropy, log-probability and rank of chosen ids, and the
divergence from a reference row. ``[entry, row, d_vocab]`` never exists.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from mechprobe.kernels.arithmetic import choose
from mechprobe.kernels.gemm import Gemm, gemm_path, product_of
from mechprobe.kernels.native import Native
from mechprobe.kernels.observed import note
from mechprobe.kernels.reductions import ROWS_AT_ONCE, Reduced, Stepwise
from mechprobe.kernels.topk import top_k as exact_top_k

LogitTransform = Callable[[Tensor], Tensor]

# Rows of logits (two parts) and of the reference distribution (one part) live at a time. 72 MiB is
# 256 + 128 rows of 49,152 columns: a product of 256 rows takes 5 to 8 % less time a row than one of
# 128, and one of 512 hardly less.
SCRATCH_BYTES = 72 * 2**20


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
    scratch_bytes: int | None = None,
    gemm: Gemm | None = None,
    compiled: bool = True,
    steps: int = 1,
    buffers: "Buffers | None" = None,
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
        scratch_bytes: Room for logits and reference distributions, at least one row of each;
            default ``SCRATCH_BYTES``. Blocks of 16 rows come on top.
        gemm: Matrix product to use; by default what suits processor and size (``fastest_gemm``).
        compiled: Whether reductions may be compiled from C; False for torch's operations alone.
        steps: How many such calls there will be, which decides together with the sizes.
        buffers: Keeps the memory for logits from one call to the next of the same shape, which
            for a few rows at a time saves a tenth of the reading.

    Returns:
        The readout, entries in the order given.

    Example:
        >>> x = torch.tensor([[[5.0, 0.0]], [[0.0, 0.0]]])
        >>> out = readout(x, torch.eye(2), k=1, targets=torch.tensor([[1]]))
        >>> out.top_id.flatten().tolist(), out.target_rank.flatten().tolist()
        ([0, 0], [1, 0])
    """
    n_all, n_rows, _ = rows.shape
    n_entries = _n_distinct(rows)
    if targets is None:
        targets = torch.empty(n_rows, 0, dtype=torch.long, device=rows.device)
    dtype = torch.promote_types(rows.dtype, torch.float32)
    room = (scratch_bytes or SCRATCH_BYTES) // (W_U.shape[1] * dtype.itemsize)
    n_group, n_pos = _tile_shape(n_entries, n_rows, room)
    # By shapes alone: whether the last entry is the reference again is not known before.
    path, native = choose(W_U, steps * n_all * n_rows, k, targets.shape[1], gemm, compiled=compiled)
    tile = (buffers or Buffers()).tile(W_U, b_U, transform, (n_group, n_pos), dtype)
    out = Reduced.empty((n_entries, n_rows), k, targets.shape[1], dtype=dtype, device=rows.device)
    # Positions outside, entries inside: the reference distribution is made once per position.
    for start in range(0, n_rows, n_pos):
        span = slice(start, min(start + n_pos, n_rows))
        for first in range(0, n_entries, n_group):
            group = slice(first, min(first + n_group, n_entries))
            z = tile.logits(rows[group, span], path)
            if first == 0:
                tile.keep_reference(z[0])
            tile.reduce(z, targets[span], out.part(group, span), native)
    return _completed(out, n_all)


def _n_distinct(rows: Float[Tensor, "entry row d_model"]) -> int:
    """Return how many entries to read: a last one that is the reference again is not read twice.

    It is where all layers of a residual stream are asked for.
    """
    return len(rows) - (len(rows) > 1 and torch.equal(rows[0], rows[-1]))


def _completed(found: Reduced, n_all: int) -> Readout:
    """Turn cross-entropies from the reference into divergences, and repeat it where it is last."""
    kl = (found.cross - found.entropy[0]).clamp_(min=0.0)
    kl[0] = 0.0
    values = {**found._asdict(), "kl": kl}
    del values["cross"]
    if n_all > len(kl):
        values = {name: torch.cat([x, x[:1]]) for name, x in values.items()}
    return Readout(**values)


def _tile_shape(n_entries: int, n_rows: int, room: int) -> tuple[int, int]:
    """Return how many entries of how many positions to read at once.

    Args:
        n_entries: Entries in all.
        n_rows: Positions in all.
        room: Rows of logits and of the reference that there is room for, together.
    """
    n_pos = max(1, min(n_rows, room // (1 + min(n_entries, 2))))
    n_pos = -(-n_rows // -(-max(n_rows, 1) // n_pos)) or 1  # spans of equal length
    return max(1, min(n_entries, (room - n_pos) // n_pos)), n_pos


class Buffers:
    """Memory for logits that one call of ``readout`` leaves to the next."""

    def __init__(self) -> None:
        self._tile: Tile | None = None
        self._made_for: tuple[Any, ...] = (None,)

    def tile(self, *made_for: Any) -> "Tile":
        """Return the tile of the call before if it was made for the same, or a new one."""
        if self._tile is None or not all(
            a is b or (not isinstance(a, Tensor) and a == b)
            for a, b in zip(made_for, self._made_for, strict=True)
        ):
            self._tile, self._made_for = Tile(*made_for), made_for
        return self._tile


class Tile:
    """The reused buffers of one tile of rows, and the reductions over it."""

    def __init__(
        self,
        W_U: Float[Tensor, "d_model d_vocab"],
        b_U: Float[Tensor, " d_vocab"] | None,
        transform: LogitTransform | None,
        shape: tuple[int, int],
        accumulate: torch.dtype,
    ) -> None:
        self.W_U, self.transform = W_U, transform
        self.b_U = b_U if b_U is not None and bool(b_U.any()) else None
        n_rows, d_vocab = shape[0] * shape[1], W_U.shape[1]
        self.product = torch.empty(n_rows, d_vocab, dtype=W_U.dtype, device=W_U.device)
        self.reference = torch.empty(shape[1], d_vocab, dtype=accumulate, device=W_U.device)
        self.steps = Stepwise(min(n_rows, ROWS_AT_ONCE), W_U, accumulate)

    def logits(self, x: Float[Tensor, "group pos d_model"], path: Gemm) -> Float[Tensor, "group pos d_vocab"]:
        """``f(einsum(x, W_U, "... d_model, d_model d_vocab -> ... d_vocab") + b_U)`` in the buffer.

        ``mm(out=)`` because a fresh 25 MB tensor per tile costs 20 to 35 % in page faults alone.
        """
        flat = x.flatten(0, 1)
        z = self.product[: len(flat)]
        note(product=product_of(path, self.W_U))
        with gemm_path(path):
            torch.mm(flat, self.W_U, out=z)
        # The model's transform takes memory of its own.
        for rows in z.split(ROWS_AT_ONCE):
            if self.b_U is not None:
                rows += self.b_U
            if self.transform is not None:
                rows.copy_(self.transform(rows))
        return z.unflatten(0, x.shape[:2])

    def keep_reference(self, z: Float[Tensor, "pos d_vocab"]) -> None:
        """Keep the distributions that divergences are taken from."""
        for rows, p in zip(z.split(ROWS_AT_ONCE), self.reference.split(ROWS_AT_ONCE), strict=False):
            self.steps.distribution(rows, out=p[: len(rows)])

    def reduce(
        self,
        z: Float[Tensor, "group pos d_vocab"],
        targets: Int[Tensor, "pos target"],
        out: Reduced,
        native: Native | None,
    ) -> None:
        """Reduce logits into ``out``.

        Args:
            z: Logits.
            targets: Ids to follow.
            out: The cells of this tile.
            native: The compiled reductions, where they are used.
        """
        found = None
        if native is not None:
            note(reductions="compiled")
            found = native.reduce(z, self.reference[: z.shape[1]], targets, out.top_id.shape[-1])
        if found is not None:
            out.put(found)
            return
        note(reductions="torch")
        for at in _blocks(len(z), z.shape[1], ROWS_AT_ONCE):
            self._reduce_block(z[at], at[1], targets[at[1]], out.part(*at))

    def _reduce_block(
        self,
        z: Float[Tensor, "group pos d_vocab"],
        pos: slice,
        targets: Int[Tensor, "pos target"],
        out: Reduced,
    ) -> None:
        """Reduce a few rows in torch's steps."""
        value = z.gather(-1, targets.expand(*z.shape[:2], -1))
        first = (value if value.shape[-1] else z)[..., :1].contiguous()
        maxima, log_sum, out.entropy[:], out.cross[:], larger = self.steps(z, self.reference[pos], first)
        for t in range(value.shape[-1]):
            count = larger if t == 0 else self.steps.count(z, value[..., t, None].contiguous())
            out.target_rank[..., t] = count.long()
        top, top_id = exact_top_k(z.flatten(0, 1), out.top_id.shape[-1], maxima.flatten(0, 1))
        top = top.to(log_sum.dtype).view(out.top_log_prob.shape)
        best = top[..., :1]
        out.top_id[:] = top_id.view(out.top_id.shape)
        out.top_log_prob[:] = top - best - log_sum[..., None]
        out.log_z[:] = best[..., 0] + log_sum
        out.target_log_prob[:] = value - best - log_sum[..., None]


def _blocks(n_entries: int, n_pos: int, size: int) -> Iterator[tuple[slice, slice]]:
    """Cut a tile into blocks of at most ``size`` rows that lie together in memory."""
    pos_step, entry_step = min(n_pos, size), max(1, size // n_pos)
    for entry in range(0, n_entries, entry_step):
        for pos in range(0, n_pos, pos_step):
            entries = slice(entry, min(entry + entry_step, n_entries))
            yield entries, slice(pos, min(pos + pos_step, n_pos))
