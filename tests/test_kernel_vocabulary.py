"""Nearest unembedding columns, against float64 loops."""

from dataclasses import dataclass

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from tests import reference

METRICS = ["dot", "cosine"]
# Around the 64-wide blocks of the top-k, which start to matter at 128 (k + 1) columns.
WIDTHS = [1, 2, 63, 64, 65, 127, 128, 129, 200, 256, 300]


@dataclass(frozen=True)
class Problem:
    """One call of the kernel."""

    vectors: Tensor
    W_U: Tensor
    k: int
    metric: str

    def expected(self) -> Tensor:
        """Scores of all columns."""
        vectors, W_U = self.vectors.double().numpy(), self.W_U.double().numpy()
        scores = [reference.scores(x, W_U, self.metric) for x in vectors]
        return torch.tensor(scores, dtype=torch.float64).reshape(len(vectors), W_U.shape[1])


def nearest(vectors: Tensor, W_U: Tensor, k: int, metric: str) -> tuple[Tensor, Tensor]:
    from mechprobe.kernels import nearest_columns

    assert metric in ("dot", "cosine")
    return nearest_columns(vectors, W_U, k=k, metric=metric)


@st.composite
def problems(draw: st.DrawFn, metrics: tuple[str, ...] = ("dot", "cosine")) -> Problem:
    """Multiples of 1/2, some of them zero vectors; products and sums of them are exact."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    d_model = draw(st.integers(1, 5))
    d_vocab = draw(st.sampled_from(WIDTHS) | st.integers(1, 300))
    vectors = torch.from_numpy(rng.integers(-4, 5, (draw(st.integers(0, 4)), d_model)) / 2)
    W_U = torch.from_numpy(rng.integers(-4, 5, (d_model, d_vocab)) / 2)
    W_U[:, torch.from_numpy(rng.random(d_vocab) < draw(st.sampled_from([0.0, 0.3])))] = 0.0
    layout = draw(st.sampled_from(["contiguous", "transposed", "expanded"]))
    if layout == "transposed":
        W_U = W_U.T.contiguous().T
    elif layout == "expanded":
        W_U = W_U[:, :1].expand_as(W_U)
    k = draw(st.sampled_from([1, d_vocab]) | st.integers(1, d_vocab))
    return Problem(vectors, W_U, k, draw(st.sampled_from(metrics)))


@settings(deadline=None, max_examples=100)
@given(problems())
def test_float64_matches_the_loops(problem: Problem) -> None:
    """Scores of the k best, and each id's own score; distinct ids."""
    score, ids = nearest(problem.vectors, problem.W_U, problem.k, problem.metric)
    want = problem.expected()
    best = want.sort(dim=-1, descending=True).values[:, : problem.k]
    torch.testing.assert_close(score, best, atol=1e-12, rtol=0)
    torch.testing.assert_close(score, want.gather(-1, ids), atol=1e-12, rtol=0)
    assert all(len(set(row)) == problem.k for row in ids.tolist())
    assert bool((score[:, 1:] <= score[:, :-1]).all())


@settings(deadline=None, max_examples=100)
@given(
    problems(metrics=("dot",)), st.sampled_from([torch.float64, torch.float32, torch.bfloat16, torch.float16])
)
def test_dot_products_are_exact_and_ties_ascend(problem: Problem, dtype: torch.dtype) -> None:
    """Every dtype holds these numbers exactly; half precision comes back as float32."""
    score, ids = nearest(problem.vectors.to(dtype), problem.W_U.to(dtype), problem.k, "dot")
    want = problem.expected()
    expected = [reference.top_k(row, problem.k) for row in want.tolist()]
    top = torch.tensor(expected, dtype=torch.long).reshape(len(want), problem.k)
    torch.testing.assert_close(ids, top, atol=0, rtol=0)
    accumulated = torch.promote_types(dtype, torch.float32)
    torch.testing.assert_close(score, want.gather(-1, top).to(accumulated), atol=0, rtol=0)


@settings(deadline=None, max_examples=60)
@given(problems(metrics=("cosine",)), st.sampled_from([torch.float32, torch.bfloat16, torch.float16]))
def test_cosine_in_lower_precision(problem: Problem, dtype: torch.dtype) -> None:
    score, ids = nearest(problem.vectors.to(dtype), problem.W_U.to(dtype), problem.k, "cosine")
    assert score.dtype == torch.float32
    want = problem.expected().to(torch.float32)
    torch.testing.assert_close(score, want.gather(-1, ids), atol=1e-6, rtol=0)
    best = want.sort(dim=-1, descending=True).values[:, : problem.k]
    torch.testing.assert_close(score, best, atol=1e-6, rtol=0)


@pytest.mark.parametrize("n_columns", [10, 600])
def test_cosine_is_free_of_length_and_ties_ascend(n_columns: int) -> None:
    """Powers of two change no rounding, so columns along one direction tie exactly."""
    direction = torch.tensor([1.0, 2.0, -3.0])
    lengths = 2.0 ** torch.randint(-8, 8, (n_columns,))
    W_U = direction[:, None] * lengths
    W_U[:, 3] = 0.0
    W_U[:, 5] *= -1
    score, ids = nearest(torch.stack([direction, 8 * direction]), W_U, n_columns, "cosine")
    same = [i for i in range(n_columns) if i not in (3, 5)]
    assert ids.tolist() == [[*same, 3, 5]] * 2
    torch.testing.assert_close(score.abs()[:, :-2], torch.ones(2, n_columns - 2))
    assert score[:, -2].tolist() == [0.0, 0.0]


@pytest.mark.parametrize("metric", METRICS)
def test_a_vector_of_length_zero_scores_zero(metric: str) -> None:
    score, ids = nearest(torch.zeros(1, 4), torch.randn(4, 300), 5, metric)
    assert score.tolist() == [[0.0] * 5]
    assert ids.tolist() == [[0, 1, 2, 3, 4]]


@pytest.mark.parametrize("metric", METRICS)
def test_a_batch_is_its_singles(metric: str) -> None:
    vectors, W_U = torch.randn(6, 5).double(), torch.randn(5, 300).double()
    score, ids = nearest(vectors, W_U, 9, metric)
    for i, x in enumerate(vectors):
        one_score, one_ids = nearest(x[None], W_U, 9, metric)
        torch.testing.assert_close(one_score[0], score[i], atol=1e-12, rtol=0)
        torch.testing.assert_close(one_ids[0], ids[i], atol=0, rtol=0)


def test_a_column_is_nearest_to_itself() -> None:
    """In direction; by dot product a longer column may win."""
    W_U = torch.randn(8, 300).double()
    score, ids = nearest(W_U.T, W_U, 1, "cosine")
    torch.testing.assert_close(ids[:, 0], torch.arange(300), atol=0, rtol=0)
    torch.testing.assert_close(score, torch.ones(300, 1).double(), atol=1e-12, rtol=0)
    W_U[:, 1] = 2 * W_U[:, 0]
    assert nearest(W_U[:, :1].T, W_U, 1, "dot")[1].item() != 0


@pytest.mark.parametrize("metric", METRICS)
def test_inputs_are_left_as_they_were(metric: str) -> None:
    vectors, W_U = torch.randn(2, 4), torch.randn(4, 70)
    kept = vectors.clone(), W_U.clone()
    nearest(vectors, W_U, 3, metric)
    torch.testing.assert_close((vectors, W_U), kept, atol=0, rtol=0)


@pytest.mark.parametrize("metric", ["dot", "cosine"])
def test_an_undefined_vector_scores_nan(metric: str) -> None:
    score, _ = nearest(torch.tensor([[torch.nan, 1.0]]), torch.eye(2), 2, metric)
    assert bool(score.isnan().all())


@pytest.mark.parametrize("scale", [1e-30, 1e-23, 1e-15, 1e18, 1e30])
def test_cosine_of_very_short_and_very_long_vectors(scale: float) -> None:
    x, W_U = torch.tensor([[3.0, 4.0]]), torch.tensor([[1.0, 3.0], [0.0, 4.0]])
    score, ids = nearest(x * scale, W_U * scale, 2, "cosine")
    torch.testing.assert_close(score, torch.tensor([[1.0, 0.6]]))
    assert ids.tolist() == [[1, 0]]
