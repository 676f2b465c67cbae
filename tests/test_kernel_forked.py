"""Attention over a shared prompt equals attention of every row over its own copy of it."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor


def one_row(q: Tensor, keys: Tensor, values: Tensor, scaling: float) -> list[float]:
    """Softmax attention of one query, ``[pos, d]``, by loops."""
    scores = [scaling * math.fsum(a * b for a, b in zip(q.tolist(), k, strict=True)) for k in keys.tolist()]
    weights = [math.exp(s - max(scores)) for s in scores]
    total = math.fsum(weights)
    return [
        math.fsum(w * v for w, v in zip(weights, column, strict=True)) / total for column in values.T.tolist()
    ]


@given(
    st.lists(st.integers(0, 3), min_size=1, max_size=7),
    st.sampled_from([(1, 1), (2, 1), (4, 2), (3, 3)]),
    st.tuples(st.integers(1, 4), st.integers(1, 4), st.integers(1, 5), st.integers(1, 4)),
    st.booleans(),
    st.integers(0, 2**32),
)
def test_it_equals_loops(
    prompt: list[int], heads: tuple[int, int], sizes: tuple[int, int, int, int], padded: bool, seed: int
) -> None:
    from mechprobe.kernels.forked import forked_attention
    from mechprobe.models.forks import seated

    n_heads, n_kv = heads
    d_head, d_value, n_pos, n_own = sizes
    rng = np.random.default_rng(seed)
    keys, values, own_keys, own_values, query = (
        torch.from_numpy(rng.normal(size=shape))
        for shape in (
            (4, n_kv, n_pos, d_head), (4, n_kv, n_pos, d_value),
            (len(prompt), n_kv, n_own, d_head), (len(prompt), n_kv, n_own, d_value),
            (len(prompt), n_heads, d_head),
        )
    )  # fmt: skip
    start = rng.integers(0, n_pos, 4) if padded else np.zeros(4, dtype=np.int64)
    seen = np.arange(n_pos) >= start[:, None]
    bias = torch.zeros(4, 1, 1, n_pos, dtype=torch.float64)
    bias[:, 0, 0] = bias[:, 0, 0].masked_fill(torch.from_numpy(~seen), -torch.inf)
    seats = seated(np.array(prompt), 4, n_kv)
    found = forked_attention(
        query, keys.transpose(2, 3), values, own_keys, own_values, seats, 0.7,
        bias if padded else None,
    )  # fmt: skip
    assert found.shape == (len(prompt), n_heads, d_value)
    for row, p in enumerate(prompt):
        for h in range(n_heads):
            g, behind = h * n_kv // n_heads, slice(int(start[p]), None)
            k = torch.cat([keys[p, g, behind], own_keys[row, g]])
            v = torch.cat([values[p, g, behind], own_values[row, g]])
            expected = one_row(query[row, h], k, v, 0.7)
            assert found[row, h].tolist() == pytest.approx(expected, rel=1e-12, abs=1e-12)
