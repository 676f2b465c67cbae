"""The reductions of the readout in torch's steps are what they are specified to be."""

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

FIELDS = ("maxima", "log_sum", "entropy", "cross", "larger")


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def inputs(n_rows: int, kind: str) -> tuple[Tensor, Tensor, Tensor]:
    """Logits on a grid of halves, so that ties are ties and counts are exact."""
    generator = torch.Generator().manual_seed(n_rows)
    z = torch.randint(-8, 9, (n_rows, 200), generator=generator) / 2
    reference = z.roll(1, 0).clone()
    if kind == "-inf":
        z[:, ::3] = reference[:, ::3] = -torch.inf
    elif kind == "shifted":
        z += 4096.0
    return z, reference.softmax(-1), z[:, 100:101].clone()


def step_by_step(z: Tensor, reference: Tensor, value: Tensor) -> tuple[Tensor, ...]:
    from mechprobe.kernels.reductions import Stepwise

    return Stepwise(len(z), z, z.dtype)(z, reference, value)


def assert_fields(found: tuple[Tensor, ...], want: tuple[Tensor, ...], atol: float) -> None:
    for name, a, b in zip(FIELDS, found, want, strict=True):
        exact = name in ("maxima", "larger")
        torch.testing.assert_close(
            a.double(), b.double(), atol=0 if exact else atol, rtol=0, msg=f"{name}: {{}}".format
        )


@pytest.mark.parametrize("kind", ["plain", "-inf", "shifted"])
@pytest.mark.parametrize("n_rows", [1, 2, 16, 17])
def test_steps_are_the_specification(n_rows: int, kind: str) -> None:
    from mechprobe.kernels.reductions import one_pass

    found = inputs(n_rows, kind)
    assert_fields(step_by_step(*found), one_pass(*found), atol=2e-5)
    wide: Any = tuple(t.double() for t in found)
    assert_fields(step_by_step(*wide), one_pass(*wide), atol=1e-12)
