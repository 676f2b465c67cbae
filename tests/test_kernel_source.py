"""What is written in C is compiled once, or it is said why not."""

from importlib import import_module
from typing import Any

import pytest

from tests.compiler import compiler_or_skip


@pytest.fixture
def source(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The module, without what it compiled already."""
    module = import_module("mechprobe.kernels.source")
    monkeypatch.setattr(module, "built", module.built.__wrapped__)
    return module


def test_without_a_compiler_there_is_none(source: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def nowhere(name: str) -> None:  # noqa: ARG001
        return None

    monkeypatch.setattr(source.shutil, "which", nowhere)
    with pytest.raises(RuntimeError, match="no C compiler was found"):
        source.built("native")


def test_a_compiler_that_refuses_says_why(source: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(source, "_FLAGS", ("--no-such-flag",))
    if not any(source.shutil.which(c) for c in ("cc", "gcc", "clang")):
        pytest.skip("no C compiler on this machine")
    with pytest.raises(RuntimeError, match=r"failed: .*no-such-flag"):
        source.built("native")


def test_it_is_compiled_once() -> None:
    from mechprobe.kernels.source import PORTABLE, built

    compiler_or_skip()
    first = built("native")
    assert built("native") is first
    assert built("native", extras=(PORTABLE,)) is not first


def test_it_is_told_what_compiled_it() -> None:
    from mechprobe.kernels.source import PORTABLE, built, find_compiler

    compiler_or_skip()
    assert find_compiler()
    found = built("native")
    assert found.compiler.strip()
    assert built("native", extras=(PORTABLE,)).flags == PORTABLE
    assert isinstance(found.flags, tuple)
