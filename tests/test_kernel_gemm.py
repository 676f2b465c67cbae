"""Which matrix product is used, and that it is never an inexact one."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
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
def gemm(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """The module, with a trial for any amount of work and no trial remembered."""
    from mechprobe.kernels import gemm

    monkeypatch.setattr(gemm, "_WORTH_CALIBRATING", 0)
    gemm._calibrate.cache_clear()
    yield gemm
    gemm._calibrate.cache_clear()


class RoundOperands(TorchFunctionMode):
    """Products in bfloat16, which is what the switch means on processors with AMX."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        if func in (torch.Tensor.matmul, torch.Tensor.__matmul__, torch.matmul, torch.mm):
            args = [a.bfloat16().float() for a in args]
        return func(*args, **(kwargs or {}))


class Machine:
    """A processor on which each product takes as long as told, exact or not."""

    def __init__(self, *, default: float, onednn: float, exact: bool) -> None:
        self.seconds = {"default": default, "onednn": onednn}
        self.exact = exact
        self.now = 0.0
        self.entered = 0

    @contextmanager
    def gemm_path(self, path: str) -> Iterator[None]:
        self.entered += 1
        if path == "onednn" and not self.exact:
            with RoundOperands():
                yield
        else:
            yield
        self.now += self.seconds[path]

    def install(self, monkeypatch: pytest.MonkeyPatch, gemm: Any) -> None:
        monkeypatch.setattr(gemm, "gemm_path", self.gemm_path)
        monkeypatch.setattr(gemm, "perf_counter", lambda: self.now)
        monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: True)


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


def test_default_inside_onednn_leaves_it_in_force() -> None:
    from mechprobe.kernels.gemm import gemm_path

    before = precision()
    with gemm_path("onednn"), gemm_path("default"):
        assert precision() == "bf16"
    assert precision() == before


def test_small_work_takes_the_default_without_a_trial(monkeypatch: pytest.MonkeyPatch) -> None:
    from mechprobe.kernels import gemm

    machine = Machine(default=2.0, onednn=1.0, exact=True)
    machine.install(monkeypatch, gemm)
    gemm._calibrate.cache_clear()
    assert gemm.fastest_gemm(torch.zeros(64, 300), 100) == "default"
    assert machine.entered == 0


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
def test_other_dtypes_take_the_default(gemm: Any, dtype: torch.dtype) -> None:
    assert gemm.fastest_gemm(torch.zeros(64, 300, dtype=dtype), 10**9) == "default"


def test_other_devices_take_the_default(gemm: Any) -> None:
    assert gemm.fastest_gemm(torch.zeros(64, 300, device="meta"), 10**9) == "default"


@pytest.mark.parametrize(
    ("onednn", "exact", "expected"),
    [(1.0, True, "onednn"), (1.0, False, "default"), (3.0, True, "default")],
    ids=["fast and exact", "fast and inexact", "slow"],
)
@pytest.mark.parametrize("column_major", [False, True])
def test_the_choice(
    gemm: Any,
    monkeypatch: pytest.MonkeyPatch,
    onednn: float,
    exact: bool,
    expected: str,
    column_major: bool,
) -> None:
    Machine(default=2.0, onednn=onednn, exact=exact).install(monkeypatch, gemm)
    W_U = torch.zeros(300, 64).T if column_major else torch.zeros(64, 300)
    assert gemm.fastest_gemm(W_U, 10) == expected


def test_the_trial_is_made_once(gemm: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    machine = Machine(default=2.0, onednn=1.0, exact=True)
    machine.install(monkeypatch, gemm)
    gemm.fastest_gemm(torch.zeros(64, 300), 10)
    trials = machine.entered
    assert trials > 0
    gemm.fastest_gemm(torch.zeros(64, 500), 20)
    assert machine.entered == trials


def test_without_onednn_the_default_is_taken(gemm: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    Machine(default=2.0, onednn=1.0, exact=True).install(monkeypatch, gemm)
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: False)
    assert gemm.fastest_gemm(torch.zeros(64, 300), 10) == "default"


def test_a_trial_leaves_the_setting_and_the_generator_alone(gemm: Any) -> None:
    before, state = precision(), torch.get_rng_state()
    gemm.fastest_gemm(torch.zeros(64, 300), 10)
    assert precision() == before
    torch.testing.assert_close(torch.get_rng_state(), state, atol=0, rtol=0)


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
def test_a_path_that_passes_the_trial_is_exact_at_every_shape(
    d_model: int, column_major: bool, path: str
) -> None:
    """The trial multiplies one shape only; the product must not turn inexact at another."""
    from mechprobe.kernels import gemm

    W_U = torch.randn(gemm._CALIBRATION_COLUMNS, d_model)
    W_U = W_U.T if column_major else W_U.T.contiguous()
    x = torch.randn(gemm._CALIBRATION_ROWS, d_model)
    if not error(path, x, W_U) < gemm._MAX_RELATIVE_ERROR:
        assert path != "default", "the default product must be exact to float32"
        pytest.skip("this processor lowers the precision, so the path is never chosen")
    for n_rows in (1, 2, 3, 16, 17, 128):
        for d_vocab in (1, 2, 63, 300, 8192):
            assert error(path, torch.randn(n_rows, d_model), W_U[:, :d_vocab]) < 1e-6


def test_the_mode_really_rounds() -> None:
    """Guards the simulation above: bfloat16 operands are caught by the accuracy limit."""
    from mechprobe.kernels import gemm

    x, W_U = torch.randn(64, 64), torch.randn(64, 300)
    with RoundOperands():
        rounded = x @ W_U
    assert float((rounded - x @ W_U).abs().max()) > gemm._MAX_RELATIVE_ERROR * 64
