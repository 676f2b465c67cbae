r"""How often a model is wrong about single words, at the very places where a test asks it.

A test compares which words a model accepts; its errors are therefore legal words that it refuses
and illegal ones that it accepts,

.. math:: r = P(w \notin A(m(\cdot \mid s)) \mid w \text{ legal after } s), \qquad
    a = P(w \in A(m(\cdot \mid s)) \mid w \text{ illegal after } s),

over all s that the test reads (prefixes, and what is said behind them) after which anything is
legal, and all words.
"""

from dataclasses import astuple, dataclass

import numpy as np

from mechprobe.worlds.automata.arrays import Ids, Mask, States
from mechprobe.worlds.automata.base import World


@dataclass(frozen=True, slots=True)
class Judged:
    """Single words that were judged.

    Attributes:
        refused: Legal words that were refused.
        legal: Legal words.
        accepted: Illegal words that were accepted.
        illegal: Illegal words.
    """

    refused: int = 0
    legal: int = 0
    accepted: int = 0
    illegal: int = 0

    @classmethod
    def of(cls, allowed: Mask, legal: Mask) -> "Judged":
        """Count, where anything is legal: ``[row, token]``, what is accepted and what is legal."""
        some = legal.any(axis=1)
        allowed, legal = allowed[some], legal[some]
        n_legal = int(legal.sum())
        refused, accepted = int((legal & ~allowed).sum()), int((allowed & ~legal).sum())
        return cls(refused, n_legal, accepted, legal.size - n_legal)

    def __add__(self, other: "Judged") -> "Judged":
        return Judged(*(a + b for a, b in zip(astuple(self), astuple(other), strict=True)))

    @property
    def rates(self) -> tuple[float, float]:
        """Share of legal words that are refused, of illegal ones accepted; NaN where none was asked."""
        return _share(self.refused, self.legal), _share(self.accepted, self.illegal)


class Tally:
    """Judges every row of a cursor, whose states it follows.

    Args:
        world: Knows what is legal.
        states: Of every row.

    Attributes:
        judged: What has been counted.
    """

    def __init__(self, world: World, states: States) -> None:
        self._world, self._states = world, states
        self.judged = Judged()

    def judge(self, allowed: Mask, rows: Ids) -> None:
        """Count words of some rows; ``allowed`` is of all rows, ``[row, token]``."""
        self.judged += Judged.of(allowed[rows], self._world.legal(self._states[rows]))

    def advance(self, rows: Ids, tokens: Ids) -> None:
        """Go on as the cursor does."""
        self._states = self._world.step(self._states[rows], tokens)


def _share(count: int, total: int) -> float:
    return count / total if total else float(np.nan)
