"""A checkpoint is loaded whole, from the files that are recorded, or refused."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.tiny import save_tiny

Weights = dict[str, torch.Tensor]


def edited(folder: Path, change: Callable[[Weights], Any]) -> Path:
    weights = load_file(folder / "model.safetensors")
    change(weights)
    save_file({k: v.contiguous() for k, v in weights.items()}, folder / "model.safetensors", {"format": "pt"})
    return folder


def configured(folder: Path, **settings: object) -> Path:
    file = folder / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **settings}))
    return folder


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return save_tiny(tmp_path / "m", "llama")


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_a_missing_tensor_is_not_drawn_at_random(kind: str, tmp_path: Path) -> None:
    import mechprobe as mp

    folder = save_tiny(tmp_path / "m", kind)
    name = next(n for n in load_file(folder / "model.safetensors") if ".1." in n and "weight" in n)
    edited(folder, lambda w: w.pop(name))
    with pytest.raises(ValueError, match=r"m lacks .*\.1\..*, and random numbers would stand there"):
        mp.load_model(folder, device="cpu")


@pytest.mark.parametrize("by", [-1, 1])
def test_other_layers_than_configured(folder: Path, by: int) -> None:
    import mechprobe as mp

    n = int(json.loads((folder / "config.json").read_text())["num_hidden_layers"])
    configured(folder, num_hidden_layers=n + by)
    says = "lacks model.layers" if by > 0 else "holds model.layers.*counts fewer layers"
    with pytest.raises(ValueError, match=says):
        mp.load_model(folder, device="cpu")


def test_a_layer_more_in_the_names_of_the_hub_s_gpt2(tmp_path: Path) -> None:
    """Its checkpoint leaves out the part that all names begin with."""
    import mechprobe as mp

    folder = save_tiny(tmp_path / "m", "gpt2")
    weights = {k.removeprefix("transformer."): v for k, v in load_file(folder / "model.safetensors").items()}
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    mp.load_model(folder, device="cpu")
    configured(folder, n_layer=int(json.loads((folder / "config.json").read_text())["n_layer"]) - 1)
    with pytest.raises(ValueError, match=r"m holds h\..*counts fewer layers"):
        mp.load_model(folder, device="cpu")


def test_an_expert_that_is_missing(tmp_path: Path) -> None:
    """transformers joins experts before it counts, and ends in an error of its own."""
    import mechprobe as mp

    folder = save_tiny(tmp_path / "m", "mixtral")
    name = next(n for n in load_file(folder / "model.safetensors") if "experts.1.w1" in n)
    edited(folder, lambda w: w.pop(name))
    with pytest.raises(ValueError, match="tensors of m are missing or have other shapes"):
        mp.load_model(folder, device="cpu")


def test_pickled_weights_are_counted_too(folder: Path) -> None:
    import mechprobe as mp

    weights = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    torch.save(weights, folder / "pytorch_model.bin")
    mp.load_model(folder, device="cpu", allow_bin=True)
    weights.pop("model.layers.0.mlp.up_proj.weight")
    torch.save(weights, folder / "pytorch_model.bin")
    with pytest.raises(ValueError, match=r"m lacks model\.layers\.0\.mlp\.up_proj"):
        mp.load_model(folder, device="cpu", allow_bin=True)


def test_other_shapes_than_configured(folder: Path) -> None:
    import mechprobe as mp

    name = "model.layers.0.mlp.up_proj.weight"
    edited(folder, lambda w: w.update({name: w[name][:-1]}))
    with pytest.raises(ValueError, match="of m are missing or have other shapes than its config"):
        mp.load_model(folder, device="cpu")


def test_what_belongs_to_no_language_model_is_left_aside_and_said(folder: Path) -> None:
    import mechprobe as mp
    from mechprobe.models.identity import source_of

    edited(folder, lambda w: w.update({"vision_tower.patch.weight": torch.ones(2, 2)}))
    source = source_of(mp.load_model(folder, device="cpu"))
    assert source is not None
    assert source.note == "left aside: vision_tower.patch.weight"


def test_tied_weights_are_not_missing(tmp_path: Path) -> None:
    import mechprobe as mp

    folder = save_tiny(tmp_path / "m", "gpt2")
    assert "lm_head.weight" not in load_file(folder / "model.safetensors")
    mp.load_model(folder, device="cpu")


def test_the_file_that_is_read_is_the_file_that_is_recorded(folder: Path) -> None:
    """An index beside ``model.safetensors`` is not looked at by transformers."""
    import mechprobe as mp
    from mechprobe.models.identity import source_of
    from mechprobe.provenance import digest_file

    weights = load_file(folder / "model.safetensors")
    save_file(
        {k: torch.zeros_like(v) for k, v in weights.items()}, folder / "other.safetensors", {"format": "pt"}
    )
    index = {"weight_map": dict.fromkeys(weights, "other.safetensors")}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    model = mp.load_model(folder, device="cpu")
    source = source_of(model)
    assert source is not None
    assert source.files == {"model.safetensors": digest_file(folder / "model.safetensors")}
    assert torch.equal(model.W_U.T, weights["lm_head.weight"])


@pytest.mark.parametrize(
    "name", ["../model.safetensors", "pytorch_model.bin", "/etc/passwd", "a\\b.safetensors", 3]
)
def test_an_index_names_safetensors_of_its_folder_only(folder: Path, name: object) -> None:
    import mechprobe as mp

    weights = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").rename(folder.parent / "model.safetensors")
    index = {"weight_map": dict.fromkeys(weights, name)}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(ValueError, match="which is no safetensors file of this folder"):
        mp.load_model(folder, device="cpu")


@pytest.mark.parametrize("text", ["{", "[]", '{"weight_map": 3}', "{}", '{"weight_map": {"a": []}}'])
def test_a_damaged_index(folder: Path, text: str) -> None:
    import mechprobe as mp

    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors.index.json").write_text(text)
    with pytest.raises(ValueError, match=r"index\.json is damaged"):
        mp.load_model(folder, device="cpu")


def test_a_shard_that_is_not_there(folder: Path) -> None:
    import mechprobe as mp

    weights = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").rename(folder / "one.safetensors")
    names = {k: "one.safetensors" if i else "two.safetensors" for i, k in enumerate(weights)}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": names}))
    with pytest.raises(FileNotFoundError, match=r"m lacks two\.safetensors, which its index names"):
        mp.load_model(folder, device="cpu")
