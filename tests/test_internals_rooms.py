"""Names of hooks and modules are known in one place; norms and adapters as it reads them."""

import ast
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from tests.test_internals import loaded, weight

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
