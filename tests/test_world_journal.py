"""Journals belong to one run of one model, and a damaged line is no result."""

import json
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

ASKED: dict[str, Any] = {
    "n": 12,
    "suffixes": 3,
    "k": 2,
    "baselines": False,
    "progress": False,
    "batch_size": 4,
}


@pytest.fixture(scope="module")
def world() -> Any:
    from mechprobe.worlds import Dyck

    return Dyck(2, 3, end="end", max_length=14)


def told(world: Any, favour: float) -> Callable[[np.ndarray], np.ndarray]:
    """Return a function of one name that favours the first legal word."""

    def model(ids: np.ndarray) -> np.ndarray:
        legal = world.legal(world.run(world.initial(len(ids)), ids))
        weight = np.where(legal, 1.0, 1e-6)
        weight[:, 0] *= favour
        return np.log(weight / weight.sum(axis=1, keepdims=True))

    return model


def journal_of(model: Any, world: Any, path: Path) -> Any:
    from mechprobe.worlds import evaluate_world_model

    return evaluate_world_model(model, world, resume=path, **ASKED).data


def test_oracles_of_other_rates_are_other_models(world: Any, tmp_path: Path) -> None:
    from mechprobe.worlds import noisy_oracle

    path = tmp_path / "j.jsonl"
    journal_of(noisy_oracle(world, 0.02, 0.01), world, path)
    for rates in ((0.0201, 0.01, 0), (0.02, 0.02, 0), (0.02, 0.01, 1)):
        with pytest.raises(ValueError, match=r"j\.jsonl belongs to another run: model differ"):
            journal_of(noisy_oracle(world, *rates), world, path)


def test_functions_of_one_name_are_other_models(world: Any, tmp_path: Path) -> None:
    path = tmp_path / "j.jsonl"
    first = journal_of(told(world, 1.0), world, path)
    with pytest.raises(ValueError, match=r"belongs to another model: of the same name, but it gives words"):
        journal_of(told(world, 1.05), world, path)
    assert journal_of(told(world, 1.0), world, path).equals(first)


def turned(value: torch.Tensor, hook: object) -> torch.Tensor:
    del hook
    return 2 * value.flip(-1)


@pytest.mark.parametrize("how", ["weights", "hook", "dtype"])
def test_a_changed_network_is_another_model(how: str, world: Any, tmp_path: Path) -> None:
    from mechprobe.worlds import load_sequence_model, train_sequence_model

    every, made = world.random_walks(60, np.random.default_rng(0)), tmp_path / "made"
    walks = [walk for walk in every if len(walk) > 1]
    small: dict[str, Any] = {"n_layers": 1, "n_heads": 1, "d_model": 16, "steps": 3, "progress": False}
    train_sequence_model(world, walks, folder=made, **small)
    net = load_sequence_model(made, world)
    path = tmp_path / "j.jsonl"
    journal_of(net, world, path)
    journal_of(net, world, path)
    if how == "weights":
        next(p for n, p in net.model.named_parameters() if p.ndim == 2).data.mul_(-2)
    elif how == "dtype":
        net.model.to(torch.bfloat16)
    else:
        name = next(n for n in net.model.hook_dict if n.endswith("hook_resid_post"))
        net.model.add_perma_hook(name, turned)
    with pytest.raises(ValueError, match=r"belongs to another (model|run)|hook"):
        journal_of(net, world, path)


def damaged(text: bytes, rng: np.random.Generator) -> bytes:
    """Change a byte, leave some out, say some twice, or swap two lines."""
    at, kind = int(rng.integers(len(text))), int(rng.integers(4))
    if kind == 0:
        return text[:at] + bytes([text[at] ^ int(2 ** rng.integers(8))]) + text[at + 1 :]
    end = at + int(rng.integers(1, 30))
    return [text[:at] + text[end:], text[:end] + text[at:], text[:at] + b"\xff" * 3 + text[at:]][kind - 1]


def test_damage_changes_no_result(world: Any, tmp_path: Path) -> None:
    """Whatever becomes of the file: the same numbers, or a refusal."""
    from mechprobe.worlds import noisy_oracle

    path, rng = tmp_path / "j.jsonl", np.random.default_rng(0)
    model = noisy_oracle(world, 0.05, 0.02)
    right, whole = journal_of(model, world, path), path.read_bytes()
    refused, computed = list[str](), 0
    for _ in range(60):
        path.write_bytes(damaged(whole, rng))
        with warnings.catch_warnings(record=True) as seen:
            warnings.simplefilter("always")
            try:
                assert journal_of(model, world, path).equals(right)
            except ValueError as error:
                refused.append(str(error))
        computed += any("damaged lines; their batches are computed again" in str(w.message) for w in seen)
    assert computed > 20
    assert len(refused) > 3
    assert all("j.jsonl" in message for message in refused)


def test_a_number_that_was_edited_is_computed_again(world: Any, tmp_path: Path) -> None:
    from mechprobe.worlds import noisy_oracle

    path, model = tmp_path / "j.jsonl", noisy_oracle(world, 0.05, 0.02)
    right = journal_of(model, world, path)
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    lines[1]["values"] = [0.5] * len(lines[1]["values"])
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    with pytest.warns(UserWarning, match=r"j\.jsonl: 1 damaged lines; their batches are computed again"):
        assert journal_of(model, world, path).equals(right)
