"""The same call takes the same arithmetic and gives the same bits, and it is told which."""

import ast
import hashlib
import json
import subprocess
import sys
from dataclasses import fields
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.compiler import compiler_or_skip
from tests.test_kernel_gemm import always

# Above both thresholds: 2e9 multiplications, 4e7 logits.
ENTRIES, ROWS, D_MODEL, D_VOCAB = 8, 120, 50, 42_000


def work() -> dict[str, Any]:
    generator = torch.Generator().manual_seed(0)
    return {
        "rows": torch.randn(ENTRIES, ROWS, D_MODEL, generator=generator),
        "W_U": torch.randn(D_VOCAB, D_MODEL, generator=generator).T,
        "k": 10,
        "targets": torch.randint(D_VOCAB, (ROWS, 1), generator=generator),
    }


def bits() -> str:
    """Every bit of a readout, and how it was taken."""
    from mechprobe.kernels import readout
    from mechprobe.kernels.arithmetic import describe
    from mechprobe.kernels.observed import observed

    given = work()
    told = describe(given["W_U"], ENTRIES * ROWS, k=10, n_targets=1)
    digest = hashlib.sha256()
    with observed() as seen:
        found = readout(**given)
    for field in fields(found):
        digest.update(getattr(found, field.name).contiguous().numpy().tobytes())
    return json.dumps([digest.hexdigest(), told, seen.found()])


def test_two_processes_give_the_same_bits() -> None:
    code = (
        "import random, time, torch; torch.set_num_threads(2)\n"
        "time.perf_counter = time.monotonic = time.time = random.random\n"
        "from tests.test_kernel_arithmetic import bits; print(bits())"
    )
    root = Path(__file__).parents[1]
    runs = [
        subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True)
        for _ in range(2)
    ]
    first, second = (run.stdout for run in runs)
    assert first, runs[0].stderr
    assert first == second
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        assert json.loads(bits()) == json.loads(first)  # whatever ran before, in this process too
    finally:
        torch.set_num_threads(before)


def test_no_clock_is_looked_at() -> None:
    folder = Path(import_module("mechprobe.kernels").__path__[0])
    clocks = {"time", "timeit", "datetime", "perf_counter", "cProfile", "sched"}
    sources = sorted(folder.glob("*.py"))
    assert len(sources) > 10
    for source in sources:
        for node in ast.walk(ast.parse(source.read_text())):
            names = {x.name for x in getattr(node, "names", []) if isinstance(x, ast.alias)}
            names |= {str(getattr(node, "module", "") or ""), str(getattr(node, "attr", ""))}
            assert not clocks & {part for name in names for part in name.split(".")}, source
    for source in sorted(folder.glob("*.c")):
        assert "clock" not in source.read_text()
        assert "time.h" not in source.read_text()


def test_threads_are_told() -> None:
    from mechprobe.kernels.arithmetic import capabilities, describe

    before = torch.get_num_threads()
    for n in (1, 2, before):
        torch.set_num_threads(n)
        assert describe(torch.eye(2), 1)["threads"] == capabilities()["threads"] == n


CALLS: dict[str, tuple[dict[str, int], torch.dtype]] = {
    "small": ({}, torch.float32),
    "small, many to come": ({"steps": 10**6}, torch.float32),
    "many, too many ids": ({"steps": 10**6, "k": 65}, torch.float32),
    "many in float64": ({"steps": 10**6}, torch.float64),
    "many in bfloat16": ({"steps": 10**6}, torch.bfloat16),
}


@pytest.mark.parametrize("suits", [False, True])
@pytest.mark.parametrize("call", CALLS)
def test_what_is_told_is_what_is_taken(call: str, suits: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also on a processor that oneDNN suits, whether or not this is one."""
    gemm = import_module("mechprobe.kernels.gemm")
    from mechprobe.kernels import readout
    from mechprobe.kernels.arithmetic import describe
    from mechprobe.kernels.observed import observed
    from mechprobe.kernels.processor import Processor

    compiler_or_skip()
    if suits:
        monkeypatch.setattr(gemm, "processor", lambda: Processor("amd", True, False))
        monkeypatch.setattr(gemm, "_is_exact", always)
        monkeypatch.setattr(torch.backends.mkl, "is_available", lambda: True)
    options, dtype = CALLS[call]
    steps, k = options.get("steps", 1), options.get("k", 5)
    rows, W_U = torch.randn(3, 2, 8).to(dtype), torch.randn(8, 300).to(dtype)
    rows[-1] = rows[0]  # read once, but the shapes decide
    told = describe(W_U, steps * 6, k=k)
    with observed() as seen:
        readout(rows, W_U, k=k, steps=steps)
    assert seen.found() == {"products": [told["product"]], "reductions": [told["reductions"]]}
    assert told["dtype"] == str(dtype)[6:]
    assert ("compiler" in told) == (told["reductions"] == "compiled")
    json.dumps(told, allow_nan=False)
    if suits and call == "small, many to come":
        assert told["product"] == "onednn"


def test_undefined_logits_are_seen_to_go_to_the_steps() -> None:
    from mechprobe.kernels import readout
    from mechprobe.kernels.arithmetic import describe
    from mechprobe.kernels.observed import observed

    compiler_or_skip()
    W_U = torch.randn(8, 300)
    if describe(W_U, 10**6)["reductions"] != "compiled":
        pytest.skip("this compiler makes nothing for this processor with OpenMP")
    with observed() as outer, observed() as seen:
        readout(torch.randn(3, 2, 8), W_U, torch.full((300,), -torch.inf), k=5, steps=10**6)
    assert seen.found()["reductions"] == outer.found()["reductions"] == ["compiled", "torch"]


def test_capabilities_compile_nothing_and_are_plain(monkeypatch: pytest.MonkeyPatch) -> None:
    arithmetic = import_module("mechprobe.kernels.arithmetic")
    native = import_module("mechprobe.kernels.native")

    def never(*names: str) -> None:
        raise AssertionError(names)

    monkeypatch.setattr(native, "built", never)
    monkeypatch.setenv("MKL_CBWR", "AVX2")
    told = arithmetic.capabilities()
    assert told["environment"]["MKL_CBWR"] == "AVX2"
    assert json.loads(json.dumps(told)) == told
    assert set(told["compiled"]) == {"compiler", "from_logits", "up_to_top", "up_to_targets"}


@pytest.mark.parametrize("setting", ["ieee", "bf16"])
def test_what_the_user_set_is_told(setting: str) -> None:
    from mechprobe.kernels.arithmetic import describe
    from mechprobe.kernels.gemm import _has_effect

    switch: Any = torch.backends.mkldnn.matmul  # pyrefly: ignore[missing-attribute]
    before = switch.fp32_precision
    try:
        switch.fp32_precision = setting
        told = describe(torch.eye(2), 1)
    finally:
        switch.fp32_precision = before
    assert told["float32_precision"] == setting
    assert (told["product"] == "onednn") == (setting == "bf16" and _has_effect())
