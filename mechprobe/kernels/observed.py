"""Noting which arithmetic was really taken, for the record of whoever asked for it."""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field


@dataclass
class Observed:
    """What was taken inside a block, each kind once.

    Attributes:
        products: Of matrix products, ``"default"`` or ``"onednn"``.
        reductions: Of reductions over logits, ``"torch"`` or ``"compiled"``.
    """

    products: set[str] = field(default_factory=set)
    reductions: set[str] = field(default_factory=set)

    def found(self) -> dict[str, list[str]]:
        """Return the same as plain JSON, in order of the alphabet."""
        return {"products": sorted(self.products), "reductions": sorted(self.reductions)}


_around: ContextVar[tuple[Observed, ...]] = ContextVar("observed", default=())


@contextmanager
def observed() -> Iterator[Observed]:
    """Gather what the kernels take in this thread, as long as the block lasts; blocks may nest."""
    seen = Observed()
    token = _around.set((*_around.get(), seen))
    try:
        yield seen
    finally:
        _around.reset(token)


def note(product: str | None = None, reductions: str | None = None) -> None:
    """Tell every block around that something was taken."""
    for seen in _around.get():
        if product is not None:
            seen.products.add(product)
        if reductions is not None:
            seen.reductions.add(reductions)
