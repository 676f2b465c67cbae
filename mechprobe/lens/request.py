"""What was asked of the lens, checked against the model before anything runs."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from torch import Tensor

from mechprobe.models import (
    EMBEDDING,
    Model,
    TokenText,
    found,
    ids_in_context,
    integer,
    integers,
    listed,
    require_encodable,
    require_tokenizer,
    tokenizer_of,
)

Stream = Literal["resid_post", "resid_mid", "attn_out", "mlp_out"]
Norm = Literal["final", "none"]
Translator = Callable[[Tensor, int], Tensor]
# Several are a list, tuple, range, or 1-d array or tensor; numpy's integers count as integers.
Positions = int | np.integer[Any] | Sequence[Any] | npt.NDArray[Any] | Tensor | slice | None
Layers = int | np.integer[Any] | Sequence[Any] | npt.NDArray[Any] | Tensor | None
# Texts, ids, pairs (context, word): as ``logit_lens`` and ``generate_with_lens`` say.
Tokens = str | int | np.integer[Any] | Sequence[Any] | npt.NDArray[Any] | Tensor | None

STREAMS: tuple[Stream, ...] = ("resid_post", "resid_mid", "attn_out", "mlp_out")
_TARGET = "a text, an id or a pair (context, word)"


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
        """What provenance keeps: id by label, or the ids where each cell has its own."""
        if self.per_cell:
            return self.ids
        return dict(zip(self.labels, self.ids[0, 0].tolist(), strict=True))


def resolve_positions(positions: Positions, lengths: Sequence[int]) -> list[list[int]]:
    """Return the positions to read in each prompt, counted from 0.

    Args:
        positions: One, several, a slice, or None for all; negative ones count from the end.
        lengths: Tokens of each prompt.

    Raises:
        ValueError: A position outside a prompt, named twice, or none left.
        TypeError: Not integers; booleans and floats are none.
    """
    asked: list[int] = []
    if positions is not None and not isinstance(positions, slice):
        asked = integers(positions, "positions must be integers, a slice or None")
    out: list[list[int]] = []
    for prompt, length in enumerate(lengths):
        if positions is None:
            chosen = list(range(length))
        elif isinstance(positions, slice):
            chosen = list(range(*positions.indices(length)))
        else:
            outside = [p for p in asked if not -length <= p < length]
            if outside:
                msg = (
                    f"position {outside[0]} is out of range for prompt {prompt} of {length} "
                    f"tokens; valid: {-length}..{length - 1}."
                )
                raise ValueError(msg)
            chosen = [p % length for p in asked]
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
        TypeError: Not integers; booleans and floats are none.
    """
    n_layers = int(model.cfg.n_layers)
    first = EMBEDDING if stream == "resid_post" else 0
    if layers is None:
        return list(range(first, n_layers))
    chosen = integers(layers, "layers must be integers or None")
    outside = [layer for layer in chosen if not first <= layer < n_layers]
    if outside or len(set(chosen)) < len(chosen) or not chosen:
        embedding = "-1 (embedding), " if first == EMBEDDING else ""
        wrong = f"layer {outside[0]} is out of range" if outside else f"layers={chosen}"
        msg = (
            f"{wrong} for stream {stream!r} of {n_layers} blocks; valid: {embedding}"
            f"0..{n_layers - 1}, each once (l is after block l)."
        )
        raise ValueError(msg)
    return chosen


def require_stream(stream: str) -> None:
    """Refuse a stream that is none.

    Raises:
        ValueError: It is unknown.
    """
    if stream not in STREAMS:
        msg = f"stream must be one of {', '.join(STREAMS)}; found {stream!r}."
        raise ValueError(msg)


def check_top_k(top_k: Any, d_vocab: int) -> int:
    """Return ``top_k`` as an integer.

    Raises:
        ValueError: It is not within the vocabulary.
        TypeError: It is no integer.
    """
    k = integer(top_k, "top_k must be an integer")
    if not 1 <= k <= d_vocab:
        msg = f"top_k={k} is out of range; the vocabulary has {d_vocab} ids, so 1..{d_vocab}."
        raise ValueError(msg)
    return k


def translator_for(
    translators: Translator | Mapping[int, Callable[[Tensor], Tensor]] | None, layer: int
) -> Callable[[Tensor], Tensor] | None:
    """Return the map to apply to the residuals of one layer before the norm, or None."""
    if translators is None:
        return None
    if isinstance(translators, Mapping):
        return translators.get(layer)
    return lambda rows: translators(rows, layer)


def one_token(model: Model, target: Any) -> int:
    """Return the id of a target.

    Args:
        model: Gives tokenizer and ``d_vocab``.
        target: An id; a text that is one token where it stands alone, a leading space belongs to
            it; or ``(context, word)``, the token that the word is in that context.

    Raises:
        ValueError: The text is several tokens or none, or the id is outside the vocabulary.
        TypeError: It is something else.
    """
    d_vocab = int(model.cfg.d_vocab)
    if _is_pair(target):
        require_tokenizer(model, f"target {target!r}")
        return _single(model, target, ids_in_context(model, *target))
    if not isinstance(target, str):
        token = integer(target, f"a target must be {_TARGET}")
        if not 0 <= token < d_vocab:
            msg = f"target id {token} is no id of the vocabulary; valid: 0..{d_vocab - 1}."
            raise ValueError(msg)
        return token
    require_tokenizer(model, f"target {target!r}")
    require_encodable(target, "a target")
    ids: list[int] = tokenizer_of(model)(target, add_special_tokens=False)["input_ids"]
    text = TokenText(tokenizer_of(model))
    if len(ids) == 2 and text.raw(ids[0]) == b" " and text.text(ids[1]) == target:
        # SentencePiece puts a space of its own before " Paris"; the word has its space already.
        ids = ids[1:]
    return _single(model, target, ids)


def _single(model: Model, target: object, ids: list[int]) -> int:
    if len(ids) != 1:
        text = TokenText(tokenizer_of(model))
        pieces = ", ".join(f"{text.text(i)!r} ({i})" for i in ids)
        first = f" Take its first token: targets=[{ids[0]}]." if ids else ""
        msg = f"target {target!r} is {len(ids)} tokens: {pieces}; a target is one token.{first}"
        raise ValueError(msg)
    return ids[0]


def resolve_targets(model: Model, targets: Any, positions: list[list[int]]) -> Targets:
    """Return the id of each target in each cell.

    Args:
        model: Gives tokenizer and ``d_vocab``.
        targets: None; one token or several (list, tuple, 1-d array), shared by all cells, each
            as ``one_token`` takes it; or an integer array ``[prompt, pos]`` or
            ``[prompt, pos, target]`` (-1 in cells that are not valid).
        positions: The positions read in each prompt.

    Raises:
        ValueError: Not one token, outside the vocabulary, an array of another shape, or a bare
            tuple of two texts, which may be two targets or a word in its context.
        TypeError: Something else than texts, ids and pairs.
    """
    shape = (len(positions), max(map(len, positions)))
    if isinstance(targets, Tensor | np.ndarray) and targets.ndim > 1:
        return _cell_targets(model, targets, positions)
    ids = np.array([one_token(model, t) for t in _shared(targets)], dtype=np.int64)
    text = TokenText(tokenizer_of(model))
    labels = [text.text(int(i)) for i in ids]
    if len(set(labels)) < len(labels):
        labels = [f"{label} ({i})" for label, i in zip(labels, ids.tolist(), strict=True)]
    return Targets(labels, np.broadcast_to(ids, (*shape, len(ids))))


def _is_pair(value: object) -> bool:
    return isinstance(value, tuple) and len(value) == 2 and all(isinstance(v, str) for v in value)


def _shared(targets: Any) -> list[Any]:
    """Return the targets that all cells share, one by one."""
    if targets is None:
        return []
    if _is_pair(targets):
        msg = (
            f"targets={targets!r} may be two targets or a word in its context: pass "
            f"{list(targets)} for two, [{targets!r}] for {targets[1]!r} after {targets[0]!r}."
        )
        raise ValueError(msg)
    if isinstance(targets, Sequence) and not isinstance(targets, str | bytes):
        return list(targets)
    rule = f"targets must be {_TARGET}, several of them, or an integer array [prompt, pos]"
    several = listed(targets, rule)
    return several if isinstance(several, list) else [several]


def _cell_targets(model: Model, targets: Any, positions: list[list[int]]) -> Targets:
    shape = (len(positions), max(map(len, positions)))
    rule = f"targets per cell must be integers of shape [prompt, pos] = {list(shape)}"
    ids = np.array(listed(targets, rule))
    if ids.ndim == 2:
        ids = ids[..., None]
    if ids.shape[:2] != shape or ids.ndim != 3 or ids.dtype.kind not in "iu":
        msg = f"{rule} (and a third axis for several); found {found(targets)}."
        raise ValueError(msg)
    for prompt, chosen in enumerate(positions):
        for target in np.unique(ids[prompt, : len(chosen)]).tolist():
            one_token(model, target)
    return Targets([f"#{i}" for i in range(ids.shape[2])], ids.astype(np.int64), per_cell=True)
