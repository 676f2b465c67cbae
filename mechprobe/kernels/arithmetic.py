"""Which of equally right ways of calculating a call takes, decided in one place and told.

Nothing here looks at a clock or at numbers: processor, compiler, threads, dtype, device and sizes
decide. So the same call on the same machine gives the same bits, and what ``describe`` returns is
what ``readout`` does, because both ask ``choose``.
"""

import os
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from mechprobe.kernels.gemm import WORTH_SWITCHING, Gemm, fastest_gemm, onednn_suits, product_of
from mechprobe.kernels.native import MAX_TARGETS, MAX_TOP, WORTH_COMPILING, Native, chooser
from mechprobe.kernels.processor import processor
from mechprobe.kernels.source import find_compiler

# With these a user makes torch, MKL and oneDNN calculate otherwise on the same processor.
_SETTINGS = (
    "ATEN_CPU_CAPABILITY",
    "MKL_CBWR",
    "MKL_DYNAMIC",
    "MKL_ENABLE_INSTRUCTIONS",
    "MKL_NUM_THREADS",
    "ONEDNN_DEFAULT_FPMATH_MODE",
    "ONEDNN_MAX_CPU_ISA",
)

Told = dict[str, Any]
"""Plain JSON."""


class Arithmetic(NamedTuple):
    """How one readout is calculated.

    Attributes:
        product: The matrix product.
        native: The compiled reductions; None for torch's steps.
    """

    product: Gemm
    native: Native | None


def choose(
    W_U: Float[Tensor, "d_model d_vocab"],
    n_rows: int,
    k: int,
    n_targets: int,
    product: Gemm | None = None,
    *,
    compiled: bool = True,
) -> Arithmetic:
    """Return how rows are read through an unembedding.

    Args:
        W_U: The unembedding; only its shape, strides, dtype and device matter.
        n_rows: How many rows in all: entries times positions, times calls to come.
        k: How many most likely ids are kept.
        n_targets: How many targets are followed.
        product: The matrix product, where the caller has chosen it.
        compiled: Whether the compiled reductions may be taken.
    """
    native = chooser.get(W_U, n_rows * W_U.shape[1], k, n_targets) if compiled else None
    return Arithmetic(product or fastest_gemm(W_U, n_rows), native)


def describe(
    W_U: Float[Tensor, "d_model d_vocab"],
    n_rows: int,
    *,
    k: int = 1,
    n_targets: int = 0,
    product: Gemm | None = None,
) -> Told:
    """Return how ``readout`` calculates such a call, for its record.

    To be asked outside of ``gemm_path``. It compiles the reductions where the call itself would.

    Args:
        W_U: As for ``choose``.
        n_rows: As for ``choose``; of ``readout`` that is ``steps * len(rows) * rows.shape[1]``.
        k: As for ``choose``.
        n_targets: As for ``choose``.
        product: As for ``choose``.

    Returns:
        Plain JSON: ``device``, ``dtype``, ``threads``, ``product``, ``reductions``, what compiled
        them, if anything did, and settings of the process.

    Example:
        >>> describe(torch.eye(2), 1)["reductions"]
        'torch'
    """
    path, found = choose(W_U, n_rows, k, n_targets, product)
    return {
        "device": W_U.device.type,
        "dtype": str(W_U.dtype).removeprefix("torch."),
        "product": product_of(path, W_U),
        "reductions": "torch" if found is None else "compiled",
        **({} if found is None else {"compiler": " ".join((found.compiler, *found.flags))}),
        **settings(W_U.device),
    }


def capabilities() -> Told:
    """Return what decides between ways of calculating in this process, whatever the sizes.

    For the record of functions that multiply many times. It compiles nothing, and says the same
    whatever was called before.
    """
    return {
        "processor": processor()._asdict(),
        "onednn": {"suits": onednn_suits(), "from_multiplications": WORTH_SWITCHING},
        "compiled": {
            "compiler": find_compiler(),
            "from_logits": WORTH_COMPILING,
            "up_to_top": MAX_TOP,
            "up_to_targets": MAX_TARGETS,
        },
        **settings(torch.device("cpu")),
    }


def settings(device: torch.device) -> Told:
    """Return what the caller may have set that moves the last digits."""
    backend: Any = torch.backends.cuda if device.type == "cuda" else torch.backends.mkldnn
    return {
        "threads": torch.get_num_threads(),
        "cpu": torch.backends.cpu.get_cpu_capability(),
        "blas": "mkl" if torch.backends.mkl.is_available() else "other",
        "float32_precision": str(backend.matmul.fp32_precision),
        "environment": {name: os.environ[name] for name in _SETTINGS if name in os.environ},
    }
