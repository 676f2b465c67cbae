"""Token ids to text that a person can read, down to the bytes of an unfinished character."""

import re
from collections.abc import Iterable
from typing import Any

_BYTE_PIECE = re.compile(r"<0x([0-9A-Fa-f]{2})>")
_SPACE_PIECE = "\u2581"


class TokenText:
    r"""Text of tokens, alone and joined.

    Byte-level pieces that end inside a character are shown as their bytes, ``⟨f0 9f⟩``; joined
    with the tokens that follow, they become the character. Without a tokenizer a token is its id.

    Args:
        tokenizer: A Hugging Face tokenizer, or None.

    Example:
        >>> TokenText(None).text(7)
        '7'
        >>> show_bytes(b" \xf0\x9f\x90")
        ' ⟨f0 9f 90⟩'
    """

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self._memo: dict[int, bytes] = {}
        self._special: dict[int, str] = {}
        self._byte_of: dict[str, int] = {}
        if tokenizer is not None:
            added = getattr(tokenizer, "added_tokens_decoder", {})
            self._special = {i: t.content for i, t in added.items()}
            if _is_byte_level(tokenizer):
                from transformers.convert_slow_tokenizer import bytes_to_unicode

                self._byte_of = {char: byte for byte, char in bytes_to_unicode().items()}

    def raw(self, token: int) -> bytes:
        """Return the bytes that ``token`` stands for."""
        if token not in self._memo:
            self._memo[token] = self._raw(token)
        return self._memo[token]

    def _raw(self, token: int) -> bytes:
        if self._tokenizer is None:
            return str(token).encode()
        if token in self._special:
            return self._special[token].encode()
        piece = self._tokenizer.convert_ids_to_tokens(token)
        if piece is None:
            return f"⟨id {token}⟩".encode()
        if self._byte_of:
            return bytes(self._byte_of[char] for char in piece if char in self._byte_of)
        byte = _BYTE_PIECE.fullmatch(piece)
        if byte:
            return bytes.fromhex(byte.group(1))
        if _SPACE_PIECE in piece:
            return piece.replace(_SPACE_PIECE, " ").encode()
        return self._tokenizer.convert_tokens_to_string([piece]).encode()

    def text(self, token: int) -> str:
        """Return the text of one token alone; -1 (no token) is empty."""
        return "" if token < 0 else storable(show_bytes(self.raw(token)))

    def joined(self, tokens: Iterable[int]) -> str:
        """Return the text of tokens in a row, their bytes joined into characters."""
        sep = b" " if self._tokenizer is None else b""
        return storable(show_bytes(sep.join(self.raw(t) for t in tokens if t >= 0)))


def _is_byte_level(tokenizer: Any) -> bool:
    """Whether pieces spell bytes."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    return backend is not None and "ByteLevel" in repr(backend.decoder)


def show_bytes(raw: bytes) -> str:
    """Decode UTF-8, showing bytes that belong to no whole character as ``⟨f0 9f⟩``."""
    out: list[str] = []
    loose = b""
    while raw:
        try:
            whole, bad, raw = raw.decode(), b"", b""
        except UnicodeDecodeError as error:
            whole, bad = raw[: error.start].decode(), raw[error.start : error.end]
            raw = raw[error.end :]
        if whole:
            out += [_mark(loose), whole]
            loose = b""
        loose += bad
    return "".join([*out, _mark(loose)])


def _mark(loose: bytes) -> str:
    return f"⟨{loose.hex(' ')}⟩" if loose else ""


def storable(text: str) -> str:
    """Escape what a netCDF string cannot hold (NUL, lone surrogates)."""
    return text.replace("\x00", "\\x00").encode(errors="backslashreplace").decode()
