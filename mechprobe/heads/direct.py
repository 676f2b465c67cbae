"""Direct logit attribution: what each head itself adds to the right answer."""

from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from einops import einsum
from torch import Tensor

from mechprobe.heads.answers import AnswerReader, likelier_spelling
from mechprobe.heads.places import SPELLINGS, places
from mechprobe.heads.rows import keep_at
from mechprobe.models import (
    HEAD_OUTPUT,
    Session,
    attention_name,
    batches,
    centres,
    final_norm,
    last_stream,
    norm_parameter,
    run,
)
from mechprobe.tasks import Task


def direct_logits(session: Session, task: Task, *, progress: bool = True) -> npt.NDArray[np.float64]:
    r"""Return each head's share of the logit of the right answer over the best other one.

    .. math:: D_{lh} = z_{lh} W_O^{lh} \, N \, (W_U^{right} - W_U^{other})

    :math:`N` is the final norm with its scale frozen at what it was in the full forward pass, a
    linear map. Whatever a model does to a block's output before adding it (a second norm, a
    multiplier) or to its logits (soft-cap, scale) is left out.

    Args:
        session: A model with a tokenizer.
        task: The questions; the mean over them is returned.
        progress: Show a bar.

    Returns:
        Mean logit difference (layer, head).

    Source: Elhage et al. 2021; the other answer is the strongest one of the intact model.
    """
    found = places(session, task, "candidate", None, "space")
    right = np.array([e.answer for e in task], np.int64)
    log_probs = AnswerReader(session, found).read()
    best = likelier_spelling(log_probs)
    others = np.where(np.isnan(log_probs[..., best]), -np.inf, log_probs[..., best])
    np.put_along_axis(others, right[:, None], -np.inf, 1)
    rival = others.argmax(1)
    ids = np.array(
        [
            (p.answers[r][SPELLINGS[best]], p.answers[o][SPELLINGS[best]])
            for p, r, o in zip(found, right, rival, strict=True)
        ]
    )
    return _attribute(session, [p.ids for p in found], torch.from_numpy(ids), progress=progress)


def _attribute(
    session: Session, prompts: list[list[int]], ids: Tensor, *, progress: bool
) -> npt.NDArray[np.float64]:
    from tqdm.auto import tqdm

    model: Any = session.model
    n_layers, n_heads = session.n_layers, int(session.cfg.n_heads)
    W_U, W_O = model.W_U.detach(), model.W_O.detach()
    total = torch.zeros(n_layers, n_heads, dtype=torch.float64)
    with tqdm(
        total=len(prompts), desc="attribution", unit="prompt", disable=not progress, leave=False
    ) as bar:
        for batch in batches(model, prompts):
            ends = torch.tensor([len(prompts[i]) - 1 for i in batch.index])
            kept: dict[int, Tensor] = {}
            names = {x: attention_name(x, HEAD_OUTPUT) for x in range(n_layers)}
            capture = {name: keep_at(kept, x, ends) for x, name in names.items()}
            capture[last_stream(model)] = keep_at(kept, -1, ends)
            run(session, batch.ids, capture, mask=batch.mask)
            pair = ids[batch.index].to(W_U.device)
            direction = (W_U[:, pair[:, 0]] - W_U[:, pair[:, 1]]).T
            direction = _through_norm(model, kept.pop(-1), direction)
            for layer, z in kept.items():
                added = einsum(
                    z.float(),
                    W_O[layer].float(),
                    direction.to(z).float(),
                    "row head d, head d model, row model -> row head",
                )
                total[layer] += added.sum(0).double().cpu()
            bar.update(len(batch.index))
    return (total / len(prompts)).numpy()


@torch.no_grad()
def _through_norm(model: Any, resid: Tensor, direction: Tensor) -> Tensor:
    """Return the direction in the residual stream that the frozen final norm maps it from."""
    norm = final_norm(model)
    if norm is None:
        return direction
    bias = norm_parameter(norm, ("bias", "b"))
    normed = norm(resid[:, None])[:, 0]
    normed = normed if bias is None else normed - bias
    centred = resid - resid.mean(-1, keepdim=True) if centres(model) else resid
    # Frozen, the norm is a factor per component (after centring): read it off its own output.
    factor = torch.where(centred != 0, normed / centred, torch.zeros_like(resid))
    back = factor * direction.to(factor)
    return back - back.mean(-1, keepdim=True) if centres(model) else back
