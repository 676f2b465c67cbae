"""Which of torch's matrix products is taken: by processor, dtype and size, never by a stopwatch.

On x86 torch has two single-precision products: MKL's SGEMM and oneDNN's. The only public switch to
the second, ``torch.backends.mkldnn.matmul.fp32_precision = "bf16"``, works on processors with
AVX-512, and on those with AMX it really lowers the precision. MKL is slow on AMD. So oneDNN is
taken on AMD processors with AVX-512 and without AMX, and only after its accuracy was checked once.

Measured with torch 2.13, 2 threads, rows of 576 by ``[576, 49152]``:

- AMD EPYC Turin (AVX-512): oneDNN 300 to 450 GFLOP/s, MKL 160 to 175, both exact to float32;
- AMD EPYC Milan (AVX2): the switch does nothing, the bits are the same with it and without.

Intel processors keep MKL. That was not measured.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from threading import RLock
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from mechprobe.kernels.processor import processor

Gemm = Literal["default", "onednn"]

# Multiply-adds of one call, so that the same call always takes the same way. Below it there is too
# little to gain.
WORTH_SWITCHING = 2_000_000_000
_CHECKED_ROWS = 64
_CHECKED_COLUMNS = 4096
# A product in float32 errs by about 1e-6 of |x||w|, one in bfloat16 by about 1e-3.
_MAX_RELATIVE_ERROR = 2e-5

# The switch is the process's. Two threads that turned it at once would leave it on for good, and
# multiply by each other's choice.
_turn = RLock()


@contextmanager
def gemm_path(path: Gemm) -> Iterator[None]:
    """Run float32 products inside the block through ``path``; the old setting comes back after.

    A second thread that wants such a block waits until this one is done.

    Args:
        path: ``"onednn"``, or ``"default"``, which leaves the setting of the process, or of a block
            around, as it is.
    """
    mkldnn: Any = torch.backends.mkldnn
    with _turn:
        before = mkldnn.matmul.fp32_precision
        if path == "default":
            yield
            return
        # Reading gives what is inherited; set again as such, it would follow nothing any more.
        inherited = before == mkldnn.fp32_precision
        mkldnn.matmul.fp32_precision = "bf16"
        try:
            yield
        finally:
            mkldnn.matmul.fp32_precision = "none" if inherited else before


def _taken(path: Gemm, setting: str) -> Gemm:
    """Return the product that a block of ``path`` gets where the process is set as told."""
    on = path == "onednn" or setting == "bf16"
    return "onednn" if on and _has_effect() else "default"


def product_of(path: Gemm, W_U: Float[Tensor, "d_model d_vocab"]) -> Gemm:
    """Return the product that ``path`` really is for a right-hand matrix, as the process is set."""
    if W_U.dtype != torch.float32 or W_U.device.type != "cpu":
        return "default"
    switch: Any = torch.backends.mkldnn.matmul  # pyrefly: ignore[missing-attribute]
    return _taken(path, switch.fp32_precision)


def _has_effect() -> bool:
    mkldnn: Any = torch.backends.mkldnn
    return bool(mkldnn.is_available() and mkldnn.enabled) and processor().avx512


def onednn_suits() -> bool:
    """Return whether oneDNN's product is the faster one on this processor, and really float32."""
    here = processor()
    slow_default = here.vendor == "amd" and torch.backends.mkl.is_available()
    return slow_default and not here.amx and _has_effect()


def fastest_gemm(W_U: Float[Tensor, "d_model d_vocab"], n_rows: int) -> Gemm:
    """Return the product to take for ``[n_rows, d_model] @ W_U``; it is exact to float32.

    The same on every call with the same sizes on the same machine. Small work, other dtypes and
    other devices take torch's default.

    Args:
        W_U: The right-hand matrix; only its shape, strides, dtype and device matter.
        n_rows: How many rows will be multiplied in all.

    Returns:
        ``"default"`` or ``"onednn"``.
    """
    if W_U.dtype != torch.float32 or W_U.device.type != "cpu":
        return "default"
    if n_rows * W_U.shape[0] * W_U.shape[1] < WORTH_SWITCHING or not onednn_suits():
        return "default"
    return "onednn" if _is_exact(W_U.shape[0], W_U.stride(0) == 1) else "default"


@cache
def _is_exact(d_model: int, column_major: bool) -> bool:
    """Multiply the same random numbers of the same layout as always, and compare with float64."""
    # Whatever the caller's default dtype and device are, and inside autocast too.
    options: Any = {"device": "cpu", "dtype": torch.float32}
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(_CHECKED_ROWS, d_model, generator=generator, **options)
    W = torch.randn(_CHECKED_COLUMNS, d_model, generator=generator, **options)
    W = W.T if column_major else W.T.contiguous()
    exact = x.double() @ W.double()
    scale = x.double().norm(dim=-1, keepdim=True) * W.double().norm(dim=0)
    found = torch.empty(_CHECKED_ROWS, _CHECKED_COLUMNS, **options)
    with torch.autocast("cpu", enabled=False), gemm_path("onednn"):
        torch.mm(x, W, out=found)
    return float(((found - exact).abs() / scale).max()) < _MAX_RELATIVE_ERROR
