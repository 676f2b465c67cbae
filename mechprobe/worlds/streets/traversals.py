"""Whether walks get from origin to destination: legal turns all the way, and ``end`` there."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from mechprobe.worlds.automata.arrays import Ids, Mask, pad
from mechprobe.worlds.automata.sequences import first_illegal
from mechprobe.worlds.streets.street_map import ARRIVED, END, StreetMap

VERDICTS = ("ok", "illegal turn", "wrong place", "unfinished", "malformed")
OK, ILLEGAL_TURN, WRONG_PLACE, UNFINISHED, MALFORMED = range(5)


@dataclass(frozen=True, slots=True)
class Traversals:
    """What became of each walk.

    Attributes:
        verdicts: Place in ``VERDICTS``: ok; a street that is not there (or no direction
            at all); ``end`` elsewhere than at the destination; no ``end``; no two nodes first.
        positions: Where it went wrong; -1 for ok and unfinished.
    """

    verdicts: Ids
    positions: Ids

    def __len__(self) -> int:
        return len(self.verdicts)

    @property
    def ok(self) -> Mask:
        """Which walks arrive."""
        return self.verdicts == OK

    @property
    def rate(self) -> float:
        """Share of walks that arrive."""
        return float(self.ok.mean())

    def counts(self) -> dict[str, int]:
        """Return how often each verdict was given."""
        found = np.bincount(self.verdicts, minlength=len(VERDICTS)).tolist()
        return dict(zip(VERDICTS, found, strict=True))


def valid_traversals(world: StreetMap, sequences: Sequence[Ids]) -> Traversals:
    """Judge walks, each up to its first ``end``; what comes after it is not read.

    Args:
        world: The map.
        sequences: Ids of each walk: origin, destination, directions, ``end``.

    Returns:
        A verdict for each walk, and where it went wrong.

    Raises:
        ValueError: No walks.

    Example:
        >>> world = StreetMap.grid(4, seed=0)
        >>> walks = world.random_walks(10, np.random.default_rng(0))
        >>> valid_traversals(world, walks).rate
        1.0
    """
    if not len(sequences):
        msg = "no walks to judge; pass at least one sequence of ids."
        raise ValueError(msg)
    ends = [np.flatnonzero(s == END) for s in sequences]
    cut = [s[: e[0] + 1] if len(e) else s for s, e in zip(sequences, ends, strict=True)]
    positions = first_illegal(world, cut)
    ids, rows = pad(cut), np.flatnonzero(positions >= 0)
    states = world.run(world.initial(len(cut)), ids)
    verdicts = np.where(states[:, 0] == ARRIVED, OK, UNFINISHED)
    wrong, at = ids[rows, positions[rows]], positions[rows]
    turn = np.where(wrong == END, WRONG_PLACE, ILLEGAL_TURN)
    verdicts[rows] = np.where(at < 2, MALFORMED, turn)
    return Traversals(verdicts, positions)
