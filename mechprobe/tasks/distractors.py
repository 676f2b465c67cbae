"""Sentences that play no part in a proof: traps, and distractors of five kinds.

Both are drawn alike for the chain asked about and for its mirror.

Words are placeholders here: ``N0``, ``E0``, ``A0`` stand for a noun, an entity and an adjective.
``N0`` .. ``N{steps - 1}`` are the nouns of chain 0, the next ``steps`` those of chain 1, the next two
those of the traps; ``E0`` and ``E1`` are the chains' entities and ``A0`` is the property that is
asked about.
"""

import random
from collections.abc import Iterator
from itertools import count, islice

from mechprobe.tasks.proof import Claim, Fact, Rule, Sentence

KINDS = ("side_branch", "dead_end", "other_entity", "counter_rule", "irrelevant_fact")


def traps(steps: int, rng: random.Random) -> Iterator[Sentence]:
    """Yield four sentences that join the two chains for a reader who takes links both ways.

    A noun that something of one chain is (``y``: "every a is a y") is what a noun two hops further
    on in the other chain is too ("every z is a y"), so that nothing follows from it. With links
    taken both ways the theory is a ring::

        E0 .. a - b - c .. A0
              |       |
              y       y'
              |       |
        A0 .. z - w - x .. E1

    Turned over about the line through a and x it falls on itself, and each ending on the other:
    only the direction of a sentence tells which of them is proved. ``a`` and ``x`` may be the
    entities themselves. With one step the endings cannot be equally far from an entity; they are
    one link and two links away.
    """
    at = rng.randrange(-1, max(0, steps - 2))
    onward = min(at + 2, steps - 1)
    for chain in range(2):
        shared = Claim(f"N{2 * steps + chain}")
        yield Fact(f"E{chain}", shared) if at < 0 else Rule(f"N{chain * steps + at}", shared)
        yield Rule(f"N{(1 - chain) * steps + onward}", shared)


class Distractors:
    """Draws distractors for one theory."""

    def __init__(self, steps: int, rng: random.Random) -> None:
        self._rng = rng
        self._nouns = (f"N{i}" for i in count(2 * steps + 2))
        self._entities = (f"E{i}" for i in count(2))
        self._adjectives = (f"A{i}" for i in count(1))
        self._hops = [f"N{i}" for i in range(2 * steps + 2)]
        self._chain_ends: dict[str, str] = {}

    def draw(self, n: int) -> list[tuple[str, Sentence]]:
        """Return ``n`` sentences with their kinds; no kind comes again before all have come."""
        kinds: list[str] = []
        while len(kinds) < n:
            kinds += self._rng.sample(KINDS, len(KINDS))
        return [(kind, self._one(kind)) for kind in islice(kinds, n)]

    def _one(self, kind: str) -> Sentence:
        if kind == "side_branch":
            # All that lies on the ring of the traps is in one urn: what is branched tells nothing.
            hop = self._hops.pop(self._rng.randrange(len(self._hops)))
            return Rule(hop, Claim(next(self._nouns)))
        if kind == "counter_rule":
            return Rule(next(self._nouns), Claim("A0", self._coin()))
        if kind == "irrelevant_fact":
            entity = self._rng.choice(["E0", "E1", next(self._entities)])
            return Fact(entity, Claim(next(self._adjectives), self._coin()))
        return self._next_of_chain(kind)

    def _next_of_chain(self, kind: str) -> Sentence:
        """Return the next sentence of a chain that leads nowhere, or to another entity."""
        start = self._chain_ends.get(kind)
        self._chain_ends[kind] = end = next(self._nouns)
        if start is not None:
            return Rule(start, Claim(end))
        if kind == "other_entity":
            return Fact(next(self._entities), Claim(end))
        self._chain_ends[kind] = further = next(self._nouns)
        return Rule(end, Claim(further))

    def _coin(self) -> bool:
        return self._rng.random() < 0.5
