r"""One layer of a model: which activation it is, and what would be said next if it were the last.

A layer is read as the logit lens reads it, through the model's own final norm and unembedding,
:math:`z_l = f(\mathrm{norm}(x_l) W_U + b_U)`.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from mechprobe.models import EMBEDDING


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
