"""What a world is: a deterministic automaton over words, stepped for many states at once.

A world has states, one of them to begin in, and one absorbing *reject*; a word is legal in a state
when it does not lead to reject. States are rows of a small integer array, so that thousands of them
move in lockstep with a batch of a model.
"""

import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import ClassVar

import numpy as np
import numpy.typing as npt

from mechprobe.worlds.automata.arrays import PAD, Ids, Mask, Prefixes, States, unpad

# Walks in one lockstep: 4,096 x 100 words stay in a cache of a few megabytes.
CHUNK = 4096


class World(ABC):
    """A deterministic automaton whose valid words are those that do not lead to reject.

    Subclasses give ``initial``, ``step``, ``sample_states`` and ``sample_prefixes``; a faster
    ``legal`` (or ``moves``) is welcome. Where all states can be listed, begin with ``TableWorld``.

    Attributes:
        name: What tables and figures call it.
        tokens: The word of each id.
        end: Id of the word that closes a sequence, or None.
        max_length: Words that a sequence may have.
        prompt_words: Words that a sequence begins with before there is anything to predict.
        spelled: How ``named`` and the command line call one of this kind, sizes behind colons.
    """

    prompt_words = 1
    spelled: ClassVar[str] = ""

    def __init__(
        self, name: str, tokens: Sequence[str], *, end: int | None = None, max_length: int = 100
    ) -> None:
        self.name = name
        self.tokens = tuple(tokens)
        self.end = end
        self.max_length = max_length
        self._index = {word: i for i, word in enumerate(self.tokens)}
        _require_words(name, self.tokens)
        if max_length < 2:
            msg = f"max_length must be at least 2, a prefix and a suffix; found {max_length}."
            raise ValueError(msg)

    @classmethod
    def maker(cls) -> "Callable[..., World]":
        """Return what makes one of given sizes; its positional parameters are the sizes."""
        return cls

    @abstractmethod
    def initial(self, n: int = 1) -> States:
        """Return the state before the first word, ``n`` times."""

    @abstractmethod
    def step(self, states: States, tokens: Ids) -> States:
        """Return where one word leads from each state; reject stays reject."""

    @abstractmethod
    def sample_states(self, rng: np.random.Generator, n: int, *, published: bool = False) -> States:
        """Draw states to be tested, independently; ``published``: as the paper's code does."""

    def usable_states(self, *, published: bool = False) -> int | None:
        """Return how many states ``sample_states`` draws from, all alike; None: beyond count."""
        del published
        return None

    @abstractmethod
    def sample_prefixes(
        self, states: States, rng: np.random.Generator, lengths: Ids | None = None, *, published: bool = False
    ) -> Prefixes:
        """Draw for each state a sequence that leads to exactly it, of a given length if asked."""

    def encode(self, words: str | list[str]) -> Ids:
        """Return the ids of words, or of a text split at white space.

        Raises:
            ValueError: A word that is no token of this world.
        """
        found = words.split() if isinstance(words, str) else words
        ids = [self._index.get(word, PAD) for word in found]
        if PAD in ids:
            at = ids.index(PAD)
            shown = ", ".join(self.tokens[:8]) + (", ..." if len(self.tokens) > 8 else "")
            msg = (
                f"word {at + 1}, {found[at]!r}, is no token of {self.name}; "
                f"its {len(self.tokens)} tokens are {shown}."
            )
            raise ValueError(msg)
        return np.array(ids, dtype=np.int64)

    def decode(self, ids: Ids) -> list[str]:
        """Return the words of ids; padding is left out."""
        return [self.tokens[i] for i in ids.tolist() if i != PAD]

    def legal(self, states: States) -> Mask:
        """Return ``[n, token]``: which words do not lead to reject."""
        n, n_tokens = len(states), len(self.tokens)
        tokens = np.tile(np.arange(n_tokens), n)
        after = self.step(np.repeat(states, n_tokens, axis=0), tokens)
        return (after[:, 0] >= 0).reshape(n, n_tokens)

    def moves(self, states: States) -> tuple[Ids, Ids]:
        """Return the legal words as (row, token), sorted by row, then token."""
        rows, tokens = np.nonzero(self.legal(states))
        return rows.astype(np.int64), tokens.astype(np.int64)

    def run(self, states: States, sequences: Ids) -> States:
        """Return where whole sequences lead, ``[n, length]`` filled up with -1."""
        for column in sequences.T:
            states = self._stepped(states, column)
        return states.copy()

    def trace(self, states: States, sequences: Ids) -> States:
        """Return the state before and after every word, ``[n, length + 1, state_size]``.

        ``[:, i]`` is where word i is said; behind the end of a sequence its last state stays.
        """
        n, length = sequences.shape
        out = np.empty((n, length + 1, states.shape[1]), dtype=np.int64)
        out[:, 0] = states
        for i, column in enumerate(sequences.T):
            out[:, i + 1] = self._stepped(out[:, i], column)
        return out

    def accepts(self, states: States, suffixes: Ids) -> Mask:
        """Return whether every word of each suffix is legal in turn."""
        return self.run(states, suffixes)[:, 0] >= 0

    def sample_state_pairs(
        self, rng: np.random.Generator, n: int, *, published: bool = False
    ) -> tuple[States, States]:
        """Draw pairs of unequal states, to be told apart.

        Raises:
            ValueError: There is only one state to draw.
        """
        first = self.sample_states(rng, n, published=published)
        second = self.sample_states(rng, n, published=published)
        for _ in range(1000):
            equal = np.flatnonzero((first == second).all(axis=1))
            if not len(equal):
                return first, second
            second[equal] = self.sample_states(rng, len(equal), published=published)
        msg = f"{self.name} has only one state to draw; there is nothing to be told apart."
        raise ValueError(msg)

    def random_walks(self, n: int, rng: np.random.Generator, *, length: int | None = None) -> list[Ids]:
        """Return sequences from the beginning, each word uniform among the legal ones.

        Args:
            n: How many.
            rng: Draws them.
            length: Words of each, ``max_length`` if None; fewer where nothing is legal any more.
        """
        out: list[Ids] = []
        for start in range(0, n, CHUNK):
            out += self._walks(min(CHUNK, n - start), rng, length or self.max_length)
        return out

    def _stepped(self, states: States, tokens: Ids) -> States:
        """Step where there is a word and no reject; leave the others."""
        going = (tokens != PAD) & (states[:, 0] >= 0)
        if going.all():
            return self.step(states, tokens)
        out = states.copy()
        out[going] = self.step(states[going], tokens[going])
        return out

    def _walks(self, n: int, rng: np.random.Generator, length: int) -> list[Ids]:
        states = self.initial(n)
        ids = np.full((n, length), PAD, dtype=np.int64)
        lengths = np.zeros(n, dtype=np.int64)
        going = np.arange(n)
        for position in range(length):
            rows, tokens = self.moves(states[going])
            counts = np.bincount(rows, minlength=len(going))
            chosen = pick(counts, rng)
            stuck = counts == 0
            word = tokens[chosen[~stuck]] if len(tokens) else tokens
            going = going[~stuck]
            if not len(going):
                break
            ids[going, position] = word
            states[going] = self.step(states[going], word)
            lengths[going] += 1
        return unpad(ids, lengths)

    def state_labels(self, states: States) -> dict[str, Ids]:
        """Return what a probe may read from a state: ``[n]`` or ``[n, part]`` each."""
        return {"state": states[:, 0]}

    def summary(self) -> dict[str, str | int]:
        """Return what is worth knowing about its size."""
        return {"name": self.name, "tokens": len(self.tokens), "max_length": self.max_length}

    def digest(self) -> str:
        """Return what identifies the world, whatever it is called: a SHA-256 in hex."""
        facts = {key: value for key, value in self.summary().items() if key != "name"}
        out = hashlib.sha256(json.dumps([facts, self.tokens, self.end]).encode())
        for array in self._content():
            out.update(np.ascontiguousarray(array, dtype="<i8").tobytes())
        return out.hexdigest()

    def _content(self) -> tuple[npt.NDArray[np.integer], ...]:
        """What the summary leaves open: transitions, games."""
        return ()

    def __repr__(self) -> str:
        facts = ", ".join(f"{key}={value!r}" for key, value in self.summary().items())
        return f"{type(self).__name__}({facts})"


def pick(counts: Ids, rng: np.random.Generator) -> Ids:
    """Return one index per group of a list that is sorted by group, uniform within the group.

    Args:
        counts: Members of each group; an empty group gets an index that means nothing.
        rng: Draws.
    """
    starts = np.cumsum(counts) - counts
    return starts + (rng.random(len(counts)) * counts).astype(np.int64)


def _require_words(name: str, tokens: tuple[str, ...]) -> None:
    if not tokens:
        msg = f"{name} has no tokens; a world needs at least one word."
        raise ValueError(msg)
    odd = [word for word in tokens if not word or word.split() != [word]]
    if odd:
        msg = f"{name}: {odd[0]!r} cannot be a token; words must be without white space."
        raise ValueError(msg)
    if len(set(tokens)) < len(tokens):
        twice = next(word for i, word in enumerate(tokens) if word in tokens[:i])
        msg = f"{name}: the word {twice!r} would stand for two tokens; rename one of them."
        raise ValueError(msg)
