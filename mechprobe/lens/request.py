"""What was asked of the lens, checked against the model before anything runs."""

import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from mechprobe.models import (
    Model,
    TokenText,
    model_name,
    require_encodable,
    require_tokenizer,
    tokenizer_of,
)

Stream = Literal["resid_post", "resid_mid", "attn_out", "mlp_out"]
Norm = Literal["final", "none"]
Translator = Callable[[Tensor, int], Tensor]
Positions = int | Sequence[int] | slice | None
Layers = int | Sequence[int] | None

STREAMS: tuple[Stream, ...] = ("resid_post", "resid_mid", "attn_out", "mlp_out")
EMBEDDING = -1


@dataclass(frozen=True, slots=True)
class Targets:
    """Ids to follow through the layers.

    Attributes:
        labels: Their names, for the ``target`` coordinate.
        ids: One id per cell, ``[prompt, pos, target]``; -1 where the cell is not valid.
        per_cell: Whether cells have targets of their own.
    """

    labels: list[str]
    ids: npt.NDArray[np.int64]
    per_cell: bool = False

    @property
    def recorded(self) -> object:
        """What provenance keeps: the labels, or the ids where each cell has its own."""
        return self.ids if self.per_cell else self.labels


def resolve_positions(positions: Positions, lengths: Sequence[int]) -> list[list[int]]:
    """Return the positions to read in each prompt, counted from 0.

    Args:
        positions: One, several, a slice, or None for all; negative ones count from the end.
        lengths: Tokens of each prompt.

    Raises:
        ValueError: A position outside a prompt, or none left.
        TypeError: Not an integer.
    """
    out: list[list[int]] = []
    for prompt, length in enumerate(lengths):
        if positions is None:
            chosen = list(range(length))
        elif isinstance(positions, slice):
            chosen = list(range(*positions.indices(length)))
        else:
            asked = [positions] if isinstance(positions, int | np.integer) else list(positions)
            if not all(isinstance(p, int | np.integer) for p in asked):
                msg = f"positions must be integers, a slice or None; found {positions!r}."
                raise TypeError(msg)
            outside = [p for p in asked if not -length <= p < length]
            if outside:
                msg = (
                    f"position {outside[0]} is out of range for prompt {prompt} of {length} "
                    f"tokens; valid: {-length}..{length - 1}."
                )
                raise ValueError(msg)
            chosen = [int(p) % length for p in asked]
            if len(set(chosen)) < len(chosen):
                msg = f"positions={positions!r} names one position of prompt {prompt} twice."
                raise ValueError(msg)
        if not chosen:
            msg = f"positions={positions!r} leaves nothing of prompt {prompt} ({length} tokens)."
            raise ValueError(msg)
        out.append(chosen)
    return out


def resolve_layers(model: Model, layers: Layers, stream: Stream) -> list[int]:
    """Return the layers to read: -1 is the embedding, l is after block l.

    Raises:
        ValueError: A layer that is not there, or the same one twice.
    """
    n_layers = int(model.cfg.n_layers)
    first = EMBEDDING if stream == "resid_post" else 0
    if layers is None:
        return list(range(first, n_layers))
    chosen = [operator.index(x) for x in (layers if isinstance(layers, Sequence) else [layers])]
    outside = [layer for layer in chosen if not first <= layer < n_layers]
    if outside or len(set(chosen)) < len(chosen) or not chosen:
        embedding = "-1 (embedding), " if first == EMBEDDING else ""
        found = f"layer {outside[0]} is out of range" if outside else f"layers={chosen}"
        msg = (
            f"{found} for stream {stream!r} of {n_layers} blocks; valid: {embedding}"
            f"0..{n_layers - 1}, each once (l is after block l)."
        )
        raise ValueError(msg)
    return chosen


def hook_names(model: Model, layers: Sequence[int], stream: Stream) -> list[str]:
    """Return the activation to read for each layer.

    Raises:
        ValueError: An unknown stream.
        NotImplementedError: A stream that this architecture does not have.
    """
    if stream not in STREAMS:
        msg = f"stream must be one of {', '.join(STREAMS)}; found {stream!r}."
        raise ValueError(msg)
    names = [
        "blocks.0.hook_resid_pre" if layer == EMBEDDING else f"blocks.{layer}.hook_{stream}"
        for layer in layers
    ]
    known = model.hook_dict
    missing = [name for name in names if name not in known]
    if missing:
        why = (
            "its attention and MLP read the same residual stream in parallel, so there is none "
            "between them"
            if stream == "resid_mid"
            else "its blocks are built differently"
        )
        msg = f"{model_name(model)} has no {missing[0]}: {why}. Use stream='resid_post'."
        raise NotImplementedError(msg)
    return names


def check_top_k(top_k: int, d_vocab: int) -> int:
    """Return ``top_k``.

    Raises:
        ValueError: It is not within the vocabulary.
    """
    if not 1 <= top_k <= d_vocab:
        msg = f"top_k={top_k} is out of range; the vocabulary has {d_vocab} ids, so 1..{d_vocab}."
        raise ValueError(msg)
    return int(top_k)


def translator_for(
    translators: Translator | Mapping[int, Callable[[Tensor], Tensor]] | None, layer: int
) -> Callable[[Tensor], Tensor] | None:
    """Return the map to apply to the residuals of one layer before the norm, or None."""
    if translators is None:
        return None
    if isinstance(translators, Mapping):
        return translators.get(layer)
    return lambda rows: translators(rows, layer)


def one_token(model: Model, target: str | int) -> int:
    """Return the id of a target.

    Args:
        model: Gives tokenizer and ``d_vocab``.
        target: An id, or a text that is one token; a leading space belongs to it.

    Raises:
        ValueError: The text is several tokens or none, or the id is outside the vocabulary.
    """
    d_vocab = int(model.cfg.d_vocab)
    if isinstance(target, str):
        require_tokenizer(model, f"target {target!r}")
        tokenizer = tokenizer_of(model)
        require_encodable(target, "a target")
        ids: list[int] = tokenizer(target, add_special_tokens=False)["input_ids"]
        text = TokenText(tokenizer)
        if len(ids) == 2 and text.raw(ids[0]) == b" " and text.text(ids[1]) == target:
            # SentencePiece puts a space of its own before " Paris"; the word has its space already.
            ids = ids[1:]
        if len(ids) != 1:
            pieces = ", ".join(f"{text.text(i)!r} ({i})" for i in ids)
            first = f" Take its first token: targets=[{ids[0]}]." if ids else ""
            msg = f"target {target!r} is {len(ids)} tokens: {pieces}; a target is one token.{first}"
            raise ValueError(msg)
        return ids[0]
    if not isinstance(target, int | np.integer) or not 0 <= target < d_vocab:
        msg = f"target id {target} is no id of the vocabulary; valid: 0..{d_vocab - 1}."
        raise ValueError(msg)
    return int(target)


def resolve_targets(model: Model, targets: Any, positions: list[list[int]]) -> Targets:
    """Return the id of each target in each cell.

    Args:
        model: Gives tokenizer and ``d_vocab``.
        targets: None; one or several tokens shared by all cells; or an integer array
            ``[prompt, pos]`` or ``[prompt, pos, target]`` (-1 in cells that are not valid).
        positions: The positions read in each prompt.

    Raises:
        ValueError: Not one token, outside the vocabulary, or an array of another shape.
    """
    shape = (len(positions), max(map(len, positions)))
    if isinstance(targets, Tensor | np.ndarray) and targets.ndim > 1:
        return _cell_targets(model, torch.as_tensor(targets).cpu().numpy(), positions)
    if targets is None:
        shared: list[Any] = []
    elif isinstance(targets, str | int | np.integer):
        shared = [targets]
    else:
        shared = targets.tolist() if isinstance(targets, Tensor | np.ndarray) else list(targets)
    ids = np.array([one_token(model, t) for t in shared], dtype=np.int64)
    text = TokenText(tokenizer_of(model))
    labels = [text.text(int(i)) for i in ids]
    if len(set(labels)) < len(labels):
        labels = [f"{label} ({i})" for label, i in zip(labels, ids.tolist(), strict=True)]
    return Targets(labels, np.broadcast_to(ids, (*shape, len(ids))))


def _cell_targets(model: Model, ids: npt.NDArray[Any], positions: list[list[int]]) -> Targets:
    shape = (len(positions), max(map(len, positions)))
    if ids.ndim == 2:
        ids = ids[..., None]
    if ids.shape[:2] != shape or not np.issubdtype(ids.dtype, np.integer):
        msg = (
            f"targets per cell must be integers of shape [prompt, pos] = {list(shape)} (and a "
            f"third axis for several); found {ids.dtype} of shape {list(ids.shape)}."
        )
        raise ValueError(msg)
    for prompt, chosen in enumerate(positions):
        for target in np.unique(ids[prompt, : len(chosen)]).tolist():
            one_token(model, target)
    return Targets([f"#{i}" for i in range(ids.shape[2])], ids.astype(np.int64), per_cell=True)
