"""However the rows of a readout are cut into tiles, spans and blocks, they give the same."""

from importlib import import_module
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.test_kernel_readout import Problem, assert_loops_agree, assert_same, softcap_in_place


@pytest.mark.parametrize(("n_entries", "n_rows"), [(1, 1), (1, 6), (3, 4), (4, 1)])
def test_every_tile_size_gives_the_same(n_entries: int, n_rows: int) -> None:
    rows = torch.randn(n_entries, n_rows, 5, dtype=torch.float64)
    targets = torch.randint(200, (n_rows, 2))
    problem = Problem(rows, torch.randn(5, 200).double(), None, targets, 7, softcap_in_place)
    whole = problem.read()
    for size in range(1, 2 * n_entries * n_rows + 3):
        assert_same(problem.read(scratch_rows=size), whole, atol=1e-13)
        assert_loops_agree(problem, atol=1e-12, scratch_rows=size)


@pytest.mark.parametrize("scratch_rows", [None, 60, 100])
@pytest.mark.parametrize("n_rows", [17, 37])
def test_spans_and_blocks_of_unequal_length(n_rows: int, scratch_rows: int | None) -> None:
    """Blocks of 16 rows, a shorter last one, and a last span that is shorter than its buffers."""
    rows, W_U = torch.randn(3, n_rows, 4).double(), torch.randn(4, 200).double()
    targets = torch.randint(200, (n_rows, 2))
    problem = Problem(rows, W_U, None, targets, 5, softcap_in_place, scratch_rows)
    assert_loops_agree(problem, atol=1e-12)


@pytest.mark.parametrize("room", [1, 2, 3, 5, 7, 12, 50])
def test_no_more_rows_at_once_than_there_is_room_for(room: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Logits and reference distributions together; one row of each is the least there can be."""
    # By name, because the function hides the module of the same name.
    module = import_module("mechprobe.kernels.readout")
    seen: list[int] = []
    logits = module.Tile.logits

    def watch(self: Any, x: Tensor, path: Any) -> Tensor:
        seen.append(x.shape[0] * x.shape[1])
        assert len(self.product) + len(self.reference) <= max(2, room)
        return logits(self, x, path)

    problem = Problem(torch.randn(3, 5, 4), torch.randn(4, 70), None, None, 2)
    whole = problem.read()
    monkeypatch.setattr(module.Tile, "logits", watch)
    assert_same(problem.read(scratch_rows=room), whole, atol=1e-6)
    assert sum(seen) == 15


@pytest.mark.parametrize("scratch_rows", [None, 4, 9])
def test_a_last_entry_that_is_the_reference_is_read_once(
    scratch_rows: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = import_module("mechprobe.kernels.readout")
    rows, targets = torch.randn(4, 5, 4).double(), torch.randint(70, (5, 2))
    rows[3] = rows[0]
    n_read = 0
    logits = module.Tile.logits

    def count(self: Any, x: Tensor, path: Any) -> Tensor:
        nonlocal n_read
        n_read += x.shape[0] * x.shape[1]
        return logits(self, x, path)

    monkeypatch.setattr(module.Tile, "logits", count)
    problem = Problem(rows, torch.randn(4, 70).double(), None, targets, 3, None, scratch_rows)
    assert_loops_agree(problem, atol=1e-12)
    assert n_read == 15
    rows[3, 0, 0] = torch.nextafter(rows[0, 0, 0], torch.tensor(9.0).double())
    assert_loops_agree(problem, atol=1e-12)
    assert n_read == 15 + 20


def test_the_default_room(monkeypatch: pytest.MonkeyPatch) -> None:
    module = import_module("mechprobe.kernels.readout")
    shapes: list[tuple[int, int]] = []
    shape_of = module._tile_shape

    def watch(*args: int) -> tuple[int, int]:
        shapes.append(shape_of(*args))
        return shapes[-1]

    monkeypatch.setattr(module, "_tile_shape", watch)
    problem = Problem(torch.randn(3, 5, 4), torch.randn(4, 70), None, None, 2)
    monkeypatch.setattr(module, "SCRATCH_BYTES", 6 * 70 * 4)
    problem.read()
    assert shapes == [(2, 2)]


@pytest.mark.parametrize(
    ("n_entries", "n_rows", "room", "expected"),
    [
        (31, 128, 384, (2, 128)),
        (31, 1024, 384, (2, 128)),
        (31, 192, 384, (3, 96)),
        (31, 12, 384, (31, 12)),
        (31, 1, 384, (31, 1)),
        (31, 1, 10, (9, 1)),
        (1, 500, 384, (1, 167)),
        (4, 0, 384, (4, 1)),
        (4, 6, 0, (1, 1)),
        (4, 6, 2, (1, 1)),
    ],
)
def test_shape_of_a_tile(n_entries: int, n_rows: int, room: int, expected: tuple[int, int]) -> None:
    """Two thirds of the room for logits, spans of equal length."""
    module = import_module("mechprobe.kernels.readout")
    assert module._tile_shape(n_entries, n_rows, room) == expected
