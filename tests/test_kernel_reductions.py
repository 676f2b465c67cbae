"""The reductions of the readout: step by step, as they are specified, and compiled."""

import logging
import sys
from collections.abc import Callable, Iterator
from importlib import import_module
from importlib.util import module_from_spec, spec_from_file_location
from types import ModuleType
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from torch import Tensor

from tests.test_kernel_readout import Problem, assert_loops_agree, problems

FIELDS = ("maxima", "log_sum", "entropy", "cross", "larger")


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def compiled() -> Any:
    """The pass compiled for 200 ids: three blocks and a shorter one."""
    from mechprobe.kernels import reductions, topk

    if not reductions._has_compiler():
        pytest.skip("no C++ compiler on this machine; the steps are then used")
    # As users have it: the type checks that tests put around functions cannot be compiled.
    plain: Any = unchecked(reductions)
    plain.block_maxima = unchecked(topk).block_maxima
    return plain.compile_pass(200)


def unchecked(module: ModuleType) -> ModuleType:
    """The same source, imported past the hook of the tests."""
    spec = spec_from_file_location(f"unchecked_{module.__name__.split('.')[-1]}", module.__file__)
    assert spec is not None
    assert spec.loader is not None
    plain = module_from_spec(spec)
    sys.modules[spec.name] = plain  # where the compiler looks for it
    spec.loader.exec_module(plain)
    return plain


def inputs(n_rows: int, kind: str) -> tuple[Tensor, Tensor, Tensor]:
    """Logits on a grid of halves, so that ties are ties and counts are exact."""
    generator = torch.Generator().manual_seed(n_rows)
    z = torch.randint(-8, 9, (n_rows, 200), generator=generator) / 2
    reference = z.roll(1, 0).clone()
    if kind == "-inf":
        z[:, ::3] = reference[:, ::3] = -torch.inf
    elif kind == "shifted":
        z += 4096.0
    return z, reference.softmax(-1), z[:, 100:101].clone()


def step_by_step(z: Tensor, reference: Tensor, value: Tensor) -> tuple[Tensor, ...]:
    from mechprobe.kernels.reductions import Stepwise

    return Stepwise(len(z), z, z.dtype)(z, reference, value)


def assert_fields(found: tuple[Tensor, ...], want: tuple[Tensor, ...], atol: float) -> None:
    for name, a, b in zip(FIELDS, found, want, strict=True):
        exact = name in ("maxima", "larger")
        torch.testing.assert_close(
            a.double(), b.double(), atol=0 if exact else atol, rtol=0, msg=f"{name}: {{}}".format
        )


@pytest.mark.parametrize("kind", ["plain", "-inf", "shifted"])
@pytest.mark.parametrize("n_rows", [1, 2, 16, 17])
def test_steps_are_the_specification(n_rows: int, kind: str) -> None:
    from mechprobe.kernels.reductions import one_pass

    found = inputs(n_rows, kind)
    assert_fields(step_by_step(*found), one_pass(*found), atol=2e-5)
    wide: Any = tuple(t.double() for t in found)
    assert_fields(step_by_step(*wide), one_pass(*wide), atol=1e-12)


@pytest.mark.parametrize("kind", ["plain", "-inf", "shifted"])
@pytest.mark.parametrize("n_rows", [2, 16, 17, 64, 100])
def test_compiled_equals_steps_at_any_number_of_rows(compiled: Any, n_rows: int, kind: str) -> None:
    found = inputs(n_rows, kind)
    wide: Any = tuple(t.double() for t in found)
    with torch._dynamo.config.patch(error_on_recompile=True):
        assert_fields(compiled(*found), step_by_step(*wide), atol=2e-5)


class Fixed:
    """A compiler that has compiled already."""

    def __init__(self, chosen: Callable[..., Any]) -> None:
        self.chosen, self.calls = chosen, 0

    def get(self, z: Tensor, n_logits: int) -> Any:  # noqa: ARG002
        def counted(*args: Tensor) -> Any:
            self.calls += 1
            return self.chosen(*args)

        return counted


def use(monkeypatch: pytest.MonkeyPatch, chosen: Callable[..., Any], rows_at_once: int) -> Fixed:
    readout = import_module("mechprobe.kernels.readout")
    fixed = Fixed(chosen)
    monkeypatch.setattr(readout, "compiler", fixed)
    monkeypatch.setattr(readout, "ROWS_AT_ONCE", rows_at_once)
    return fixed


@settings(deadline=None, max_examples=100)
@given(problems(min_rows=1))
def test_the_specification_matches_the_loops(problem: Problem) -> None:
    from mechprobe.kernels.reductions import one_pass

    with pytest.MonkeyPatch.context() as patch:
        fixed = use(patch, one_pass, 1)
        assert_loops_agree(problem, atol=1e-12)
        assert fixed.calls > 0


@pytest.mark.parametrize("scratch_rows", [None, 60, 100])
@pytest.mark.parametrize("n_targets", [0, 1, 3])
def test_a_compiled_readout_matches_the_loops(
    compiled: Any, monkeypatch: pytest.MonkeyPatch, n_targets: int, scratch_rows: int | None
) -> None:
    rows, W_U = torch.randint(-4, 5, (3, 37, 4)) / 2, torch.randint(-4, 5, (4, 200)) / 2
    targets = torch.randint(200, (37, n_targets))
    fixed = use(monkeypatch, compiled, 16)
    problem = Problem(rows, W_U, None, targets, 5, scratch_rows=scratch_rows)
    assert_loops_agree(problem, atol=2e-5)
    assert fixed.calls >= 3


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_a_compiled_pass_shows_undefined_rows(compiled: Any, value: float) -> None:
    z, reference, at = inputs(16, "plain")
    clean = compiled(z, reference, at)
    z[3, 77] = value
    found = compiled(z, reference, at)
    assert found[1].isfinite().tolist() == [i != 3 for i in range(16)]
    others = torch.arange(16) != 3
    torch.testing.assert_close(found[2][others], clean[2][others], atol=0, rtol=0)


class Reductions:
    """The module with a compiler that takes no time and a trial that ends as told."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        from mechprobe.kernels import reductions

        self.module, self.compiled, self.ratio = reductions, 0, 2.0
        monkeypatch.setattr(reductions, "WORTH_COMPILING", 1000)
        monkeypatch.setattr(reductions, "_has_compiler", lambda: True)
        monkeypatch.setattr(reductions, "compile_pass", self.compile)
        monkeypatch.setattr(reductions, "_trial", self.trial)
        self.compiler = reductions.Compiler()

    def trial(self, compiled: Any, d_vocab: int) -> float:  # noqa: ARG002
        return self.ratio

    def compile(self, d_vocab: int) -> Any:
        self.compiled += 1
        if d_vocab == 13:
            msg = "out of luck"
            raise RuntimeError(msg)
        return self.module.one_pass


@pytest.fixture
def reductions(monkeypatch: pytest.MonkeyPatch) -> Reductions:
    return Reductions(monkeypatch)


def test_nothing_is_compiled_before_it_pays(reductions: Reductions) -> None:
    z = torch.empty(4, 50)
    assert reductions.compiler.get(z, 600) is None
    assert reductions.compiled == 0
    assert reductions.compiler.get(z, 400) is not None
    assert reductions.compiler.get(z, 1) is not None
    assert reductions.compiled == 1


def test_a_prompt_never_compiles() -> None:
    """Of 12 tokens, on the default threshold, even where the vocabulary has 250,000 ids."""
    from mechprobe.kernels.reductions import WORTH_COMPILING

    assert WORTH_COMPILING > 12 * 32 * 250_000 * 10


def test_each_width_and_thread_count_has_its_own(reductions: Reductions) -> None:
    reductions.compiler.get(torch.empty(4, 50), 1000)
    reductions.compiler.get(torch.empty(4, 60), 1)
    torch.set_num_threads(2)
    reductions.compiler.get(torch.empty(4, 60), 1)
    torch.set_num_threads(1)
    assert set(reductions.compiler.chosen) == {(50, 1), (60, 1), (60, 2)}


def test_what_is_not_faster_is_not_used(reductions: Reductions) -> None:
    reductions.ratio = 0.9
    assert reductions.compiler.get(torch.empty(4, 50), 1000) is None
    assert reductions.compiler.get(torch.empty(4, 50), 1000) is None
    assert reductions.compiled == 1


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_other_dtypes_are_reduced_in_steps(reductions: Reductions, dtype: torch.dtype) -> None:
    assert reductions.compiler.get(torch.empty(4, 50, dtype=dtype), 1000) is None
    assert reductions.compiler.get(torch.empty(4, 50, device="meta"), 1000) is None
    assert reductions.compiled == 0


def test_a_failure_is_kept_logged_and_not_repeated(
    reductions: Reductions, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.DEBUG, logger="mechprobe.kernels.reductions"):
        assert reductions.compiler.get(torch.empty(4, 13), 1000) is None
        assert reductions.compiler.get(torch.empty(4, 13), 1000) is None
    assert reductions.compiled == 1
    assert reductions.compiler.failure == "RuntimeError: out of luck"
    assert "the reductions stay uncompiled" in caplog.text


def test_without_a_compiler_nothing_is_tried(
    reductions: Reductions, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reductions.module, "_has_compiler", lambda: False)
    assert reductions.compiler.get(torch.empty(4, 50), 1000) is None
    assert reductions.compiled == 0
    assert reductions.compiler.failure == "no C++ compiler was found"


def test_the_trial_compares_both(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a clock that only the compiled pass moves."""
    from mechprobe.kernels import reductions

    now = [0.0]

    def slow(*args: Tensor) -> tuple[Tensor, ...]:
        now[0] += 8.0
        return reductions.one_pass(*args)

    class Steps(reductions.Stepwise):
        def __call__(self, *args: Tensor) -> tuple[Tensor, ...]:
            now[0] += 1.0
            return super().__call__(*args)

    monkeypatch.setattr(reductions, "perf_counter", lambda: now[0])
    monkeypatch.setattr(reductions, "Stepwise", Steps)
    assert reductions._trial(slow, 200) == pytest.approx(0.5)
