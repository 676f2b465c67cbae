"""Screening: its bound holds, and ids and ranks are those of float64 whatever it is given."""

import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from tests.compiler import compiler_or_skip


@pytest.fixture(scope="module")
def native() -> Any:
    return compiler_or_skip()


@pytest.fixture(scope="module", params=["for this processor", "for any"])
def code(request: pytest.FixtureRequest, native: Any) -> Any:
    from mechprobe.kernels.screen import sources
    from mechprobe.kernels.source import PORTABLE

    assert native
    return sources() if request.param == "for this processor" else sources(PORTABLE)


def heavy(generator: torch.Generator, *shape: int) -> Tensor:
    """Rows as residual streams are: a few dimensions far larger than the others."""
    x = torch.randn(*shape, generator=generator)
    x[..., :3] *= 30.0
    return x


def exact(rows: Tensor, W: Tensor, targets: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Ids and ranks in the order of float64 products; of equals the lower id first."""
    z = rows.double() @ W.double().mT
    ids = z.sort(dim=-1, descending=True, stable=True).indices[..., :k]
    wanted = z.gather(-1, targets.expand(len(z), -1, -1))
    ranks = [(z > wanted[..., t, None]).sum(-1) for t in range(targets.shape[1])]
    return ids, torch.stack(ranks, dim=-1)


def columns_of(screen: Any) -> Tensor:
    """Columns as they lay before their pairs were put together."""
    parts = screen.parts.permute(0, 2, 1, 3).flatten(2).flatten(0, 1)
    left = parts[len(screen.W) :]
    assert torch.equal(left, torch.zeros_like(left))
    return parts[: len(screen.W)].double()


@pytest.mark.parametrize("seed", range(6))
def test_the_bound_holds_for_every_logit(code: Any, seed: int) -> None:
    from mechprobe.kernels.screen import screen_of

    generator = torch.Generator().manual_seed(seed)
    W = torch.randn(1000, 81, generator=generator) * torch.rand(1000, 1, generator=generator)
    rows = heavy(generator, 300, 81) * 10 ** torch.linspace(-3, 3, 300)[:, None]
    screen = screen_of(W.mT, code)
    rounded = screen.rounded(rows)
    rough = rounded.parts.double() @ columns_of(screen).mT
    true = rows.double() @ W.double().mT
    ratio = ((rough - true).abs() / (rounded.share[:, None].double() * screen.size)).max()
    assert 0.05 < ratio <= 1.0
    assert screen.widest[0] == screen.size[:64].amax()


@pytest.mark.parametrize("scale", [1e-38, 1e-20, 1e15])
def test_the_bound_holds_for_numbers_of_any_size(code: Any, scale: float) -> None:
    """Of the smallest, rounding takes nothing, but a processor may take them for zero."""
    from mechprobe.kernels.screen import screen_of

    generator = torch.Generator().manual_seed(0)
    W, rows = (torch.randn(200, 16, generator=generator) for _ in range(2))
    screen = screen_of((W * scale).mT, code)
    rounded = screen.rounded(rows * scale)
    rough = rounded.parts.double() @ columns_of(screen).mT
    true = (rows * scale).double() @ (W * scale).double().mT
    bound = rounded.share[:, None].double() * screen.size
    assert bool(((rough - true).abs() <= bound).all())
    # As if all that is denormal were zero.
    flushed = [
        x.where(x.abs() >= 2.0**-126, 0.0) for x in (rounded.parts.double(), columns_of(screen))
    ]
    assert bool(((flushed[0] @ flushed[1].mT - true).abs() <= bound).all())


def test_vectors_are_taken_apart_without_loss(code: Any) -> None:
    """What is left, and the part in the directions in two numbers, add up to the vector."""
    from mechprobe.kernels.screen import screen_of

    generator = torch.Generator().manual_seed(0)
    W, rows = torch.randn(130, 40, generator=generator), heavy(generator, 7, 40)
    screen = screen_of(W.mT, code)
    assert torch.dist(screen.directions @ screen.directions.mT, torch.eye(16)) < 1e-5
    parts = screen.rounded(rows).parts.double()
    first, high, again, low = parts.split([40, 16, 16, 16], dim=1)
    assert torch.equal(high, again)
    back = first + (high + low) @ screen.directions.double()
    scale = rows.double().norm(dim=1, keepdim=True)
    # Left are what the first rounding takes, eight digits of what lies across the directions.
    across = rows.double() - (high + low) @ screen.directions.double()
    assert bool(((back - rows).abs() <= across.abs() * 2.0**-8 + scale * 1e-12).all())
    assert bool((across.norm(dim=1, keepdim=True) < scale).all())
    column = columns_of(screen)
    first, high, low, again = column.split([40, 16, 16, 16], dim=1)
    assert torch.equal(high, again)
    assert float((first + (high + low) @ screen.directions.double() - W).abs().max()) < 0.02


def near_ties(seed: int, n_rows: int, d_vocab: int) -> tuple[Tensor, Tensor, Tensor]:
    """Columns that come twice, and columns a last digit apart; targets among them."""
    generator = torch.Generator().manual_seed(seed)
    W = torch.randn(d_vocab, 48, generator=generator)
    third = d_vocab // 3
    W[third : 2 * third] = W[:third]
    W[2 * third : 3 * third] = W[:third]
    digit = torch.randint(48, (third,), generator=generator)
    at = torch.arange(third)
    W[2 * third + at, digit] = torch.nextafter(W[at, digit], torch.tensor(torch.inf))
    rows = heavy(generator, 2, n_rows, 48)
    # Along columns, so that the near-ties are among the largest too.
    picked = torch.randint(third, (n_rows,), generator=generator)
    rows[1] = W[picked] + 0.1 * rows[1]
    other = torch.randint(d_vocab, (n_rows,), generator=generator)
    return rows, W, torch.stack([picked + third, other], dim=1)


@pytest.mark.parametrize("order", [1, -1])
def test_ten_thousand_rows_of_near_ties(native: Any, code: Any, order: int) -> None:
    from mechprobe.kernels.screen import screen_of
    from mechprobe.kernels.screened import screened_readout

    rows, W, targets = near_ties(0, 10_000, 1000)
    if order < 0:
        targets = targets.flip(1)
    screen = screen_of(W.mT, code)
    found, error = screened_readout(rows, screen, native, k=10, targets=targets)
    ids, ranks = exact(rows, W, targets, 10)
    assert torch.equal(found.top_id, ids)
    assert torch.equal(found.target_rank, ranks)
    # The ties are there: among the best ids of nearly every row.
    top = (rows[1].double() @ W.double().mT).topk(10).values
    assert float((top.diff().abs() < 1e-5).any(-1).double().mean()) > 0.9
    assert float(error[1:].min()) > 0
    assert torch.equal(error[0], torch.zeros(10_000))


@settings(deadline=None, max_examples=60)
@given(
    seed=st.integers(0, 2**32), n_rows=st.integers(1, 9), n_entries=st.integers(1, 5),
    d_vocab=st.sampled_from([3, 63, 64, 65, 200, 1024, 1500]), n_targets=st.integers(0, 3),
    scratch_rows=st.sampled_from([1, 9, 100]),
)  # fmt: skip
def test_it_is_the_readout(
    native: Any, code: Any, seed: int, n_rows: int, n_entries: int, d_vocab: int, n_targets: int,
    scratch_rows: int,
) -> None:  # fmt: skip
    """Ids and ranks are equal; the rest lies within the bound, which is small here."""
    from mechprobe.kernels.readout import readout
    from mechprobe.kernels.screen import screen_of
    from mechprobe.kernels.screened import screened_readout

    generator = torch.Generator().manual_seed(seed)
    W = torch.randint(-8, 9, (d_vocab, 24), generator=generator) / 8
    rows = torch.randint(-8, 9, (n_entries, n_rows, 24), generator=generator) / 8
    targets = torch.randint(d_vocab, (n_rows, n_targets), generator=generator)
    k = min(5, d_vocab)
    want = readout(rows.double(), W.mT.double(), k=k, targets=targets)
    found, error = screened_readout(
        rows, screen_of(W.mT, code), native, k=k, targets=targets,
        scratch_bytes=scratch_rows * d_vocab * 4,
    )  # fmt: skip
    assert torch.equal(found.top_id, want.top_id)
    assert torch.equal(found.target_rank, want.target_rank)
    # What its docstring says, and float32 rounding.
    e = error.double() + 1e-5
    assert bool(((found.log_z - want.log_z).abs() <= e).all())
    assert bool(((found.kl - want.kl).abs() <= e).all())
    assert bool(((found.top_log_prob - want.top_log_prob).abs() <= e[..., None]).all())
    assert bool(((found.target_log_prob - want.target_log_prob).abs() <= e[..., None]).all())
    log_p = (rows.double() @ W.double().mT).log_softmax(-1)
    p = log_p.exp()
    sigma = ((p * log_p**2).sum(-1) - (p * log_p).sum(-1) ** 2).clamp(min=0).sqrt()
    assert bool(((found.entropy - want.entropy).abs() <= e * e.exp() * (sigma + e)).all())


def test_rows_that_are_undefined_are_read_in_float32(native: Any) -> None:
    from mechprobe.kernels.readout import readout
    from mechprobe.kernels.screen import screen_of
    from mechprobe.kernels.screened import screened_readout

    generator = torch.Generator().manual_seed(0)
    W, rows = torch.randn(300, 16, generator=generator), torch.randn(4, 5, 16, generator=generator)
    targets = torch.zeros(5, 1, dtype=torch.long)
    screen = screen_of(W.mT)
    rows[2, 3] = torch.nan
    found, _ = screened_readout(rows, screen, native, k=3, targets=targets)
    want = readout(rows, W.mT, k=3, targets=targets)
    assert bool(found.entropy[2, 3].isnan())
    # Entries 1 and 2 share a tile, which is all read in float32.
    torch.testing.assert_close(found.entropy[1], want.entropy[1], atol=2e-6, rtol=0)
    others = [0, 1, 2, 4]
    torch.testing.assert_close(found.entropy[:, others], want.entropy[:, others], atol=0.05, rtol=0)


def test_more_doubts_than_there_is_room_for(native: Any, code: Any) -> None:
    """Columns that are all the same, but for one: none can be told from another by any bound."""
    from mechprobe.kernels.screen import screen_of
    from mechprobe.kernels.screened import screened_readout

    generator = torch.Generator().manual_seed(0)
    W = torch.randn(1, 24, generator=generator).repeat(3000, 1)
    W[2990] *= 2
    rows = W[:2, None] * torch.tensor([1.0, -1.0]).view(1, 2, 1)
    targets = torch.tensor([[7, 2990], [2999, 2990]])
    found, _ = screened_readout(rows, screen_of(W.mT, code), native, k=3, targets=targets)
    assert found.target_rank.tolist() == [[[1, 0], [0, 2999]]] * 2
    assert found.top_id[1].tolist() == [[2990, 0, 1], [0, 1, 2]]
    norm = float(W[0].double().square().sum())
    log_z = torch.tensor([2999 + math.exp(norm), 2999 + math.exp(-norm)]).double().log()
    log_z += torch.tensor([norm, -norm])
    torch.testing.assert_close(found.log_z[1].double(), log_z, atol=0.05, rtol=0)


def test_an_unembedding_that_is_undefined_is_read_in_float32(native: Any, code: Any) -> None:
    from mechprobe.kernels.readout import readout
    from mechprobe.kernels.screen import screen_of
    from mechprobe.kernels.screened import screened_readout

    generator = torch.Generator().manual_seed(0)
    W, rows = torch.randn(100, 16, generator=generator), torch.randn(3, 4, 16, generator=generator)
    W[70, 3] = torch.inf
    targets = torch.zeros(4, 1, dtype=torch.long)
    found, _ = screened_readout(rows, screen_of(W.mT, code), native, k=3, targets=targets)
    want = readout(rows, W.mT, k=3, targets=targets)
    assert torch.equal(found.top_id, want.top_id)
    assert torch.equal(found.target_rank, want.target_rank)
    torch.testing.assert_close(found.log_z, want.log_z, equal_nan=True)


def test_no_room_for_what_is_noted_is_said(native: Any) -> None:
    from mechprobe.kernels.screen import screen_of

    def full(*args: object) -> int:  # noqa: ARG001
        return -1

    assert native
    screen = screen_of(torch.eye(16))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(screen.code, "screen", full)
        with pytest.raises(MemoryError, match="screening needs some 10 MB"):
            screen.read(torch.ones(1, 2, 16), torch.zeros(2, 1, dtype=torch.long), 1)


def test_denormals_survive_the_library(native: Any, code: Any) -> None:
    """Some ways of compiling make a whole process flush them to zero."""
    assert native.code is not code
    tiny = torch.tensor([1e-40])
    assert float(tiny * 1.0) > 0.0
