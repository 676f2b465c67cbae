r"""The reductions over logits in C, where a C compiler is at hand and they are measured faster.

In torch's steps a block of logits is gone over some ten times; here twice, while it lies in the
cache. It is compiled at the first call with enough to read. What cannot be compiled, or is not as
exact and faster in a trial, is not used.
"""

import ctypes
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from time import perf_counter

import torch
from jaxtyping import Float, Int
from torch import Tensor

from mechprobe.kernels.reductions import ROWS_AT_ONCE, Stepwise, one_pass
from mechprobe.kernels.source import compiled
from mechprobe.kernels.topk import BLOCK, block_maxima, top_k

# As in the source.
MAX_TOP = 64
MAX_TARGETS = 16
# Logits of one call, so that the same call always takes the same way: 27 positions of SmolLM2.
WORTH_COMPILING = 40_000_000

_log = logging.getLogger(__name__)
_TRIAL_ROWS, _TRIALS, _TRIAL_K = 64, 5, 10
_MAX_ERROR = 5e-5


class _Cells(ctypes.Structure):
    """Where a source writes; one pointer for each field of a ``Readout``."""

    _fields_ = [(name, ctypes.c_void_p) for name in (
        "top_id", "top_log_prob", "log_z", "entropy", "cross", "target_log_prob", "rank",
    )]  # fmt: skip


Found = tuple[Tensor, ...]
"""The fields of a ``Readout`` in order, ``[group, pos, ...]``; the cross-entropy for ``kl``."""


@dataclass(frozen=True)
class Native:
    """The compiled source.

    Attributes:
        code: What was loaded.
    """

    code: ctypes.CDLL

    def reduce(
        self,
        z: Float[Tensor, "group pos d_vocab"],
        reference: Float[Tensor, "pos d_vocab"],
        targets: Int[Tensor, "pos target"],
        k: int,
    ) -> Found | None:
        r"""Read a tile of logits.

        Args:
            z: Logits, float32, each entry's rows behind those of the one before.
            reference: Distributions to take cross-entropies from.
            targets: Ids to follow, at most ``MAX_TARGETS``.
            k: How many most likely ids, at most ``MAX_TOP``.

        Returns:
            Ids, log-probabilities, :math:`\log Z`, entropies, cross-entropies, log-probabilities
            and ranks of targets; None where a logit is not finite.
        """
        n_threads = torch.get_num_threads()
        n_blocks = -(-z.shape[-1] // BLOCK)
        scratch = torch.empty(n_threads, n_blocks)
        targets = targets.contiguous()
        found, cells = empty_found(z.shape[:2], k, targets.shape[1])
        undefined = self.code.reduce(
            z.data_ptr(), len(z) * z.shape[1], z.shape[2], reference.data_ptr(), z.shape[1],
            targets.data_ptr(), targets.shape[1], k, scratch.data_ptr(), n_threads,
            ctypes.byref(cells),
        )  # fmt: skip
        return None if undefined else found


def empty_found(shape: Sequence[int], k: int, n_targets: int) -> tuple[Found, _Cells]:
    """Make room for what a source finds, and tell it where."""
    floats = [torch.empty(*shape, *more) for more in ((k,), (), (), (), (n_targets,))]
    top_id = torch.empty(*shape, k, dtype=torch.int64)
    rank = torch.empty(*shape, n_targets, dtype=torch.int64)
    found = (top_id, *floats, rank)
    return found, _Cells(*(t.data_ptr() for t in found))


def reductions() -> Native:
    """Compile and load the source.

    Raises:
        RuntimeError: There is no compiler, or it fails.
    """
    code = compiled("native")
    at, n = ctypes.c_void_p, ctypes.c_long
    code.reduce.argtypes = [at, n, n, at, n, at, n, n, at, ctypes.c_int, at]
    code.reduce.restype = n
    return Native(code)


class Chooser:
    """What a process knows of the compiled source.

    Attributes:
        chosen: What to use, by number of threads; None where it could not be compiled or is not
            faster.
        failure: Why it could not be compiled, for a debugger; ``logging`` has it too, at level
            debug.
    """

    def __init__(self) -> None:
        self.chosen: dict[int, Native | None] = {}
        self.failure: str | None = None

    def get(
        self, z: Float[Tensor, "... d_vocab"], n_logits: int, k: int, n_targets: int
    ) -> Native | None:
        """Return the compiled source where it is worth its while, compiling it if need be.

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
        n_threads = torch.get_num_threads()
        if n_threads not in self.chosen:
            self.chosen[n_threads] = self._choose()
        return self.chosen[n_threads]

    def _choose(self) -> Native | None:
        start = perf_counter()
        try:
            native = reductions()
            ratio = trial(native)
        except (RuntimeError, OSError, AttributeError) as error:
            # Whatever troubles the compiler, torch's steps do the same work.
            self.failure = f"{type(error).__name__}: {error}"
            _log.debug("reductions in torch's steps: %s", self.failure)
            return None
        _log.debug("reductions compiled in %.1f s: %.2f x", perf_counter() - start, ratio)
        return native if ratio > 1 else None


def trial(native: Native, d_vocab: int = 16_000) -> float:
    """Return how many times faster than torch's steps the compiled source is; 0 where it is wrong.

    Args:
        native: What is tried.
        d_vocab: Width of the logits that it is tried on.
    """
    generator = torch.Generator().manual_seed(0)
    z = torch.randn(1, _TRIAL_ROWS, d_vocab, generator=generator) * 4
    reference = z[0].roll(1, 0).softmax(-1)
    targets = torch.randint(0, d_vocab, (_TRIAL_ROWS, 1), generator=generator)
    value = z.gather(-1, targets[None])
    if not _is_right(native, z, reference, targets):
        return 0.0
    steps = Stepwise(ROWS_AT_ONCE, z[0], z.dtype)

    def stepwise() -> None:
        for i in range(0, _TRIAL_ROWS, ROWS_AT_ONCE):
            rows = slice(i, i + ROWS_AT_ONCE)
            maxima = steps(z[:, rows], reference[rows], value[:, rows])[0]
            top_k(z[0, rows], _TRIAL_K, maxima[0])

    seconds: tuple[list[float], list[float]] = ([], [])
    for _ in range(_TRIALS):
        for run, times in zip(
            (stepwise, lambda: native.reduce(z, reference, targets, _TRIAL_K)), seconds, strict=True
        ):
            start = perf_counter()
            run()
            times.append(perf_counter() - start)
    return min(seconds[0]) / min(seconds[1])


def _is_right(native: Native, z: Tensor, reference: Tensor, targets: Tensor) -> bool:
    found = native.reduce(z, reference, targets, _TRIAL_K)
    if found is None:
        return False
    wide, value = z[0].double(), z[0].gather(-1, targets)
    maxima, log_sum, entropy, cross, larger = one_pass(wide, reference.double(), value.double())
    top, top_id = top_k(z[0], _TRIAL_K, block_maxima(z[0]))
    log_z = maxima.amax(-1) + log_sum
    exact = [top.double() - log_z[:, None], log_z, entropy, cross, value.double() - log_z[:, None]]
    same = torch.equal(found[0][0], top_id) and torch.equal(found[6][0, :, 0], larger)
    errors = [float((a[0] - b).abs().max()) for a, b in zip(found[1:6], exact, strict=True)]
    return same and max(errors) < _MAX_ERROR


chooser = Chooser()
