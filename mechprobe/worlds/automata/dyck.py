"""Dyck words: brackets of several kinds, nested to a bounded depth."""

import numpy as np

from mechprobe.worlds.automata.arrays import REJECT, Ids
from mechprobe.worlds.automata.minimise import Table
from mechprobe.worlds.automata.table import TableWorld

BRACKETS = ("()", "[]", "{}", "<>")
MOST_STATES = 1_000_000


class Dyck(TableWorld):
    r"""Beginnings of well-nested brackets of k kinds, at most ``depth`` open at once.

    A state is the stack of open brackets, :math:`\sum_{i \le \text{depth}} k^i` in all; a closing
    bracket is legal when it matches the last one open, an opening one while there is room. A
    sequence need not be closed, unless it is to take ``end``.

    Args:
        k: Kinds of brackets.
        depth: Most that may be open.
        end: Word that is legal when nothing is open, and closes the sequence.
        max_length: Words that a sequence may have; four times the depth, at least 20, if None.

    Raises:
        ValueError: k or depth below 1, or more than a million states.

    Example:
        >>> world = Dyck(2, 4)
        >>> world.n_states
        31
        >>> world.decode(world.moves(world.run(world.initial(), world.encode("( [")[None]))[1])
        ['(', '[', ']']
    """

    spelled = "dyck:2:4"

    def __init__(
        self, k: int = 2, depth: int = 4, *, end: str | None = None, max_length: int | None = None
    ) -> None:
        if k < 1 or depth < 1:
            msg = f"Dyck(k, depth) needs k and depth of at least 1; found {k} and {depth}."
            raise ValueError(msg)
        if (n := sum(k**i for i in range(depth + 1))) > MOST_STATES:
            msg = f"Dyck({k}, {depth}) has {n:,} states, more than {MOST_STATES:,}; take it smaller."
            raise ValueError(msg)
        pairs = BRACKETS[:k] if k <= len(BRACKETS) else [(f"({i}", f"){i}") for i in range(k)]
        words = [pair[0] for pair in pairs] + [pair[1] for pair in pairs]
        table, labels = _table(k, depth)
        if end is not None:
            table = np.pad(table, ((0, 1), (0, 1)), constant_values=REJECT)
            table[0, -1] = n
            labels = {key: np.append(values, -1) for key, values in labels.items()}
            words.append(end)
        super().__init__(
            f"dyck {k} kinds depth {depth}",
            words,
            table,
            labels=labels,
            end=None if end is None else 2 * k,
            max_length=max_length or max(20, 4 * depth),
        )


def _table(k: int, depth: int) -> tuple[Table, dict[str, Ids]]:
    """Stacks in order of height, then as numbers to the base k with the top as last digit."""
    sizes = np.array([k**i for i in range(depth + 1)])
    first = np.cumsum(sizes) - sizes
    height = np.repeat(np.arange(depth + 1), sizes)
    number = np.arange(int(sizes.sum())) - first[height]
    table = np.full((len(height), 2 * k), REJECT, dtype=np.int32)
    room, some = height < depth, height > 0
    for kind in range(k):
        table[room, kind] = first[height[room] + 1] + number[room] * k + kind
        ours = some & (number % k == kind)
        table[ours, k + kind] = first[height[ours] - 1] + number[ours] // k
    return table, {"depth": height, "top": np.where(some, number % k, -1)}
