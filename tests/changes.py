"""Ways to change a model between two calls: its weights, its modules, their attributes.

No line here knows mechprobe. Each way is done as users do it, through the Hugging Face model or the
TransformerLens model, and undone where that is cheap. What surrounds a model (hooks, types,
adapters, configuration) is in ``changes_around``.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

Undo = Callable[[], object]
BRIDGES = ("llama", "gpt2")
EVERY = ("llama", "gpt2", "hooked")
# Where a bridge of GPT-2 would tell no more than one of Llama.
UNPACKED = ("llama", "hooked")


class Parts:
    """The places of a model that users change, by one name for every kind of model."""

    def __init__(self, model: Any) -> None:
        self.model = model
        self.hf: Any = model.original_model if hasattr(type(model), "original_model") else None
        self.kept: dict[str, Any] = {}

    @property
    def root(self) -> Any:
        """What is called with ids."""
        return self.model if self.hf is None else self.hf

    @property
    def base(self) -> Any:
        """The Hugging Face model without its unembedding."""
        return self.root.base_model

    @property
    def layers(self) -> Any:
        if self.hf is None:
            return self.model.blocks
        return self.base.layers if hasattr(self.base, "layers") else self.base.h

    @property
    def norm(self) -> Any:
        if self.hf is None:
            return self.model.ln_final
        return self.base.norm if hasattr(self.base, "norm") else self.base.ln_f

    @property
    def head(self) -> Any:
        return self.model.unembed if self.hf is None else self.hf.lm_head

    def attention(self, layer: int) -> Any:
        block = inner(self.layers[layer])
        return block.self_attn if hasattr(block, "self_attn") else block.attn

    def mlp(self, layer: int) -> Any:
        return inner(self.layers[layer]).mlp

    def owner(self, name: str, layer: int = 0) -> tuple[Any, str]:
        """Return the module that owns a weight, and the weight's name there."""
        if name == "embed":
            embed = self.model.embed if self.hf is None else self.hf.get_input_embeddings()
            return inner(embed), "W_E" if self.hf is None else "weight"
        if name == "norm":
            return inner(self.norm), "w" if self.hf is None else "weight"
        if name == "head":
            return inner(self.head), "W_U" if self.hf is None else "weight"
        part = inner(self.mlp(layer) if name.startswith("mlp") else self.attention(layer))
        if self.hf is None:
            return part, {"mlp_in": "W_in", "mlp_out": "W_out", "attn_out": "W_O"}[name]
        names = {"mlp_in": ("up_proj", "c_fc"), "mlp_out": ("down_proj", "c_proj"),
                 "attn_out": ("o_proj", "c_proj")}[name]  # fmt: skip
        return inner(next(getattr(part, n) for n in names if hasattr(part, n))), "weight"

    def weight(self, name: str, layer: int = 0) -> nn.Parameter:
        return getattr(*self.owner(name, layer))


def inner(module: Any) -> Any:
    """Return the user's module behind TransformerLens' wrappers."""
    while (original := getattr(module, "original_component", None)) is not None:
        module = original
    return module


@dataclass(frozen=True)
class Change:
    """One way to change a model.

    Attributes:
        name: What it is called.
        apply: Does it; returns how to undo it, or None.
        setup: What is done before the first call.
        kinds: Kinds of model that it can be done to.
        moves: Whether the model's own logits change; None where it depends.
        told: Whether the record must tell that something is not as it was.
        weights: Whether the weights are the file's no more.
        refusal: What a refusal says, where one is allowed.
        refused: Whether every call that runs the model must refuse.
        everywhere: It is a change of a class or of torch, made once for all models.
    """

    name: str
    apply: Callable[[Parts], Undo | None]
    setup: Callable[[Parts], object] | None = None
    kinds: tuple[str, ...] = EVERY
    moves: bool | None = True
    told: bool = True
    weights: bool = False
    refusal: str = ""
    refused: bool = False
    everywhere: bool = False


class Zero(nn.Module):
    """Takes the place of a part that adds to the residual stream."""

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:  # noqa: ARG002
        return torch.zeros_like(x)


class Scaled(nn.Module):
    """A part times a number that is kept in one of many ways."""

    def __init__(self, part: nn.Module, factor: Any, read: Callable[[Any], Any] = float) -> None:
        super().__init__()
        self.part, self.factor, self.read = part, factor, read

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        return self.part(x, *args, **kwargs) * self.read(self.factor)


class Meek(nn.Module):
    """Has no parameters; ``part`` is what it was before."""

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:  # noqa: ARG002
        return 0.1 * x.tanh()


def put(owner: Any, name: str, value: Any) -> Undo:
    """Set an attribute as users do, and return how to set it back."""
    before = getattr(owner, name)
    setattr(owner, name, value)
    return lambda: setattr(owner, name, before)


def in_place(name: str, write: Callable[[Tensor], object], layer: int = 0) -> Any:
    """Return a change that writes to a weight, and copies its values back."""

    def apply(parts: Parts) -> Undo:
        weight = parts.weight(name, layer)
        before = weight.detach().clone()
        write(weight)
        return lambda: weight.data.copy_(before)

    return apply


@torch.no_grad()
def _multiply(weight: Tensor) -> None:
    weight.mul_(-1.5)


def _element(weight: Tensor) -> None:
    weight.data[0, 0] += 60.0


def _permute(weight: Tensor) -> None:
    weight.data.copy_(weight.data.flip(0))


def _swap_pair(weight: Tensor) -> None:
    """Two elements, so that neither sum nor norm tells."""
    flat = weight.data.view(-1)
    low, high = int(flat.argmin()), int(flat.argmax())
    flat[low], flat[high] = float(flat[high]), float(flat[low])


def _replace_parameter(parts: Parts) -> Undo:
    owner, name = parts.owner("mlp_out")
    return put(owner, name, nn.Parameter(getattr(owner, name).detach() * -1.5))


def _assign_data(parts: Parts) -> Undo:
    return put(parts.weight("attn_out"), "data", parts.weight("attn_out").data * 2.5)


def _write_through_numpy(parts: Parts) -> Undo:
    """No version counter of torch sees this."""
    values: Any = parts.weight("mlp_out", 1).detach().numpy()
    before = values.copy()
    values *= -1.5
    return lambda: values.__setitem__(..., before)


def load_state(*, assign: bool) -> Any:
    def apply(parts: Parts) -> Undo:
        before = {k: v.clone() for k, v in parts.root.state_dict().items()}
        owned = {parts.weight("mlp_out", i).data_ptr() for i in (0, 1)}
        mine = {k for k, v in parts.root.state_dict().items() if v.data_ptr() in owned}
        assert mine
        new = {k: v * -1.5 if k in mine else v for k, v in before.items()}
        parts.root.load_state_dict(new, assign=assign)
        return lambda: parts.root.load_state_dict(before)

    return apply


def _untie_head(parts: Parts) -> Undo:
    owner, name = parts.owner("head")
    return put(owner, name, nn.Parameter(getattr(owner, name).detach().clone() * 1.25))


def _replace_head(parts: Parts) -> Undo:
    old = inner(parts.head)
    new = nn.Linear(old.in_features, old.out_features, bias=False)
    new.weight.data.copy_(old.weight.flip(0))
    return put(parts.hf, "lm_head", new.requires_grad_(False))


def _tie(parts: Parts) -> Undo:
    return put(inner(parts.head), "weight", parts.weight("embed"))


def _add_bias(parts: Parts) -> Undo:
    owner, _ = parts.owner("mlp_out")
    return put(owner, "bias", nn.Parameter(torch.linspace(-2, 2, owner.out_features)))


class _Negated(nn.Module):
    def forward(self, weight: Tensor) -> Tensor:
        return -1.5 * weight


def _parametrise(parts: Parts) -> Undo:
    from torch.nn.utils import parametrize

    owner, name = parts.owner("mlp_out")
    parametrize.register_parametrization(owner, name, _Negated())
    return lambda: parametrize.remove_parametrizations(owner, name, leave_parametrized=False)


def _rotary(parts: Parts) -> Any:
    return inner(parts.base.rotary_emb)


def _buffer_replaced(parts: Parts) -> Undo:
    return put(_rotary(parts), "inv_freq", _rotary(parts).inv_freq * 0.2)


def _buffer_data(parts: Parts) -> Undo:
    if parts.hf is None:
        buffer = parts.attention(0).rotary_sin
        buffer.data.mul_(-1)
        return lambda: buffer.data.mul_(-1)
    buffer = _rotary(parts).inv_freq
    before = buffer.clone()
    buffer.data.mul_(0.2)
    return lambda: buffer.data.copy_(before)


def mlp_becomes(make: Callable[[Any], nn.Module]) -> Callable[[Parts], Undo]:
    """Return a change that puts something in the place of an MLP."""

    def apply(parts: Parts) -> Undo:
        old = parts.mlp(1)
        parts.layers[1].mlp = make(old)
        return lambda: setattr(parts.layers[1], "mlp", old)

    return apply


def _swap_layers(parts: Parts) -> Undo:
    layers = parts.layers
    layers[0], layers[1] = layers[1], layers[0]
    return lambda: _swap_layers(parts)


def _drop_layer(parts: Parts) -> Undo:
    last = parts.layers[-1]
    del parts.layers[-1]
    return lambda: parts.layers.append(last)


def _activation(parts: Parts) -> Undo:
    mlp = inner(parts.mlp(0))
    name = "act_fn" if hasattr(mlp, "act_fn") else "act"
    return put(mlp, name, nn.Tanh() if parts.hf is not None else torch.tanh)


def _other_class(parts: Parts) -> Undo:
    mlp = inner(parts.mlp(1))
    own = type(mlp)

    def forward(self: Any, x: Tensor) -> Tensor:
        return 0.25 * own.forward(self, x)

    return put(mlp, "__class__", type("Quarter", (own,), {"forward": forward}))


WEIGHTS = (
    Change("weight_in_place", in_place("mlp_out", _multiply), weights=True),
    Change("one_element_by_data", in_place("attn_out", _element), weights=True),
    Change("data_times", in_place("attn_out", lambda w: w.data.mul_(-2)), weights=True),
    Change("rows_permuted_by_data", in_place("mlp_in", _permute), weights=True),
    Change("two_elements_swapped", in_place("attn_out", _swap_pair), kinds=UNPACKED, weights=True),
    Change("written_through_numpy", _write_through_numpy, kinds=UNPACKED, weights=True),
    Change("parameter_replaced", _replace_parameter, weights=True),
    Change("data_assigned", _assign_data, kinds=UNPACKED, weights=True),
    Change("state_loaded", load_state(assign=False), weights=True),
    Change("state_assigned", load_state(assign=True), kinds=UNPACKED, weights=True),
    Change("head_untied", _untie_head, weights=True),
    Change("head_module_replaced", _replace_head, kinds=BRIDGES, weights=True,
           refusal=r"unembed|read-out|final norm|lm_head"),
    Change("head_tied", _tie, kinds=("llama",), weights=True),
    Change("embedding_scaled", in_place("embed", lambda w: w.data.mul_(1.5)), weights=True),
    Change("last_norm_scaled", in_place("norm", lambda w: w.data.mul_(0.5)), weights=True),
    Change("bias_added", _add_bias, kinds=("llama",), weights=True),
    Change("parametrised", _parametrise, kinds=BRIDGES, weights=True),
    Change("buffer_replaced", _buffer_replaced, kinds=("llama",)),
    Change("buffer_by_data", _buffer_data, kinds=("llama", "hooked")),
)  # fmt: skip

MODULES = (
    Change("mlp_replaced", mlp_becomes(lambda _: Zero())),
    Change("mlp_wrapped", mlp_becomes(lambda mlp: Scaled(mlp, 0.5))),
    Change("mlp_removed", mlp_becomes(lambda _: nn.Identity())),
    Change("mlp_without_weights", mlp_becomes(lambda _: Meek()), kinds=UNPACKED),
    Change("layers_swapped", _swap_layers, refusal=r"layer|block|order"),
    Change("layer_dropped", _drop_layer, refusal=r"layer|block"),
    Change("activation_replaced", _activation),
    Change("class_reassigned", _other_class),
)
