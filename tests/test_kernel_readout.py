"""The readout kernel, against float64 loops and against what must hold whatever the numbers are.

Most data lie on a grid of halves: products and sums of them are exact, in float32 too, so ties are
real ties and ids and ranks must be equal, not close.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields, replace
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from tests import reference

Fields = dict[str, Tensor]
INTEGERS = ("top_id", "target_rank")
CAP = 30.0
# Around the 64-wide blocks of the top-k, which start to matter at 128 (k + 1) columns.
WIDTHS = [1, 2, 63, 64, 65, 127, 128, 129, 200, 255, 256, 257, 300]


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> Iterator[None]:
    """On tensors this small threads only wait for each other."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@dataclass(frozen=True)
class Problem:
    """One call of the kernel."""

    rows: Tensor
    W_U: Tensor
    b_U: Tensor | None
    targets: Tensor | None
    k: int
    transform: Callable[[Tensor], Tensor] | None = None
    scratch_rows: int | None = None

    def read(self, **changes: Any) -> Fields:
        from mechprobe.kernels import readout

        options: dict[str, Any] = {"k": self.k, "targets": self.targets}
        options |= {"transform": self.transform, "scratch_rows": self.scratch_rows} | changes
        scratch_rows = options.pop("scratch_rows")
        if scratch_rows is not None:
            itemsize = torch.promote_types(self.rows.dtype, torch.float32).itemsize
            options["scratch_bytes"] = scratch_rows * self.W_U.shape[1] * itemsize
        out = readout(self.rows, self.W_U, self.b_U, **options)
        return {field.name: getattr(out, field.name) for field in fields(out)}

    def expected(self, dtype: torch.dtype) -> Fields:
        def loops(t: Tensor) -> Any:
            return t.double().numpy()

        n_rows = self.rows.shape[1]
        targets = np.empty((n_rows, 0), np.int64) if self.targets is None else self.targets.numpy()
        transform = None if self.transform is None else softcap_scalar
        b_U = None if self.b_U is None else loops(self.b_U)
        rows, W_U = loops(self.rows), loops(self.W_U)
        out = reference.readout(rows, W_U, b_U, self.k, targets, transform)
        return {
            name: torch.from_numpy(values).to(torch.long if name in INTEGERS else dtype)
            for name, values in out.items()
        }

    def to(self, dtype: torch.dtype, scale: float = 1.0) -> "Problem":
        """In another dtype, logits multiplied by ``scale``; strides are kept."""
        b_U = None if self.b_U is None else (self.b_U * scale).to(dtype)
        return replace(self, rows=(self.rows * scale).to(dtype), W_U=self.W_U.to(dtype), b_U=b_U)


def softcap_scalar(z: float) -> float:
    return CAP * math.tanh(z / CAP)


def softcap(z: Tensor) -> Tensor:
    return CAP * torch.tanh(z / CAP)


def softcap_in_place(z: Tensor) -> Tensor:
    return z.div_(CAP).tanh_().mul_(CAP)


def lay_out(matrix: Tensor, layout: str) -> Tensor:
    """A matrix behind other strides; the expanded ones repeat its first row or column."""
    if layout == "transposed":
        return matrix.mT.contiguous().mT
    if layout == "every other":
        return torch.stack([matrix, torch.full_like(matrix, 9.0)], dim=-1).flatten(-2)[..., ::2]
    if layout == "expanded rows":
        return matrix[:1].expand_as(matrix)
    if layout == "expanded columns":
        return matrix[:, :1].expand_as(matrix)
    return matrix


def bias(kind: str, d_vocab: int, rng: np.random.Generator) -> Tensor | None:
    if kind == "none":
        return None
    values = np.zeros(d_vocab) if kind == "zero" else rng.integers(-4, 5, d_vocab) / 2
    if kind == "-inf":
        values[rng.permutation(d_vocab)[: rng.integers(0, d_vocab)]] = -np.inf
    return torch.from_numpy(values)


@st.composite
def problems(
    draw: st.DrawFn, *, grid: bool | None = None, transforms: bool = True, min_rows: int = 0
) -> Problem:
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    entries, d_model = draw(st.integers(1, 4)), draw(st.integers(1, 5))
    n_rows = draw(st.integers(min_rows, 6))
    d_vocab = draw(st.sampled_from(WIDTHS) | st.integers(1, 300))
    layouts = ["contiguous", "transposed", "every other", "expanded rows"]
    on_grid = draw(st.booleans()) if grid is None else grid
    if on_grid:  # Off the grid, equal columns need not give equal logits to the last bit.
        layouts.append("expanded columns")

    def values(*shape: int) -> Tensor:
        drawn = rng.integers(-4, 5, shape) / 2 if on_grid else rng.standard_normal(shape)
        return torch.from_numpy(drawn)

    rows = values(entries, n_rows, d_model)
    n_targets = draw(st.none() | st.integers(0, 3))
    targets = None
    if n_targets is not None:
        targets = torch.from_numpy(rng.integers(d_vocab, size=(n_rows, n_targets)))
    return Problem(
        lay_out(rows, draw(st.sampled_from(["contiguous", "transposed", "expanded rows"]))),
        lay_out(values(d_model, d_vocab), draw(st.sampled_from(layouts))),
        bias(draw(st.sampled_from(["none", "zero", "grid", "-inf"])), d_vocab, rng),
        targets,
        draw(st.sampled_from([1, d_vocab]) | st.integers(1, d_vocab)),
        draw(st.sampled_from([None, softcap, softcap_in_place])) if transforms else None,
        draw(st.none() | st.integers(1, entries * n_rows + 2)),
    )


def assert_same(out: Fields, want: Fields, *, atol: float = 1e-12, rtol: float = 0.0) -> None:
    """Every field of two readouts; ids and ranks exactly."""
    assert out.keys() == want.keys()
    for name, expected in want.items():
        a, r = (0.0, 0.0) if name in INTEGERS else (atol, rtol)
        label = partial("{}: {}".format, name)
        torch.testing.assert_close(out[name], expected, atol=a, rtol=r, msg=label)


def pick(out: Fields, *index: Any) -> Fields:
    return {name: values[index] for name, values in out.items()}


def assert_loops_agree(problem: Problem, *, atol: float, rtol: float = 0.0, **changes: Any) -> None:
    dtype = torch.promote_types(problem.rows.dtype, torch.float32)
    assert_same(problem.read(**changes), problem.expected(dtype), atol=atol, rtol=rtol)


@settings(deadline=None, max_examples=200)
@given(problems())
def test_float64_matches_the_loops(problem: Problem) -> None:
    assert_loops_agree(problem, atol=1e-12)


@settings(deadline=None, max_examples=40)
@given(problems(grid=True), st.sampled_from(["default", "onednn"]))
def test_float32_matches_the_loops(problem: Problem, gemm: str) -> None:
    """Logits are exact here; sums of 300 terms of size up to 60 round by less than 2e-5."""
    assert_loops_agree(problem.to(torch.float32), atol=2e-5, gemm=gemm)


@settings(deadline=None, max_examples=40)
@given(problems(grid=True, transforms=False), st.sampled_from([torch.bfloat16, torch.float16]))
def test_half_precision_rows_are_reduced_in_float32(problem: Problem, dtype: torch.dtype) -> None:
    """Multiples of 1/4 up to 22 are exact in bfloat16 too, so only the reductions can round."""
    assert_loops_agree(problem.to(dtype), atol=2e-5)


@settings(deadline=None, max_examples=60)
@given(problems(grid=True), st.sampled_from([2.0**14, 2.0**50, 2.0**100, 2.0**-30, 2.0**-100]))
def test_huge_and_tiny_logits_in_float64(problem: Problem, scale: float) -> None:
    """Scales are powers of two, which keep the logits exact; a plain exp(z) would overflow."""
    scaled = problem.to(torch.float64, scale)
    assert_loops_agree(scaled, atol=1e-12, rtol=1e-12)


@settings(deadline=None, max_examples=40)
@given(problems(grid=True, transforms=False), st.sampled_from([2.0**10, 2.0**13, 2.0**-100]))
def test_huge_and_tiny_logits_in_float32(problem: Problem, scale: float) -> None:
    scaled = problem.to(torch.float32, scale)
    assert_loops_agree(scaled, atol=2e-5, rtol=1e-6)


@pytest.mark.parametrize("scale", [0.25, 1.0, 8.0])
def test_float32_over_a_real_vocabulary(scale: float) -> None:
    """Flat to sharp distributions over 20,000 ids: sums of many terms still round by 2e-5."""
    rows, W_U = torch.randint(-4, 5, (2, 2, 4)) * scale, torch.randint(-4, 5, (4, 20_000)) / 2
    problem = Problem(rows, W_U, None, torch.randint(20_000, (2, 2)), 50)
    assert_loops_agree(problem, atol=2e-5, rtol=1e-6)


@settings(deadline=None, max_examples=30)
@given(problems(min_rows=1))
def test_a_batch_is_its_singles(problem: Problem) -> None:
    whole = problem.read()
    n_entries, n_rows, _ = problem.rows.shape
    for entry in range(n_entries):
        for row in range(n_rows):
            targets = None if problem.targets is None else problem.targets[row : row + 1]
            rows = problem.rows[[0, entry], row : row + 1]
            single = replace(problem, rows=rows, targets=targets, scratch_rows=None).read()
            assert_same(pick(single, 1, 0), pick(whole, entry, row))


@settings(deadline=None, max_examples=40)
@given(problems(), st.randoms(use_true_random=False))
def test_entries_after_the_reference_may_come_in_any_order(problem: Problem, random: Any) -> None:
    others = range(1, len(problem.rows))
    order = [0, *random.sample(others, len(others))]
    shuffled = replace(problem, rows=problem.rows[order]).read()
    assert_same(shuffled, pick(problem.read(), order))


@settings(deadline=None, max_examples=40)
@given(problems(transforms=False), st.sampled_from([-64.0, 0.5, 3.0]))
def test_a_constant_on_all_logits_changes_only_log_z(problem: Problem, constant: float) -> None:
    b_U = torch.zeros(problem.W_U.shape[1]).double() if problem.b_U is None else problem.b_U
    shifted, out = replace(problem, b_U=b_U + constant).read(), problem.read()
    assert_same(shifted | {"log_z": shifted["log_z"] - constant}, out)


@settings(deadline=None, max_examples=60)
@given(problems(min_rows=1), st.sampled_from([torch.float64, torch.float32]))
def test_laws_of_distributions(problem: Problem, dtype: torch.dtype) -> None:
    """Entropy, divergence and top-k of any row of any problem."""
    atol = 1e-12 if dtype == torch.float64 else 2e-5
    problem = problem.to(dtype)
    d_vocab = problem.W_U.shape[1]
    out = problem.read(k=d_vocab)
    assert bool((out["entropy"] >= 0).all())
    assert bool((out["entropy"] <= math.log(d_vocab) + atol).all())
    assert bool((out["kl"] >= 0).all())
    assert bool((out["kl"][0] == 0).all())
    ones = torch.ones_like(out["log_z"])
    torch.testing.assert_close(out["top_log_prob"].exp().sum(-1), ones, atol=atol, rtol=0)
    assert bool((out["top_log_prob"][..., 1:] <= out["top_log_prob"][..., :-1]).all())
    everything = torch.arange(d_vocab).expand_as(out["top_id"])
    torch.testing.assert_close(out["top_id"].sort().values, everything, atol=0, rtol=0)


@settings(deadline=None, max_examples=40)
@given(problems(min_rows=1))
def test_targets_agree_with_the_top(problem: Problem) -> None:
    """The best id has rank 0; an id of the top-k has the log-probability listed there."""
    problem = replace(problem, rows=problem.rows[:1])
    top = problem.read()
    out = problem.read(targets=top["top_id"][0])
    assert bool((out["target_rank"][..., 0] == 0).all())
    assert bool((out["target_rank"] <= torch.arange(problem.k)).all())
    torch.testing.assert_close(out["target_log_prob"], top["top_log_prob"], atol=1e-14, rtol=0)


@pytest.mark.parametrize(("dtype", "atol"), [(torch.float64, 1e-12), (torch.float32, 2e-6)])
def test_divergence_of_a_copy_is_zero_and_never_below(dtype: torch.dtype, atol: float) -> None:
    """Also of near copies, whose true divergence, some 1e-14, is lost in rounding."""
    rows = torch.randn(1, 200, 5, dtype=dtype)
    near = torch.cat([rows, rows, rows + 1e-7 * torch.randn(3, 200, 5, dtype=dtype)])
    kl = Problem(near, torch.randn(5, 300, dtype=dtype), None, None, 1).read()["kl"]
    assert bool((kl >= 0).all())
    torch.testing.assert_close(kl, torch.zeros_like(kl), atol=atol, rtol=0)


def test_known_values() -> None:
    """Two tokens at odds 3 to 1 against even odds, by hand; -inf takes no part."""
    rows = torch.tensor([[[1.0]], [[0.0]]], dtype=torch.float64)
    W_U = torch.tensor([[math.log(3.0), 0.0, 0.0]], dtype=torch.float64)
    b_U = torch.tensor([0.0, 0.0, -torch.inf], dtype=torch.float64)
    out = Problem(rows, W_U, b_U, torch.tensor([[1, 2]]), 3).read()
    kl = 0.75 * math.log(0.75 / 0.5) + 0.25 * math.log(0.25 / 0.5)
    entropy = -(0.75 * math.log(0.75) + 0.25 * math.log(0.25))
    assert out["kl"].flatten().tolist() == pytest.approx([0.0, kl], abs=1e-15)
    assert out["entropy"].flatten().tolist() == pytest.approx([entropy, math.log(2)], abs=1e-15)
    assert out["log_z"].flatten().tolist() == pytest.approx([math.log(4), math.log(2)], abs=1e-15)
    assert out["top_id"].tolist() == [[[0, 1, 2]], [[0, 1, 2]]]
    assert out["target_rank"].tolist() == [[[1, 2]], [[0, 2]]]
    assert out["target_log_prob"][:, 0, 1].tolist() == [-math.inf, -math.inf]


def test_divergence_is_infinite_where_the_entry_excludes_a_likely_token() -> None:
    """Only in one of the rows, and although a token that both exclude takes no part."""

    def exclude(z: Tensor) -> Tensor:
        return torch.where(z > 4, -torch.inf, z)

    rows = torch.tensor([[[1.0], [5.0], [1.0]], [[5.0], [1.0], [2.0]]])
    W_U, b_U = torch.tensor([[0.0, 0.5, 1.0, 0.0]]), torch.tensor([0.0, 0.0, 0.0, -torch.inf])
    out = Problem(rows, W_U, b_U, None, 1, exclude).read()
    assert out["kl"][1, 0].item() == math.inf
    assert bool(out["kl"][1, 1:].isfinite().all())
    assert bool((out["kl"][1, 1:] > 0).all())


UNDEFINED = {"NaN": torch.nan, "+inf": torch.inf, "-inf": -torch.inf, "one": 1e200, "one NaN": 1e200}


@pytest.mark.parametrize("kind", UNDEFINED)
@pytest.mark.parametrize("size", [1, 2, 4, 5, 12, None])
def test_undefined_rows_show_in_log_z_and_nowhere_else(kind: str, size: int | None) -> None:
    """All logits NaN, +inf or -inf, or a single one of them +inf or NaN."""
    rows, W_U = torch.randn(3, 4, 5).double(), torch.randn(5, 129).double()
    rows[..., 0] = 0.0
    W_U[0] = 1.0
    b_U = None
    if kind.startswith("one"):
        W_U[0] = 0.0
        W_U[0, 77] = 1e200
        b_U = torch.zeros(129).double()
        b_U[77] = -torch.inf if kind == "one NaN" else 0.0
    problem = Problem(rows, W_U, b_U, torch.randint(129, (4, 2)), 3, scratch_rows=size)
    clean = problem.read()
    assert bool(clean["log_z"].isfinite().all())
    bad = torch.zeros(3, 4, dtype=torch.bool)
    bad[0, 1] = bad[2, 3] = True
    rows[bad] = torch.cat([torch.tensor([UNDEFINED[kind]]).double(), torch.zeros(4).double()])
    out = problem.read()
    assert bool((out["log_z"].isfinite() == ~bad).all())
    del_kl = {"kl": torch.zeros(3, 4)}
    assert_same(pick(out | del_kl, ~bad), pick(clean | del_kl, ~bad), atol=1e-14)
    comparable = ~bad & ~bad[0]
    torch.testing.assert_close(out["kl"][comparable], clean["kl"][comparable], atol=1e-14, rtol=0)


@settings(deadline=None, max_examples=25)
@given(problems())
def test_inputs_are_left_as_they_were(problem: Problem) -> None:
    inputs = [problem.rows, problem.W_U, problem.b_U, problem.targets]
    before = [None if t is None else t.clone() for t in inputs]
    problem.read()
    torch.testing.assert_close(
        [t for t in inputs if t is not None], [t for t in before if t is not None], atol=0, rtol=0
    )


def test_buffers_are_kept_for_the_same_and_made_anew_for_another() -> None:
    from mechprobe.kernels import readout
    from mechprobe.kernels.readout import Buffers

    generator = torch.Generator().manual_seed(0)
    W_U = torch.randn(8, 300, generator=generator)
    buffers = Buffers()
    kept: list[Any] = []
    for rows in (3, 3, 2, 3):
        x = torch.randn(4, rows, 8, generator=generator)
        first, again = readout(x, W_U, k=5), readout(x, W_U, k=5, buffers=buffers)
        for field in fields(first):
            assert torch.equal(getattr(first, field.name), getattr(again, field.name))
        kept.append(buffers._tile)
    assert kept[0] is kept[1]
    assert kept[1] is not kept[2]
    assert readout(x, -W_U, k=5, buffers=buffers).top_id.equal(readout(x, -W_U, k=5).top_id)
