"""Names of hooks and modules are known in one place; norms and adapters as it reads them."""

import ast
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from tests.test_internals import KINDS, loaded, weight

ROOMS = ("lens", "heads", "worlds", "results", "plots", "tasks", "stats", "kernels")
PACKAGE = Path(__file__).parents[1] / "mechprobe"
NAMES = re.compile(r"hook_|\bblocks\.[\d{%]")


def texts(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Yield every string of a module, docstrings too, fields of f-strings as braces."""
    inside: set[int] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr):
            inside.update(map(id, node.values))
            parts = [str(v.value) if isinstance(v, ast.Constant) else "{}" for v in node.values]
            yield node.lineno, "".join(parts)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            if id(node) not in inside:
                yield node.lineno, node.value
        elif isinstance(node, ast.Attribute):
            yield node.lineno, node.attr


@pytest.mark.parametrize("room", ROOMS)
def test_no_other_room_names_a_hook_or_a_module(room: str) -> None:
    files = sorted((PACKAGE / room).rglob("*.py"))
    assert files
    found = [
        f"{file.relative_to(PACKAGE)}:{line}: {text.strip()[:60]!r}"
        for file in files
        for line, text in texts(ast.parse(file.read_text()))
        if NAMES.search(text)
    ]
    assert found == []


def test_a_name_is_found_wherever_it_is_written() -> None:
    source = '''
def f(model, layer):
    """Reads blocks.0 of Transformer blocks.

    As hook_z.
    """
    a = f"blocks.{layer}.attn"
    b = "blocks.%d" % layer
    return model.hook_dict[a], "Transformer blocks. No name.", b
'''
    lines = {line for line, text in texts(ast.parse(source)) if NAMES.search(text)}
    assert lines == {3, 7, 8, 9}


@pytest.mark.parametrize("name", KINDS)
def test_block_names(tiny: Callable[..., Any], name: str) -> None:
    from mechprobe.models.internals import block_names

    model = tiny(name)
    assert block_names(model) == [f"blocks.{layer}" for layer in range(model.cfg.n_layers)]


def test_adapters(tmp_path: Path) -> None:
    from peft import LoraConfig, inject_adapter_in_model

    from mechprobe.models.internals import adapters

    model = loaded(tmp_path, "llama")
    assert adapters(model) == []
    config = LoraConfig(r=2, target_modules=r".*mlp.*down_proj.*_original_component")
    inject_adapter_in_model(config, model.original_model, adapter_name="mine")
    assert adapters(model) == ["mine"]


@pytest.mark.parametrize(
    ("name", "centred", "shift"),
    [("llama", False, 0.0), ("gemma2", False, 1.0), ("gpt2", True, 0.0), ("gpt_neox", True, 0.0)],
)
def test_norm_weight_norm_parameter_and_centres(
    tiny: Callable[..., Any], name: str, centred: bool, shift: float
) -> None:
    """Written out: centred or not, over its size, times the weight, plus the bias."""
    from mechprobe.models.internals import (
        blocks,
        centres,
        final_norm,
        first_norm,
        norm_parameter,
        norm_weight,
    )

    model = tiny(name)
    x = torch.randn(3, 5, model.cfg.d_model)
    assert centres(model) == centred
    for norm in (final_norm(model), first_norm(blocks(model)[1])):
        assert norm is not None
        scaled = x - x.mean(-1, keepdim=True) if centred else x
        scaled = scaled * (scaled.pow(2).mean(-1, keepdim=True) + model.cfg.eps).rsqrt()
        w, b = norm_weight(norm, model.W_U), norm_parameter(norm, ("bias", "b"))
        torch.testing.assert_close(w, weight(norm).detach() + shift)
        assert (b is None) == (not centred)
        own = scaled * w + (0 if b is None else b)
        torch.testing.assert_close(norm(x).detach(), own, rtol=1e-4, atol=1e-4)
    assert norm_weight(None, model.W_U).tolist() == [1.0] * model.cfg.d_model
    assert norm_parameter(None, ("bias", "b")) is None
    assert norm_parameter(nn.Identity(), ("weight", "w")) is None


@pytest.mark.parametrize("name", ["llama", "gpt2", "opt", "gpt_neox", "bloom", "gemma2"])
def test_heeds_training(tmp_path: Path, name: str) -> None:
    """With dropout everywhere, only of those that heed it does training mode change answers."""
    from mechprobe.models.internals import heeds_training, roots

    model, ids = loaded(tmp_path, name), torch.tensor([[5, 9, 17, 120]])
    modules = list({id(m): m for root in roots(model) for m in root.modules()}.values())
    for module in modules:
        for key, value in vars(module).items():
            if "drop" in key and isinstance(value, float):
                setattr(module, key, 0.5)
        if isinstance(module, nn.Dropout):
            module.p = 0.5
    with torch.no_grad():
        right = model.original_model(ids).logits
        for module in modules:
            module.training = not heeds_training(type(module))
        assert any(module.training for module in modules)
        assert torch.equal(model.original_model(ids).logits, right)
        for module in modules:
            module.training = True
        assert not torch.equal(model.original_model(ids).logits, right)


def test_hooks_on_every_module() -> None:
    from mechprobe.models.internals import hooks_on_every_module

    def hears_all(*_: Any) -> None:
        return None

    assert hooks_on_every_module() == []
    register = torch.nn.modules.module
    handles = [
        register.register_module_forward_hook(hears_all),
        register.register_module_forward_pre_hook(hears_all),
    ]
    found = hooks_on_every_module()
    for handle in handles:
        handle.remove()
    assert [name.rsplit(".")[-1] for name in found] == ["hears_all", "hears_all"]
    assert hooks_on_every_module() == []


def test_wrapped(tmp_path: Path) -> None:
    """What a bridge's components call the module inside, where its parts are looked for."""
    from mechprobe.models.internals import WRAPPED, original

    model = loaded(tmp_path, "llama")
    wrapping = [m for m in model.modules() if getattr(m, "original_component", None) is not None]
    assert len(wrapping) > 10
    for module in wrapping:
        assert module._modules[WRAPPED] is module.original_component
        assert original(module) is not module


def test_every_entry_has_a_test() -> None:
    """Whatever is added is tested, by name."""
    tree = ast.parse((PACKAGE / "models" / "internals.py").read_text())
    entries: set[str] = set()
    for node in tree.body:
        if isinstance(node, ast.FunctionDef):
            entries.add(node.name)
        elif isinstance(node, ast.Assign):
            named = (n for target in node.targets for n in ast.walk(target))
            entries.update(n.id for n in named if isinstance(n, ast.Name))
    here = Path(__file__).parent
    tests = {
        node.name
        for file in here.glob("test_internals*.py")
        for node in ast.walk(ast.parse(file.read_text()))
        if isinstance(node, ast.FunctionDef)
    }
    untested = {
        entry for entry in entries
        if not entry.startswith("_") and not any(_told(entry, test) for test in tests)
    }  # fmt: skip
    assert untested == {"EMBEDDING"}  # a number, which test_stream_name begins with


def _told(entry: str, test: str) -> bool:
    return f"_{entry.lower()}_" in f"{test}_"
