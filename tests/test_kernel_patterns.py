"""What kind of head: mean diagonals against loops, OV eigenvalues against the full circuit."""

import math

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import Tensor


@given(
    st.tuples(st.integers(1, 3), st.integers(1, 3), st.integers(1, 7)),
    st.integers(0, 6),
    st.integers(0, 6),
    st.integers(0, 2**32),
)
def test_mean_diagonal_equals_loops(shape: tuple[int, int, int], offset: int, start: int, seed: int) -> None:
    from mechprobe.kernels.patterns import mean_diagonal

    batch, heads, n = shape
    assume(max(offset, start) < n)
    pattern = torch.from_numpy(np.random.default_rng(seed).random((batch, heads, n, n)))
    ours = mean_diagonal(pattern, offset, start)
    assert ours.dtype == torch.float64
    for h in range(heads):
        cells = [
            float(pattern[b, h, i, i - offset])
            for b in range(batch)
            for i in range(n)
            if i >= offset and i >= start
        ]
        assert float(ours[h]) == pytest.approx(math.fsum(cells) / len(cells), rel=1e-12)


@pytest.mark.parametrize(("offset", "start"), [(5, 0), (0, 5), (-1, 0)])
def test_a_diagonal_that_does_not_fit_is_refused(offset: int, start: int) -> None:
    from mechprobe.kernels.patterns import mean_diagonal

    with pytest.raises(ValueError, match="does not fit 5 positions"):
        mean_diagonal(torch.ones(1, 1, 5, 5), offset, start)


def test_mean_diagonal_of_half_precision_is_a_float32_mean() -> None:
    from mechprobe.kernels.patterns import mean_diagonal

    pattern = torch.full((4, 1, 600, 600), 1 / 3, dtype=torch.bfloat16)
    found = mean_diagonal(pattern, 1)
    assert found.dtype == torch.float32
    assert float(found) == pytest.approx(float(pattern[0, 0, 0, 0]), rel=1e-6)


def full_circuit(W_E: Tensor, W_V: Tensor, W_O: Tensor, W_U: Tensor) -> float:
    """Eigenvalues of the whole [d_vocab, d_vocab] matrix, most of them zero."""
    values = np.linalg.eigvals((W_E @ W_V @ W_O @ W_U).numpy())
    return float(values.real.sum() / np.abs(values).sum())


@settings(max_examples=30)
@given(st.integers(1, 2), st.integers(1, 3), st.integers(1, 4), st.integers(0, 2**32))
def test_copying_score_equals_eigenvalues_of_the_full_circuit(
    n_kv: int, group: int, d_head: int, seed: int
) -> None:
    from mechprobe.kernels.patterns import copying_score

    d_vocab, d_model = 17, 6
    rng = np.random.default_rng(seed)

    def draw(*shape: int) -> Tensor:
        return torch.from_numpy(rng.normal(size=shape))

    W_E, W_U = draw(d_vocab, d_model), draw(d_model, d_vocab)
    W_V, W_O = draw(n_kv, d_model, d_head), draw(n_kv * group, d_head, d_model)
    ours = copying_score(W_V, W_O, W_U @ W_E)
    assert ours.shape == (n_kv * group,)
    theirs = [full_circuit(W_E, W_V[h // group], W_O[h], W_U) for h in range(n_kv * group)]
    # The zeros of the full matrix come out at about 1e-8 (they are defective).
    assert ours.tolist() == pytest.approx(theirs, abs=1e-5)


def test_copying_score_of_known_heads() -> None:
    """One head copies, one takes away, one turns by a right angle, one is dead."""
    from mechprobe.kernels.patterns import copying_score

    eye = torch.eye(4, dtype=torch.float64)
    turn = torch.tensor([[0.0, 1, 0, 0], [-1, 0, 0, 0], [0, 0, 0, 1], [0, 0, -1, 0]]).double()
    W_O = torch.stack([eye, -3 * eye, turn, 0 * eye])
    found = copying_score(eye[None], W_O, eye)
    assert found[:3].tolist() == pytest.approx([1.0, -1.0, 0.0], abs=1e-12)
    assert math.isnan(found[3])


def test_value_heads_that_are_not_shared_evenly_are_refused() -> None:
    from mechprobe.kernels.patterns import copying_score

    with pytest.raises(ValueError, match="3 heads do not share 2 value heads evenly"):
        copying_score(torch.ones(2, 4, 2), torch.ones(3, 2, 4), torch.eye(4))
