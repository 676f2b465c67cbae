"""Ways to change a model between two calls: plain attributes, adapters, quantised weights."""

import warnings
from collections.abc import Callable
from copy import deepcopy
from operator import attrgetter, itemgetter
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn

from tests.changes import BRIDGES, UNPACKED, Change, Parts, Scaled, Undo, inner, put


def _scaling(parts: Parts) -> Undo:
    attention = parts.attention(0)
    if parts.hf is None:
        return put(attention, "attn_scale", attention.attn_scale * 8)
    return put(attention, "scaling", attention.scaling * 0.1)


def _epsilon(parts: Parts) -> Undo:
    norm = inner(parts.norm)
    return put(norm, "variance_epsilon" if hasattr(norm, "variance_epsilon") else "eps", 1e3)


def _inner_epsilon(parts: Parts) -> Undo:
    block = inner(parts.layers[0])
    norm = next(inner(getattr(block, n)) for n in ("post_attention_layernorm", "ln_2", "ln2")
                if hasattr(block, n))  # fmt: skip
    return put(norm, "variance_epsilon" if hasattr(norm, "variance_epsilon") else "eps", 1e3)


def kept_scaled(factor: Callable[[], Any], read: Callable[[Any], Any]) -> Any:
    """Return a setup: an MLP times a number, kept where ``factor`` puts it."""

    def setup(parts: Parts) -> None:
        parts.kept["scaled"] = scaled = Scaled(parts.mlp(1), factor(), read)
        parts.layers[1].mlp = scaled

    return setup


def rescale(write: Callable[[Any], Undo]) -> Callable[[Parts], Undo]:
    return lambda parts: write(parts.kept["scaled"])


def _put_item(held: Any, key: Any) -> Undo:
    held[key] = -2.0
    return lambda: held.__setitem__(key, 0.5)


def _set_item(key: Any) -> Callable[[Any], Undo]:
    return lambda scaled: _put_item(scaled.factor, key)


def _first_of_first(factor: Any) -> Any:
    return factor[0][0]


def _fill(scaled: Any) -> Undo:
    scaled.factor.data.fill_(-2.0)
    return lambda: scaled.factor.data.fill_(0.5)


def _kept(name: str, factor: Any, write: Callable[[Any], Undo], read: Callable[[Any], Any] = float) -> Change:
    """Return a change of what an MLP is multiplied by; ``factor`` makes it anew each time."""
    setup = kept_scaled(lambda: deepcopy(factor), read)
    return Change(name, rescale(write), setup, kinds=UNPACKED)


def _one(_: Any) -> float:
    return 0.5


def _other(_: Any) -> float:
    return -2.0


def _adapt(parts: Parts) -> None:
    from peft import LoraConfig, inject_adapter_in_model

    torch.manual_seed(3)
    config = LoraConfig(
        r=2, lora_alpha=16, target_modules=r".*mlp.*down_proj.*_original_component",
        init_lora_weights=False,
    )  # fmt: skip
    inject_adapter_in_model(config, parts.hf)
    parts.hf.eval()


def adapters(parts: Parts) -> list[Any]:
    return [m for m in parts.hf.modules() if "lora_A" in m._modules]


def _each_adapter(change: Callable[[Any], object]) -> Callable[[Parts], None]:
    def apply(parts: Parts) -> None:
        found = adapters(parts)
        assert found
        for layer in found:
            change(layer)

    return apply


class Int8(nn.Module):
    """A linear layer in eight bits, as quantising libraries make them."""

    codes: Tensor

    def __init__(self, linear: Any) -> None:
        super().__init__()
        weight = linear.weight.detach()
        weight = weight if isinstance(linear, nn.Linear) else weight.T
        self.step = float(weight.abs().max()) / 127
        self.register_buffer("codes", (weight / self.step).round().to(torch.int8))
        self.bias = linear.bias

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.linear(x, self.codes.to(x.dtype) * self.step, self.bias)


def _quantise(parts: Parts) -> Undo:
    mlp = inner(parts.mlp(1))
    name = "down_proj" if hasattr(mlp, "down_proj") else "c_proj"
    old = getattr(mlp, name)
    parts.kept["int8"] = Int8(inner(old))
    setattr(mlp, name, parts.kept["int8"])
    return lambda: setattr(mlp, name, old)


def _codes(parts: Parts) -> Undo:
    codes = parts.kept["int8"].codes
    codes.data.neg_()
    return codes.data.neg_


def _dynamic(parts: Parts) -> Undo:
    from torch.ao.nn.quantized import dynamic
    from torch.ao.quantization import default_dynamic_qconfig

    mlp = inner(parts.mlp(1))
    old = mlp.down_proj
    linear = inner(old)
    linear.qconfig = default_dynamic_qconfig
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        mlp.down_proj = dynamic.Linear.from_float(linear)
    return lambda: setattr(mlp, "down_proj", old)


ATTRIBUTES = (
    # A bridge of GPT-2 computes norms and attention itself: nothing may come of these there.
    Change("attention_scaling", _scaling, moves=None, refusal="attention scores"),
    Change("last_norm_epsilon", _epsilon, moves=None),
    Change("inner_norm_epsilon", _inner_epsilon, moves=None),
    _kept("plain_number", 0.5, lambda s: put(s, "factor", -2.0)),
    _kept("list_in_place", [0.5], _set_item(0), itemgetter(0)),
    _kept("dict_in_place", {"by": 0.5}, _set_item("by"), itemgetter("by")),
    _kept("nested_in_place", [[0.5]], lambda s: _put_item(s.factor[0], 0), _first_of_first),
    _kept("loose_tensor_by_data", torch.tensor([0.5]), _fill, itemgetter(slice(None))),
    _kept("object_attribute", SimpleNamespace(by=0.5), lambda s: put(s.factor, "by", -2.0),
          attrgetter("by")),
    _kept("closure", None, lambda s: put(s, "read", _other), _one),
)  # fmt: skip

ADAPTERS = (
    Change("lora", _adapt, kinds=("llama",)),
    Change("lora_scaling", _each_adapter(lambda a: a.scaling.update(default=-9.0)), _adapt,
           kinds=("llama",)),
    Change("lora_weight", _each_adapter(lambda a: a.lora_B["default"].weight.data.neg_()), _adapt,
           kinds=("llama",)),
    Change("lora_disabled", _each_adapter(lambda a: a.enable_adapters(False)), _adapt,
           kinds=("llama",)),
    Change("lora_merged", _each_adapter(lambda a: a.merge()), _adapt, kinds=("llama",),
           moves=False, weights=True),
    Change("int8_linear", _quantise, kinds=BRIDGES),
    Change("int8_codes", _codes, _quantise, kinds=BRIDGES),
    Change("dynamic_quantised", _dynamic, kinds=("llama",)),
)  # fmt: skip
