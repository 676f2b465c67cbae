"""A bridge's Hugging Face model without its hooks, for passes that need none or only a few.

Hooks that nobody uses cost a fifth of a pass of a small model, word by word, and all scores of a
long pass, written down for a hook, half of it. The twin has modules of its own around the model's
weights. It is run only where nothing but the libraries has a say in the model's answers, and only
for kinds of passes in which it was seen to give what the model itself gives (``models.run``).
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from copy import copy, deepcopy
from dataclasses import dataclass
from functools import partial
from types import MethodType
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from mechprobe.models.internals import KEY, QUERY, attention_name, blocks, hugging_face, original, stream_name
from mechprobe.models.protocol import Sink, is_bridge
from mechprobe.models.session import Session

_CONTAINERS = (dict, list, set)
# Of one layer: from here on it costs more to write them down than to go over them in pieces.
_MANY_SCORES = 2**20
# Both run the same operations, in float32 at least to rounding; of the largest number of a row.
_TOLERANCE = {torch.float64: 1e-10, torch.float32: 1e-4}
_HALF_TOLERANCE = 3e-2


@dataclass(frozen=True, slots=True)
class Kind:
    """What a pass has that may lead it along another path of a model.

    Attributes:
        attention: Which attention the twin computes; None for the model's own.
        several: More than one row.
        padded: A mask with padding.
        placed: Positions are given.
        cached: It goes on from keys and values.
        keeps: It keeps keys and values.
        beyond: It is longer than the narrowest layer sees.
    """

    attention: str | None
    several: bool
    padded: bool
    placed: bool
    cached: bool
    keeps: bool
    beyond: bool


class Twin:
    """Modules of our own around a model's weights.

    Args:
        model: The bridge.
        attention: Name of the attention to compute, of those registered with transformers; None
            for the model's own.

    Attributes:
        body: The Hugging Face model of plain modules.
        places: How to listen to an activation, by the name of its hook.
    """

    def __init__(self, model: Any, attention: str | None) -> None:
        self._attention = attention
        self._configs: dict[int, Any] = {}
        known: dict[int, nn.Module] = {}
        self.body = self._copied(hugging_face(model), known)
        self.places = _places(model, known)

    def _copied(self, module: nn.Module, known: dict[int, nn.Module]) -> nn.Module:
        module = original(module)
        if type(module).__name__ == "NewGELUActivation":
            # The same function, in one operation instead of eight.
            return nn.GELU(approximate="tanh")
        if id(module) not in known:
            known[id(module)] = twin = copy(module)
            own = twin.__dict__
            for name, value in own.items():
                if isinstance(value, _CONTAINERS):
                    # Nothing that a pass writes may reach the model; hooks stay with the model.
                    own[name] = type(value)() if name.endswith("_hooks") else copy(value)
                elif isinstance(value, MethodType) and value.__self__ is module:
                    own[name] = MethodType(value.__func__, twin)
            own.pop("_compiled_call_impl", None)  # which would call the model's own module
            if "config" in own:
                own["config"] = self._config(own["config"])
            twin._modules = {
                name: child if child is None else self._copied(child, known)
                for name, child in module._modules.items()
            }
        return known[id(module)]

    def _config(self, config: Any) -> Any:
        """Return a copy that asks for no more than is read, one for all modules that share it."""
        if id(config) not in self._configs:
            self._configs[id(config)] = twin = deepcopy(config)
            asked = twin._attn_implementation if self._attention is None else self._attention
            twin.output_hidden_states = twin.output_attentions = False
            twin._attn_implementation = asked
        return self._configs[id(config)]

    @contextmanager
    def listening(self, capture: Mapping[str, Sink]) -> Iterator[None]:
        """Hand activations to ``capture`` for as long as this lasts."""
        with ExitStack() as stack:
            for name, sink in capture.items():
                stack.callback(self.places[name](sink).remove)
            yield


def twin_of(session: Session, attention: str | None) -> Twin | None:
    """Return the twin that computes an attention; None for a model that can have none."""
    if not is_bridge(session.model) or not session.fingerprint.is_calm:
        return None
    if getattr(session.cfg, "is_stateful", False):
        return None
    return session.fact(("twin", attention), lambda: _made(session.model, attention))


def _made(model: Any, attention: str | None) -> Twin | None:
    try:
        return Twin(model, attention)
    except RuntimeError:
        return None  # torch lets no module be copied whose weights are computed (parametrize)


def attention_for(session: Session, n_scores: int) -> str | None:
    """Return which attention a twin should compute; None for the model's own.

    Of many scores none is written down, where torch's attention is the model's own: it knows
    nothing of caps (Gemma 2).

    Args:
        session: The model.
        n_scores: How many attention scores a layer will have.
    """
    hf = hugging_face(session.model)
    if hf is None or n_scores < _MANY_SCORES or not getattr(hf, "_supports_sdpa", False):
        return None
    capped = getattr(hf.config.get_text_config(), "attn_logit_softcapping", None)
    return None if capped else "sdpa"


def _places(model: Any, twins: Mapping[int, nn.Module]) -> dict[str, Callable[[Sink], Any]]:
    """Find the twins of the blocks, which give and take the residual stream, and of q and k."""
    places: dict[str, Callable[[Sink], Any]] = {}
    known = model.hook_dict

    def twin_of_part(bridge: Any) -> nn.Module | None:
        return None if bridge is None else twins.get(id(original(bridge)))

    for layer, bridge in enumerate(blocks(model)):
        if (block := twin_of_part(bridge)) is not None:
            if layer == 0:
                places[stream_name(-1)] = partial(_on_input, block)
            places[stream_name(layer)] = partial(_on_output, block)
        for name, part in ((QUERY, "q"), (KEY, "k")):
            projection = twin_of_part(getattr(getattr(bridge, "attn", None), part, None))
            if projection is not None:
                place = partial(_on_heads, projection, int(model.cfg.d_head))
                places[attention_name(layer, name)] = place
    return {name: place for name, place in places.items() if name in known}


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


def near(own: Float[Tensor, "row ..."], other: Float[Tensor, "other ..."]) -> bool:
    """Whether every row of two activations differs by no more than rounding."""
    if own.shape != other.shape:
        return False
    tolerance = _TOLERANCE.get(own.dtype, _HALF_TOLERANCE)
    own, other = own.flatten(1), other.to(own).flatten(1)
    largest = own.abs().amax(1)
    return bool(((own - other).abs().amax(1) <= tolerance * largest).all())
