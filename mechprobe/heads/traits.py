"""What kind of head is it? Descriptive scores to stand beside a QK-score."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import xarray as xr
from jaxtyping import Float
from torch import Tensor

from mechprobe.heads.direct import centres, direct_logits
from mechprobe.heads.retrieval import retrieval_scores
from mechprobe.kernels.patterns import copying_score, mean_diagonal
from mechprobe.models import Model, attention_path, describe, require_model, run, tokenizer_of
from mechprobe.provenance import Stopwatch
from mechprobe.results import HeadTraits
from mechprobe.tasks import Task

TRAITS = (
    "induction", "previous_token", "duplicate_token", "retrieval", "ov_copying", "direct_logit",
)  # fmt: skip

Map = npt.NDArray[np.float64]


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
    watch = Stopwatch()
    require_model(model)
    unknown = [t for t in traits if t not in TRAITS]
    if unknown:
        msg = f"there is no trait {unknown[0]!r}; choose from {', '.join(TRAITS)}."
        raise ValueError(msg)
    n_bos = 1 if getattr(tokenizer_of(model), "bos_token_id", None) is not None else 0
    if length < 2 or 2 * length + n_bos > int(model.cfg.n_ctx):
        msg = (
            f"length={length}: twice that must fit the model's context of {model.cfg.n_ctx} tokens "
            "and be more than 2."
        )
        raise ValueError(msg)
    shape = (int(model.cfg.n_layers), int(model.cfg.n_heads))
    found = {name: np.full(shape, np.nan) for name in TRAITS}
    if {"induction", "previous_token", "duplicate_token"} & set(traits):
        attention_path(model, "attention")
        repeated = _repeated(model, length, n_sequences, seed)
        found |= {n: v for n, v in repeated.items() if n in traits}
    if "ov_copying" in traits:
        found["ov_copying"] = _copying(model)
    if "retrieval" in traits and tokenizer_of(model) is not None:
        attention_path(model, "attention")
        found["retrieval"] = retrieval_scores(model, n_needles, seed, progress=progress)
    if "direct_logit" in traits and task is not None:
        found["direct_logit"] = direct_logits(model, task, progress=progress)
    data = xr.Dataset(
        {name: (("layer", "head"), values) for name, values in found.items()},
        coords={"layer": np.arange(shape[0]), "head": np.arange(shape[1])},
    )
    arguments = {"task": task.name if task else None, "traits": list(traits), "length": length,
                 "n_sequences": n_sequences, "n_needles": n_needles}  # fmt: skip
    record = watch.record("describe_heads", arguments, describe(model),
                          task.record() if task else "", seed=seed)  # fmt: skip
    return HeadTraits(data, record)


def _repeated(model: Model, length: int, n_sequences: int, seed: int) -> dict[str, Map]:
    """Read patterns on random tokens said twice, one layer at a time as they come by."""
    generator = torch.Generator().manual_seed(seed)
    first = torch.randint(0, int(model.cfg.d_vocab), (n_sequences, length), generator=generator)
    bos = getattr(tokenizer_of(model), "bos_token_id", None)
    lead = [] if bos is None else [torch.full((n_sequences, 1), int(bos))]
    ids = torch.cat([*lead, first, first], dim=1).to(model.cfg.device or "cpu")
    start = len(lead) + length
    shape = (int(model.cfg.n_layers), int(model.cfg.n_heads))
    offsets = {"induction": (length - 1, start), "duplicate_token": (length, start),
               "previous_token": (1, len(lead) + 1)}  # fmt: skip
    out = {name: np.zeros(shape) for name in offsets}

    def sink(layer: int) -> Callable[[Tensor], None]:
        def take(pattern: Tensor) -> None:
            for name, (offset, begin) in offsets.items():
                out[name][layer] += mean_diagonal(pattern, offset, begin).cpu().numpy()

        return take

    capture = {f"blocks.{x}.attn.hook_pattern": sink(x) for x in range(shape[0])}
    for row in ids:
        run(model, row[None], capture)
    return {name: values / n_sequences for name, values in out.items()}


def _copying(model: Any) -> Map:
    """Return OV copying scores, with what is linear in the norms: weights, and taking the mean."""
    W_E, W_U = model.W_E.detach(), model.W_U.detach()
    final = _norm_weight(model.ln_final, W_U)
    both = W_U.float() @ W_E.float()
    if centres(model):
        both = both - both.mean(1, keepdim=True)
    rows: list[Float[Tensor, " head"]] = []
    for layer, block in enumerate(model.blocks):
        first = _norm_weight(getattr(block, "ln1", None), W_U)
        # eig(W_E C D1 W_V W_O C Df W_U): weights D and centring C go with the product of W_U, W_E.
        W_UE = final[:, None] * both * first[None, :]
        if centres(model):
            W_UE = W_UE - W_UE.mean(0)
        rows.append(copying_score(model.W_V[layer].detach(), model.W_O[layer].detach(), W_UE))
    return torch.stack(rows).double().cpu().numpy()


def _norm_weight(norm: Any, like: Tensor) -> Tensor:
    """Return a norm's weight, ones where it has none, with Gemma's 1 added where it is."""
    parameters = dict(norm.named_parameters()) if norm is not None else {}
    names = [n for n in parameters if n.rsplit(".")[-1] in ("weight", "w")]
    if not names:
        return torch.ones(like.shape[0], device=like.device)
    kind = type(getattr(norm, "original_component", norm)).__name__
    return parameters[names[0]].detach().float() + (1.0 if kind.startswith("Gemma") else 0.0)
