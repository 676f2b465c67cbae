"""What a world is: a deterministic automaton over words, stepped for many states at once.

A world has states, one of them to begin in, and one absorbing *reject*; a word is legal in a state
when it does not lead to reject. States are rows of a small integer array, so that thousands of them
move in lockstep with a batch of a model.
"""

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

States = npt.NDArray[np.int64]
"""``[n, state_size]``; a row whose first number is negative is reject."""

Ids = npt.NDArray[np.int64]
"""Token ids; in a rectangle of unequal sequences, -1 fills up on the right."""

Mask = npt.NDArray[np.bool_]

REJECT = -1
PAD = -1


@dataclass(frozen=True, slots=True)
class Prefixes:
    """Sequences that reach given states, and why there is none where there is none.

    Attributes:
        ids: ``[n, longest]``, filled up with -1.
        lengths: ``[n]``; 0 where it failed.
        reasons: ``""``, or why no prefix was found.
    """

    ids: Ids
    lengths: Ids
    reasons: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.lengths)

    def __getitem__(self, i: int) -> Ids:
        return self.ids[i, : self.lengths[i]]

    @property
    def ok(self) -> Mask:
        """Where a prefix was found, ``[n]``."""
        return np.array([not reason for reason in self.reasons], dtype=np.bool_)

    def failures(self) -> dict[str, int]:
        """Return how often each reason occurs."""
        return {r: self.reasons.count(r) for r in sorted(set(self.reasons)) if r}


@runtime_checkable
class World(Protocol):
    """A deterministic automaton whose valid words are those that do not lead to reject.

    ``WorldBase`` gives all of it but ``initial``, ``step``, ``sample_states`` and
    ``sample_prefixes``.
    """

    @property
    def name(self) -> str:
        """What tables and figures call it."""

    @property
    def tokens(self) -> tuple[str, ...]:
        """The word of each id."""

    @property
    def end(self) -> int | None:
        """Id of the word that closes a sequence, or None."""

    @property
    def max_length(self) -> int:
        """Words that a sequence may have, prefix and suffix together."""

    def encode(self, words: str | list[str]) -> Ids:
        """Return the ids of words, or of a text split at white space."""
        ...

    def decode(self, ids: Ids) -> list[str]:
        """Return the words of ids; padding is left out."""
        ...

    def initial(self, n: int = 1) -> States:
        """Return the state before the first word, ``n`` times."""
        ...

    def step(self, states: States, tokens: Ids) -> States:
        """Return where one word leads from each state; reject stays reject."""
        ...

    def legal(self, states: States) -> Mask:
        """Return ``[n, token]``: which words do not lead to reject."""
        ...

    def moves(self, states: States) -> tuple[Ids, Ids]:
        """Return the legal words as (row, token), sorted by row, then token."""
        ...

    def run(self, states: States, sequences: Ids) -> States:
        """Return where whole sequences lead, ``[n, length]`` filled up with -1."""
        ...

    def trace(self, states: States, sequences: Ids) -> States:
        """Return the state before and after every word, ``[n, length + 1, state_size]``."""
        ...

    def accepts(self, states: States, suffixes: Ids) -> Mask:
        """Return whether every word of each suffix is legal in turn."""
        ...

    def sample_states(self, rng: np.random.Generator, n: int, *, published: bool = False) -> States:
        """Draw states to be tested, independently; ``published``: as the paper's code does."""
        ...

    def sample_state_pairs(
        self, rng: np.random.Generator, n: int, *, published: bool = False
    ) -> tuple[States, States]:
        """Draw pairs of unequal states, to be told apart."""
        ...

    def sample_prefixes(
        self,
        states: States,
        rng: np.random.Generator,
        lengths: Ids | None = None,
        *,
        published: bool = False,
    ) -> Prefixes:
        """Draw for each state a sequence that leads to exactly it, of a given length if asked."""
        ...

    def random_walks(
        self, n: int, rng: np.random.Generator, *, length: int | None = None
    ) -> list[Ids]:
        """Return whole sequences, each word uniform among the legal ones."""
        ...

    def state_labels(self, states: States) -> dict[str, Ids]:
        """Return what a probe may read from a state: ``[n]`` or ``[n, part]`` each."""
        ...

    def summary(self) -> dict[str, str | int]:
        """Return what is worth knowing about its size."""
        ...

    def digest(self) -> str:
        """Return what identifies the world, whatever it is called: a SHA-256 in hex."""
        ...
