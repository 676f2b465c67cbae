"""Tokens as a person reads them, and as netCDF keeps them."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st


@given(st.binary(max_size=40))
def test_every_byte_is_shown_once(raw: bytes) -> None:
    from mechprobe.models.text import show_bytes

    shown, rebuilt = show_bytes(raw), b""
    while shown:
        head, mark, rest = shown.partition("\u27e8")
        rebuilt += head.encode()
        if not mark:
            break
        inside, close, shown = rest.partition("\u27e9")
        # A mark that stood in the text itself holds no hex bytes.
        rebuilt += bytes.fromhex(inside) if close else (mark + rest).encode()
    assert rebuilt == raw or "\u27e8".encode() in raw or "\u27e9".encode() in raw


@given(st.text(max_size=30))
def test_whole_text_is_unchanged(text: str) -> None:
    from mechprobe.models.text import show_bytes

    assert show_bytes(text.encode(errors="ignore")) == text.encode(errors="ignore").decode()


def test_unfinished_characters_are_bytes_until_they_are_whole(tiny_text_model: Any) -> None:
    from mechprobe.models import TokenText

    text = TokenText(tiny_text_model.tokenizer)
    emoji = "\U0001f420"
    ids = tiny_text_model.tokenizer(emoji, add_special_tokens=False)["input_ids"]
    assert len(ids) > 1
    assert text.joined(ids) == emoji
    assert text.text(ids[0]).startswith("\u27e8f0")
    assert text.joined(ids[:-1]).endswith("\u27e9")
    assert "\ufffd" not in "".join(text.text(i) for i in ids)


def test_special_tokens_and_absent_tokens(tiny_text_model: Any) -> None:
    from mechprobe.models import TokenText

    text = TokenText(tiny_text_model.tokenizer)
    assert text.text(1) == "<bos>"
    assert text.text(-1) == ""
    assert text.text(10**6) == "\u27e8id 1000000\u27e9"
    assert TokenText(None).joined([3, 14]) == "3 14"


def test_sentencepiece_pieces() -> None:
    from mechprobe.models import TokenText

    class Pieces:
        added_tokens_decoder: dict[int, Any] = {}  # noqa: RUF012

        def convert_ids_to_tokens(self, token: int) -> str | None:
            return ["\u2581Paris", "<0xF0>", "<0x9F>", "ing"][token]

        def convert_tokens_to_string(self, tokens: list[str]) -> str:
            return "".join(tokens)

    text = TokenText(Pieces())
    assert text.text(0) == " Paris"
    assert text.text(3) == "ing"
    assert text.joined([1, 2]) == "\u27e8f0 9f\u27e9"


@pytest.mark.parametrize(("text", "kept"), [("a\x00b", "a\\x00b"), ("\ud800", "\\ud800")])
def test_what_netcdf_cannot_hold_is_escaped(text: str, kept: str) -> None:
    from mechprobe.models.text import storable

    assert storable(text) == kept


@pytest.mark.usefixtures("as_users_run_it")
def test_a_space_that_sentencepiece_adds_is_not_counted(tiny_model: Any) -> None:
    """Llama-2's tokenizer makes two pieces of " Paris": a space of its own, and the word."""
    from types import SimpleNamespace

    from mechprobe.lens.request import one_token

    class Adds:
        added_tokens_decoder: dict[int, Any] = {}  # noqa: RUF012
        pieces = ("\u2581", "\u2581Paris", "\u2581Lon", "don")

        def __call__(self, text: str, *, add_special_tokens: bool) -> dict[str, list[int]]:
            assert not add_special_tokens
            return {"input_ids": {" Paris": [0, 1], " London": [0, 2, 3]}[text]}

        def convert_ids_to_tokens(self, token: int) -> str:
            return self.pieces[token]

        def convert_tokens_to_string(self, tokens: list[str]) -> str:
            return "".join(tokens)

    model: Any = SimpleNamespace(tokenizer=Adds(), cfg=tiny_model.cfg)
    assert one_token(model, " Paris") == 1
    with pytest.raises(ValueError, match="' London' is 3 tokens"):
        one_token(model, " London")
