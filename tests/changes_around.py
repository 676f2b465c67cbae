"""Ways to change a model between two calls: ``forward``, hooks, types, adapters, configuration."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from tests.changes import BRIDGES, MODULES, UNPACKED, WEIGHTS, Change, Parts, Undo, inner, put
from tests.changes_inside import ADAPTERS, ATTRIBUTES


def forward_of(find: Callable[[Parts], Any], after: Callable[[Any], Any]) -> Any:
    """Return a change that sets ``forward`` on one instance."""

    def apply(parts: Parts) -> Undo:
        module = find(parts)
        before = module.forward

        def forward(*args: Any, **kwargs: Any) -> Any:
            return after(before(*args, **kwargs))

        # A wrapper of TransformerLens hands attributes on to what it wraps.
        vars(module)["forward"] = forward
        return lambda: vars(module).pop("forward", None)

    return apply


def _next(parts: Parts, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Return the arguments of a model with the ids that come next."""
    n = int(parts.model.cfg.d_vocab)
    if args:
        return ((args[0] + 1) % n, *args[1:]), kwargs
    return args, {**kwargs, "input_ids": (kwargs["input_ids"] + 1) % n}


def _other_ids(find: Callable[[Parts], Any]) -> Any:
    """Return a change of a whole model's ``forward``: it reads the ids that come next."""

    def apply(parts: Parts) -> Undo:
        module = find(parts)
        before = module.forward

        def forward(*args: Any, **kwargs: Any) -> Any:
            args, kwargs = _next(parts, args, kwargs)
            return before(*args, **kwargs)

        module.forward = forward
        return lambda: vars(module).pop("forward", None)

    return apply


def _forward_of_class(parts: Parts) -> Undo:
    owner = type(inner(parts.mlp(0)))
    before = owner.forward

    def forward(self: Any, x: Tensor) -> Tensor:
        return 0.25 * before(self, x)

    owner.forward = forward
    return lambda: setattr(owner, "forward", before)


def _first(out: Any, factor: float) -> Any:
    if isinstance(out, tuple):
        return (out[0] * factor, *out[1:])
    return out * factor


def hooked(find: Callable[[Parts], Any], factor: float = 0.5) -> Callable[[Parts], Undo]:
    """Return a change: a torch hook that scales what a module gives."""

    def apply(parts: Parts) -> Undo:
        def hook(_: Any, __: Any, out: Any) -> Any:
            return _first(out, factor)

        return find(parts).register_forward_hook(hook).remove

    return apply


def _pre_hook(parts: Parts) -> Undo:
    def change(_: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if args:
            return (args[0] * 0.5, *args[1:]), kwargs
        return args, {**kwargs, "hidden_states": kwargs["hidden_states"] * 0.5}

    return parts.layers[1].register_forward_pre_hook(change, with_kwargs=True).remove


def _root_pre_hook(parts: Parts) -> Undo:
    def change(_: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        return _next(parts, args, kwargs)

    return parts.root.register_forward_pre_hook(change, with_kwargs=True).remove


def _root_hook(parts: Parts) -> Undo:
    def change(_: Any, __: Any, out: Any) -> Any:
        if isinstance(out, Tensor):
            return out.flip(-1)
        out.logits = out.logits.flip(-1)
        return out

    return parts.root.register_forward_hook(change).remove


def _torch_wide_hook(parts: Parts) -> Undo:
    """A hook on all modules there are, which only looks for one class."""
    owner = type(inner(parts.mlp(0)))

    def change(module: nn.Module, _: Any, out: Any) -> Any:
        return out * 0.5 if type(module) is owner else None

    return nn.modules.module.register_module_forward_hook(change).remove


def _scale(value: Tensor, hook: Any) -> Tensor:  # noqa: ARG001
    return value * 0.5


def lens_hook(name: str, **options: Any) -> Callable[[Parts], Undo]:
    """Return a change: a hook of TransformerLens."""

    def apply(parts: Parts) -> Undo:
        parts.model.add_hook(name, _scale, **options)
        return lambda: parts.model.reset_hooks(including_permanent=True)

    return apply


def _lens_hook_removed(parts: Parts) -> None:
    parts.model.reset_hooks()


def _hooks_context(parts: Parts) -> Undo:
    context = parts.model.hooks(fwd_hooks=[("blocks.0.hook_resid_post", _scale)])
    context.__enter__()
    return lambda: context.__exit__(None, None, None)


def _hook_closure_setup(parts: Parts) -> None:
    by = parts.kept["by"] = [0.5]

    def hook(_: Any, __: Any, out: Any) -> Any:
        return _first(out, by[0])

    parts.mlp(1).register_forward_hook(hook)


def _hook_closure(parts: Parts) -> Undo:
    parts.kept["by"][0] = -2.0
    return lambda: parts.kept["by"].__setitem__(0, 0.5)


def _hook_setup(parts: Parts) -> None:
    parts.kept["handle"] = hooked(lambda p: inner(p.mlp(1)))(parts)


def _hook_removed(parts: Parts) -> None:
    parts.kept["handle"]()


def cast(dtype: torch.dtype) -> Callable[[Parts], None]:
    def apply(parts: Parts) -> None:
        parts.root.to(dtype)

    return apply


def _accelerate_hook(parts: Parts) -> Undo:
    from accelerate.hooks import ModelHook, add_hook_to_module, remove_hook_from_module

    class Halves(ModelHook):
        def post_forward(self, module: Any, output: Any) -> Any:  # noqa: ARG002
            return _first(output, 0.5)

    module = inner(parts.mlp(1))
    add_hook_to_module(module, Halves())
    return lambda: remove_hook_from_module(module)


def _offload(parts: Parts) -> Undo:
    from accelerate import cpu_offload
    from accelerate.hooks import remove_hook_from_module

    module = parts.owner("mlp_out", 1)[0]
    cpu_offload(module, execution_device=torch.device("cpu"))
    return lambda: remove_hook_from_module(module, recurse=True)


def config_is(name: str, value: Any) -> Callable[[Parts], Undo]:
    return lambda parts: put(parts.hf.config, name, value)


def _compatible(parts: Parts) -> None:
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        parts.model.enable_compatibility_mode()


def _train_part(parts: Parts) -> Undo:
    inner(parts.layers[1]).train()
    return parts.root.eval


def _attention_kind(parts: Parts) -> Undo:
    parts.hf.set_attn_implementation("sdpa")
    return lambda: parts.hf.set_attn_implementation("eager")


def _more_tokens(parts: Parts) -> None:
    parts.model.tokenizer.add_tokens(["fox jumps"])


def _grow_vocabulary(parts: Parts) -> None:
    for name in ("embed", "head"):
        owner, weight = parts.owner(name)
        more = nn.functional.pad(getattr(owner, weight).detach(), (0, 0, 0, 8), value=0.3)
        setattr(owner, weight, nn.Parameter(more))
        if getattr(owner, "bias", None) is not None:
            owner.bias = nn.Parameter(nn.functional.pad(owner.bias.detach(), (0, 8)))


def _checkpoint(parts: Parts) -> None:
    enable = getattr(parts.hf, "activation_checkpointing_enable", None)
    (enable or parts.hf.gradient_checkpointing_enable)()


def _compile_part(parts: Parts) -> Undo:
    mlp = inner(parts.mlp(1))
    mlp.compile(backend="eager")
    return lambda: setattr(mlp, "_compiled_call_impl", None)


TRAINING = r"train"
READ_OUT = r"read-out|unembed|final norm|own logits|hook|forward"

FORWARDS = (
    Change("forward_of_mlp", forward_of(lambda p: inner(p.mlp(1)), lambda out: out * 0.25)),
    Change("forward_of_wrapper", forward_of(lambda p: p.mlp(1), lambda out: out * 0.25),
           kinds=UNPACKED),
    Change("forward_of_last_norm", forward_of(lambda p: inner(p.norm), lambda out: out * 0.25),
           moves=None, refusal=READ_OUT),
    Change("forward_of_base", _other_ids(lambda p: p.base), kinds=BRIDGES),
    Change("forward_of_root", _other_ids(lambda p: p.root), refusal=READ_OUT),
    Change("forward_of_class", _forward_of_class, everywhere=True),
)  # fmt: skip

HOOKS = (
    Change("torch_hook", hooked(lambda p: inner(p.mlp(1)))),
    Change("torch_hook_on_wrapper", hooked(lambda p: p.mlp(1)), kinds=UNPACKED),
    Change("torch_hook_on_block", hooked(lambda p: p.layers[0])),
    Change("torch_pre_hook", _pre_hook),
    Change("torch_hook_on_root", _root_hook, refusal=READ_OUT),
    Change("torch_pre_hook_on_root", _root_pre_hook, refusal=READ_OUT),
    Change("torch_hook_on_last_norm", hooked(lambda p: inner(p.norm)), moves=None, refusal=READ_OUT),
    Change("torch_wide_hook", _torch_wide_hook, everywhere=True, kinds=UNPACKED),
    Change("hook_closure", _hook_closure, _hook_closure_setup, told=False, kinds=UNPACKED),
    Change("torch_hook_removed", _hook_removed, _hook_setup, kinds=UNPACKED),
    Change("lens_hook_on_stream", lens_hook("blocks.1.hook_resid_post")),
    Change("lens_hook_on_mlp", lens_hook("blocks.1.hook_mlp_out")),
    Change("lens_hook_permanent", lens_hook("blocks.0.hook_resid_post", is_permanent=True), kinds=UNPACKED),
    Change("lens_hook_removed", _lens_hook_removed, lens_hook("blocks.1.hook_resid_post"), kinds=UNPACKED),
    Change("lens_hooks_context", _hooks_context),
)

TYPES = (
    Change("to_float64", cast(torch.float64), moves=False, weights=True),
    Change("to_bfloat16", cast(torch.bfloat16), weights=True),
    Change("to_half", cast(torch.float16), moves=None, weights=True, kinds=BRIDGES),
    Change("accelerate_hook", _accelerate_hook, kinds=BRIDGES),
    Change("accelerate_offload", _offload, kinds=BRIDGES, moves=False, told=False,
           refusal=r"meta|offload|accelerate|moved"),
)  # fmt: skip

SETTINGS = (
    Change("no_cache_in_config", config_is("use_cache", False), kinds=BRIDGES, moves=False,
           told=False),
    Change("softcap_in_config", config_is("final_logit_softcapping", 0.2), kinds=("gemma2",),
           refusal=READ_OUT),
    Change("scale_in_config", config_is("logits_scaling", 2.0), kinds=("granite",),
           refusal=READ_OUT),
    Change("sdpa", _attention_kind, kinds=BRIDGES, moves=False),
    Change("compatibility_mode", _compatible, kinds=BRIDGES, moves=None, weights=True),
    Change("training_part", _train_part, kinds=UNPACKED, moves=False, told=False,
           refusal=TRAINING),
    Change("training_part_with_dropout", _train_part, kinds=("gpt2",), refusal=TRAINING,
           refused=True),
    Change("tokens_added", _more_tokens, moves=False),
    Change("vocabulary_grown", _grow_vocabulary, kinds=BRIDGES, moves=None, weights=True,
           refusal=r"vocab|unembed"),
    Change("checkpointing", _checkpoint, kinds=BRIDGES, moves=False, told=False),
    Change("part_compiled", _compile_part, kinds=("llama",), moves=False, told=False),
)  # fmt: skip

CHANGES = (*WEIGHTS, *MODULES, *ATTRIBUTES, *FORWARDS, *HOOKS, *TYPES, *SETTINGS, *ADAPTERS)
