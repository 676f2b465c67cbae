"""Prompts to token ids and to padded micro-batches."""

import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import takewhile
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

from mechprobe.models.inputs import Ids, Message, prompt_items
from mechprobe.models.protocol import Model, input_device, tokenizer_of
from mechprobe.models.spans import token_spans
from mechprobe.models.support import require_encodable, require_tokenizer
from mechprobe.models.text import TokenText

# Texts, ids, a tokenizer's output, chats, in many containers: `token_ids` tells which.
Prompts = str | Iterable[Any]

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
    """Return the token ids of each prompt, checked against the model: what is really fed.

    Text is tokenised by the model's own ``to_tokens``, one prompt at a time, with the model's
    habit of putting BOS first (TransformerLens': ``model.cfg.default_prepend_bos``, True unless
    set otherwise, also where the tokenizer by itself adds none). A text that already begins with
    BOS does not get a second one. Chat messages are put into the tokenizer's chat template, as
    ``chat_prompt`` does, and are then a text like any other; a last message of the assistant is
    the beginning of the answer. Ids are taken as they are, with no BOS added.

    Padding is never read. In a tokenizer's output it is dropped where ``attention_mask`` is 0,
    wherever that is; other keys (``token_type_ids``, ...) are ignored. Without a mask, a row of
    ids that begins or ends with the padding id is refused, in every container. Where that id is
    also BOS or EOS, one of them at an end may be text, and two in a row are refused. Ids with a
    mask of ones are taken whatever they are.

    Args:
        model: Gives tokenizer, ``n_ctx`` and ``d_vocab``.
        prompts: A text; the ids of one prompt (list, tuple, range, 1-d array or tensor of any
            integer dtype); a tokenizer's output with ``input_ids`` (one or several prompts); the
            messages of one chat, ``[{"role": ..., "content": ...}, ...]``. Several prompts: a
            list or tuple of these, which may be of different kinds, a 1-d array or column of
            texts, a 2-d array or tensor of ids.
        prepend_bos: Whether text gets a BOS token; None for the model's habit.
        n_more: Tokens that will be generated after the prompt.

    Returns:
        One list of ids per prompt.

    Raises:
        ValueError: No prompt, an empty one, one longer than ``n_ctx``, ids outside the
            vocabulary, padding without a mask, a mask that does not fit or drops everything, a
            chat that the template refuses, or text for a model without tokenizer.
        TypeError: Prompts are something else: a dictionary without ``input_ids``, a set, a
            generator, bytes, booleans or floats as ids, a tensor without numbers.

    Warns:
        UserWarning: Ids end with one id that is EOS and padding both.
    """
    out: list[list[int]] = []
    for i, item in enumerate(prompt_items(prompts)):
        if isinstance(item, Ids):
            if not item.masked:
                _refuse_padding(model, item.ids, i)
            ids, before = item.ids, ""
        else:
            text = item if isinstance(item, str) else _chat_text(model, item, i)
            ids = text_ids(model, text, f"prompt {i}", prepend_bos)
            before = _bos_note(model, ids)
        if not ids:
            msg = f"prompt {i} is empty; there is no position to read."
            raise ValueError(msg)
        _check_fit(model, ids, i, n_more, before)
        out.append(ids)
    return out


def _check_fit(model: Model, ids: list[int], i: int, n_more: int, before: str) -> None:
    n_ctx, d_vocab = int(model.cfg.n_ctx), int(model.cfg.d_vocab)
    if len(ids) + n_more > n_ctx:
        more = f" and {n_more} more to generate" if n_more else ""
        msg = (
            f"prompt {i} has {len(ids)} tokens{more}, the model's context holds {n_ctx}; "
            f"shorten it, or load the model with a larger n_ctx.{before}"
        )
        raise ValueError(msg)
    outside = [t for t in ids if not 0 <= t < d_vocab]
    if outside:
        msg = f"prompt {i} holds id {outside[0]}; the model's ids are 0..{d_vocab - 1}."
        raise ValueError(msg)


def _bos_note(model: Model, ids: list[int]) -> str:
    bos = getattr(tokenizer_of(model), "bos_token_id", None)
    note = f" The first token is BOS (id {bos}), put before texts unless prepend_bos=False."
    return note if ids and ids[0] == bos else ""


def _refuse_padding(model: Model, ids: list[int], i: int) -> None:
    """Refuse ids that were filled up to a common length: a position would be padding.

    A tokenizer's EOS is looked for too, whatever its padding is: many scripts pad with it.
    """
    pad, eos, bos = (getattr(tokenizer_of(model), f"{name}_token_id", None) for name in ("pad", "eos", "bos"))
    for fill in dict.fromkeys(f for f in (pad, eos) if f is not None):
        own = fill in (eos, bos)
        ends = [sum(1 for _ in takewhile(fill.__eq__, row)) for row in (ids, reversed(ids))]
        if max(ends) > int(own):
            msg = (
                f"row {i} of the ids is padded (id {fill}), and padding would be read; pass the "
                "texts, the tokenizer's whole output (its attention_mask tells the padding), or "
                "ids without padding; unequal lengths are welcome. If it is text, say so: "
                "{'input_ids': ids, 'attention_mask': ones}."
            )
            raise ValueError(msg)
        if fill == pad and len(ids) > 1 and (ends[1] or (ends[0] and fill != bos)):
            msg = (
                f"row {i} begins or ends with id {fill}, which is also the padding: if padded, "
                "pass the texts, or the tokenizer's whole output with its attention_mask."
            )
            warnings.warn(msg, UserWarning, stacklevel=4)


def text_ids(model: Model, text: str, what: str, prepend_bos: bool | None = None) -> list[int]:
    """Return the token ids of one text, as ``token_ids`` does, of any length.

    Args:
        model: Gives the tokenizer.
        text: What to tokenise.
        what: What it is, for a message.
        prepend_bos: Whether it gets a BOS token; None for the model's habit.

    Raises:
        ValueError: The model has no tokenizer, or the text is empty or no valid Unicode.
    """
    require_tokenizer(model, what)
    require_encodable(text, what)
    if not text:
        msg = f"{what} is empty; there is no position to read."
        raise ValueError(msg)
    options: dict[str, bool] = {"truncate": False, "move_to_device": False}
    if prepend_bos is not None:
        options["prepend_bos"] = prepend_bos
    with torch.device("cpu"):  # torch's default device may be another, or hold no numbers
        ids: list[int] = model.to_tokens(text, **options)[0].tolist()
    tokenizer = tokenizer_of(model)
    bos = tokenizer.bos_token
    if bos and text.startswith(bos) and ids[:2] == [tokenizer.bos_token_id] * 2:
        own: list[int] = tokenizer(text, add_special_tokens=False)["input_ids"]
        ids = ids[1:] if ids[1 : len(own) + 1] == own else ids
    return ids


def ids_in_context(model: Model, context: str, word: str) -> list[int]:
    """Return the tokens that ``word`` is when it follows ``context``.

    A tokenizer may cut a word differently, or begin it with a space of its own, where the word
    stands alone.

    Args:
        model: Gives the tokenizer.
        context: The text before, of any length; it may be empty.
        word: What follows; a space between the two belongs to it.

    Raises:
        ValueError: ``word`` is empty, or shares a token with ``context``, or the model has no
            tokenizer.
    """
    what = f"{word!r:.40} after {context[-40:]!r}"
    if not word:
        msg = f"{what} is empty; give the word that follows the context."
        raise ValueError(msg)
    ids = text_ids(model, context + word, what)
    spans = token_spans(model, context + word, ids)
    first = next((i for i, (_, end) in enumerate(spans) if end > len(context)), None)
    if first is None:
        msg = f"{what} is no token at all: the tokenizer drops it."
        raise ValueError(msg)
    if spans[first][0] < len(context):
        piece = TokenText(tokenizer_of(model)).text(ids[first])
        msg = (
            f"{what} begins inside the token {piece!r} ({ids[first]}), which holds the end of the "
            "context too; let the context end where a token ends: a space belongs to the word."
        )
        raise ValueError(msg)
    return ids[first:]


def batches(
    model: Model, ids: Sequence[Sequence[int]], batch_size: int | None = None, *, equal_lengths: bool = False
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
    pad = getattr(tokenizer_of(model), "pad_token_id", None) or 0
    width, device = max(map(len, ids)), input_device(model)
    pad = pad if pad < int(model.cfg.d_vocab) else 0  # added to the tokenizer, not to the model
    rows = torch.tensor([[*row, *[pad] * (width - len(row))] for row in ids], device="cpu")
    mask = torch.tensor([[1] * len(row) + [0] * (width - len(row)) for row in ids], device="cpu")
    whole = bool(mask.all())
    return Batch(index, rows.to(device), None if whole else mask.to(device))


def chat_prompt(model: Model, user: str, *, system: str | None = None, answer_start: str = "") -> str:
    """Return ``user`` in the model's own chat template, ready to be passed as a prompt.

    Args:
        model: Its tokenizer holds the template.
        user: What the user says.
        system: System message; the template's own where None.
        answer_start: The first words of the answer, put into the model's mouth.

    Returns:
        Text that ends where the model is to go on.

    Raises:
        ValueError: The model has no tokenizer, its tokenizer no chat template, or the template
            refuses the messages.
    """
    messages = [{"role": "user", "content": user}]
    if system is not None:
        messages.insert(0, {"role": "system", "content": system})
    return _templated(model, messages) + answer_start


def _chat_text(model: Model, messages: Sequence[Message], i: int) -> str:
    *before, last = messages
    if last["role"] != "assistant":
        return _templated(model, messages)
    start = last.get("content")
    if not before or not isinstance(start, str):
        msg = f"prompt {i} is a chat whose answer begins without a question, or not with text."
        raise ValueError(msg)
    return _templated(model, before) + start


def _templated(model: Model, messages: Sequence[Message]) -> str:
    require_tokenizer(model, "a chat message")
    tokenizer = tokenizer_of(model)
    if not getattr(tokenizer, "chat_template", None):
        msg = "this model's tokenizer has no chat template; write the prompt as plain text."
        raise ValueError(msg)
    from jinja2 import TemplateError

    try:
        text: str = tokenizer.apply_chat_template(
            [dict(message) for message in messages], tokenize=False, add_generation_prompt=True
        )
    except (TemplateError, TypeError) as error:
        msg = f"the chat template of this model refuses the messages: {error}"
        raise ValueError(msg) from error
    return text
