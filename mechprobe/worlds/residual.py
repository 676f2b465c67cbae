r"""One layer of a model: which activation it is, and what would be said next if it were the last.

A layer is read as the logit lens reads it, through the model's own final norm and unembedding,
:math:`z_l = f(\mathrm{norm}(x_l) W_U + b_U)`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from mechprobe.models import Model, Unembedding, model_name, run, unembedding

EMBEDDING = -1


@dataclass(frozen=True, slots=True, eq=False)
class LayerReading:
    """Where a model is read instead of at its end.

    Attributes:
        layer: -1 for the embedding, l for the residual stream after block l.
        path: The model's final norm and unembedding.
        of: Name of the model that is read.
    """

    layer: int
    path: Unembedding
    of: str


def hook_name(layer: int) -> str:
    """Return the activation that a layer is: -1 the embedding, l the stream after block l."""
    return "blocks.0.hook_resid_pre" if layer == EMBEDDING else f"blocks.{layer}.hook_resid_post"


def chosen_layers(name: str, n_layers: int, layers: Sequence[int] | None) -> list[int]:
    """Return layers that were asked for, ascending; all if None.

    Raises:
        ValueError: None at all, one twice, or one that the model does not have.
    """
    chosen = list(range(EMBEDDING, n_layers)) if layers is None else list(layers)
    wrong = [layer for layer in chosen if not EMBEDDING <= layer < n_layers]
    if wrong or not chosen or len(set(chosen)) < len(chosen):
        msg = (
            f"layers={chosen}: {name} has blocks 0..{n_layers - 1}, and {EMBEDDING} is the "
            "embedding; name each once."
        )
        raise ValueError(msg)
    return sorted(chosen)


def layer_reading(
    model: Model, name: str, layer: int, tokens: Int[Tensor, "batch pos"]
) -> LayerReading:
    """Return how to read a layer, after a check on the model itself.

    Args:
        model: Read where it is asked to be.
        name: What messages call it.
        layer: -1 for the embedding, l for the residual stream after block l.
        tokens: A few ids to check on that the last layer, so read, is the model's own answer.

    Raises:
        ValueError: No such layer, or norm and unembedding are not all that makes the answer.
        NotImplementedError: The unembedding cannot be read, or the model has no such activation.
    """
    n_layers = int(model.cfg.n_layers)
    chosen_layers(name, n_layers, [layer])
    path = unembedding(model)
    last: list[Tensor] = []
    done = run(model, tokens, {hook_name(n_layers - 1): last.append}, logits="all")
    if done.logits is not None and last:
        path.require_identity(last[0].flatten(0, 1), done.logits.flatten(0, 1), name)
    return LayerReading(layer, path, name)


def answer(
    model: Model,
    tokens: Int[Tensor, "batch pos"],
    logits: Literal["last", "all"],
    reading: LayerReading | None,
    **options: Any,
) -> tuple[Float[Tensor, "batch read d_vocab"], Any]:
    """Run a model and return its logits, at its end or at a layer, and its cache.

    Args:
        model: A TransformerLens model.
        tokens: Ids.
        logits: At the last column or at all.
        reading: The layer; None for the model's own answer.
        options: Passed on to ``models.run``.

    Raises:
        NotImplementedError: The model never gives that activation, or no logits.
    """
    found: list[Tensor] = []

    def read(resid: Tensor) -> None:
        # Within the pass, before later blocks could write to it.
        rows = resid if logits == "all" else resid[:, -1:]
        if reading is not None:
            found.append(reading.path.logits(rows.flatten(0, 1)).unflatten(0, rows.shape[:2]))

    if reading is None:
        done = run(model, tokens, {}, logits=logits, **options)
        found += [] if done.logits is None else [done.logits]
    else:
        done = run(model, tokens, {hook_name(reading.layer): read}, **options)
    if not found:
        what = "logits" if reading is None else hook_name(reading.layer)
        msg = f"{model_name(model)} never gives {what}; there is nothing to read."
        raise NotImplementedError(msg)
    return torch.cat(found), done.cache
