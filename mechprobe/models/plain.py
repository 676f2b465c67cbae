"""A bridge's Hugging Face model without its hooks, for passes in which nobody listens.

Hooks that nobody uses cost a fifth of a pass of a small model, word by word. The twin shares every
parameter with the bridge, and is trusted only after it has given the same logits.
"""

from collections.abc import Callable
from copy import copy, deepcopy
from typing import Any
from weakref import WeakKeyDictionary

import torch
from jaxtyping import Float
from torch import Tensor, nn

from mechprobe.models.protocol import Model, input_device

_CHECKED_TOKENS = 8
# Both run the same operations, in float32 at least to rounding.
_TOLERANCE = {torch.float64: 1e-10, torch.float32: 1e-5}
_HALF_TOLERANCE = 2e-2
# A bridge listens to itself, to hand activations to hooks that are not there.
_OWN_HOOKS = "transformer_lens.model_bridge."


class _Twin:
    """The model without hooks, and what may make it wrong.

    Args:
        model: The bridge.
        attention: Name of the attention that it shall compute, of those registered with
            transformers; None for the model's own.

    Attributes:
        body: The Hugging Face model of plain modules.
        skipped: Modules that it leaves out; a hook on one of them would not be called.
        slots: Every parameter of the bridge, as (dictionary, name).
        trusted: Stamp of the weights at which both gave the same logits; None if they did not.
    """

    def __init__(self, model: Any, attention: str | None) -> None:
        self.skipped: list[nn.Module] = []
        self._attention = attention
        self._configs: dict[int, Any] = {}
        self.body = self._plain(model.original_model, {})
        kept = {id(module) for module in self.body.modules()}
        self.skipped += [m for m in model.modules() if id(m) not in kept]
        self._hooks = [h for m in self.skipped for h in (m._forward_hooks, m._forward_pre_hooks)]
        self._seen: tuple[int, int] = (-1, -1)
        self._quiet = False
        self.slots = [(m._parameters, name) for m in model.modules() for name in m._parameters]
        self.trusted: tuple[Any, ...] | None = None
        self.checked: tuple[Any, ...] | None = None

    def _plain(self, module: nn.Module, known: dict[int, nn.Module]) -> nn.Module:
        while (original := getattr(module, "original_component", None)) is not None:
            self.skipped.append(module)
            module = original
        if type(module).__name__ == "NewGELUActivation":
            # The same function, in one operation instead of eight.
            return nn.GELU(approximate="tanh")
        if id(module) not in known:
            known[id(module)] = twin = copy(module)
            if self._attention is not None and "config" in twin.__dict__:
                twin.config = self._config(twin.config)
            # The copy shares the dictionaries of parameters and buffers, and must not share this.
            twin._modules = {
                name: child if child is None else self._plain(child, known)
                for name, child in module._modules.items()
            }
        return known[id(module)]

    def _config(self, config: Any) -> Any:
        """Return a copy that asks for the other attention, one for all modules that share it."""
        if id(config) not in self._configs:
            self._configs[id(config)] = twin = deepcopy(config)
            twin._attn_implementation = self._attention
        return self._configs[id(config)]

    def stamp(self) -> tuple[Any, ...]:
        """Return what changes whenever a weight is replaced or written to in place."""
        weights = (parameters[name] for parameters, name in self.slots)
        return tuple((id(p), p._version) for p in weights if p is not None)

    @property
    def is_quiet(self) -> bool:
        """Whether no module that is left out has a hook of somebody's."""
        there = [hooks for hooks in self._hooks if hooks]
        # Hooks are numbered as they are added: nothing new, nothing gone, nothing to look at.
        seen = sum(map(len, there)), max((next(reversed(hooks)) for hooks in there), default=0)
        if seen != self._seen:
            self._seen = seen
            self._quiet = all(
                str(getattr(hook, "__module__", "")).startswith(_OWN_HOOKS)
                for hooks in there
                for hook in hooks.values()
            )
        return self._quiet


_TWINS: "WeakKeyDictionary[Any, dict[str | None, _Twin | None]]" = WeakKeyDictionary()


def plain_body(model: Model) -> Any | None:
    """Return the Hugging Face model of a bridge without hooks; None where that would not be it.

    It is not where somebody listens to a hook, where modules were moved between devices by
    accelerate, or where the logits of a short trial differ, as they do after weights were
    processed. The trial is repeated when weights change.

    Args:
        model: A ``TransformerBridge``.
    """
    return trusted_body(model, None, _same_logits)


def trusted_body(
    model: Model, attention: str | None, same_logits: Callable[[Any, Any], bool]
) -> Any | None:
    """Return the twin of a bridge that computes its attention in some way, as ``plain_body`` does.

    Args:
        model: A ``TransformerBridge``.
        attention: A name registered with transformers; None for the model's own attention.
        same_logits: The trial, of the bridge and the twin.
    """
    twins = _TWINS.setdefault(model, {})
    if attention not in twins:
        twins[attention] = _twin_of(model, attention)
    twin = twins[attention]
    if twin is None or not twin.is_quiet:
        return None
    now = twin.stamp()
    if twin.checked != now:
        twin.checked, twin.trusted = now, now if same_logits(model, twin.body) else None
    return None if twin.trusted is None else twin.body


def _twin_of(model: Any, attention: str | None) -> "_Twin | None":
    moved = any("_hf_hook" in m.__dict__ for m in model.original_model.modules())
    stateful = getattr(model.cfg, "is_stateful", False)
    return None if moved or stateful else _Twin(model, attention)


def _same_logits(model: Any, body: Any) -> bool:
    ids = torch.arange(_CHECKED_TOKENS, device=input_device(model)) % int(model.cfg.d_vocab)
    if "pos_embed" in model._modules:
        model.pos_embed._current_batch_size = 1
    with torch.no_grad():
        hooked, plain = (m(input_ids=ids[None]).logits for m in (model.original_model, body))
    return near(hooked, plain)


def near(hooked: Float[Tensor, "*shape"], plain: Float[Tensor, "*shape"]) -> bool:
    """Whether logits differ by no more than rounding."""
    tolerance = _TOLERANCE.get(hooked.dtype, _HALF_TOLERANCE)
    return bool((hooked - plain).abs().max() <= tolerance * hooked.abs().max())
