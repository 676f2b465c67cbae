"""Everything of a model and of the process that a reading must leave as it was."""

import os
import random
import sys
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import nn

from tests.calls import IDS

Inventory = dict[str, Any]
_TABLES = ("_parameters", "_buffers", "_modules")
# What TransformerLens' forward leaves of whoever's pass was last, and its list of names.
_OWN = ("_captured_pre_ln_residual", "_current_batch_size", "_pattern", "_block_alias_cache")
_SIMPLE = (bool, int, float, complex, str, bytes, type(None), torch.dtype, torch.device, torch.Size)


def of_model(model: Any) -> Inventory:
    """Return every module with what it owns, every hook by its place, and the configuration."""
    found: Inventory = {}
    roots = {"": model, "hf": getattr(model, "original_model", None)}
    seen: set[int] = set()
    for root, top in roots.items():
        if not isinstance(top, nn.Module):
            continue
        for name, module in top.named_modules():
            if id(module) not in seen:
                seen.add(id(module))
                found |= of_module(f"{root}/{name}", module)
    config = getattr(roots["hf"], "config", None)
    if config is not None:
        found["config"] = repr(sorted(config.to_dict().items(), key=str))
        found["config attention"] = config._attn_implementation
    found["cfg"] = repr(sorted(vars(model.cfg).items(), key=str))
    points = {id(p): n for n, p in model.hook_dict.items()}
    found["hook points"] = sorted(points.values())
    found["hooks of points"] = [
        (n, [id(h) for h in p.fwd_hooks], [id(h) for h in p.bwd_hooks]) for n, p in model.hook_dict.items()
    ]
    return found


def of_module(name: str, module: nn.Module) -> Inventory:
    found: Inventory = {f"{name} type": (id(module), type(module))}
    for table in _TABLES:
        found[f"{name} {table}"] = [(k, _owned(v)) for k, v in vars(module)[table].items()]
    for key, value in vars(module).items():
        if key in _TABLES or key in _OWN:
            continue
        if isinstance(value, Mapping) and key.endswith("hooks"):
            found[f"{name} {key}"] = [(k, id(v)) for k, v in value.items()]
        else:
            found[f"{name}.{key}"] = token(value)
    return found


def _owned(value: Any) -> Any:
    if not isinstance(value, torch.Tensor):
        return id(value)
    grad = None if value.grad is None else (id(value.grad), value.grad._version)
    version = None if value.is_inference() else value._version
    return (id(value), version, value.data_ptr(), value.requires_grad, grad, value.dtype)


def token(value: Any, depth: int = 4) -> Any:
    """Return what tells a plain value from another; whose insides are not plain, which it is."""
    if isinstance(value, float) and value != value:
        return "nan"
    if isinstance(value, _SIMPLE):
        return value
    if isinstance(value, torch.Tensor):
        return _owned(value)
    if depth and isinstance(value, Mapping):
        return [(str(k), token(v, depth - 1)) for k, v in value.items()]
    if depth and isinstance(value, Sequence):
        return [token(v, depth - 1) for v in value]
    if isinstance(value, set):
        return sorted(str(v) for v in value)
    return (type(value).__qualname__, id(value))


def of_process() -> Inventory:
    """Return the settings of torch, NumPy, transformers and Python that calls could leave set."""
    import transformers
    from transformers.utils import logging

    mkldnn: Any = torch.backends.mkldnn
    numpy_state: Any = np.random.get_state()  # noqa: NPY002
    return {
        "torch generator": torch.get_rng_state().tolist(),
        "numpy generator": (numpy_state[1].tolist(), *numpy_state[2:]),
        "random": random.getstate(),
        "numpy errors": np.geterr(),
        "default dtype": torch.get_default_dtype(),
        "default device": torch.get_default_device(),
        "grad": torch.is_grad_enabled(),
        "inference": torch.is_inference_mode_enabled(),
        "threads": torch.get_num_threads(),
        "autocast": (torch.is_autocast_enabled("cpu"), torch.get_autocast_dtype("cpu"),
                     torch.is_autocast_cache_enabled()),
        "matmul": torch.get_float32_matmul_precision(),
        "mkldnn": (mkldnn.enabled, mkldnn.matmul.fp32_precision, mkldnn.conv.fp32_precision),
        "deterministic": (torch.are_deterministic_algorithms_enabled(),
                          torch.is_deterministic_algorithms_warn_only_enabled(),
                          torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark),
        "torch-wide hooks": [
            [id(h) for h in getattr(nn.modules.module, f"_global_{kind}").values()]
            for kind in ("forward_hooks", "forward_pre_hooks", "module_registration_hooks")
        ],
        "warnings": [tuple(map(id, f)) for f in warnings.filters],
        "show warning": id(warnings.showwarning),
        "transformers": (logging.get_verbosity(), logging.is_progress_bar_enabled(),
                         transformers.__version__),
        "switch interval": sys.getswitchinterval(),
        "recursion": sys.getrecursionlimit(),
        "folder": os.getcwd(),  # noqa: PTH109
        "environment": dict(os.environ),
        "tracing": (sys.gettrace(), sys.getprofile()),
    }  # fmt: skip


def attention_kinds() -> dict[str, int]:
    """Return what is registered with transformers; it may grow, and what was there must stay."""
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

    return {name: id(ALL_ATTENTION_FUNCTIONS[name]) for name in ALL_ATTENTION_FUNCTIONS}


def whole(model: Any) -> Inventory:
    return {**of_model(model), **{f"process {k}": v for k, v in of_process().items()}}


def unlike(before: Inventory, after: Inventory) -> list[str]:
    """Return what is not as it was."""
    said = []
    for key in [*before, *(k for k in after if k not in before)]:
        one, other = before.get(key, "absent"), after.get(key, "absent")
        if one != other:
            said.append(f"{key}: {str(one)[:90]} -> {str(other)[:90]}")
    return said


@torch.no_grad()
def used(model: Any) -> Any:
    """Use a model once as its user does, so that what others install lazily is there."""
    import sklearn.linear_model  # noqa: F401  # draws from ``random`` and sets the environment

    ids = torch.tensor([IDS])
    model(ids)
    hf = getattr(model, "original_model", None)
    if hf is not None:
        hf(ids)
        hf(ids, output_hidden_states=True, output_attentions=True, use_cache=True)
    return model
