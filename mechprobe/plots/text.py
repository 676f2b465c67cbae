r"""Text of tokens as figures show it: nothing invisible, nothing taken for markup.

Example:
    >>> visible(" the"), visible("\n\n"), visible("a\x0b")
    ('␣the', '↵↵', 'a\\x0b')
"""

import unicodedata

import numpy as np

_NAMED = {"\n": "↵", "\t": "⇥", " ": " "}
# Control, format, line, paragraph and space characters, and half a surrogate pair: no ink at all.
_NO_INK = ("Cc", "Cf", "Cs", "Zl", "Zp", "Zs")
_JOINERS = "\u200c\u200d"


def visible(text: str) -> str:
    r"""Make white space and control characters visible.

    Args:
        text: Text of a token; bytes that are no character already stand as ``⟨f0 9f⟩``.

    Returns:
        The text with ``␣`` for spaces at its ends, ``↵`` and ``⇥`` for line ends and tabs, and
        escapes (``\x0b``, ``\u200b``) for whatever else leaves no ink.
    """
    core = text.strip(" ")
    if not core:
        return "␣" * len(text)
    start = len(text) - len(text.lstrip(" "))
    end = len(text) - len(text.rstrip(" "))
    last = len(core) - 1
    inked = "".join(c if c in _JOINERS and 0 < i < last else _inked(c) for i, c in enumerate(core))
    # A mark that waits for a letter (an accent, a variation selector) gets the customary circle.
    circle = "◌" if unicodedata.category(core[0]).startswith("M") else ""
    return "␣" * start + circle + inked + "␣" * end


def _inked(char: str) -> str:
    if char in _NAMED:
        return _NAMED[char]
    if unicodedata.category(char) in _NO_INK:
        return char.encode("unicode_escape").decode()
    return char


def clipped(text: str, width: int = 10, *, keep: str = "start") -> str:
    """Shorten text to ``width`` columns, a wide character counting two.

    Args:
        text: Any text.
        width: Columns at most, the ellipsis included.
        keep: Which side stays, ``"start"`` or ``"end"``.

    Returns:
        The text, or what fits of it with ``…`` where something was left out.
    """
    columns = np.cumsum([_columns(c) for c in (text if keep == "start" else text[::-1])])
    if not len(columns) or columns[-1] <= width:
        return text
    n = int(np.searchsorted(columns, width - 1, side="right"))
    return f"{text[:n]}…" if keep == "start" else f"…{text[len(text) - n :]}"


def _columns(char: str) -> int:
    if unicodedata.combining(char):
        return 0
    return 2 if unicodedata.east_asian_width(char) in "WF" else 1


def markup(text: str) -> str:
    """Escape text for plotly, which reads a part of HTML and, where MathJax is there, TeX.

    Args:
        text: Text to be shown as it is.

    Returns:
        Text in which ``<``, ``>``, ``&`` and ``$`` are entities.
    """
    plain = text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return plain.replace("$", "&#36;")


def label(text: str, width: int = 10) -> str:
    """Return a token as a short label: visible, clipped and escaped.

    Args:
        text: Text of a token.
        width: Columns at most.

    Returns:
        Text for an axis, a cell or a legend.
    """
    return markup(clipped(visible(text), width))


def layer_label(layer: int) -> str:
    """Return the name of a layer.

    Args:
        layer: -1 for the embedding, l for what is read after block l.

    Returns:
        ``"embed"``, ``"0"``, ``"1"``, ...
    """
    return "embed" if layer == -1 else str(layer)


def probability(log_prob: float) -> str:
    """Return a probability as text, small ones in powers of ten.

    Args:
        log_prob: Its natural logarithm; minus infinity is probability 0.

    Returns:
        ``"0.531"``, ``"1e-07"``, or ``"0"``.
    """
    if log_prob == -np.inf:
        return "0"
    p = float(np.exp(np.float64(log_prob)))
    if p >= 0.0005:
        return f"{p:.3f}"
    return f"{p:.0e}" if p > 0 else f"e^{log_prob:.0f}"


def titled(name: str) -> str:
    """Return what a title begins with: whose figure it is, if that is known."""
    return f"{label(name, 30)}: " if name else ""


def require_kind(kind: str, kinds: tuple[str, ...], what: str) -> None:
    """Refuse a figure that there is not.

    Raises:
        ValueError: ``kind`` is none of ``kinds``.
    """
    if kind not in kinds:
        named = ", ".join(repr(k) for k in kinds)
        msg = f"there is no figure {kind!r} of {what}; choose {named}."
        raise ValueError(msg)
