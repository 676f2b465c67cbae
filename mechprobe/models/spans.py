"""Which tokens stand for which characters of a text."""

from collections.abc import Sequence
from typing import Any

from mechprobe.models.protocol import Model, model_name, tokenizer_of
from mechprobe.models.text import TokenText


def token_spans(model: Model, text: str, ids: Sequence[int]) -> list[tuple[int, int]]:
    r"""Return the characters ``[start, end)`` that each token stands for.

    The bytes of the tokens are laid along the text, so that spaces and newlines belong to the
    token that holds them; a character cut by tokens belongs to all of them. Tokens that were put
    before the text (BOS) have an empty span. Where a tokenizer changes the text (lower case), its
    own offsets are used.

    Args:
        model: Gives the tokenizer.
        text: What was tokenised.
        ids: All its tokens, as ``token_ids`` gave them.

    Raises:
        ValueError: The tokens do not spell the text, and the tokenizer knows no offsets.
    """
    spans = _by_bytes(TokenText(tokenizer_of(model)), text, ids)
    if spans is None:
        spans = _by_offsets(tokenizer_of(model), text, ids)
    if spans is None:
        msg = (
            f"the tokens of {text[:40]!r}... do not spell it, and the tokenizer of "
            f"{model_name(model)} tells no character offsets; positions cannot be found."
        )
        raise ValueError(msg)
    return spans


def _by_bytes(token_text: TokenText, text: str, ids: Sequence[int]) -> list[tuple[int, int]] | None:
    encoded = text.encode()
    # The character that each byte belongs to.
    char_of = [i for i, char in enumerate(text) for _ in char.encode()]
    at, spans = 0, list[tuple[int, int]]()
    for token in ids:
        raw = token_text.raw(token)
        if at == 0 and not encoded.startswith(raw) and raw.startswith(b" "):
            raw = raw[1:]  # a SentencePiece tokenizer begins every text with a space
        if raw and encoded.startswith(raw, at):
            spans.append((char_of[at], char_of[at + len(raw) - 1] + 1))
            at += len(raw)
        elif at == 0:
            spans.append((0, 0))
        else:
            return None
    return spans if at == len(encoded) else None


def _by_offsets(tokenizer: Any, text: str, ids: Sequence[int]) -> list[tuple[int, int]] | None:
    if not getattr(tokenizer, "is_fast", False):
        return None
    found = tokenizer(text, return_offsets_mapping=True, add_special_tokens=False)
    n_before = len(ids) - len(found["input_ids"])
    if n_before < 0 or list(ids[n_before:]) != list(found["input_ids"]):
        return None
    return [(0, 0)] * n_before + [(int(a), int(b)) for a, b in found["offset_mapping"]]
