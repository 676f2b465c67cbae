"""What is patched into what: prefixes of equal length, and the strings that can change sides."""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from mechprobe.worlds.automata.arrays import PAD, Ids, Mask, States
from mechprobe.worlds.automata.base import World
from mechprobe.worlds.automata.language import Boundary, boundary
from mechprobe.worlds.metrics.pairs import REDRAWS, Pairs
from mechprobe.worlds.metrics.request import Request
from mechprobe.worlds.metrics.scores import NO_TRUE_BOUNDARY

CONDITIONS = ("swap", "same_state", "random_state")
SHORT = "the prefix has fewer words than are to be patched"
TOO_LONG = "with its prefix longer than max_tokens"


@dataclass(frozen=True, slots=True)
class Strings:
    """Strings that one state of a pair allows and the other does not.

    Attributes:
        strings: Of every pair: those of the donor's state, then those of the recipient's.
        of_donor: Which of the two a string is.
    """

    strings: Boundary
    of_donor: Mask

    def __len__(self) -> int:
        return len(self.of_donor)

    def some(self, kept: Mask) -> "Strings":
        """Return some of the strings."""
        s = self.strings
        part = Boundary(s.pair[kept], s.strings[kept], s.lengths[kept], s.n_pairs)
        return Strings(part, self.of_donor[kept])

    def of_pairs(self, index: Ids) -> tuple["Strings", Ids]:
        """Return the strings of some pairs, numbered in their order, and where they stood."""
        at = np.full(self.strings.n_pairs, -1, dtype=np.int64)
        at[index] = np.arange(len(index))
        kept = at[self.strings.pair] >= 0
        part = self.some(kept)
        renamed = replace(part.strings, pair=at[part.strings.pair], n_pairs=len(index))
        return Strings(renamed, part.of_donor), np.flatnonzero(kept)


@dataclass(frozen=True, slots=True)
class Trials:
    """Pairs whose states are to be swapped, and what is put into the recipient.

    Attributes:
        pairs: Recipient first, donor second; prefixes of equal length.
        donors: By condition, a prefix as long as the recipient's: of the donor's state, of the
            recipient's own, of a third. The recipient's own prefix where there is none.
        has: Where there is one, ``[condition, pair]``.
        strings: What tells the states of each pair apart.
        n_strings: How many there were before any was dropped.
        too_long: How many are longer than the room behind their prefix.
    """

    pairs: Pairs
    donors: dict[str, Ids]
    has: Mask
    strings: Strings
    n_strings: int
    too_long: int

    @property
    def strings_each(self) -> int:
        """Strings of one pair, on average, rounded up."""
        return -(-len(self.strings) // len(self.pairs))


def draw_trials(world: World, request: Request, n_patched: int) -> Trials:
    """Draw pairs of unequal states with prefixes of equal length, and their controls.

    Args:
        world: Gives states and prefixes.
        request: Number of pairs, longest string, room, seed.
        n_patched: Words that every prefix must have.

    Raises:
        ValueError: No pair is left: with the reasons; or too many strings.
    """
    pairs = _pairs(world, request, n_patched)
    strings, n_strings, too_long = _strings(world, pairs.require("patching"), request)
    pairs, strings = _with_strings(pairs, strings)
    pairs.require("patching")
    rng = request.rng(1)

    def of_recipient(rows: Ids) -> tuple[States, Mask]:
        return pairs.states1[rows], np.ones(len(rows), dtype=np.bool_)

    def third(rows: Ids) -> tuple[States, Mask]:
        states = world.sample_states(rng, len(rows))
        both = [(states != s[rows]).any(axis=1) for s in (pairs.states1, pairs.states2)]
        return states, both[0] & both[1]

    same, has_same = _others(world, pairs, of_recipient, rng)
    other, has_other = _others(world, pairs, third, rng)
    donors = dict(zip(CONDITIONS, (pairs.prefixes2, same, other), strict=True))
    has = np.stack([np.ones_like(has_same), has_same, has_other])
    return Trials(pairs, donors, has, strings, n_strings, too_long)


def _pairs(world: World, request: Request, n_patched: int) -> Pairs:
    rng = request.rng(0)
    states1, states2 = world.sample_state_pairs(rng, request.n)
    first = world.sample_prefixes(states1, rng)
    second = world.sample_prefixes(states2, rng, first.lengths)
    short = (first.lengths < n_patched).tolist()
    reasons = [
        a or b or (SHORT if c else "") for a, b, c in zip(first.reasons, second.reasons, short, strict=True)
    ]
    keep = np.array([not reason for reason in reasons], dtype=np.bool_)
    dropped = dict(sorted(Counter(reason for reason in reasons if reason).items()))
    longest = int(first.lengths[keep].max(initial=0))
    one, other = (p.ids[keep, :longest] for p in (first, second))
    return Pairs(states1[keep], states2[keep], one, other, len(keep), dropped, n_states=world.usable_states())


def _strings(world: World, pairs: Pairs, request: Request) -> tuple[Strings, int, int]:
    """Return what tells the states of each pair apart and fits behind the prefix."""
    recipient, donor = pairs.states1, pairs.states2
    parts = [boundary(world, donor, recipient, request.k)]
    parts.append(boundary(world, recipient, donor, request.k))
    both = Boundary(
        *(np.concatenate([getattr(p, name) for p in parts]) for name in ("pair", "strings", "lengths")),
        n_pairs=len(pairs),
    )
    of_donor = np.arange(len(both)) < len(parts[0])
    fits = pairs.lengths[both.pair] + both.lengths <= request.max_tokens
    return Strings(both, of_donor).some(fits), len(both), int((~fits).sum())


def _with_strings(pairs: Pairs, strings: Strings) -> tuple[Pairs, Strings]:
    """Drop pairs that nothing tells apart."""
    index = np.flatnonzero(strings.strings.sizes > 0)
    lost = len(pairs) - len(index)
    dropped = pairs.dropped | ({NO_TRUE_BOUNDARY: lost} if lost else {})
    kept = replace(
        pairs,
        states1=pairs.states1[index],
        states2=pairs.states2[index],
        prefixes1=pairs.prefixes1[index],
        prefixes2=pairs.prefixes2[index],
        dropped=dropped,
    )
    return kept, strings.of_pairs(index)[0]


def _others(
    world: World, pairs: Pairs, propose: Callable[[Ids], tuple[States, Mask]], rng: np.random.Generator
) -> tuple[Ids, Mask]:
    """Draw other prefixes, as long as the recipients', for states that are proposed.

    Returns:
        The prefixes, the recipient's own where none was found; and where one was.
    """
    out, found = pairs.prefixes1.copy(), np.zeros(len(pairs), dtype=np.bool_)
    for _ in range(REDRAWS):
        left = np.flatnonzero(~found)
        if not len(left):
            break
        states, able = propose(left)
        drawn = world.sample_prefixes(states, rng, pairs.lengths[left])
        missing = out.shape[1] - drawn.ids.shape[1]
        ids = np.pad(drawn.ids, ((0, 0), (0, missing)), constant_values=PAD)
        good = able & drawn.ok & (ids != out[left]).any(axis=1)
        out[left[good]], found[left[good]] = ids[good], True
    return out, found
