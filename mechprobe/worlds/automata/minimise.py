"""Transition tables: reachable part, and states that no suffix tells apart."""

from typing import Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

from mechprobe.worlds.automata.arrays import REJECT, Ids

Table = npt.NDArray[np.int32]
"""``[state, token]``: the next state, -1 for reject."""


@runtime_checkable
class Tabular(Protocol):
    """A world with a transition table."""

    @property
    def table(self) -> Table:
        """``[state, token]``: the next state, -1 for reject."""


def depths(table: Table, initial: int) -> Ids:
    """Return the words that it takes to reach each state, -1 where none do.

    Example:
        >>> depths(np.array([[1], [-1], [0]], dtype=np.int32), 0).tolist()
        [0, 1, -1]
    """
    out = np.full(len(table), -1, dtype=np.int64)
    out[initial] = 0
    frontier, depth = np.array([initial]), 0
    while len(frontier):
        depth += 1
        after = np.unique(table[frontier])
        frontier = after[(after >= 0) & (out[after] < 0)]
        out[frontier] = depth
    return out


def nerode_classes(world: Tabular | Table) -> Ids:
    """Return the Nerode class of each state: equal where no suffix tells two states apart.

    Moore's refinement, all states at once: begin with one class, split by the classes that each
    word leads to (reject is one of its own), until nothing splits. At most as many rounds as
    states, ``states x tokens`` work in each. Classes are numbered by their first state.

    Args:
        world: A world with a table, or a table itself; all its states but reject accept.

    Example:
        >>> nerode_classes(np.array([[1, 2], [0, -1], [0, -1]], dtype=np.int32)).tolist()
        [0, 1, 1]

    Source:
        Moore, "Gedanken-experiments on sequential machines" (1956).
    """
    table = world if isinstance(world, np.ndarray) else world.table
    classes = np.zeros(len(table), dtype=np.int64)
    n_classes = 1
    while True:
        refined = classes
        for column in table.T:
            after = np.where(column >= 0, classes[column], REJECT)
            # One word at a time keeps the key in one integer, whatever the number of words.
            refined = np.unique(refined * (n_classes + 1) + after + 1, return_inverse=True)[1]
        found = int(refined.max(initial=0)) + 1
        if found == n_classes:
            break
        classes, n_classes = refined.astype(np.int64), found
    _, first, inverse = np.unique(classes, return_index=True, return_inverse=True)
    rank = np.empty(len(first), dtype=np.int64)
    rank[np.argsort(first)] = np.arange(len(first))
    return rank[inverse]


def merged(table: Table, classes: Ids) -> tuple[Table, Ids]:
    """Return the table over classes, and a state that stands for each class."""
    _, first = np.unique(classes, return_index=True)
    rows = table[first]
    return np.where(rows >= 0, classes[rows], REJECT).astype(np.int32), first.astype(np.int64)


def restricted(table: Table, keep: Ids) -> Table:
    """Return the table over the states ``keep``, in that order; none of them leads elsewhere."""
    rank = np.full(len(table), REJECT, dtype=np.int64)
    rank[keep] = np.arange(len(keep))
    rows = table[keep]
    return np.where(rows >= 0, rank[rows], REJECT).astype(np.int32)
