"""Which of torch's matrix products is fast on this processor, found by trying them.

On CPUs torch has two single-precision products: MKL's SGEMM and oneDNN's. On AMD processors with
AVX-512 the second is 2 to 2.5 times faster at the same accuracy, but the only public switch to it,
``torch.backends.mkldnn.matmul.fp32_precision = "bf16"``, really lowers the precision on processors
with AMX. So the choice is made by measurement, and accuracy is measured before speed.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from time import perf_counter
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor

Gemm = Literal["default", "onednn"]

# Below this many multiply-adds the product is over before a calibration would be.
_WORTH_CALIBRATING = 2e9
_CALIBRATION_ROWS = 64
_CALIBRATION_COLUMNS = 8192
# A product in float32 errs by about 1e-6 of |x||w|, one in bfloat16 by about 1e-3.
_MAX_RELATIVE_ERROR = 2e-5


@contextmanager
def gemm_path(path: Gemm) -> Iterator[None]:
    """Run float32 products inside the block through ``path``; the old setting comes back after.

    ``"default"`` leaves the setting of the process, or of a block around, as it is.
    """
    if path == "default":
        yield
        return
    switch: Any = torch.backends.mkldnn.matmul  # pyrefly: ignore[missing-attribute]
    before = switch.fp32_precision
    switch.fp32_precision = "bf16"
    try:
        yield
    finally:
        switch.fp32_precision = before


def fastest_gemm(W_U: Float[Tensor, "d_model d_vocab"], n_rows: int) -> Gemm:
    """Return the fastest product for ``[n_rows, d_model] @ W_U`` that is exact to float32.

    Small work, other dtypes and other devices take torch's default without a trial. The trial
    takes some 30 ms, once per process and shape of ``W_U``.

    Args:
        W_U: The right-hand matrix; only its shape, strides, dtype and device matter.
        n_rows: How many rows will be multiplied in all.

    Returns:
        ``"default"`` or ``"onednn"``.
    """
    if W_U.dtype != torch.float32 or W_U.device.type != "cpu":
        return "default"
    if n_rows * W_U.shape[0] * W_U.shape[1] < _WORTH_CALIBRATING:
        return "default"
    return _calibrate(W_U.shape[0], W_U.stride(0) == 1, torch.get_num_threads())


@cache
def _calibrate(d_model: int, column_major: bool, n_threads: int) -> Gemm:  # noqa: ARG001
    """Time both products on random data of the same layout; threads are part of the key."""
    if not torch.backends.mkldnn.is_available():
        return "default"
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(_CALIBRATION_ROWS, d_model, generator=generator)
    W = torch.randn(_CALIBRATION_COLUMNS, d_model, generator=generator)
    W = W.T if column_major else W.T.contiguous()
    exact = x[:4].double() @ W.double()
    scale = x[:4].double().norm(dim=-1, keepdim=True) * W.double().norm(dim=0)
    with gemm_path("onednn"):
        error = (((x @ W)[:4] - exact).abs() / scale).max()
    if not float(error) < _MAX_RELATIVE_ERROR:
        return "default"
    out = torch.empty(_CALIBRATION_ROWS, _CALIBRATION_COLUMNS)
    seconds: dict[Gemm, list[float]] = {"default": [], "onednn": []}
    for _ in range(4):
        for path, times in seconds.items():
            start = perf_counter()
            with gemm_path(path):
                torch.mm(x, W, out=out)
            times.append(perf_counter() - start)
    return "onednn" if min(seconds["onednn"]) < min(seconds["default"]) else "default"
