"""A checkpoint on disk: which files hold its weights, and whether they are all the model has."""

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from copy import deepcopy
from pathlib import Path
from typing import Any

from mechprobe.models.quiet import quiet

_FEW = 3  # tensors that are named
_ONE_FILE, _INDEX = "model.safetensors", "model.safetensors.index.json"


def weight_files(folder: Path, allow_bin: bool) -> list[Path]:
    """Return the files that Hugging Face will read the weights from.

    Args:
        folder: Of the checkpoint.
        allow_bin: Whether pickled weights are read where there are no others.

    Raises:
        FileNotFoundError: There are no weights, or not all that the index names.
        ValueError: Only pickled ones, or the index is damaged or names something else than
            safetensors of this folder.
    """
    if (folder / _ONE_FILE).exists():  # read before an index is looked at
        return [folder / _ONE_FILE]
    if (folder / _INDEX).exists():
        return _shards(folder)
    pickled = sorted(folder.glob("*.bin"))
    if pickled and allow_bin:
        return pickled
    advice = "its .bin files are pickles: pass allow_bin=True to read them" if pickled else "is it whole?"
    msg = f"{folder.name} holds no model.safetensors; {advice}"
    raise ValueError(msg) if pickled else FileNotFoundError(msg)


def _shards(folder: Path) -> list[Path]:
    try:
        named = set(json.loads((folder / _INDEX).read_text(encoding="utf-8"))["weight_map"].values())
        wrong = [x for x in named if not isinstance(x, str) or not re.fullmatch(r"[^/\\]+\.safetensors", x)]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        msg = f"{folder / _INDEX} is damaged ({type(error).__name__}: {error}); get the checkpoint again."
        raise ValueError(msg) from error
    if wrong:
        msg = (
            f"{folder / _INDEX} names {wrong[0]!r}, which is no safetensors file of this folder; "
            "get the checkpoint again, from where you trust it."
        )
        raise ValueError(msg)
    found = [folder / name for name in sorted(named)]
    missing = [file.name for file in found if not file.exists()]
    if missing or not found:
        msg = f"{folder.name} lacks {missing[0] if missing else 'its weights'}, which its index names."
        raise FileNotFoundError(msg)
    return found


# How transformers ends a load whose tensors have other shapes, or lack one that is joined with others.
_MISFITS = ("ignore_mismatched_sizes", "conversion of the weights")


@contextmanager
def tensors_that_fit(folder: Path) -> Iterator[None]:
    """Say plainly what transformers means where tensors are not those of the configured model.

    Raises:
        ValueError: They are not.
    """
    try:
        yield
    except RuntimeError as error:
        if not any(said in str(error) for said in _MISFITS):
            raise
        msg = (
            f"tensors of {folder.name} are missing or have other shapes than its config.json (and n_ctx, "
            "where it is given) make them; mend that, or get the checkpoint again."
        )
        raise ValueError(msg) from error


def require_whole(folder: Path, hf: Any) -> str:
    """Refuse a checkpoint whose tensors are not those of the model that was loaded from it.

    transformers draws at random what a checkpoint lacks, and passes over what the model has no
    place for; both only in a log.

    Args:
        folder: Of the checkpoint.
        hf: The Hugging Face model, loaded from there.

    Returns:
        What was left aside, in a few words: tensors of parts that a language model does not have,
        vision for instance; empty where nothing was.

    Raises:
        ValueError: A tensor is missing, or there are layers that the config does not count.
    """
    with quiet(), tensors_that_fit(folder):
        # Names and shapes only: nothing is read.
        plain, info = type(hf).from_pretrained(
            folder, config=deepcopy(hf.config), device_map="meta", output_loading_info=True
        )
    if info["missing_keys"]:
        msg = (
            f"{folder.name} lacks {_told(info['missing_keys'])}, and random numbers would stand there; get "
            "the checkpoint again, or mend its config.json."
        )
        raise ValueError(msg)
    # A checkpoint may name tensors without the part they are in ("h.0" for "transformer.h.0").
    prefix = f"{plain.base_model_prefix}."
    known = {_shape_of(name).removeprefix(prefix) for name in plain.state_dict()}
    other = info["unexpected_keys"]
    more = [name for name in other if _shape_of(name).removeprefix(prefix) in known]
    if more:
        msg = (
            f"{folder.name} holds {_told(more)}, which the model of its config.json has no place for: "
            "it counts fewer layers. Mend config.json, or get the checkpoint again."
        )
        raise ValueError(msg)
    return f"left aside: {_told(other)}" if other else ""


def _shape_of(name: str) -> str:
    """Return a tensor's name without the numbers of layers."""
    return re.sub(r"\.\d+(?=\.)", ".#", name)


def _told(names: Any) -> str:
    every = sorted(names)
    rest = f" and {len(every) - _FEW} more tensors" if len(every) > _FEW else ""
    return ", ".join(every[:_FEW]) + rest
