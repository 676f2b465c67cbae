r"""What is read off a block of logits: step by step, or in one compiled pass where that pays.

Step by step, torch goes over a block some ten times between its maximum and its divergence.
Compiled, it goes over it twice, and its threads meet twice instead of a dozen times, which is what
costs most on a busy machine. But compiling takes seconds, so it waits until a process has read so
much that as much again would repay it, and what comes out is used only where it is measured faster.
"""

import logging
import os
import shutil
import warnings
from collections.abc import Callable
from time import perf_counter
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from mechprobe.kernels.topk import block_maxima

# Of logits [*group, pos, d_vocab], reference [pos, d_vocab], value [*group, pos, 1].
Pass = Callable[[Tensor, Tensor, Tensor], tuple[Tensor, ...]]
Reduction = Literal["stepwise", "compiled"]

_log = logging.getLogger(__name__)

# What follows a product is limited by memory and fast on few rows, which stay in the cache from one
# step to the next: 6.1 ms instead of 8.0 for 128 x 49,152.
ROWS_AT_ONCE = 16
# Logits. The compiled pass saves 4 to 7 % of a reading of SmolLM2. To have it took 2 to 8 s where
# torch's cache on disk held it, and 8 to 25 s where it had to be compiled (2 busy cores). 2e10 are
# 13,000 positions and 31 entries of 49,152 ids: two minutes of reading.
WORTH_COMPILING = 20_000_000_000
_TRIAL_ROWS = 64
_TRIALS = 15
_COMPILERS = ("g++", "clang++", "c++", "cl")


def one_pass(
    z: Float[Tensor, "*group pos d_vocab"],
    reference: Float[Tensor, "pos d_vocab"],
    value: Float[Tensor, "*group pos 1"],
) -> tuple[Tensor, ...]:
    r"""Return what a tile needs of its logits; this is the code that is compiled.

    Args:
        z: Logits.
        reference: Distributions to take cross-entropies from.
        value: Logits to count the larger ones of.

    Returns:
        Block maxima; :math:`\log \sum_v e^{z_v - \max z}`; entropy; cross-entropy from the
        reference; how many logits are larger than ``value``.
    """
    maxima = block_maxima(z)
    below = z - maxima.amax(-1, keepdim=True)
    p = below.exp()
    total = p.sum(-1)
    log_sum = total.log()
    inner = torch.where(p == 0, 0.0, p * below).sum(-1)
    cross = torch.where(reference == 0, 0.0, reference * below).sum(-1)
    return maxima, log_sum, log_sum - inner / total, log_sum - cross, (z > value).sum(-1)


class Stepwise:
    """``one_pass`` in steps, with two buffers for all blocks instead of fresh memory for each.

    Args:
        n_rows: Rows of the largest block.
        like: A tensor ``[..., d_vocab]`` of the device.
        dtype: In which to reduce.
    """

    def __init__(self, n_rows: int, like: Float[Tensor, "... d_vocab"], dtype: torch.dtype) -> None:
        self._below = torch.empty(n_rows, like.shape[-1], dtype=dtype, device=like.device)
        self._p = torch.empty_like(self._below)

    def distribution(
        self, z: Float[Tensor, "pos d_vocab"], out: Float[Tensor, "pos d_vocab"]
    ) -> None:
        """Write the probabilities of ``z`` to ``out``."""
        below = self._below[: len(z)]
        # Below the largest logit nothing cancels, however large the logits are.
        torch.sub(z.to(below.dtype), z.amax(-1, keepdim=True).to(below.dtype), out=below)
        torch.softmax(below, dim=-1, out=out)

    def __call__(
        self,
        z: Float[Tensor, "*group pos d_vocab"],
        reference: Float[Tensor, "pos d_vocab"],
        value: Float[Tensor, "*group pos 1"],
    ) -> tuple[Tensor, ...]:
        """Return what ``one_pass`` returns."""
        n_rows = value.numel()
        below, p = self._below[:n_rows].view(z.shape), self._p[:n_rows].view(z.shape)
        maxima = block_maxima(z)
        larger = self.count(z, value)
        best = maxima.amax(-1, keepdim=True).to(below.dtype)
        torch.sub(z.to(below.dtype), best, out=below)
        torch.softmax(below, dim=-1, out=p)
        log_sum = -p.amax(-1).log()
        entropy = log_sum - _dot(p, below, out=p)
        cross = log_sum - _dot(reference, below, out=p)
        return maxima, log_sum, entropy, cross, larger

    def count(
        self, z: Float[Tensor, "*group pos d_vocab"], value: Float[Tensor, "*group pos 1"]
    ) -> Float[Tensor, "*group pos"]:
        """Return how many logits are larger than ``value``.

        Counted as floats in a reused buffer (exact to 2**24): 29 ms for 31 tiles of 128 x 49,152,
        where summing booleans takes 470 ms.
        """
        flags = self._p[: value.numel()].view(z.shape)
        return torch.gt(z, value, out=flags).sum(-1)


def _dot(
    p: Float[Tensor, "*rows pos d_vocab"],
    z: Float[Tensor, "*group pos d_vocab"],
    out: Float[Tensor, "*group pos d_vocab"],
) -> Float[Tensor, "*group pos"]:
    """``einsum(p, z, "... d_vocab, ... d_vocab -> ...")`` with ``0 * -inf = 0``.

    The products go to ``out``, which may be ``p`` itself: with fresh memory for them, as ``vecdot``
    and ``einsum`` take it, 16 x 49,152 of them cost 0.45 ms instead of 0.1.
    """
    total = torch.mul(p, z, out=out).sum(-1)
    undefined = total.isnan()
    if bool(undefined.any()):
        products = out[undefined]
        empty = products.isnan() & z[undefined].isneginf()
        total[undefined] = products.masked_fill(empty, 0.0).sum(-1)
    return total


class Compiler:
    """What a process knows of the compiled pass.

    Attributes:
        seen: Logits reduced so far.
        chosen: The pass by width of the logits and number of threads; None where it could not be
            compiled or was not faster.
        failure: Why it could not be compiled, for a debugger; ``logging`` has it too, at level
            debug.
    """

    def __init__(self) -> None:
        self.seen = 0
        self.chosen: dict[tuple[int, int], Pass | None] = {}
        self.failure: str | None = None

    def get(self, z: Float[Tensor, "row d_vocab"], n_logits: int) -> Pass | None:
        """Return the compiled pass, if it is at hand or if this is the time to compile it.

        Args:
            z: A buffer as the logits will come in.
            n_logits: How many of them will come.
        """
        if z.dtype != torch.float32 or z.device.type != "cpu":
            return None
        self.seen += n_logits
        key = (z.shape[1], torch.get_num_threads())
        if key not in self.chosen:
            if self.seen < WORTH_COMPILING:
                return None
            self.chosen[key] = self._compile(z.shape[1])
        return self.chosen[key]

    def _compile(self, d_vocab: int) -> Pass | None:
        if not _has_compiler():
            self.failure = "no C++ compiler was found"
            return None
        start = perf_counter()
        try:
            compiled = compile_pass(d_vocab)
            ratio = _trial(compiled, d_vocab)
        except Exception as error:
            # Whatever troubles the compiler, the steps do the same work.
            self.failure = f"{type(error).__name__}: {error}"
            _log.debug("the reductions stay uncompiled", exc_info=True)
            return None
        _log.debug("reductions compiled in %.1f s: %.2f x", perf_counter() - start, ratio)
        return compiled if ratio > 1 else None


def compile_pass(d_vocab: int) -> Pass:
    """Compile ``one_pass`` for float32 logits ``[pos, d_vocab]``, any number of positions."""
    compiled: Pass = torch.compile(one_pass, fullgraph=True, options={"compile_threads": 1})
    inputs = _random_inputs(d_vocab)
    for tensor in inputs:
        # Another number of rows would else be compiled anew.
        torch._dynamo.mark_dynamic(tensor, 0)
    with warnings.catch_warnings():
        # The compiler's own deprecations are nobody's business here.
        warnings.simplefilter("ignore")
        compiled(*inputs)
    return compiled


def _has_compiler() -> bool:
    return any(shutil.which(name) for name in (os.environ.get("CXX", ""), *_COMPILERS) if name)


def _random_inputs(d_vocab: int) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    z = torch.randn(_TRIAL_ROWS, d_vocab, generator=generator)
    return z, z.roll(1, 0).softmax(-1), z[:, :1].clone()


def _trial(compiled: Pass, d_vocab: int) -> float:
    """Return how many times faster than the steps the compiled pass is."""
    z, reference, value = _random_inputs(d_vocab)
    steps = Stepwise(ROWS_AT_ONCE, z, z.dtype)
    blocks = [slice(i, i + ROWS_AT_ONCE) for i in range(0, _TRIAL_ROWS, ROWS_AT_ONCE)]

    def stepwise() -> None:
        for rows in blocks:
            steps(z[rows], reference[rows], value[rows])

    seconds: tuple[list[float], list[float]] = ([], [])
    for _ in range(_TRIALS):
        for run, times in zip(
            (stepwise, lambda: compiled(z, reference, value)), seconds, strict=True
        ):
            start = perf_counter()
            run()
            times.append(perf_counter() - start)
    return min(seconds[0]) / min(seconds[1])


compiler = Compiler()
