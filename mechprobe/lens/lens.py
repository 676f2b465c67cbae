r"""The logit lens: what would the model say if it stopped after layer l?

Every layer adds to one residual stream :math:`x_l`; the model answers by reading the last one,
:math:`z = W_U^\top \mathrm{norm}(x_L)`. The lens reads the earlier ones the same way,
:math:`z_l = W_U^\top \mathrm{norm}(x_l)`.
"""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm.auto import tqdm

from mechprobe.kernels import readout
from mechprobe.kernels.readout import SCRATCH_BYTES
from mechprobe.lens.capture import Reader
from mechprobe.lens.compute import DEFAULT, Compute, MemoryPlan, check_compute, memory_plan
from mechprobe.lens.dataset import Cells, cells_read, lens_dataset
from mechprobe.lens.request import (
    Layers,
    Norm,
    Positions,
    Stream,
    Targets,
    Tokens,
    Translator,
    check_top_k,
    require_stream,
    resolve_layers,
    resolve_positions,
    resolve_targets,
)
from mechprobe.lens.results import LensResult
from mechprobe.models import (
    Batch,
    Model,
    Prompts,
    Session,
    TokenText,
    alone,
    batches,
    describe,
    opened,
    token_ids,
)
from mechprobe.provenance import Call


@alone
def logit_lens(
    model: Model,
    prompts: Prompts,
    *,
    positions: Positions = -1,
    layers: Layers = None,
    stream: Stream = "resid_post",
    top_k: int | np.integer[Any] = 10,
    targets: Tokens = None,
    norm: Norm = "final",
    translators: Translator | Mapping[int, Callable[[Tensor], Tensor]] | None = None,
    prepend_bos: bool | None = None,
    compute: Compute = DEFAULT,
    progress: bool = True,
) -> LensResult:
    r"""Read what the model would say after every layer.

    .. math::
        z_{l} = f(\mathrm{norm}(T_l(x_l)) W_U + b_U), \qquad p_l = \mathrm{softmax}(z_l)

    with :math:`x_l` the residual stream after block l (or another ``stream``), :math:`T_l` a
    translator (identity by default), the model's own final norm with statistics of :math:`x_l`
    itself, and :math:`f` its soft-cap or scale. It is a reading, not a cause: that a layer's
    stream can be read as a token does not show that the model uses it so.

    Before anything is returned, the path is checked on the model itself: final norm and
    unembedding of the last ``resid_post`` must give the model's own logits.

    Args:
        model: A TransformerLens model (``TransformerBridge`` or ``HookedTransformer``).
        prompts: A text; token ids (list, tuple, array or tensor of integers); a tokenizer's
            output, read without what its attention_mask marks as padding; the messages of a chat;
            or several of these. Texts get BOS by the model's habit unless they begin with it; ids
            are taken as they are. See ``models.token_ids``.
        positions: Where to read: one position, several, a slice, None for all; negative ones
            count from the end. Cost is linear in positions.
        layers: -1 is the embedding (``resid_post`` only), l is after block l; None for all.
        stream: ``"resid_post"``, ``"resid_mid"``, or what one part of the block adds,
            ``"attn_out"`` or ``"mlp_out"``.
        top_k: How many tokens to keep per cell, 1 to ``d_vocab``.
        targets: Tokens to follow, shared by all cells: one, or a list, tuple or 1-d array of them.
            A text that is one token where it stands alone, an id, or a pair ``(context, word)``:
            the token that the word is in that context, as in ``[("Answer:", "A")]``. Pairs stand
            in a list; a bare tuple of two texts is refused, for it may mean either. Or an integer
            array ``[prompt, pos]`` or ``[prompt, pos, target]``, one for each cell. Labels show
            the piece that is followed.
        norm: ``"final"`` or ``"none"`` (raw residuals, as some published scripts read them).
        translators: ``f(rows, layer)`` or a mapping layer to ``f(rows)``, applied to residual
            rows ``[row, d_model]`` before the norm; a tuned lens, for instance.
        prepend_bos: Whether texts get a BOS token; None for the model's habit.
        compute: Prompts at a time, memory and arithmetic; see ``Compute``.
        progress: Show a bar over prompts.

    Returns:
        A ``LensResult`` over (prompt, pos, layer); log-probabilities, entropy and divergence in
        nats, ranks from 0.

    Raises:
        ValueError: An empty or too long prompt, a position, layer, target or ``top_k`` out of
            range, a target that is several tokens, NaN weights, a read-out path that is not
            the model's.
        TypeError: Something that is not a TransformerLens model; prompts, targets, positions,
            layers, ``top_k`` or ``compute`` of a wrong kind.
        NotImplementedError: An architecture or a stream that cannot be read.

    Example:
        >>> import mechprobe as mp
        >>> lens = mp.logit_lens(tiny_model, [[1, 2, 3]], top_k=2, progress=False)
        >>> dict(lens.data.sizes)
        {'prompt': 1, 'pos': 1, 'layer': 4, 'k': 2}

    References:
        nostalgebraist, "interpreting GPT: the logit lens" (2020),
        https://www.lesswrong.com/posts/AcKRB8wDpdaN6v6ru/interpreting-gpt-the-logit-lens
    """
    call = Call("logit_lens", locals())
    check_compute(compute)
    session = opened(model)
    ids = token_ids(model, prompts, prepend_bos=prepend_bos)
    chosen = resolve_positions(positions, [len(row) for row in ids])
    reader = lens_reader(session, layers, stream, norm, translators)
    wanted = resolve_targets(model, targets, chosen)
    k = check_top_k(top_k, reader.path.d_vocab)
    plan = memory_plan(reader, compute.scratch_mb)
    n_read = [len(c) for c in chosen]
    cells = Cells(n_read, len(reader.layers), k, len(wanted.labels), _real(reader))
    batch_size = compute.batch_size or plan.batch_size([len(row) for row in ids], n_read)
    with tqdm(total=len(ids), desc="lens", unit="prompt", disable=not progress, leave=False) as bar:
        for batch in batches(model, ids, batch_size):
            _read_batch(reader, batch, chosen, wanted, plan, compute, cells)
            bar.update(len(batch.index))
    text = TokenText(session.tokenizer)
    shown = [text.joined(row) for row in ids]
    data = lens_dataset(cells, cells_read(ids, chosen), reader.layers, wanted, text, shown)
    record = call.record(
        describe(session),
        ids,
        layers=reader.layers,
        targets=wanted.recorded,
        compute=compute.recorded(batch_size),
    )
    return LensResult(data, record)


def lens_reader(
    session: Session,
    layers: Layers,
    stream: Stream,
    norm: Norm,
    translators: Translator | Mapping[int, Callable[[Tensor], Tensor]] | None,
) -> Reader:
    """Return the reader for a request, refusing what the model does not have.

    Raises:
        ValueError: An unknown ``stream`` or ``norm``, a layer out of range, or a translator for a
            layer that is not read.
        NotImplementedError: A stream that the model does not have.
    """
    if norm not in ("final", "none"):
        msg = f"norm must be 'final' or 'none'; found {norm!r}."
        raise ValueError(msg)
    require_stream(stream)
    chosen = resolve_layers(session.model, layers, stream)
    unknown = [x for x in translators if x not in chosen] if isinstance(translators, Mapping) else []
    if unknown:
        msg = f"translators has layer {unknown[0]!r}, which is not read; layers: {chosen}."
        raise ValueError(msg)
    reader = Reader(session, chosen, stream, norm, translators)
    _ = reader.names  # refuses before any pass
    return reader


def _real(reader: Reader) -> torch.dtype:
    return torch.promote_types(reader.path.W_U.dtype, torch.float32)


def _read_batch(
    reader: Reader,
    batch: Batch,
    positions: list[list[int]],
    targets: Targets,
    plan: MemoryPlan,
    compute: Compute,
    cells: Cells,
) -> None:
    chosen = [positions[i] for i in batch.index]
    width = max(map(len, chosen))
    index = torch.tensor([[*c, *[0] * (width - len(c))] for c in chosen])
    valid = np.arange(width) < np.array([len(c) for c in chosen])[:, None]
    rows = reader.rows(batch.ids, index, check=True, mask=batch.mask)
    rows = rows.flatten(1, 2)
    if not valid.all():
        rows = rows[:, torch.from_numpy(valid).flatten().to(rows.device)]
    ids = torch.from_numpy(targets.ids[batch.index][:, :width][valid]).to(rows.device)
    path = reader.path
    read = readout(
        rows,
        path.W_U,
        path.b_U,
        k=cells.k,
        targets=ids,
        transform=path.transform,
        scratch_bytes=min(plan.tile_bytes, SCRATCH_BYTES),
        compiled=compute.compiled,
    )
    cells.put(batch.index, valid, read, reader.source)
