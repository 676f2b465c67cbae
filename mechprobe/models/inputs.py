"""What users have in hand, told apart by kind: texts, token ids, chats; everything else is named.

Nothing here knows a model. Containers are opened by what they are, never because they can be
iterated: the keys of a dictionary are not texts, and a set has no order.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

PASS = (
    "Pass a text, texts, token ids (a list, array or tensor of integers; several of them for "
    "several prompts), a tokenizer's output with its attention_mask, or a list of chat messages."
)
_RULE = "prompts given as an array or tensor must hold integer ids, [pos] or [prompt, pos]"
# What a model would read from a tokenizer's output besides its ids, and mechprobe does not.
_UNREAD = ("position_ids", "inputs_embeds", "past_key_values", "pixel_values", "input_features")

Message = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Ids:
    """Token ids of one prompt.

    Attributes:
        ids: The ids, padding dropped where a mask told it.
        masked: Whether an attention mask told what is padding.
    """

    ids: list[int]
    masked: bool = False


# One prompt: a text, its ids, or the messages of a chat.
Item = str | Ids | list[Message]


def found(value: object) -> str:
    """Say what a value is, for a message."""
    if isinstance(value, Tensor):
        where = " on the meta device, which holds no numbers" if value.is_meta else ""
        return f"a tensor of {value.dtype}, shape {tuple(value.shape)}{where}"
    if isinstance(value, np.ndarray):
        return f"an array of {value.dtype}, shape {value.shape}"
    if isinstance(value, Mapping):
        keys = ", ".join(f"{key!r:.20}" for key in list(value)[:4])
        return f"a {type(value).__name__} with keys {keys}" if keys else "an empty dictionary"
    return f"{value!r:.60} ({type(value).__name__})"


def integer(value: Any, rule: str) -> int:
    """Return one integer: Python's, numpy's, or a 0-d array or tensor of an integer dtype.

    Args:
        value: What was given.
        rule: What it should be, the beginning of the message: ``"top_k must be an integer"``.

    Raises:
        TypeError: It is something else; booleans and floats are.
    """
    one = listed(value, rule)
    if not _is_integer(one):
        msg = f"{rule}; found {found(value)}."
        raise TypeError(msg)
    return int(one)


def integers(values: Any, rule: str) -> list[int]:
    """Return one or several integers as a list.

    Args:
        values: An integer; a list, tuple or range of them; a 1-d array or tensor.
        rule: As in ``integer``.

    Raises:
        TypeError: Something else is given or held; booleans and floats are.
    """
    several = listed(values, rule)
    return [integer(v, rule) for v in (several if isinstance(several, list) else [several])]


def listed(values: Any, rule: str) -> Any:
    """Return sequences, arrays and tensors as lists, at every depth; anything else as it is.

    Raises:
        TypeError: An array or tensor that holds neither integers nor texts, or no numbers at all.
    """
    if isinstance(values, str | int):
        return values
    if isinstance(values, Tensor):
        _require_integers(values, rule)
        return values.tolist()
    if hasattr(values, "to_numpy") and len(getattr(values, "shape", ())) == 1:
        values = values.to_numpy()  # a column of a table
    if isinstance(values, np.ndarray):
        if values.dtype.kind not in "iuUTO" or isinstance(values, np.ma.MaskedArray):
            msg = f"{rule}; found {found(values)}."
            raise TypeError(msg)
        values = values.tolist()
    if isinstance(values, Sequence) and not isinstance(values, bytes | bytearray | memoryview):
        return [listed(value, rule) for value in values]
    return values


def prompt_items(prompts: Any) -> list[Item]:
    """Return prompts one by one: a text, token ids, or the messages of a chat.

    Args:
        prompts: See ``token_ids``.

    Raises:
        TypeError: Something else than texts, ids, a tokenizer's output or chats.
        ValueError: No prompt, or an attention mask that does not fit its ids.
    """
    if isinstance(prompts, Mapping):
        return [*_encoding(prompts, "prompts")]
    items: Any = [prompts] if isinstance(prompts, str) else _opened(prompts)
    if not isinstance(items, list):
        msg = f"prompts cannot be {found(prompts)}. {PASS}"
        raise TypeError(msg)
    if not items:
        msg = "no prompt was given; pass a text, a list of texts or token ids."
        raise ValueError(msg)
    if any(map(_is_integer, items)):
        return [Ids(integers(items, "the ids of a prompt must all be integers"))]
    if all(map(_is_message, items)):
        return [items]
    return [_item(item, i) for i, item in enumerate(items)]


def _opened(prompts: Any) -> Any:
    if isinstance(prompts, Tensor | np.ndarray):
        if prompts.ndim == 1 and len(prompts) == 0:
            return list[Any]()  # numpy and torch make an empty list an array of floats
        texts = isinstance(prompts, np.ndarray) and prompts.dtype.kind not in "iu"
        if prompts.ndim not in ((1,) if texts else (1, 2)):
            msg = f"{_RULE}; found {found(prompts)}."
            raise TypeError(msg)
    return listed(prompts, _RULE)


def _item(item: Any, i: int) -> Item:
    if isinstance(item, str):
        return item
    if isinstance(item, Mapping) and not _is_message(item):
        rows = _encoding(item, f"prompt {i}")
        if len(rows) == 1:
            return rows[0]
        msg = f"prompt {i} holds {len(rows)} prompts of a tokenizer's output; pass them one by one."
        raise ValueError(msg)
    if not isinstance(item, list):
        msg = f"prompt {i} is neither text nor a list of integer ids: {found(item)}. {PASS}"
        raise TypeError(msg)
    if item and all(map(_is_message, item)):
        return item
    return Ids(integers(item, f"prompt {i} must be a text or integer ids"))


def _encoding(encoding: Any, what: str) -> list[Ids]:
    """Read a tokenizer's output; other keys than ids and mask tell nothing that is needed."""
    if "input_ids" not in encoding:
        msg = f"{what} cannot be {found(encoding)}: it has no input_ids. {PASS}"
        if _is_message(encoding):
            msg = f"{what} is one chat message; pass a list of messages: [{found(encoding)}]."
        raise TypeError(msg)
    unread = [key for key in _UNREAD if encoding.get(key) is not None]
    if unread:
        msg = f"{what} brings {unread[0]}, which would not be read; pass input_ids without it."
        raise ValueError(msg)
    items = _rows(listed(encoding["input_ids"], "input_ids must be integers"), "input_ids")
    rows = [integers(row, "input_ids must be integers, [pos] or [prompt, pos]") for row in items]
    if encoding.get("attention_mask") is None:
        return [Ids(row) for row in rows]
    masks = _rows(_mask(encoding["attention_mask"]), "attention_mask")
    lengths = [len(row) for row in rows]
    if [len(mask) if isinstance(mask, list) else -1 for mask in masks] != lengths:
        msg = f"attention_mask must have the shape of input_ids, rows of {lengths[:8]} tokens."
        raise ValueError(msg)
    return [_unmasked(row, mask, i) for i, (row, mask) in enumerate(zip(rows, masks, strict=True))]


def _unmasked(row: list[int], mask: list[Any], i: int) -> Ids:
    if not all(m in (0, 1) for m in mask):
        msg = f"attention_mask must hold 0 (padding) and 1 (text); row {i} holds others."
        raise ValueError(msg)
    kept = [token for token, keep in zip(row, mask, strict=True) if keep]
    if row and not kept:
        msg = f"attention_mask drops every token of prompt {i}; there is no position to read."
        raise ValueError(msg)
    return Ids(kept, masked=True)


def _rows(values: Any, what: str) -> list[Any]:
    """Return several rows where one may have been given flat."""
    if not isinstance(values, list):
        rule = f"{what} must be a list, array or tensor, [pos] or [prompt, pos]"
        msg = f"{rule}; found {found(values)}."
        raise TypeError(msg)
    return values if values and all(isinstance(v, list) for v in values) else [values]


def _mask(mask: Any) -> Any:
    """Return a mask as lists; booleans and 0.0 and 1.0 tell the same as 0 and 1."""
    if isinstance(mask, np.ndarray) or (isinstance(mask, Tensor) and not mask.is_meta):
        return mask.tolist()
    several = isinstance(mask, Sequence) and not isinstance(mask, str | bytes)
    return [_mask(row) for row in mask] if several else mask


def _require_integers(values: Tensor, rule: str) -> None:
    numbers = values.layout == torch.strided and not values.is_meta and not values.is_nested
    other = values.is_floating_point() or values.is_complex() or values.dtype == torch.bool
    if other or not numbers:
        msg = f"{rule}; found {found(values)}."
        raise TypeError(msg)


def _is_integer(value: object) -> bool:
    return isinstance(value, int | np.integer) and not isinstance(value, bool)


def _is_message(value: object) -> bool:
    return isinstance(value, Mapping) and "role" in value and "input_ids" not in value
