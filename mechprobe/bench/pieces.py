"""mechprobe without one piece of its machinery, to see what the piece is worth."""

import sys
from importlib import import_module
from typing import Any


def _nothing(*_: object) -> None:
    """Say that there is none."""


# Module, name in it, and what stands there when the piece is gone.
PIECES: dict[str, tuple[str, str, Any]] = {
    "compiled reductions": ("mechprobe.kernels.native", "WORTH_COMPILING", sys.maxsize),
    "twin": ("mechprobe.models.run", "twin_of", _nothing),
    "forked rows": ("mechprobe.models.cursor", "forking_body", _nothing),
}
WITHOUT = " without "


def taken_away(name: str) -> str:
    """Take away in this process what a contender's name says, and return whose it was."""
    base, _, piece = name.partition(WITHOUT)
    if piece:
        module, attribute, instead = PIECES[piece]
        if not hasattr(import_module(module), attribute):
            msg = f"{module} has no {attribute}: the table of pieces is out of date."
            raise AttributeError(msg)
        setattr(import_module(module), attribute, instead)
    return base
