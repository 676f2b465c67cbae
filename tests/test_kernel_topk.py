"""The k largest of each row, against a sort by (-value, id)."""

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from tests import reference

# At 128 (k + 1) columns and more only the best blocks of 64 are searched.
WIDTHS = [1, 2, 63, 64, 65, 127, 128, 129, 200, 255, 256, 257, 300, 384, 511, 512, 519, 1000, 1987]
KINDS = ["normal", "two values", "few values", "equal", "-inf", "mostly -inf", "signed zeros"]
DTYPES = [torch.float64, torch.float32, torch.bfloat16, torch.float16]


def fill(kind: str, shape: tuple[int, int], rng: np.random.Generator) -> Tensor:
    values = rng.standard_normal(shape)
    if kind == "two values":
        values = rng.integers(0, 2, shape).astype(float)
    elif kind == "few values":
        values = np.rint(2 * values)
    elif kind == "equal":
        values = np.full(shape, float(rng.integers(-3, 4)))
    elif kind == "-inf":
        values = np.full(shape, -np.inf)
    elif kind == "mostly -inf":
        values = np.where(rng.random(shape) < 0.98, -np.inf, np.rint(values))
    elif kind == "signed zeros":
        values = np.copysign(0.0, values)
    return torch.from_numpy(values)


def lay_out(values: Tensor, layout: str) -> Tensor:
    """The same values (of the first row, where expanded) behind other strides."""
    if layout == "transposed":
        return values.T.contiguous().T
    if layout == "every other":
        return torch.stack([values, torch.full_like(values, 9.0)], dim=-1).flatten(1)[:, ::2]
    if layout == "expanded":
        return values[:1].expand_as(values)
    return values


def assert_top_k(values: Tensor, k: int) -> None:
    from mechprobe.kernels import top_k

    before = values.clone()
    top, ids = top_k(values, k)
    want = [reference.top_k(row, k) for row in values.tolist()]
    expected = torch.tensor(want, dtype=torch.long).reshape(len(values), k)
    torch.testing.assert_close(ids, expected, atol=0, rtol=0)
    torch.testing.assert_close(top, values.gather(-1, expected), atol=0, rtol=0)
    torch.testing.assert_close(values, before, atol=0, rtol=0)


@st.composite
def problems(draw: st.DrawFn) -> tuple[Tensor, int]:
    n = draw(st.sampled_from(WIDTHS) | st.integers(1, 700))
    k = draw(st.sampled_from([1, 2, n, max(n - 1, 1), max(n // 128 - 1, 1)]) | st.integers(1, n))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    shape = (draw(st.integers(0, 4)), n)
    values = fill(draw(st.sampled_from(KINDS)), shape, rng).to(draw(st.sampled_from(DTYPES)))
    layout = draw(st.sampled_from(["contiguous", "transposed", "every other", "expanded"]))
    return lay_out(values, layout), min(k, n)


@settings(deadline=None, max_examples=300)
@given(problems())
def test_equals_a_sort_by_value_then_id(problem: tuple[Tensor, int]) -> None:
    assert_top_k(*problem)


@pytest.mark.parametrize("k", [1, 2, 3, 5])
@pytest.mark.parametrize("extra", [0, 1, 63])
@pytest.mark.parametrize("kind", KINDS)
def test_long_rows_search_blocks(kind: str, extra: int, k: int) -> None:
    rng = np.random.default_rng(k)
    assert_top_k(fill(kind, (6, 128 * (k + 1) + extra), rng), k)
    assert_top_k(fill(kind, (6, 128 * (k + 1) - 1 + extra), rng), k)


def test_long_rows_are_not_sorted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ties across the cut are resolved without a sort; only a row with NaN pays for one."""
    from mechprobe.kernels import topk

    values = torch.randperm(2000).double().expand(3, -1).clone()
    values[1] = 0.0
    sorted_rows: list[tuple[int, ...]] = []
    full = topk._top_k_sorted

    def count(values: Tensor, k: int) -> tuple[Tensor, Tensor]:
        sorted_rows.append(tuple(values.shape))
        return full(values, k)

    monkeypatch.setattr(topk, "_top_k_sorted", count)
    assert_top_k(values[[0, 2]], 5)
    assert sorted_rows == []
    assert_top_k(values, 5)
    assert sorted_rows == []
    values[1, 7:11] = torch.nan
    values[1, [3, 1999]] = 7.0
    topk.top_k(values, 5)
    assert all(n_rows == 1 for n_rows, _ in sorted_rows)
    assert sorted_rows


@pytest.mark.parametrize(
    "where",
    [[5, 6, 7], [0, 64, 128], [2045, 2046, 2047], [2048, 2049, 2050], [63, 64, 2050], [2047, 2048]],
    ids=str,
)
@pytest.mark.parametrize("k", [1, 2, 3, 4])
def test_ties_within_a_block_across_blocks_and_in_the_tail(where: list[int], k: int) -> None:
    """The largest values sit together, apart, or past the last whole block."""
    values = torch.zeros(1, 32 * 64 + 3, dtype=torch.float64)
    values[0, where] = 1.0
    assert_top_k(values, k)
    values[0, where] = torch.arange(1.0, len(where) + 1, dtype=torch.float64)
    assert_top_k(values, k)


def test_a_tie_across_the_cut_is_settled_row_by_row() -> None:
    values = torch.arange(1000.0).flip(0).repeat(3, 1)
    values[1, [3, 700]] = values[1, 2].item()
    values[2, 999] = values[2, 1].item()
    assert_top_k(values, 2)
    assert_top_k(values, 3)


@pytest.mark.parametrize(("n", "k"), [(10, 3), (10, 10), (1000, 3)])
def test_no_rows(n: int, k: int) -> None:
    from mechprobe.kernels import top_k

    top, ids = top_k(torch.empty(0, n), k)
    assert top.shape == ids.shape == (0, k)


@pytest.mark.parametrize("n", [10, 1000])
def test_one_undefined_row_leaves_the_others_alone(n: int) -> None:
    from mechprobe.kernels import top_k

    values: Any = torch.randn(3, n)
    top, ids = top_k(values, 3)
    values[1, n // 2] = torch.nan
    poisoned_top, poisoned_ids = top_k(values, 3)
    torch.testing.assert_close(poisoned_top[[0, 2]], top[[0, 2]], atol=0, rtol=0)
    torch.testing.assert_close(poisoned_ids[[0, 2]], ids[[0, 2]], atol=0, rtol=0)
    assert bool(poisoned_top[1, 0].isnan()), "NaN must surface, so that the caller can refuse it"
