"""What mechprobe knows of how TransformerLens builds a model: names, parts, notes, own hooks.

No other room names a hook or a module. Each entry has a test of its own, so that an upgrade of
TransformerLens that changes one of them fails there, by name.
"""

from collections.abc import Callable, Iterable, Iterator
from functools import cache
from inspect import unwrap
from types import FunctionType
from typing import Any

import torch
from torch import Tensor, nn

from mechprobe.models.protocol import model_name

EMBEDDING = -1
"""The layer before the first block: the residual stream that block 0 reads."""

HEAD_OUTPUT = "hook_z"
"""What a head adds to, before its output matrix: ``[batch, pos, head, d_head]``."""

PATTERN = "hook_pattern"
"""Attention weights: ``[batch, head, query, key]``."""

WRAPPED = "_original_component"
"""Under which a component of a bridge keeps the plain module."""

QUERY, KEY, SCORES = "hook_q", "hook_k", "hook_attn_scores"
ROTATED = ("hook_rot_q", "hook_rot_k")
NORMED = ("hook_q_normed", "hook_k_normed")

# Libraries whose modules answer by what can be seen of them: attributes, weights, buffers.
_LIBRARIES = frozenset({"torch", "transformers", "transformers_modules", "transformer_lens", "peft"})
# A bridge listens to itself, to hand activations to hooks that are not there, and transformers does
# to return hidden states. Neither changes what is computed.
_LISTENERS = ("transformer_lens.model_bridge.", "transformers.utils.output_capturing")

NOTES = frozenset(
    {
        # What both libraries write down of a pass, or of having hooks in place.
        "_output_capturing_hooks_installed",
        "_capture_hooks_wired",
        "_capture_hook_handles",
        "_fired_hook_out",
        "_suppress_next_hook_in",
        "_pattern",
        "_attn_scores",
        "_current_batch_size",
        "_captured_pre_ln_residual",
        "_block_alias_cache",
        "_hook_cache",
        "_last_hf_cache",
        "context_level",
        "_conversion_state",
        "_derived_position_ids_ok",
    }
)

RECIPES = frozenset(
    {
        # Where a bridge finds its parts by name, and how it built them.
        "_hook_registry",
        "_hook_alias_registry",
        "_property_alias_registry",
        "real_components",
        "submodules",
        "_n_params_total",
        "_is_hf_initialized",
        "_hf_forward_wrapped",
        "_hook_registry_initialized",
        "_capture_hf_cache",
        "adapter",
        "_driver",
        "mod_dict",
        "hook_dict",
        "_weight_conversions",
        # Names of places and versions.
        "_name_or_path",
        "name_or_path",
        "model_name",
        "tokenizer_name",
        "_commit_hash",
        "transformers_version",
        # Text, not logits; digested apart.
        "_tokenizer",
        "tokenizer",
        "processor",
        "generation_config",
    }
)


def stream_name(layer: int, stream: str = "resid_post") -> str:
    """Return the activation that a stream is after a block; layer -1 is the embedding."""
    return "blocks.0.hook_resid_pre" if layer == EMBEDDING else f"blocks.{layer}.hook_{stream}"


def stream_names(model: Any, layers: Iterable[int], stream: str = "resid_post") -> list[str]:
    """Return the activation to read for each layer.

    Raises:
        NotImplementedError: A stream that this architecture does not have.
    """
    names = [stream_name(layer, stream) for layer in layers]
    known = model.hook_dict if names else {}
    missing = [name for name in names if name not in known]
    if missing:
        why = (
            "its attention and MLP read the same residual stream in parallel, so there is none between them"
            if stream == "resid_mid"
            else "its blocks are built differently"
        )
        msg = f"{model_name(model)} has no {missing[0]}: {why}. Use stream='resid_post'."
        raise NotImplementedError(msg)
    return names


def last_stream(model: Any) -> str:
    """Return the residual stream that the final norm reads."""
    return stream_name(int(model.cfg.n_layers) - 1)


def attention_name(layer: int, hook: str) -> str:
    """Return an activation of a layer's attention: ``PATTERN``, ``HEAD_OUTPUT``, ..."""
    return f"blocks.{layer}.attn.{hook}"


def attention_hooks(model: Any) -> set[str]:
    """Return which activations the attention of block 0 has a name for."""
    start = attention_name(0, "hook")
    return {name.rsplit(".", 1)[1] for name in model.hook_dict if name.startswith(start)}


def hugging_face(model: Any) -> Any:
    """Return the Hugging Face model inside a bridge; None in a ``HookedTransformer``."""
    return getattr(model, "original_model", None)


def roots(model: Any) -> list[nn.Module]:
    """Return the modules from which all of a model can be reached."""
    inner = hugging_face(model)
    return [model] if inner is None else [model, inner]


def blocks(model: Any) -> list[nn.Module]:
    """Return the blocks, in order."""
    return list(getattr(model, "blocks", ()))


def block_names(model: Any) -> list[str]:
    """Return what activations of each block are named after, in the order in which blocks run."""
    points = [next(filter(is_hook_point, block.modules()), None) for block in blocks(model)]
    return [".".join(str(getattr(p, "name", p)).split(".")[:2]) for p in points]


def attention(model: Any, layer: int) -> Any:
    """Return the attention of a block."""
    return model.blocks[layer].attn


def final_norm(model: Any) -> nn.Module | None:
    """Return the norm before the unembedding; None where the model has none, or it is folded."""
    has_norm = getattr(model.cfg, "normalization_type", None) is not None
    return model._modules.get("ln_final") if has_norm else None


def first_norm(block: Any) -> nn.Module | None:
    """Return the norm before a block's attention."""
    return getattr(block, "ln1", None)


def original(module: Any) -> Any:
    """Return the plain module inside a component of a bridge, or the module itself."""
    while (inner := getattr(module, "original_component", None)) is not None:
        module = inner
    return module


def expand_positions(model: Any, n_rows: int) -> None:
    """Tell a bridge how many rows come: learned positions are embedded for one and repeated."""
    if "pos_embed" in model._modules:
        model.pos_embed._current_batch_size = n_rows


def of_library(function: Any) -> bool:
    """Whether a function, or the class of a module, comes with one of the libraries."""
    while inner := getattr(function, "func", None) or getattr(function, "__func__", None):
        function = inner  # of a partial, of a method
    return str(getattr(function, "__module__", "")).partition(".")[0] in _LIBRARIES


def only_listens(hook: Callable[..., Any]) -> bool:
    """Whether a forward hook is one of the libraries' own, which hear and change nothing."""
    inside = _asked_for(hook)
    if inside is not None:
        return of_library(inside)
    return str(getattr(hook, "__module__", "")).startswith(_LISTENERS)


def _asked_for(hook: Callable[..., Any]) -> Callable[..., Any] | None:
    """Return the function that a hook point's wrapper calls."""
    code, cells = getattr(hook, "__code__", None), getattr(hook, "__closure__", None)
    if getattr(hook, "__module__", "") != "transformer_lens.hook_points" or code is None:
        return None
    found = dict(zip(code.co_freevars, cells or (), strict=True)).get("hook")
    return None if found is None else found.cell_contents


@cache
def heeds_training(kind: type) -> bool:
    """Whether a class of modules may answer otherwise in training mode: its code asks for it."""
    own = [c for c in kind.__mro__ if issubclass(c, nn.Module) and c is not nn.Module]
    functions = [f for c in own for f in vars(c).values() if isinstance(f, FunctionType)]
    return any("training" in f.__code__.co_names for f in map(unwrap, functions))


def is_hook_point(module: nn.Module) -> bool:
    """Whether a module only hands on what it is given, to those who listen."""
    return type(module).__name__ == "HookPoint"


def hooks_on_every_module() -> list[str]:
    """Return what was registered with torch to hear, or change, every module of the process."""
    kept = torch.nn.modules.module
    every = (*kept._global_forward_hooks.values(), *kept._global_forward_pre_hooks.values())
    return [getattr(hook, "__qualname__", type(hook).__name__) for hook in every]


def hook_points(model: Any) -> Iterator[nn.Module]:
    """Yield every hook point once, whatever it is called."""
    yield from {id(point): point for point in model.hook_dict.values()}.values()


def adapters(model: Any) -> list[str]:
    """Return the active adapters (LoRA and others) that ``peft`` has put into a model."""
    found: set[str] = set()
    for root in roots(model):
        for module in root.modules():
            if type(module).__module__.startswith("peft."):
                active = getattr(module, "active_adapters", None)
                found.update(str(name) for name in (active if isinstance(active, list) else []))
    return sorted(found)


def norm_weight(norm: Any, like: Tensor) -> Tensor:
    """Return a norm's weight, ones where it has none, with Gemma's 1 added where it is."""
    weight = norm_parameter(norm, ("weight", "w"))
    if weight is None:
        return torch.ones(like.shape[0], device=like.device)
    return weight.float() + (1.0 if type(original(norm)).__name__.startswith("Gemma") else 0.0)


def norm_parameter(norm: Any, names: tuple[str, ...]) -> Tensor | None:
    """Return a norm's parameter that has one of the names, or None."""
    named = norm.named_parameters() if norm is not None else ()
    return next((p.detach() for n, p in named if n.rsplit(".")[-1] in names), None)


def centres(model: Any) -> bool:
    """Whether the model's norms take the mean away (LayerNorm, also with its weights folded)."""
    return str(model.cfg.normalization_type).startswith("LN")
