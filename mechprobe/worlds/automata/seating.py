"""Seating puzzles: who can still sit where, after some true statements."""

import itertools
import math
from collections.abc import Callable

import numpy as np

from mechprobe.worlds.automata.arrays import REJECT
from mechprobe.worlds.automata.minimise import Table
from mechprobe.worlds.automata.table import TableWorld

PEOPLE = "ABCDE"
Order = tuple[int, ...]


class Seating(TableWorld):
    r"""n people on n seats in a row; statements narrow down who can sit where.

    The words are :math:`n^2` statements ``A@1`` ("A is in seat 1") and :math:`n(n-1)^2` statements
    ``A-B=2`` ("A is 2 away from B"). A state is the set of orders that agree with everything said
    so far; a statement that leaves none is rejected. Reachable states: 19, 221 and 4,666 for 3, 4
    and 5 people, no two of them alike.

    Attributes:
        n: People, and seats.
        sentences: Each token as an English sentence without full stop.

    Raises:
        ValueError: Fewer than 2 or more than 5 people.

    Example:
        >>> world = Seating(3)
        >>> states = world.run(world.initial(), world.encode("A@1 B-C=1 B@2")[None])
        >>> world.state_labels(states)["seats"].tolist()  # all three are settled
        [[1, 2, 3]]

    Source:
        Vafa et al. (2024), https://arxiv.org/abs/2406.03689, section 4.
    """

    spelled = "seating:3"

    def __init__(self, n: int = 3, *, max_length: int = 20) -> None:
        if not 2 <= n <= len(PEOPLE):
            msg = (
                f"Seating(n) takes 2 to {len(PEOPLE)} people; found {n}. Six already have more "
                "states than a table should hold."
            )
            raise ValueError(msg)
        self.n = n
        orders = list(itertools.permutations(range(n)))
        tokens, self.sentences, masks = _statements(n, orders)
        states, table = _reachable(masks, (1 << len(orders)) - 1)
        seats = np.array([_settled(state, orders) for state in states], dtype=np.int64)
        left = np.array([state.bit_count() for state in states], dtype=np.int64)
        labels = {"seats": seats, "orders_left": left}
        names = [f"{state:0{math.factorial(n)}b}" for state in states]
        super().__init__(
            f"seating {n}", tokens, table, state_names=names, labels=labels, max_length=max_length
        )


def _statements(n: int, orders: list[Order]) -> tuple[list[str], tuple[str, ...], list[int]]:
    """Words, sentences, and the set of orders that each leaves, as bits."""

    def where(holds: Callable[[Order], bool]) -> int:
        return sum(1 << i for i, order in enumerate(orders) if holds(order))

    rows: list[tuple[str, str, int]] = []
    for a, seat in itertools.product(range(n), range(n)):
        person = PEOPLE[a]
        bits = where(lambda o, a=a, seat=seat: o[a] == seat)
        rows.append((f"{person}@{seat + 1}", f"{person} is in seat {seat + 1}", bits))
    for a, b, d in itertools.product(range(n), range(n), range(1, n)):
        if a != b:
            one, other = PEOPLE[a], PEOPLE[b]
            bits = where(lambda o, a=a, b=b, d=d: abs(o[a] - o[b]) == d)
            rows.append((f"{one}-{other}={d}", f"{one} is {d} away from {other}", bits))
    return [r[0] for r in rows], tuple(r[1] for r in rows), [r[2] for r in rows]


def _reachable(masks: list[int], everything: int) -> tuple[list[int], Table]:
    index, table = {everything: 0}, list[list[int]]()
    states = [everything]
    for state in states:
        row: list[int] = []
        for mask in masks:
            after = state & mask
            if after and after not in index:
                index[after] = len(states)
                states.append(after)
            row.append(index[after] if after else REJECT)
        table.append(row)
    return states, np.array(table, dtype=np.int32)


def _settled(state: int, orders: list[Order]) -> list[int]:
    """Each person's seat, counted from 1, where only one is left; otherwise 0."""
    left = [order for i, order in enumerate(orders) if state >> i & 1]
    return [seats.pop() + 1 if len(seats) == 1 else 0 for seats in map(set, zip(*left, strict=True))]
