"""What kind of head is it? Descriptive scores to stand beside a QK-score."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import xarray as xr
from jaxtyping import Float
from torch import Tensor

from mechprobe.heads.direct import direct_logits
from mechprobe.heads.results import HeadTraits
from mechprobe.heads.retrieval import retrieval_scores
from mechprobe.kernels.patterns import copying_score, mean_diagonal
from mechprobe.models import (
    PATTERN,
    Model,
    Session,
    alone,
    attention_name,
    attention_path,
    blocks,
    centres,
    describe,
    final_norm,
    first_norm,
    norm_weight,
    opened,
    run,
)
from mechprobe.provenance import Call
from mechprobe.tasks import Task

TRAITS = ("induction", "previous_token", "duplicate_token", "retrieval", "ov_copying", "direct_logit")

Map = npt.NDArray[np.float64]


@alone
def describe_heads(
    model: Model,
    *,
    task: Task | None = None,
    traits: Sequence[str] = TRAITS,
    length: int = 48,
    n_sequences: int = 8,
    n_needles: int = 20,
    seed: int = 0,
    progress: bool = True,
) -> HeadTraits:
    r"""Score every head for what is known of heads, so that one sees what kind of head won.

    ``induction``, ``previous_token``, ``duplicate_token``: mean attention, on random tokens said
    twice, to the token after the earlier copy, to the one before, to the earlier copy.
    ``retrieval``: how often a head attends most to the very token of a hidden phrase that the model
    says next. ``ov_copying``: eigenvalues of the OV circuit, 1 for a head that copies what it
    reads. ``direct_logit``: what a head adds to the logit of the right answer over the best wrong
    one at the last prompt token (mean over ``task``; NaN without one).

    Args:
        model: A TransformerLens model.
        task: Questions, for ``direct_logit``.
        traits: Some of the above; the rest are NaN.
        length: Random tokens before they are repeated.
        n_sequences: Random sequences.
        n_needles: Hidden phrases, for ``retrieval``; needs a tokenizer.
        seed: Of sequences and phrases.
        progress: Show a bar.

    Returns:
        Each trait (layer, head).

    Raises:
        ValueError: An unknown trait, or sequences that do not fit the context.
        NotImplementedError: The model does not show its attention.
        TypeError: ``model`` is no TransformerLens model.

    Example:
        >>> found = describe_heads(tiny_model, traits=["induction"], length=8, progress=False)
        >>> dict(found.data.induction.sizes)
        {'layer': 3, 'head': 4}

    Source: Olsson et al. 2022 (induction); Wu et al. 2024 (arXiv 2404.15574, retrieval heads);
    Elhage et al. 2021 (OV copying, direct logit attribution).
    """
    call = Call("describe_heads", locals())
    session = opened(model)
    unknown = [t for t in traits if t not in TRAITS]
    if unknown:
        msg = f"there is no trait {unknown[0]!r}; choose from {', '.join(TRAITS)}."
        raise ValueError(msg)
    n_bos = 1 if getattr(session.tokenizer, "bos_token_id", None) is not None else 0
    if length < 2 or 2 * length + n_bos > int(session.cfg.n_ctx):
        msg = (
            f"length={length}: twice that must fit the model's context of {session.cfg.n_ctx} "
            "tokens and be more than 2."
        )
        raise ValueError(msg)
    shape = (session.n_layers, int(session.cfg.n_heads))
    found = {name: np.full(shape, np.nan) for name in TRAITS}
    if {"induction", "previous_token", "duplicate_token"} & set(traits):
        attention_path(session, "attention")
        repeated = _repeated(session, length, n_sequences, seed)
        found |= {n: v for n, v in repeated.items() if n in traits}
    if "ov_copying" in traits:
        found["ov_copying"] = _copying(session.model)
    if "retrieval" in traits and session.tokenizer is not None:
        attention_path(session, "attention")
        found["retrieval"] = retrieval_scores(session, n_needles, seed, progress=progress)
    if "direct_logit" in traits and task is not None:
        found["direct_logit"] = direct_logits(session, task, progress=progress)
    data = xr.Dataset(
        {name: (("layer", "head"), values) for name, values in found.items()},
        coords={"layer": np.arange(shape[0]), "head": np.arange(shape[1])},
    )
    record = call.record(
        describe(session),
        task.record() if task else "",
        seed=seed,
        task=task.name if task else None,
        task_notes=task.notes if task else None,
    )
    return HeadTraits(data, record)


def _repeated(session: Session, length: int, n_sequences: int, seed: int) -> dict[str, Map]:
    """Read patterns on random tokens said twice, one layer at a time as they come by."""
    generator = torch.Generator().manual_seed(seed)
    first = torch.randint(0, int(session.cfg.d_vocab), (n_sequences, length), generator=generator)
    bos = getattr(session.tokenizer, "bos_token_id", None)
    lead = [] if bos is None else [torch.full((n_sequences, 1), int(bos))]
    ids = torch.cat([*lead, first, first], dim=1).to(session.device)
    start = len(lead) + length
    shape = (session.n_layers, int(session.cfg.n_heads))
    offsets = {
        "induction": (length - 1, start),
        "duplicate_token": (length, start),
        "previous_token": (1, len(lead) + 1),
    }
    out = {name: np.zeros(shape) for name in offsets}

    def sink(layer: int) -> Callable[[Tensor], None]:
        def take(pattern: Tensor) -> None:
            for name, (offset, begin) in offsets.items():
                out[name][layer] += mean_diagonal(pattern, offset, begin).cpu().numpy()

        return take

    capture = {attention_name(x, PATTERN): sink(x) for x in range(shape[0])}
    for row in ids:
        run(session, row[None], capture)
    return {name: values / n_sequences for name, values in out.items()}


def _copying(model: Any) -> Map:
    """Return OV copying scores, with what is linear in the norms: weights, and taking the mean."""
    W_E, W_U = model.W_E.detach(), model.W_U.detach()
    final = norm_weight(final_norm(model), W_U)
    both = W_U.float() @ W_E.float()
    if centres(model):
        both = both - both.mean(1, keepdim=True)
    rows: list[Float[Tensor, " head"]] = []
    for layer, block in enumerate(blocks(model)):
        first = norm_weight(first_norm(block), W_U)
        # eig(W_E C D1 W_V W_O C Df W_U): weights D and centring C go with the product of W_U, W_E.
        W_UE = final[:, None] * both * first[None, :]
        if centres(model):
            W_UE = W_UE - W_UE.mean(0)
        rows.append(copying_score(model.W_V[layer].detach(), model.W_O[layer].detach(), W_UE))
    return torch.stack(rows).double().cpu().numpy()
