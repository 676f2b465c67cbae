"""Pairs of prefixes to be compared: of one state, or of two; drawn, kept and dropped by reason."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from mechprobe.worlds.automata.arrays import PAD, Ids, Mask, Prefixes, States, pad
from mechprobe.worlds.automata.base import World

Mode = Literal["corrected", "vafa2024", "exact"]

EQUAL = "both prefixes are the same"
REDRAWS = 50


@dataclass(frozen=True, slots=True)
class Pairs:
    """Two prefixes each, of one state (compression) or of two (distinction).

    Attributes:
        states1: State that the first prefix leads to, ``[n, state_size]``.
        states2: State that the second one leads to; the same for compression.
        prefixes1: ``[n, length]``, filled up with -1.
        prefixes2: ``[n, length]``.
        n_drawn: Pairs that were drawn.
        dropped: Why pairs that were drawn are not here, and how many.
        redrawn: Equal prefixes that were drawn again.
        n_states: States that the first was drawn from, all alike; None: beyond count.
    """

    states1: States
    states2: States
    prefixes1: Ids
    prefixes2: Ids
    n_drawn: int
    dropped: dict[str, int]
    redrawn: int = 0
    n_states: int | None = None

    def __len__(self) -> int:
        return len(self.states1)

    @property
    def lengths(self) -> Ids:
        """Words of the longer prefix of each pair."""
        lengths = [(p != PAD).sum(axis=1) for p in (self.prefixes1, self.prefixes2)]
        return np.maximum(*lengths)

    def first(self, n: int) -> "Pairs":
        """Return the first n pairs."""
        return replace(
            self,
            states1=self.states1[:n],
            states2=self.states2[:n],
            prefixes1=self.prefixes1[:n],
            prefixes2=self.prefixes2[:n],
        )

    def clusters(self, published: bool) -> Ids:
        """Return a number for the state that each pair belongs to, ``[n]``.

        That of the first prefix; ``published``: for unequal states that of both.
        """
        key = np.column_stack([self.states1, self.states2]) if published else self.states1
        return np.unique(key, axis=0, return_inverse=True)[1].reshape(-1)

    def sampled(self, published: bool) -> float:
        """Return the share of all states that the pairs belong to; 0 where they are beyond count.

        ``published``: pairs of unequal states are drawn from as many as there are pairs of states,
        which nobody counts.
        """
        if self.n_states is None or (published and not np.array_equal(self.states1, self.states2)):
            return 0.0
        return len(np.unique(self.states1, axis=0)) / self.n_states

    def require(self, what: str) -> "Pairs":
        """Return the pairs if there are any.

        Raises:
            ValueError: There are none: with the reasons.
        """
        if len(self):
            return self
        why = "; ".join(f"{n} times: {reason}" for reason, n in self.dropped.items())
        msg = (
            f"no pair of prefixes is left to test {what}: {self.n_drawn} were drawn, and all "
            f"dropped ({why}). Draw more, or give the world a larger max_length."
        )
        raise ValueError(msg)


def draw_same(world: World, n: int, rng: np.random.Generator, *, published: bool) -> Pairs:
    """Draw states, and two different prefixes of one length for each.

    Args:
        world: Gives states and prefixes.
        n: Pairs to draw.
        rng: Draws them.
        published: Drop equal prefixes, as the paper's code does; otherwise draw both again.
    """
    states = world.sample_states(rng, n, published=published)
    first, second = _two(world, states, rng, published)
    redrawn = 0
    for _ in range(0 if published else REDRAWS):
        again = np.flatnonzero(_equal(first, second) & first.ok & second.ok)
        if not len(again):
            break
        redrawn += len(again)
        new1, new2 = _two(world, states[again], rng, published)
        first, second = _replaced(first, again, new1), _replaced(second, again, new2)
    n_states = world.usable_states(published=published)
    return _kept(states, states, first, second, redrawn, n_states)


def draw_different(world: World, n: int, rng: np.random.Generator, *, published: bool) -> Pairs:
    """Draw pairs of unequal states, and a prefix of each.

    Args:
        world: Gives states and prefixes.
        n: Pairs to draw.
        rng: Draws them.
        published: The second prefix is to be as long as the first, as in the paper's code, even
            where no prefix of that length leads to the second state.
    """
    states1, states2 = world.sample_state_pairs(rng, n, published=published)
    first = world.sample_prefixes(states1, rng, published=published)
    lengths = first.lengths if published else None
    second = world.sample_prefixes(states2, rng, lengths, published=published)
    return _kept(states1, states2, first, second, 0, world.usable_states(published=published))


def pairs_of(world: World, sequences: Sequence[Ids], n: int, rng: np.random.Generator) -> tuple[Pairs, Pairs]:
    """Draw pairs among the beginnings of given sequences, of equal and of unequal states.

    States are drawn uniformly among those that the sequences reach (at least twice, by different
    words, for pairs of one state).

    Args:
        world: Tells which state a beginning leads to.
        sequences: Ids of each; what follows an illegal word is left out.
        n: Pairs of each kind.
        rng: Draws them.

    Returns:
        Pairs of one state, and pairs of two.
    """
    pool = _Pool.of(world, sequences)
    return pool.same(n, rng), pool.different(n, rng)


@dataclass(frozen=True, slots=True)
class _Pool:
    """Beginnings of sequences, sorted by the state that they lead to."""

    ids: Ids
    row: Ids
    length: Ids
    states: States
    starts: Ids

    @classmethod
    def of(cls, world: World, sequences: Sequence[Ids]) -> "_Pool":
        ids = np.unique(pad(sequences), axis=0)
        states = world.trace(world.initial(len(ids)), ids)[:, 1:]
        lengths = (ids != PAD).sum(axis=1)
        at = np.arange(ids.shape[1])
        usable = (at < lengths[:, None]) & (at + 1 >= world.prompt_words)
        usable &= (states[:, :, 0] >= 0) & (at + 2 <= world.max_length)
        row, last = np.nonzero(usable)
        # Beginnings that two sequences share count once.
        fresh = _first_of_its_kind(ids)[row] <= last
        row, last = row[fresh], last[fresh]
        reached, inverse = np.unique(states[row, last], axis=0, return_inverse=True)
        able = np.isin(np.arange(len(reached)), world.moves(reached)[0])
        inverse = inverse.reshape(-1)
        row, last, inverse = row[able[inverse]], last[able[inverse]], inverse[able[inverse]]
        order = np.argsort(inverse, kind="stable")
        found, starts = np.unique(inverse[order], return_index=True)
        ends = np.append(starts, len(order))
        return cls(ids, row[order], last[order] + 1, reached[found], ends)

    def same(self, n: int, rng: np.random.Generator) -> Pairs:
        counts = np.diff(self.starts)
        able = np.flatnonzero(counts > 1)
        if not len(able):
            return self._none(n, "the sequences reach no state twice")
        state = rng.choice(able, n)
        one = rng.integers(0, counts[state])
        other = rng.integers(0, counts[state] - 1)
        other += other >= one
        first, second = self.starts[state] + one, self.starts[state] + other
        return self._pairs(state, state, first, second, len(able))

    def different(self, n: int, rng: np.random.Generator) -> Pairs:
        counts = np.diff(self.starts)
        if len(counts) < 2:
            return self._none(n, "the sequences reach fewer than two states")
        one = rng.integers(0, len(counts), n)
        other = rng.integers(0, len(counts) - 1, n)
        other += other >= one
        first = self.starts[one] + rng.integers(0, counts[one])
        second = self.starts[other] + rng.integers(0, counts[other])
        return self._pairs(one, other, first, second, len(counts))

    def _pairs(self, state1: Ids, state2: Ids, first: Ids, second: Ids, n_states: int) -> Pairs:
        one, other = self._prefix(first), self._prefix(second)
        states = self.states[state1], self.states[state2]
        return Pairs(*states, one, other, len(state1), {}, n_states=n_states)

    def _none(self, n: int, reason: str) -> Pairs:
        states, ids = self.states[:0], self.ids[:0]
        return Pairs(states, states, ids, ids, n, {reason: n})

    def _prefix(self, chosen: Ids) -> Ids:
        lengths = self.length[chosen]
        width = int(lengths.max(initial=0))
        ids = self.ids[self.row[chosen], :width]
        return np.where(np.arange(width) < lengths[:, None], ids, PAD)


def _first_of_its_kind(ids: Ids) -> Ids:
    """Return from which place each of some sorted rows differs from the row before."""
    differs = np.ones(ids.shape, dtype=np.bool_)
    differs[1:] = ids[1:] != ids[:-1]
    return differs.argmax(axis=1)


def _two(
    world: World, states: States, rng: np.random.Generator, published: bool
) -> tuple[Prefixes, Prefixes]:
    first = world.sample_prefixes(states, rng, published=published)
    return first, world.sample_prefixes(states, rng, first.lengths, published=published)


def _equal(first: Prefixes, second: Prefixes) -> Mask:
    width = max(first.ids.shape[1], second.ids.shape[1])
    one, other = (_widened(p.ids, width) for p in (first, second))
    return (one == other).all(axis=1)


def _widened(ids: Ids, width: int) -> Ids:
    return np.pad(ids, ((0, 0), (0, width - ids.shape[1])), constant_values=PAD)


def _replaced(old: Prefixes, rows: Ids, new: Prefixes) -> Prefixes:
    width = max(old.ids.shape[1], new.ids.shape[1])
    ids, lengths, reasons = _widened(old.ids, width), old.lengths.copy(), list(old.reasons)
    ids[rows], lengths[rows] = _widened(new.ids, width), new.lengths
    for row, reason in zip(rows.tolist(), new.reasons, strict=True):
        reasons[row] = reason
    return Prefixes(ids, lengths, tuple(reasons))


def _kept(
    states1: States, states2: States, first: Prefixes, second: Prefixes, redrawn: int, n_states: int | None
) -> Pairs:
    compared = _equal(first, second) & (states1 == states2).all(axis=1)
    reasons = [
        one or other or (EQUAL if equal else "")
        for one, other, equal in zip(first.reasons, second.reasons, compared.tolist(), strict=True)
    ]
    keep = np.array([not reason for reason in reasons], dtype=np.bool_)
    dropped = dict(sorted(Counter(reason for reason in reasons if reason).items()))
    one, other = (_trimmed(p.ids[keep], p.lengths[keep]) for p in (first, second))
    return Pairs(states1[keep], states2[keep], one, other, len(keep), dropped, redrawn, n_states)


def _trimmed(ids: Ids, lengths: Ids) -> Ids:
    return ids[:, : int(lengths.max(initial=0))]
