r"""One layer of a model: which activation it is, and what would be said next if it were the last.

A layer is read as the logit lens reads it, through the model's own final norm and unembedding,
:math:`z_l = f(\mathrm{norm}(x_l) W_U + b_U)`.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from jaxtyping import Int
from torch import Tensor

from mechprobe.models import EMBEDDING, Session, last_stream, run


@dataclass(frozen=True, slots=True, eq=False)
class LayerReading:
    """Where a model is read instead of at its end.

    Attributes:
        layer: -1 for the embedding, l for the residual stream after block l.
        of: Name of the model that is read.
    """

    layer: int
    of: str


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


def layer_reading(session: Session, name: str, layer: int, tokens: Int[Tensor, "batch pos"]) -> LayerReading:
    """Return how to read a layer, after a check on the model itself.

    Args:
        session: The model.
        name: What messages call it.
        layer: -1 for the embedding, l for the residual stream after block l.
        tokens: A few ids to check on that the last layer, so read, is the model's own answer.

    Raises:
        ValueError: No such layer, or norm and unembedding are not all that makes the answer.
        NotImplementedError: The unembedding cannot be read, or the model has no such activation.
    """
    chosen_layers(name, session.n_layers, [layer])
    require_identity(session, name, tokens)
    return LayerReading(layer, name)


def require_identity(session: Session, name: str, tokens: Int[Tensor, "batch pos"]) -> None:
    """Refuse a model whose last layer, so read, is not the model's own answer.

    Args:
        session: The model.
        name: What messages call it.
        tokens: A few ids to check on.

    Raises:
        ValueError: Norm and unembedding are not all that makes the answer.
    """
    last: list[Tensor] = []
    done = run(session, tokens, {last_stream(session.model): last.append}, logits="all")
    assert done.logits is not None
    session.unembedding.require_identity(last[0].flatten(0, 1), done.logits.flatten(0, 1), name)
