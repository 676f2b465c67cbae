"""What decides a model's answers is seen: every weight, and what attributes of any kind hold."""

from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.test_internals import KINDS, loaded


@pytest.mark.parametrize("name", KINDS)
def test_every_weight_and_buffer_is_seen(tiny: Callable[..., Any], name: str) -> None:
    from mechprobe.models.fingerprint import fingerprint
    from mechprobe.models.internals import roots

    model = tiny(name)
    every = {id(t) for m in roots(model) for t in (*m.parameters(), *m.buffers())}
    assert len(fingerprint(model).weights) == len(every)


class _Slotted:
    __slots__ = ("value",)

    def __init__(self) -> None:
        self.value = 1.0


def test_what_an_attribute_holds_is_seen(tmp_path: Path) -> None:
    """In the fingerprint and in its digest; of what cannot be looked into, nothing is kept."""
    from mechprobe.models.fingerprint import fingerprint, told

    def held(value: Any) -> Any:
        model: Any = loaded(tmp_path, "llama")
        model.original_model.model.some = value
        return fingerprint(model)

    array = np.arange(3.0)
    pairs = [(np.float64(1.5), np.float64(2.5)), (array, array * 2), (deque([1]), deque([2])),
             ({1: "a"}, {1: "b"})]  # fmt: skip
    for one, other in pairs:
        first, second = held(one), held(other)
        assert first.is_calm
        assert first.structure != second.structure
        assert told(first.structure) != told(second.structure)
        assert told(held(one).structure) == told(first.structure)
    assert not held(_Slotted()).is_calm


@pytest.mark.parametrize("kept", [list, tuple, dict, set])
def test_two_parts_of_one_container_are_two(kept: type) -> None:
    """Of tensors and modules that hang on a model by an attribute of any kind."""
    from mechprobe.models.fingerprint import fingerprint

    loose = [torch.ones(2), torch.zeros(3)]
    parts = [torch.nn.Linear(2, 2), torch.nn.Linear(2, 2)]
    for some in (loose, parts):
        model: Any = torch.nn.Linear(2, 2)
        model.some = dict(enumerate(some)) if kept is dict else kept(some)
        before = fingerprint(model)
        for part in some:
            tensor: Any = part.weight if isinstance(part, torch.nn.Linear) else part
            was = tensor.data.clone()
            tensor.data.add_(1)
            assert fingerprint(model) != before
            tensor.data.copy_(was)
            assert fingerprint(model) == before


def test_a_hook_point_of_ones_own_is_seen(tmp_path: Path) -> None:
    """Most hook points say nothing, but one whose ``forward`` was replaced does."""
    import mechprobe as mp

    model: Any = loaded(tmp_path, "llama")
    ids = [[5, 9, 17]]
    mp.logit_lens(model, ids, progress=False)
    seen = set[str]()
    for forward in (doubled, tripled):
        model.blocks[0].hook_out.forward = forward
        found = mp.logit_lens(model, ids, top_k=5, progress=False)
        own = model.original_model(torch.tensor(ids)).logits[0, -1].log_softmax(-1).detach().numpy()
        top = found.data["model_token"].values.ravel()
        said = found.data["model_log_prob"].values.ravel()
        np.testing.assert_allclose(said, own[top], atol=1e-4)
        seen.add(str(found.provenance.model["structure_sha256"]))
    assert len(seen) == 2


def doubled(x: torch.Tensor) -> torch.Tensor:
    return 2 * x


def tripled(x: torch.Tensor) -> torch.Tensor:
    return 3 * x
