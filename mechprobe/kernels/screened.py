"""Reading rows through a rounded unembedding, and again where that leaves a doubt."""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from mechprobe.kernels.arithmetic import choose
from mechprobe.kernels.gemm import Gemm, gemm_path
from mechprobe.kernels.native import Found, Native
from mechprobe.kernels.observed import note
from mechprobe.kernels.readout import (
    SCRATCH_BYTES,
    Readout,
    Tile,
    completed,
    empty_cells,
    n_distinct,
    part_of,
    put,
    tile_shape,
)
from mechprobe.kernels.screen import Screen


@torch.no_grad()
def screened_readout(
    rows: Float[Tensor, "entry row d_model"],
    screen: Screen,
    native: Native,
    *,
    k: int,
    targets: Int[Tensor, "row target"],
    scratch_bytes: int | None = None,
) -> tuple[Readout, Float[Tensor, "entry row"]]:
    r"""Read every row as ``readout`` does, multiplying in bfloat16 and again where that may matter.

    Ids and ranks are in the order of the float64 products of the float32 rows and columns. What is
    summed over all ids is summed in float32 in entry 0, the reference; in the others log-
    probabilities, entropies and divergences err by what the rough products of all unlikely ids add
    up to. With :math:`\epsilon` the error of a row,

    .. math::
        |\Delta \log Z| \le \epsilon, \quad |\Delta KL| \le \epsilon, \quad
        |\Delta \log p_v| \le \epsilon, \quad
        |\Delta H| \le \epsilon e^{\epsilon} (\sigma + \epsilon),

    the second and third but for float32 rounding, because the cross-entropy is linear in the row,
    :math:`\sum_v p^{ref}_v z_v = x \cdot W_U p^{ref}`, and the ids that are returned are multiplied
    again; :math:`\sigma` is the standard deviation of :math:`\log p` under :math:`p`.

    Args:
        rows: As for ``readout``, float32.
        screen: The unembedding; it has no bias, and nothing is done to the logits.
        native: The compiled source.
        k: How many ids to keep per row, at most ``MAX_TOP``.
        targets: Ids whose log-probability and rank are wanted, at most ``MAX_TARGETS``.
        scratch_bytes: Room for logits and reference distributions.

    Returns:
        The readout; :math:`\epsilon`, the largest error that any rough logit of a row may have.
    """
    n_all, n_rows, _ = rows.shape
    n_entries = n_distinct(rows)
    W_U = screen.W.mT
    room = (scratch_bytes or SCRATCH_BYTES) // (4 * W_U.shape[1])
    _, n_pos = tile_shape(1, n_rows, room)
    tile = Tile(W_U, None, None, (1, n_pos), torch.float32)
    path = choose(W_U, n_all * n_rows, k, targets.shape[1], native=native).product
    out = empty_cells(n_all, n_rows, k, targets.shape[1], rows.device, torch.float32)
    error = torch.zeros(n_all, n_rows, dtype=torch.float32, device=rows.device)
    for start in range(0, n_rows, n_pos):
        span = slice(start, min(start + n_pos, n_rows))
        _exactly(tile, path, rows[:, span], targets[span], out, native, range(1), span)
        with gemm_path(path):
            mean = tile.reference[: span.stop - start] @ screen.W
        found = screen.read(rows[:n_entries, span], targets[span], k)
        note(product="screened")
        if found is None:
            some = range(1, n_entries)
            _exactly(tile, path, rows[:, span], targets[span], out, native, some, span)
            continue
        _put(out, span, found[0], (rows[:n_entries, span] * mean).sum(-1))
        error[1:n_entries, span] = found[1][1:]
    return completed(out, n_entries), error


def _put(out: Readout, span: slice, found: Found, mean_logit: Float[Tensor, "entry pos"]) -> None:
    """Write what was screened; what is summed of entry 0 stays as it was read in float32."""
    cells = part_of(out, slice(len(mean_logit)), span)
    log_z, entropy, cross = (x[0].clone() for x in (cells.log_z, cells.entropy, cells.kl))
    put(cells, found)
    torch.sub(cells.log_z, mean_logit, out=cells.kl)
    too_much = (log_z - cells.log_z[0])[:, None]
    cells.top_log_prob[0] -= too_much
    cells.target_log_prob[0] -= too_much
    cells.log_z[0], cells.entropy[0], cells.kl[0] = log_z, entropy, cross


def _exactly(
    tile: Tile,
    path: Gemm,
    rows: Float[Tensor, "entry pos d_model"],
    targets: Int[Tensor, "pos target"],
    out: Readout,
    native: Native,
    entries: range,
    span: slice,
) -> None:
    """Read some entries of a span of positions in float32."""
    for entry in entries:
        group = slice(entry, entry + 1)
        z = tile.multiply(rows[group], path)
        tile.read(z, targets, part_of(out, group, span), native, is_first=entry == 0)
