"""Keep one position per prompt of what comes by."""

import torch
from torch import Tensor

from mechprobe.models.protocol import Sink


def at_row(activation: Tensor, position: Tensor) -> Tensor:
    """Pick one position per row of ``[row, pos, ...]``."""
    row = torch.arange(len(position), device=activation.device)
    return activation[row, position.to(activation.device)]


def keep_at(into: dict[int, Tensor], key: int, position: Tensor) -> Sink:
    """Return a sink that puts one position per row of an activation into ``into[key]``."""

    def take(activation: Tensor) -> None:
        into[key] = at_row(activation, position)

    return take
