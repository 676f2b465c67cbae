"""A bridge's Hugging Face model without its hooks, for passes that need none or only a few.

Hooks that nobody uses cost a fifth of a pass of a small model, word by word, and all scores of a
long pass, written down for a hook, half of it. The twin shares every parameter with the bridge, and
is trusted only after it has given the same logits, and the same residual streams, queries and keys
where these are asked for.
"""

from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from copy import copy, deepcopy
from functools import partial
from typing import Any
from weakref import WeakKeyDictionary

import torch
from jaxtyping import Float
from torch import Tensor, nn

from mechprobe.models.protocol import Model, Sink, input_device

_CHECKED_TOKENS = 8
# Of one layer: from here on it costs more to write them down than to go over them in pieces.
_MANY_SCORES = 2**20
# Both run the same operations, in float32 at least to rounding.
_TOLERANCE = {torch.float64: 1e-10, torch.float32: 1e-5}
_HALF_TOLERANCE = 2e-2
# A bridge listens to itself, to hand activations to hooks that are not there, and transformers does
# from its first pass on, to return hidden states that nobody asks for here.
_OWN_HOOKS = ("transformer_lens.model_bridge.", "transformers.utils.output_capturing")


class Plain:
    """The model without hooks, and what may make it wrong.

    Args:
        model: The bridge.
        attention: Name of the attention that it shall compute, of those registered with
            transformers; None for the model's own.

    Attributes:
        body: The Hugging Face model of plain modules.
        places: How to listen to a residual stream, by the name of its hook.
        slots: Every parameter of the bridge, as (dictionary, name).
        checked: Stamp of the weights at which both were compared.
        same: What was the same then: ``"logits"`` and names of hooks.
    """

    def __init__(self, model: Any, attention: str | None) -> None:
        self._attention = attention
        self._configs: dict[int, Any] = {}
        known: dict[int, nn.Module] = {}
        skipped: list[nn.Module] = []
        self.body = self._plain(model.original_model, known, skipped)
        self.places = _places(model, known)
        kept = {id(module) for module in self.body.modules()}
        # Hooks on modules that it leaves out would not be called. The modules themselves are not
        # kept: the bridge is among them, and would never go.
        skipped += [m for m in model.modules() if id(m) not in kept]
        self._hooks = [h for m in skipped for h in (m._forward_hooks, m._forward_pre_hooks)]
        self._seen: tuple[int, int] = (-1, -1)
        self._quiet = False
        self.slots = [(m._parameters, name) for m in model.modules() for name in m._parameters]
        self.checked: tuple[Any, ...] | None = None
        self.same: set[str] = set()

    def _plain(
        self, module: nn.Module, known: dict[int, nn.Module], skipped: list[nn.Module]
    ) -> nn.Module:
        while (original := getattr(module, "original_component", None)) is not None:
            skipped.append(module)
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
                name: child if child is None else self._plain(child, known, skipped)
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

    @contextmanager
    def listening(self, capture: Mapping[str, Sink]) -> Iterator[None]:
        """Hand residual streams to ``capture`` for as long as this lasts."""
        with ExitStack() as stack:
            for name, sink in capture.items():
                stack.callback(self.places[name](sink).remove)
            yield

    def compare(self, model: Any) -> set[str]:
        """Return what the bridge and its twin give alike in a short trial."""
        ids = torch.arange(_CHECKED_TOKENS, device=input_device(model)) % int(model.cfg.d_vocab)
        if "pos_embed" in model._modules:
            model.pos_embed._current_batch_size = 1
        heard: tuple[dict[str, Tensor], dict[str, Tensor]] = ({}, {})
        known = model.hook_dict
        names = [name for name in self.places if name in known]
        hooks = [(name, partial(_note, heard[0], name)) for name in names]
        sinks = {name: partial(heard[1].__setitem__, name) for name in names}
        with torch.no_grad():
            with model.hooks(fwd_hooks=hooks):
                heard[0]["logits"] = model.original_model(input_ids=ids[None]).logits
            with self.listening(sinks):
                heard[1]["logits"] = self.body(input_ids=ids[None]).logits
        both = heard[0].keys() & heard[1].keys()
        return {name for name in both if near(heard[0][name], heard[1][name])}


def _places(model: Any, twins: Mapping[int, nn.Module]) -> dict[str, Callable[[Sink], Any]]:
    """Find the twins of the blocks, which give and take the residual stream, and of q and k."""
    places: dict[str, Callable[[Sink], Any]] = {}

    def twin_of(bridge: Any) -> nn.Module | None:
        return twins.get(id(getattr(bridge, "original_component", None)))

    for layer, bridge in enumerate(getattr(model, "blocks", ())):
        if (block := twin_of(bridge)) is not None:
            places[f"blocks.{layer}.hook_resid_pre"] = partial(_on_input, block)
            places[f"blocks.{layer}.hook_resid_post"] = partial(_on_output, block)
        for name in ("q", "k"):
            projection = twin_of(getattr(getattr(bridge, "attn", None), name, None))
            if projection is not None:
                place = partial(_on_heads, projection, int(model.cfg.d_head))
                places[f"blocks.{layer}.attn.hook_{name}"] = place
    return places


def _on_input(block: nn.Module, sink: Sink) -> Any:
    def hook(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:  # noqa: ARG001
        sink(args[0] if args else kwargs["hidden_states"])

    return block.register_forward_pre_hook(hook, with_kwargs=True)


def _on_output(block: nn.Module, sink: Sink) -> Any:
    def hook(module: nn.Module, args: tuple[Any, ...], out: Any) -> None:  # noqa: ARG001
        sink(out[0] if isinstance(out, tuple) else out)

    return block.register_forward_hook(hook)


def _on_heads(projection: nn.Module, d_head: int, sink: Sink) -> Any:
    def hook(module: nn.Module, args: tuple[Any, ...], out: Tensor) -> None:  # noqa: ARG001
        sink(out.unflatten(-1, (-1, d_head)))

    return projection.register_forward_hook(hook)


def _note(heard: dict[str, Tensor], name: str, activation: Tensor, hook: Any) -> None:  # noqa: ARG001
    heard[name] = activation


def near(hooked: Float[Tensor, "..."], plain: Float[Tensor, "..."]) -> bool:
    """Whether activations differ by no more than rounding."""
    tolerance = _TOLERANCE.get(hooked.dtype, _HALF_TOLERANCE)
    same_shape = hooked.shape == plain.shape
    return same_shape and bool((hooked - plain).abs().max() <= tolerance * hooked.abs().max())


_TWINS: "WeakKeyDictionary[Any, dict[str | None, Plain | None]]" = WeakKeyDictionary()


def plain_model(model: Model, names: Collection[str] = (), *, n_scores: int = 0) -> Plain | None:
    """Return a bridge's model without hooks; None where that would not be it.

    It is not where somebody listens to a hook, where modules were moved between devices by
    accelerate, or where the logits of a short trial differ, as they do after weights were
    processed. The trial is repeated when weights change.

    Args:
        model: A ``TransformerBridge``.
        names: Hooks whose activations it must be able to give: residual streams, queries and keys.
        n_scores: How many attention scores a layer will have; of many none is written down.
    """
    wanted = {"logits", *names}
    for attention in ("sdpa", None) if n_scores >= _MANY_SCORES and _in_pieces(model) else (None,):
        twin = _checked(model, attention, lambda twin: twin.compare(model))
        if twin and twin.same.issuperset(wanted):
            return twin
    return None


def _in_pieces(model: Any) -> bool:
    """Whether torch's attention is the model's own: it knows nothing of caps (Gemma 2)."""
    hf = model.original_model
    capped = getattr(hf.config.get_text_config(), "attn_logit_softcapping", None)
    return bool(getattr(hf, "_supports_sdpa", False)) and not capped


def trusted_body(
    model: Model, attention: str, same_logits: Callable[[Any, Any], bool]
) -> Any | None:
    """Return the twin of a bridge that computes its attention in another way, as ``plain_model``.

    Args:
        model: A ``TransformerBridge``.
        attention: A name registered with transformers.
        same_logits: The trial, of the bridge and the twin.
    """

    def compare(twin: Plain) -> set[str]:
        return {"logits"} if same_logits(model, twin.body) else set()

    twin = _checked(model, attention, compare)
    return twin.body if twin and twin.same else None


def _checked(
    model: Model, attention: str | None, compare: Callable[[Plain], set[str]]
) -> Plain | None:
    """Return a twin that nobody listens past, compared at the weights as they are."""
    twins = _TWINS.setdefault(model, {})
    if attention not in twins:
        twins[attention] = _twin_of(model, attention)
    twin = twins[attention]
    if twin is None or not twin.is_quiet:
        return None
    now = twin.stamp()
    if twin.checked != now:
        twin.checked, twin.same = now, compare(twin)
    return twin


def _twin_of(model: Any, attention: str | None) -> Plain | None:
    moved = any("_hf_hook" in m.__dict__ for m in model.original_model.modules())
    stateful = getattr(model.cfg, "is_stateful", False)
    return None if moved or stateful else Plain(model, attention)
