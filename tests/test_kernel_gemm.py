"""Which matrix product is used, and that it is never an inexact one."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from importlib import import_module
from pathlib import Path
from threading import Event, Thread
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

PATHS = ["default", "onednn"]


def precision() -> str:
    switch: Any = torch.backends.mkldnn.matmul  # pyrefly: ignore[missing-attribute]
    return switch.fp32_precision


@pytest.fixture
def gemm(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The module on a processor that oneDNN suits, for any amount of work, nothing checked yet."""
    from mechprobe.kernels import gemm

    monkeypatch.setattr(gemm, "WORTH_SWITCHING", 0)
    be(monkeypatch, gemm)
    monkeypatch.setattr(gemm, "_is_exact", cache(gemm._is_exact.__wrapped__))
    return gemm


def always(*shape: object) -> bool:  # noqa: ARG001
    return True


def be(
    monkeypatch: pytest.MonkeyPatch,
    gemm: Any,
    *,
    vendor: str = "amd",
    avx512: bool = True,
    amx: bool = False,
    available: bool = True,
    mkl: bool = True,
) -> None:
    """Let the machine be as told."""
    from mechprobe.kernels.processor import Processor

    monkeypatch.setattr(gemm, "processor", lambda: Processor(vendor, avx512, amx))
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: available)
    monkeypatch.setattr(torch.backends.mkl, "is_available", lambda: mkl)


class RoundOperands(TorchFunctionMode):
    """Products in bfloat16, which is what the switch means on processors with AMX."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        if func in (torch.Tensor.matmul, torch.Tensor.__matmul__, torch.matmul, torch.mm):
            args = [a.bfloat16().float() for a in args]
        return func(*args, **(kwargs or {}))


def round_in_onednn(monkeypatch: pytest.MonkeyPatch, gemm: Any) -> list[str]:
    """Lower the precision where the switch is on; returns the paths that were entered."""
    entered: list[str] = []

    @contextmanager
    def switched(path: str) -> Iterator[str]:
        entered.append(path)
        if path == "onednn":
            with RoundOperands():
                yield "none"
        else:
            yield "none"

    monkeypatch.setattr(gemm, "gemm_path", switched)
    return entered


def test_gemm_path_restores_the_setting() -> None:
    from mechprobe.kernels.gemm import gemm_path

    before = precision()
    with gemm_path("default"):
        assert precision() == before
    with gemm_path("onednn"):
        assert precision() == "bf16"
        with gemm_path("onednn"):
            assert precision() == "bf16"
        assert precision() == "bf16"
    assert precision() == before


@pytest.mark.parametrize("outer", PATHS)
@pytest.mark.parametrize("inner", PATHS)
def test_gemm_path_restores_the_setting_after_an_exception(outer: str, inner: str) -> None:
    from mechprobe.kernels.gemm import gemm_path

    before = precision()
    paths: Any = (outer, inner)
    with pytest.raises(ZeroDivisionError), gemm_path(paths[0]), gemm_path(paths[1]):
        raise ZeroDivisionError
    assert precision() == before


def test_gemm_path_restores_what_the_caller_had_set() -> None:
    from mechprobe.kernels.gemm import gemm_path

    switch: Any = torch.backends.mkldnn.matmul  # pyrefly: ignore[missing-attribute]
    before = precision()
    try:
        switch.fp32_precision = "ieee"
        with gemm_path("onednn"):
            assert precision() == "bf16"
        assert precision() == "ieee"
    finally:
        switch.fp32_precision = before


def test_a_setting_that_was_inherited_still_is() -> None:
    """What torch gives for "none" is what it inherits; set as such, it would stay for good."""
    from mechprobe.kernels.gemm import gemm_path

    everywhere: Any = torch.backends
    before = everywhere.fp32_precision
    try:
        everywhere.fp32_precision = "tf32"
        with gemm_path("onednn"):
            assert precision() == "bf16"
        assert precision() == "tf32"
        everywhere.fp32_precision = "ieee"
        assert precision() == "ieee"
    finally:
        everywhere.fp32_precision = before


def test_default_inside_onednn_leaves_it_in_force() -> None:
    from mechprobe.kernels.gemm import gemm_path

    before = precision()
    with gemm_path("onednn"), gemm_path("default"):
        assert precision() == "bf16"
    assert precision() == before


def test_a_second_thread_waits_and_the_setting_comes_back(gemm: Any) -> None:
    """Two that turned the switch at once would each restore what the other had set."""
    before = precision()
    seen: list[str] = []
    inside, done = Event(), Event()

    def other() -> None:
        inside.wait(10)
        with gemm.gemm_path("default"):
            seen.append(precision())

    thread = Thread(target=other)
    thread.start()
    with gemm.gemm_path("onednn"):
        inside.set()
        done.wait(0.2)
        assert not seen
    thread.join(10)
    assert seen == [before]
    assert precision() == before


def test_small_work_takes_the_default_unchecked(gemm: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    entered = round_in_onednn(monkeypatch, gemm)
    monkeypatch.setattr(gemm, "WORTH_SWITCHING", 64 * 300 * 100)
    assert gemm.fastest_gemm(torch.zeros(64, 300), 99) == "default"
    assert not entered
    gemm.fastest_gemm(torch.zeros(64, 300), 100)
    assert entered == ["onednn"]


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
def test_other_dtypes_take_the_default(gemm: Any, dtype: torch.dtype) -> None:
    assert gemm.fastest_gemm(torch.zeros(64, 300, dtype=dtype), 10**9) == "default"
    assert gemm.product_of("onednn", torch.zeros(64, 300, dtype=dtype)) == "default"


def test_other_devices_take_the_default(gemm: Any) -> None:
    assert gemm.fastest_gemm(torch.zeros(64, 300, device="meta"), 10**9) == "default"


MACHINES: dict[str, tuple[dict[str, Any], str]] = {
    "AMD with AVX-512": ({}, "onednn"),
    "AMD without AVX-512, where the switch does nothing": ({"avx512": False}, "default"),
    "Intel": ({"vendor": "intel"}, "default"),
    "Intel with AMX, where the switch lowers precision": ({"vendor": "intel", "amx": True}, "default"),
    "AMD with AMX": ({"amx": True}, "default"),
    "unknown": ({"vendor": "other"}, "default"),
    "no oneDNN": ({"available": False}, "default"),
    "no MKL": ({"mkl": False}, "default"),
}


@pytest.mark.parametrize("machine", MACHINES)
def test_the_processor_decides(gemm: Any, monkeypatch: pytest.MonkeyPatch, machine: str) -> None:
    told, expected = MACHINES[machine]
    be(monkeypatch, gemm, **told)
    monkeypatch.setattr(gemm, "_is_exact", always)
    assert gemm.fastest_gemm(torch.zeros(64, 300), 10) == expected


def test_onednn_switched_off_by_the_user_is_not_taken(gemm: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gemm, "_is_exact", always)
    W_U = torch.zeros(64, 300)
    assert (gemm.fastest_gemm(W_U, 10), gemm.product_of("onednn", W_U)) == ("onednn", "onednn")
    mkldnn: Any = torch.backends.mkldnn
    mkldnn.enabled = False
    try:
        assert gemm.fastest_gemm(W_U, 10) == "default"
        assert gemm.product_of("onednn", W_U) == "default"
    finally:
        mkldnn.enabled = True


@pytest.mark.parametrize("column_major", [False, True])
def test_what_is_inexact_is_not_taken(gemm: Any, monkeypatch: pytest.MonkeyPatch, column_major: bool) -> None:
    W_U = torch.zeros(300, 64).T if column_major else torch.zeros(64, 300)
    entered = round_in_onednn(monkeypatch, gemm)
    assert gemm.fastest_gemm(W_U, 10) == "default"
    assert entered == ["onednn"]


def test_the_check_is_made_once(gemm: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    entered = round_in_onednn(monkeypatch, gemm)
    gemm.fastest_gemm(torch.zeros(64, 300), 10)
    gemm.fastest_gemm(torch.zeros(64, 500), 20)
    assert len(entered) == 1


def test_the_check_leaves_the_setting_and_the_generator_alone(gemm: Any) -> None:
    before, state = precision(), torch.get_rng_state()
    gemm.fastest_gemm(torch.zeros(64, 300), 10)
    assert precision() == before
    torch.testing.assert_close(torch.get_rng_state(), state, atol=0, rtol=0)


def test_the_check_does_not_hear_the_caller(gemm: Any) -> None:
    """Autocast, default dtype and default device would make it fail, and that be remembered."""
    want = gemm._is_exact.__wrapped__(64, False)
    with torch.autocast("cpu", dtype=torch.bfloat16), torch.device("meta"):
        torch.set_default_dtype(torch.float64)
        try:
            assert gemm._is_exact(64, False) == want
        finally:
            torch.set_default_dtype(torch.float32)


def test_the_processor_is_that_of_this_machine() -> None:
    from mechprobe.kernels.processor import processor

    found = processor()
    assert found.avx512 == torch.cpu._is_avx512_supported()
    assert found.amx == torch.cpu._is_amx_tile_supported()


CPUINFO = """processor\t: 0
vendor_id\t: AuthenticAMD
flags\t\t: fpu avx2 avx512f avx512dq avx512bw avx512vl{more}

processor\t: 1
vendor_id\t: GenuineIntel
"""


@pytest.mark.parametrize(("more", "amx"), [("", False), (" amx_tile", True)])
def test_an_older_torch_reads_it_from_linux(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, more: str, amx: bool
) -> None:
    module = import_module("mechprobe.kernels.processor")
    file = tmp_path / "cpuinfo"
    file.write_text(CPUINFO.format(more=more))
    monkeypatch.setattr(module, "_CPUINFO", file)
    monkeypatch.delattr(torch.cpu, "get_capabilities", raising=False)
    assert module.processor.__wrapped__() == ("amd", True, amx)


def test_a_processor_of_which_nothing_is_known(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    module = import_module("mechprobe.kernels.processor")
    monkeypatch.setattr(module, "_CPUINFO", tmp_path / "none")
    monkeypatch.setattr(module.platform, "processor", lambda: "")
    monkeypatch.delattr(torch.cpu, "get_capabilities", raising=False)
    assert module.processor.__wrapped__() == ("other", False, False)


def error(path: Any, x: Tensor, W_U: Tensor) -> float:
    """Largest error of a product, relative to the lengths of its operands."""
    from mechprobe.kernels.gemm import gemm_path

    exact = x.double() @ W_U.double()
    lengths = x.double().norm(dim=-1, keepdim=True) * W_U.double().norm(dim=0)
    with gemm_path(path):
        return float(((x @ W_U - exact).abs() / lengths).max())


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("column_major", [False, True])
@pytest.mark.parametrize("d_model", [5, 64, 576])
def test_a_path_that_passes_the_check_is_exact_at_every_shape(
    d_model: int, column_major: bool, path: str
) -> None:
    """The check multiplies one shape only; the product must not turn inexact at another."""
    from mechprobe.kernels import gemm

    W_U = torch.randn(gemm._CHECKED_COLUMNS, d_model)
    W_U = W_U.T if column_major else W_U.T.contiguous()
    x = torch.randn(gemm._CHECKED_ROWS, d_model)
    if not error(path, x, W_U) < gemm._MAX_RELATIVE_ERROR:
        assert path != "default", "the default product must be exact to float32"
        pytest.skip("this processor lowers the precision, so the path is never chosen")
    for n_rows in (1, 2, 3, 16, 17, 128):
        for d_vocab in (1, 2, 63, 300, 4096):
            assert error(path, torch.randn(n_rows, d_model), W_U[:, :d_vocab]) < 1e-6


def test_the_mode_really_rounds() -> None:
    """Guards the simulation above: bfloat16 operands are caught by the accuracy limit."""
    from mechprobe.kernels import gemm

    x, W_U = torch.randn(64, 64), torch.randn(64, 300)
    with RoundOperands():
        rounded = x @ W_U
    assert float((rounded - x @ W_U).abs().max()) > gemm._MAX_RELATIVE_ERROR * 64
