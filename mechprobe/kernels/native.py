r"""The reductions over logits in C, where a C compiler is at hand that makes them fast.

In torch's steps a block of logits is gone over some ten times; here twice, while it lies in the
cache. It is compiled at the first call with enough to read. What cannot be compiled for this
processor with OpenMP, or is not exact, is not used. No time is taken: the same call takes the same
way in every process. One thread of an AMD EPYC (Zen 3, AVX2), 64 rows of 49,152 logits: torch's
steps 15 ms, compiled 3.8; for any processor, 53; for this one without OpenMP, on which vectorised
sums hang too, 8.0, and no less with more threads.
"""

import ctypes
import logging
from dataclasses import dataclass
from functools import cache
from threading import Lock
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from mechprobe.kernels.reductions import Reduced, one_pass
from mechprobe.kernels.source import built
from mechprobe.kernels.topk import BLOCK, block_maxima, top_k

# As in the source.
MAX_TOP = 64
MAX_TARGETS = 16
# Logits of one call, so that the same call always takes the same way: 26 positions of SmolLM2.
WORTH_COMPILING = 40_000_000

_log = logging.getLogger(__name__)
# Several blocks and chunks of the source, and a rest of each.
_CHECKED_ROWS, _CHECKED_COLUMNS, _CHECKED_K = 16, 5003, 10
_MAX_ERROR = 5e-5


class _Cells(ctypes.Structure):
    """Where the source writes."""

    _fields_ = [(name, ctypes.c_void_p) for name in Reduced._fields]


@dataclass(frozen=True)
class Native:
    """The compiled source.

    Attributes:
        code: What was loaded.
        compiler: What compiled it.
        flags: For which processor, and with which help.
    """

    code: ctypes.CDLL
    compiler: str = ""
    flags: tuple[str, ...] = ()

    @property
    def suits(self) -> bool:
        """Whether it is for this processor and its threads, and so faster than torch's steps."""
        return "-fopenmp" in self.flags and any(x.endswith("=native") for x in self.flags)

    def reduce(
        self,
        z: Float[Tensor, "group pos d_vocab"],
        reference: Float[Tensor, "pos d_vocab"],
        targets: Int[Tensor, "pos target"],
        k: int,
    ) -> Reduced | None:
        r"""Read a tile of logits.

        Args:
            z: Logits, float32, each entry's rows behind those of the one before.
            reference: Distributions to take cross-entropies from.
            targets: Ids to follow, at most ``MAX_TARGETS``.
            k: How many most likely ids, at most ``MAX_TOP``.

        Returns:
            What was found; None where a logit is not finite.
        """
        n_threads = torch.get_num_threads()
        n_blocks = -(-z.shape[-1] // BLOCK)
        scratch = torch.empty(n_threads, n_blocks, dtype=torch.float32, device=z.device)
        targets = targets.contiguous()
        found = Reduced.empty((len(z), z.shape[1]), k, targets.shape[1], dtype=torch.float32, device=z.device)
        cells = _Cells(*(x.data_ptr() for x in found))
        undefined = self.code.reduce(
            z.data_ptr(),
            len(z) * z.shape[1],
            z.shape[2],
            reference.data_ptr(),
            z.shape[1],
            targets.data_ptr(),
            targets.shape[1],
            k,
            scratch.data_ptr(),
            n_threads,
            ctypes.byref(cells),
        )
        return None if undefined else found


@cache
def reductions() -> Native:
    """Compile and load the source, and compare it once with float64.

    Raises:
        RuntimeError: There is no compiler, or it fails, or what it makes is wrong.
    """
    code, compiler, flags = built("native")
    order = tuple(ctypes.string_at(code.fields).decode().split())
    if order != Reduced._fields:
        msg = f"native.c writes {order}; Reduced has {Reduced._fields}."
        raise RuntimeError(msg)
    at, n = ctypes.c_void_p, ctypes.c_long
    code.reduce.argtypes = [at, n, n, at, n, at, n, n, at, ctypes.c_int, at]
    code.reduce.restype = n
    native = Native(code, compiler, flags)
    if not is_exact(native):
        msg = f"what {compiler} makes of the reductions is wrong."
        raise RuntimeError(msg)
    return native


class Chooser:
    """What a process knows of the compiled source.

    Attributes:
        failure: Why it is not used, for a debugger; ``logging`` has it too, at level debug.
    """

    def __init__(self) -> None:
        self.failure: str | None = None
        self._known = False
        self._native: Native | None = None
        self._turn = Lock()

    def get(self, z: Float[Tensor, "... d_vocab"], n_logits: int, k: int, n_targets: int) -> Native | None:
        """Return the compiled source where it is to be used, compiling it if need be.

        Args:
            z: The unembedding, or a buffer like the logits.
            n_logits: How many of them will come.
            k: How many most likely ids are wanted.
            n_targets: How many targets.
        """
        if z.dtype != torch.float32 or z.device.type != "cpu":
            return None
        if k > MAX_TOP or n_targets > MAX_TARGETS:
            return None
        if n_logits < WORTH_COMPILING:
            return None
        with self._turn:
            if not self._known:
                self._native, self._known = self._compile(), True
            return self._native

    def _compile(self) -> Native | None:
        try:
            native = reductions()
        except (RuntimeError, OSError, AttributeError) as error:
            # Whatever troubles the compiler, torch's steps do the same work.
            self.failure = f"{type(error).__name__}: {error}"
        else:
            if native.suits:
                return native
            self.failure = f"{native.compiler} makes none for this processor with OpenMP"
        _log.debug("reductions in torch's steps: %s", self.failure)
        return None


def is_exact(native: Native, d_vocab: int = _CHECKED_COLUMNS) -> bool:
    """Return whether the compiled source finds what float64 finds, on the same numbers as always.

    Args:
        native: What is checked.
        d_vocab: Width of the logits that it is checked on.
    """
    generator = torch.Generator().manual_seed(0)
    options: dict[str, Any] = {"generator": generator, "device": "cpu"}
    z = torch.randn(1, _CHECKED_ROWS, d_vocab, dtype=torch.float32, **options) * 4
    reference = z[0].roll(1, 0).softmax(-1)
    targets = torch.randint(0, d_vocab, (_CHECKED_ROWS, 1), **options)
    found = native.reduce(z, reference, targets, _CHECKED_K)
    if found is None:
        return False
    wide, value = z[0].double(), z[0].gather(-1, targets)
    maxima, log_sum, entropy, cross, larger = one_pass(wide, reference.double(), value.double())
    top, top_id = top_k(z[0], _CHECKED_K, block_maxima(z[0]))
    log_z = maxima.amax(-1, keepdim=True) + log_sum[:, None]
    exact = Reduced(
        top_id, top.double() - log_z, log_z[:, 0], entropy, cross, value.double() - log_z, larger[:, None]
    )
    pairs = [(a[0], b) for a, b in zip(found, exact, strict=True)]
    return all(
        float((a - b).abs().max()) < _MAX_ERROR if b.is_floating_point() else torch.equal(a, b)
        for a, b in pairs
    )


chooser = Chooser()
