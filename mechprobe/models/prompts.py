"""Prompts to token ids and to padded micro-batches."""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

from mechprobe.models.protocol import Model, tokenizer_of
from mechprobe.models.support import require_encodable, require_tokenizer

Prompts = str | Sequence[str] | Sequence[int] | Sequence[Sequence[int]] | Tensor

# Tokens per forward pass. The residuals of 31 layers of 1,024 tokens of SmolLM2 are 73 MB.
TOKENS_PER_BATCH = 1024


@dataclass(frozen=True, slots=True)
class Batch:
    """Prompts of similar length, padded on the right.

    Attributes:
        index: Which prompts these are.
        ids: Their token ids.
        mask: 1 for tokens, 0 for padding; None where nothing is padded.
    """

    index: list[int]
    ids: Int[Tensor, "batch pos"]
    mask: Int[Tensor, "batch pos"] | None


def token_ids(
    model: Model, prompts: Prompts, *, prepend_bos: bool | None = None, n_more: int = 0
) -> list[list[int]]:
    """Return the token ids of each prompt, checked against the model.

    Text is tokenised by the model's own ``to_tokens``, one prompt at a time. A text that already
    begins with the BOS token does not get a second one. Ids are taken as they are.

    Args:
        model: Gives tokenizer, ``n_ctx`` and ``d_vocab``.
        prompts: One or several texts or lists of ids; a tensor of ids ``[pos]`` or
            ``[prompt, pos]``.
        prepend_bos: Whether text gets a BOS token; None for the model's habit.
        n_more: Tokens that will be generated after the prompt.

    Returns:
        One list of ids per prompt.

    Raises:
        ValueError: No prompt, an empty one, one longer than ``n_ctx``, ids outside the
            vocabulary, a padded tensor, or text for a model without tokenizer.
        TypeError: Prompts are neither text nor ids.
    """
    items = _as_list(model, prompts)
    if not items:
        msg = "no prompt was given; pass a text, a list of texts or token ids."
        raise ValueError(msg)
    out = [
        _from_text(model, item, i, prepend_bos) if isinstance(item, str) else _from_ids(item, i)
        for i, item in enumerate(items)
    ]
    n_ctx, d_vocab = int(model.cfg.n_ctx), int(model.cfg.d_vocab)
    for i, ids in enumerate(out):
        if len(ids) + n_more > n_ctx:
            more = f" and {n_more} more to generate" if n_more else ""
            msg = (
                f"prompt {i} has {len(ids)} tokens{more}, the model's context holds {n_ctx}; "
                "shorten it, or load the model with a larger n_ctx."
            )
            raise ValueError(msg)
        outside = [t for t in ids if not 0 <= t < d_vocab]
        if outside:
            msg = f"prompt {i} holds id {outside[0]}; the model's ids are 0..{d_vocab - 1}."
            raise ValueError(msg)
    return out


def _as_list(model: Model, prompts: Any) -> list[Any]:
    if isinstance(prompts, Tensor):
        if prompts.is_floating_point() or prompts.ndim not in (1, 2):
            msg = (
                "a tensor of prompts must hold integer ids, [pos] or [prompt, pos]; found "
                f"{prompts.dtype} of shape {tuple(prompts.shape)}."
            )
            raise TypeError(msg)
        _require_unpadded(model, prompts)
        prompts = prompts.tolist()
    if isinstance(prompts, str):
        return [prompts]
    items = list(prompts)
    if items and all(isinstance(i, int) for i in items):
        return [items]
    return items


def _require_unpadded(model: Model, ids: Tensor) -> None:
    """Refuse a rectangle of ids whose rows were filled up: position -1 would be padding."""
    tokenizer = tokenizer_of(model)
    pad = getattr(tokenizer, "pad_token_id", None)
    if pad is None or ids.ndim < 2 or len(ids) < 2:
        return
    filled = (ids[:, -1] == pad) | (ids[:, 0] == pad)
    others = (getattr(tokenizer, "eos_token_id", None), getattr(tokenizer, "bos_token_id", None))
    if not bool(filled.any()) or bool(filled.all()):
        return
    row = int(filled.nonzero()[0, 0])
    advice = "pass the texts, or lists of ids without padding; unequal lengths are welcome."
    if pad not in others:
        msg = f"row {row} of the ids is padded (id {pad}), and padding would be read; {advice}"
        raise ValueError(msg)
    msg = f"row {row} begins or ends with id {pad}, which is also the padding: if padded, {advice}"
    warnings.warn(msg, UserWarning, stacklevel=4)


def _from_ids(item: Any, i: int) -> list[int]:
    if not isinstance(item, Sequence) or not all(isinstance(t, int) for t in item):
        msg = f"prompt {i} is neither text nor a list of integer ids: {item!r:.80}"
        raise TypeError(msg)
    if not item:
        msg = f"prompt {i} is empty; there is no position to read."
        raise ValueError(msg)
    return list(item)


def _from_text(model: Model, text: str, i: int, prepend_bos: bool | None) -> list[int]:
    require_tokenizer(model, f"prompt {i}")
    require_encodable(text, f"prompt {i}")
    if not text:
        msg = f"prompt {i} is empty; there is no position to read."
        raise ValueError(msg)
    options: dict[str, bool] = {"truncate": False, "move_to_device": False}
    if prepend_bos is not None:
        options["prepend_bos"] = prepend_bos
    ids: list[int] = model.to_tokens(text, **options)[0].tolist()
    bos = tokenizer_of(model).bos_token
    if bos and text.startswith(bos) and ids[:2] == [tokenizer_of(model).bos_token_id] * 2:
        ids = ids[1:]
    return ids


def batches(
    model: Model,
    ids: Sequence[Sequence[int]],
    batch_size: int | None = None,
    *,
    equal_lengths: bool = False,
) -> list[Batch]:
    """Group prompts of similar length, so that little is padded and memory stays bounded.

    Args:
        model: Gives the padding id and the device.
        ids: Token ids of each prompt.
        batch_size: Prompts per batch; by default as many as hold ``TOKENS_PER_BATCH`` tokens.
        equal_lengths: Put only prompts of one length together, so that nothing is padded.

    Raises:
        ValueError: ``batch_size`` is less than 1.
    """
    if batch_size is not None and batch_size < 1:
        msg = f"batch_size must be at least 1; found {batch_size}."
        raise ValueError(msg)
    order = sorted(range(len(ids)), key=lambda i: -len(ids[i]))
    out: list[Batch] = []
    while order:
        longest = len(ids[order[0]])
        size = batch_size or max(1, TOKENS_PER_BATCH // longest)
        if equal_lengths:
            size = min(size, sum(len(ids[i]) == longest for i in order))
        index, order = sorted(order[:size]), order[size:]
        out.append(_pad(model, index, [ids[i] for i in index]))
    return out


def _pad(model: Model, index: list[int], ids: list[Sequence[int]]) -> Batch:
    tokenizer = tokenizer_of(model)
    pad = getattr(tokenizer, "pad_token_id", None) or 0
    width = max(map(len, ids))
    rows = torch.tensor([[*row, *[pad] * (width - len(row))] for row in ids])
    mask = torch.tensor([[1] * len(row) + [0] * (width - len(row)) for row in ids])
    device = torch.device(model.cfg.device or "cpu")
    whole = bool(mask.all())
    return Batch(index, rows.to(device), None if whole else mask.to(device))


def chat_prompt(
    model: Model, user: str, *, system: str | None = None, answer_start: str = ""
) -> str:
    """Return ``user`` in the model's own chat template, ready to be passed as a prompt.

    Args:
        model: Its tokenizer holds the template.
        user: What the user says.
        system: System message; the template's own where None.
        answer_start: The first words of the answer, put into the model's mouth.

    Returns:
        Text that ends where the model is to go on.

    Raises:
        ValueError: The model has no tokenizer, or its tokenizer no chat template.
    """
    require_tokenizer(model, "a chat message")
    tokenizer = tokenizer_of(model)
    if not getattr(tokenizer, "chat_template", None):
        msg = "this model's tokenizer has no chat template; write the prompt as plain text."
        raise ValueError(msg)
    messages = [{"role": "user", "content": user}]
    if system is not None:
        messages.insert(0, {"role": "system", "content": system})
    text: str = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    return text + answer_start
