"""What mechprobe asks of a model: the part that both TransformerLens model classes share."""

from collections.abc import Callable
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor


@runtime_checkable
class Model(Protocol):
    """A ``TransformerBridge`` (TransformerLens 4.x, 3.9) or a ``HookedTransformer`` (3.9).

    Only class-level members and plain attributes are listed: submodules of an ``nn.Module`` are
    found by ``isinstance`` on Python 3.11 and not on 3.12.
    """

    @property
    def cfg(self) -> Any:
        """Sizes and settings (``n_layers``, ``d_model``, ``n_ctx``, ...)."""

    @property
    def hooks(self) -> Any:
        """Add hooks for the time of a ``with`` block (a method; its signatures differ)."""

    @property
    def hook_dict(self) -> Any:
        """Activations that can be captured, by name."""

    @property
    def run_with_cache(self) -> Any:
        """Run and keep every activation (a method; mechprobe itself uses ``models.run``)."""

    @property
    def to_tokens(self) -> Any:
        """Turn text into token ids, with the BOS habit of the model (a method)."""


Sink = Callable[[Tensor], None]
Edit = Callable[[Tensor], Tensor]


def is_bridge(model: Model) -> bool:
    """Whether ``model`` wraps a Hugging Face model (``TransformerBridge``)."""
    return hasattr(type(model), "original_model")


def tokenizer_of(model: Model) -> Any:
    """Return the model's tokenizer, or None."""
    return getattr(model, "tokenizer", None)


def model_name(model: Model) -> str:
    """Return what to call the model in a message."""
    cfg = model.cfg
    return str(getattr(cfg, "architecture", None) or getattr(cfg, "model_name", type(model)))


def input_device(model: Model) -> torch.device:
    """Return the device that token ids must be on."""
    return torch.device(model.cfg.device or "cpu")
