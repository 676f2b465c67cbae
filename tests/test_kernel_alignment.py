"""The alignment kernels against float64 loops, and what they must not do to memory."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> Iterator[None]:
    """On tensors this small threads only wait for each other."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@dataclass(frozen=True)
class Problem:
    """One call: queries and keys, either of which candidates may share."""

    q: Tensor
    k: Tensor
    weight: Tensor

    def to(self, dtype: torch.dtype) -> "Problem":
        return Problem(self.q.to(dtype), self.k.to(dtype), self.weight.to(dtype))


@st.composite
def problems(draw: st.DrawFn) -> Problem:
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    n, n_candidates, n_tokens = (draw(st.integers(1, 4)) for _ in range(3))
    n_kv, group, d_head = (draw(st.integers(1, 3)) for _ in range(3))
    q_own, k_own = draw(st.booleans()), draw(st.booleans())
    q = rng.normal(size=(n, n_candidates if q_own else 1, n_kv * group, d_head))
    k = rng.normal(size=(n, n_candidates if k_own else 1, n_tokens, n_kv, d_head))
    weight = rng.random((n, k.shape[1], n_tokens))
    for row in weight.reshape(-1, n_tokens):
        row[draw(st.integers(0, n_tokens)) :] = 0.0  # padding, up to all of it
    # Zero vectors: a cosine of nothing.
    q[rng.random(q.shape[:-1]) < 0.1] = 0.0
    k[rng.random(k.shape[:-1]) < 0.1] = 0.0
    return Problem(*(torch.from_numpy(x) for x in (q, k, weight)))


def loops(problem: Problem, of_product: Any) -> Tensor:
    """Sum of ``of_product(q, k)`` over tokens, number by number."""
    q, k, weight = (x.tolist() for x in (problem.q, problem.k, problem.weight))
    n, n_q, n_heads, _ = problem.q.shape
    n_k, n_tokens, n_kv = problem.k.shape[1:4]
    group = n_heads // n_kv
    out = torch.zeros(n, max(n_q, n_k), n_heads, dtype=torch.float64)
    for e in range(n):
        for c in range(out.shape[1]):
            a, b = min(c, n_q - 1), min(c, n_k - 1)
            for h in range(n_heads):
                out[e, c, h] = math.fsum(
                    weight[e][b][t] * of_product(q[e][a][h], k[e][b][t][h // group]) for t in range(n_tokens)
                )
    return out


def dot(a: list[float], b: list[float]) -> float:
    return math.fsum(x * y for x, y in zip(a, b, strict=True))


def cosine(a: list[float], b: list[float]) -> float:
    norm = math.hypot(*a) * math.hypot(*b)
    return dot(a, b) / norm if norm else 0.0


def assert_near(ours: Tensor, theirs: Tensor, tolerance: float = 1e-12) -> None:
    scale = max(1.0, float(theirs.abs().max()))
    torch.testing.assert_close(ours.double(), theirs, rtol=0, atol=tolerance * scale)


@given(problems())
def test_product_equals_loops(problem: Problem) -> None:
    from mechprobe.kernels.alignment import qk_alignment

    ours = qk_alignment(problem.q, problem.k, problem.weight)
    assert ours.dtype == torch.float64
    assert_near(ours, loops(problem, dot))


@given(problems())
def test_cosine_equals_loops(problem: Problem) -> None:
    from mechprobe.kernels.alignment import cosine_alignment

    ours = cosine_alignment(problem.q, problem.k, problem.weight)
    assert_near(ours, loops(problem, cosine))
    assert bool((ours.abs() <= problem.weight.sum(-1)[..., None] + 1e-12).all())


@given(problems(), st.floats(0.05, 3.0), st.none() | st.floats(0.5, 60.0))
def test_attention_logits_equal_loops(problem: Problem, scale: float, cap: float | None) -> None:
    from mechprobe.kernels.alignment import attention_logits

    def logit(a: list[float], b: list[float]) -> float:
        z = scale * dot(a, b)
        return z if cap is None else cap * math.tanh(z / cap)

    ours = attention_logits(problem.q, problem.k, problem.weight, scale, cap)
    assert_near(ours, loops(problem, logit))


@given(problems(), st.integers(0, 2**32))
def test_attention_weights_equal_loops(problem: Problem, seed: int) -> None:
    from mechprobe.kernels.alignment import attention_weights

    n, n_k, n_tokens = problem.weight.shape
    pattern = torch.from_numpy(np.random.default_rng(seed).random((n, n_k, 3, n_tokens)))
    ours = attention_weights(pattern, problem.weight)
    for e in range(n):
        for c in range(n_k):
            for h in range(3):
                expected = dot(pattern[e, c, h].tolist(), problem.weight[e, c].tolist())
                assert float(ours[e, c, h]) == pytest.approx(expected, rel=1e-12, abs=1e-15)


@given(problems(), st.integers(0, 2**32))
def test_padding_is_never_read(problem: Problem, seed: int) -> None:
    """Whatever finite number stands at a token of weight 0, the scores are the same bits."""
    from mechprobe.kernels.alignment import attention_logits, cosine_alignment, qk_alignment

    noise = torch.from_numpy(np.random.default_rng(seed).normal(size=problem.k.shape)) * 1e6
    k = torch.where((problem.weight == 0)[..., None, None], noise, problem.k)
    for kernel in (qk_alignment, cosine_alignment):
        changed = kernel(problem.q, k, problem.weight)
        assert torch.equal(changed, kernel(problem.q, problem.k, problem.weight))
    changed = attention_logits(problem.q, k, problem.weight, 0.5, 2.0)
    plain = attention_logits(problem.q, problem.k, problem.weight, 0.5, 2.0)
    assert torch.equal(changed, plain)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_summed_in_float32(dtype: torch.dtype) -> None:
    """A head of large norm: the product is beyond float16, and far from what bfloat16 can add."""
    from mechprobe.kernels.alignment import (
        attention_logits,
        attention_weights,
        cosine_alignment,
        qk_alignment,
    )

    generator = torch.Generator().manual_seed(0)
    q = (torch.randn(3, 1, 4, 64, generator=generator) * 200).to(dtype)
    k = (torch.randn(3, 5, 2, 2, 64, generator=generator) * 200 + 50).to(dtype)
    weight = torch.full((3, 5, 2), 0.5)
    ours = qk_alignment(q, k, weight)
    assert ours.dtype == torch.float32
    exact = loops(Problem(q.double(), k.double(), weight.double()), dot)
    assert float(exact.abs().max()) > 65504
    assert_near(ours, exact, 1e-6)
    assert_near(cosine_alignment(q, k, weight), loops(Problem(q, k, weight), cosine), 1e-6)
    assert attention_logits(q, k, weight, 0.125, 50.0).dtype == torch.float32
    pattern = torch.full((1, 1, 1, 1000), 1e-3, dtype=dtype)
    mass = attention_weights(pattern, torch.ones(1, 1, 1000))
    assert float(mass) == pytest.approx(1000 * float(pattern[0, 0, 0, 0]), rel=1e-5)


def test_cosine_of_tiny_and_huge_vectors() -> None:
    from mechprobe.kernels.alignment import cosine_alignment

    q = torch.tensor([[1e-15, 0.0], [1e15, 1e15], [0.0, 0.0]]).reshape(1, 1, 3, 2)
    k = torch.tensor([1e-10, 0.0]).reshape(1, 1, 1, 1, 2)
    found = cosine_alignment(q, k, torch.ones(1, 1, 1)).flatten().tolist()
    assert found == pytest.approx([1.0, 2**-0.5, 0.0], rel=1e-6)


def test_heads_that_do_not_share_evenly_are_refused() -> None:
    from mechprobe.kernels.alignment import cosine_alignment, qk_alignment

    q, k = torch.ones(1, 1, 5, 4), torch.ones(1, 1, 1, 2, 4)
    for kernel in (qk_alignment, cosine_alignment):
        with pytest.raises(ValueError, match="5 query heads do not share 2 key heads evenly"):
            kernel(q, k, torch.ones(1, 1, 1))


class _Largest(TorchDispatchMode):
    """The most numbers that any operation's result holds in memory of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.numel = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        if isinstance(out, Tensor):
            size = out.untyped_storage().nbytes() // out.element_size()
            self.numel = max(self.numel, size)
        return out


def test_keys_are_not_repeated_for_every_head_of_a_group() -> None:
    from mechprobe.kernels.alignment import attention_logits, cosine_alignment, qk_alignment

    n_kv, group, n_tokens, d_head = 2, 16, 12, 8
    q = torch.randn(2, 1, n_kv * group, d_head)
    k = torch.randn(2, 6, n_tokens, n_kv, d_head)
    weight = torch.full((2, 6, n_tokens), 1 / n_tokens)
    calls = (
        lambda: qk_alignment(q, k, weight),
        lambda: cosine_alignment(q, k, weight),
        lambda: attention_logits(q, k, weight, 0.3, 5.0),
    )
    for call in calls:
        with _Largest() as seen:
            call()
        # Keys as they are, or one number for each token and head; repeated keys would be
        # 16 times the first and 8 times the second.
        assert 0 < seen.numel <= max(k.numel(), weight.numel() * n_kv * group)
