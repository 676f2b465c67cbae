"""The compiled reductions are the steps, wherever they are used."""

import ctypes
import logging
from collections.abc import Callable
from dataclasses import replace
from importlib import import_module
from threading import Thread
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from tests.compiler import compiler_or_skip
from tests.test_kernel_readout import Problem, assert_loops_agree, problems


@pytest.fixture(scope="module")
def native() -> Any:
    return compiler_or_skip()


@st.composite
def tiles(draw: st.DrawFn) -> tuple[Tensor, Tensor, Tensor, int]:
    """Logits on a grid of halves, so that ties are ties, around the widths of blocks and chunks."""
    group, pos = draw(st.integers(1, 3)), draw(st.integers(1, 5))
    d_vocab = draw(st.sampled_from([1, 2, 63, 64, 65, 200, 1023, 1024, 1025, 2100]))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**32)))
    z = torch.randint(-8, 9, (group, pos, d_vocab), generator=generator) / 2
    z += draw(st.sampled_from([0.0, 4096.0, -4096.0]))
    reference = torch.randint(-8, 9, (pos, d_vocab), generator=generator).float().softmax(-1)
    n_targets = draw(st.integers(0, 3))
    targets = torch.randint(d_vocab, (pos, n_targets), generator=generator)
    return z, reference, targets, draw(st.integers(1, min(d_vocab, 64)))


@settings(deadline=None, max_examples=150)
@given(tile=tiles(), n_threads=st.integers(1, 2))
def test_a_tile_is_read_as_specified(
    native: Any, tile: tuple[Tensor, Tensor, Tensor, int], n_threads: int
) -> None:
    from mechprobe.kernels.reductions import one_pass

    z, reference, targets, k = tile
    before = torch.get_num_threads()
    torch.set_num_threads(n_threads)
    found = native.reduce(z, reference, targets, k)
    torch.set_num_threads(before)
    top_id, top, log_z, entropy, cross, at_target, rank = found
    wide = z.double()
    maxima, log_sum, *want, _ = one_pass(wide, reference.double(), wide[..., :1])
    z_log = maxima.amax(-1) + log_sum
    value, order = wide.sort(dim=-1, descending=True, stable=True)
    wanted = wide.gather(-1, targets.expand(len(z), -1, -1))
    assert torch.equal(top_id, order[..., :k])
    assert torch.equal(rank, (wide[..., None, :] > wanted[..., None]).sum(-1))
    for a, b in (
        (top, value[..., :k] - z_log[..., None]), (entropy, want[0]), (cross, want[1]),
        (at_target, wanted - z_log[..., None]),
    ):  # fmt: skip
        torch.testing.assert_close(a.double(), b, atol=2e-5, rtol=0)
    torch.testing.assert_close(log_z.double(), z_log, atol=2e-5, rtol=1e-6)


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
def test_undefined_logits_are_left_to_the_steps(native: Any, value: float) -> None:
    z = torch.randn(2, 3, 200, generator=torch.Generator().manual_seed(0))
    reference, targets = z[0].softmax(-1), torch.zeros(3, 1, dtype=torch.long)
    assert native.reduce(z, reference, targets, 5) is not None
    z[1, 2, 77] = value
    assert native.reduce(z, reference, targets, 5) is None


class Chosen:
    """A chooser that has chosen."""

    def __init__(self, native: Any) -> None:
        self.native = native

    def get(self, z: Tensor, n_logits: int, k: int, n_targets: int) -> Any:  # noqa: ARG002
        return self.native if k <= 64 else None


def changed(native: Any, change: Callable[[Any], Any]) -> Any:
    """The compiled reductions, what they find passed through ``change``."""
    from mechprobe.kernels.native import Native

    class Changed(Native):
        def reduce(self, z: Tensor, reference: Tensor, targets: Tensor, k: int) -> Any:
            return change(native.reduce(z, reference, targets, k))

    return Changed(native.code)


@settings(deadline=None, max_examples=100)
@given(problem=problems(min_rows=1, grid=True, transforms=False))
def test_a_compiled_readout_matches_the_loops(native: Any, problem: Problem) -> None:
    """Biases of -inf among them, which torch's steps take over."""
    arithmetic = import_module("mechprobe.kernels.arithmetic")
    calls = 0

    def counted(found: Any) -> Any:
        nonlocal calls
        calls += 1
        return found

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(arithmetic, "chooser", Chosen(changed(native, counted)))
        assert_loops_agree(problem.to(torch.float32), atol=2e-5)
    assert calls > 0 or problem.k > 64


FAST = ("-march=native", "-fopenmp")


class Trials:
    """The module with a compiler that takes no time and ends as told."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        from mechprobe.kernels import native

        self.native = native.Native(ctypes.CDLL(None), "cc", FAST)
        self.compiled = 0
        self.error: Exception | None = None
        monkeypatch.setattr(native, "WORTH_COMPILING", 1000)
        monkeypatch.setattr(native, "reductions", self.compile)
        self.chooser = native.Chooser()

    def compile(self) -> Any:
        self.compiled += 1
        if self.error is not None:
            raise self.error
        return self.native

    def get(self, n_logits: int, k: int = 10, n_targets: int = 1, **options: Any) -> Any:
        return self.chooser.get(torch.empty(4, 50, **options), n_logits, k, n_targets)


@pytest.fixture
def trials(monkeypatch: pytest.MonkeyPatch) -> Trials:
    return Trials(monkeypatch)


def test_nothing_is_compiled_before_it_pays(trials: Trials) -> None:
    assert trials.get(999) is None
    assert trials.compiled == 0
    assert trials.get(1000) is trials.native
    assert trials.get(5000) is trials.native
    assert trials.compiled == 1
    # The same call goes the same way, whatever came before it.
    assert trials.get(999) is None


def test_a_prompt_never_compiles() -> None:
    """Of 12 tokens, on the default threshold."""
    from mechprobe.kernels.native import WORTH_COMPILING

    assert WORTH_COMPILING > 12 * 32 * 100_000


@pytest.mark.parametrize(
    "flags", [(), ("-fopenmp",), ("-march=native",)], ids=["portable", "any processor", "no OpenMP"]
)
def test_what_is_slower_than_the_steps_is_not_used(trials: Trials, flags: tuple[str, ...]) -> None:
    trials.native = replace(trials.native, flags=flags)
    assert trials.get(1000) is None
    assert trials.get(1000) is None
    assert trials.compiled == 1
    assert trials.chooser.failure == "cc makes none for this processor with OpenMP"


def test_threads_share_what_was_compiled(trials: Trials) -> None:
    """In torch's sense and in Python's."""
    found: list[Any] = []
    threads = [Thread(target=lambda: found.append(trials.get(1000))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    before = torch.get_num_threads()
    torch.set_num_threads(before + 1)
    found.append(trials.get(1000))
    torch.set_num_threads(before)
    assert all(x is trials.native for x in found)
    assert trials.compiled == 1


def test_what_the_source_does_not_do_is_done_in_steps(trials: Trials) -> None:
    assert trials.get(1000, dtype=torch.float64) is None
    assert trials.get(1000, dtype=torch.bfloat16) is None
    assert trials.get(1000, device="meta") is None
    assert trials.get(1000, k=65) is None
    assert trials.get(1000, n_targets=17) is None
    assert trials.compiled == 0


def test_a_failure_is_kept_logged_and_not_repeated(trials: Trials, caplog: pytest.LogCaptureFixture) -> None:
    trials.error = RuntimeError("out of luck")
    with caplog.at_level(logging.DEBUG, logger="mechprobe.kernels.native"):
        assert trials.get(1000) is None
        assert trials.get(1000) is None
    assert trials.compiled == 1
    assert trials.chooser.failure == "RuntimeError: out of luck"
    assert "reductions in torch's steps: RuntimeError: out of luck" in caplog.text


@pytest.mark.parametrize("field", range(7))
def test_the_check_refuses_what_is_wrong(native: Any, field: int) -> None:
    from mechprobe.kernels.native import is_exact

    def off(found: Any) -> Any:
        found[field][0, 5] += 1
        return found

    assert is_exact(native)
    assert not is_exact(changed(native, off), 300)
    assert not is_exact(changed(native, lambda _: None), 300)


def test_what_is_wrong_is_not_given(monkeypatch: pytest.MonkeyPatch) -> None:
    compiler_or_skip()
    module = import_module("mechprobe.kernels.native")

    def never(native: Any) -> bool:  # noqa: ARG001
        return False

    monkeypatch.setattr(module, "is_exact", never)
    with pytest.raises(RuntimeError, match="of the reductions is wrong"):
        module.reductions.__wrapped__()


def test_the_caller_s_defaults_are_not_heard(native: Any) -> None:
    """Memory is asked for in the type in which the source writes."""
    from mechprobe.kernels.native import is_exact

    torch.set_default_dtype(torch.float64)
    try:
        with torch.device("meta"):
            assert is_exact(native)
    finally:
        torch.set_default_dtype(torch.float32)
