"""Walking on a street table, many walkers at once: on, back, and closer to a destination."""

from dataclasses import dataclass

import numpy as np

from mechprobe.worlds.automata.arrays import PAD, Ids, Mask
from mechprobe.worlds.automata.base import pick
from mechprobe.worlds.streets.distances import Hops, longest_way_back


@dataclass(frozen=True, slots=True)
class Incoming:
    """Streets sorted by the node that they lead to.

    Attributes:
        node: Where each street comes from.
        way: Its direction.
        starts: First street into each node, ``[node + 1]``.
        reach: How far back one can walk from each node.
    """

    node: Ids
    way: Ids
    starts: Ids
    reach: Ids


def incoming(table: Ids) -> Incoming:
    """Return the streets of a table ``[node, direction]`` by where they lead."""
    node, way = np.nonzero(table >= 0)
    to = table[node, way]
    order = np.argsort(to, kind="stable")
    starts = np.searchsorted(to[order], np.arange(len(table) + 1))
    return Incoming(node[order], way[order], starts, longest_way_back(node, to, len(table)))


def walk_back(
    streets: Incoming, current: Ids, turns: Ids, rng: np.random.Generator, *, dead_ends: bool
) -> tuple[Ids, Ids, Mask]:
    """Walk backwards at random, each street into a node as likely.

    Args:
        streets: By where they lead.
        current: Where each walk is to arrive.
        turns: Streets of each walk.
        rng: Draws.
        dead_ends: Whether to step back to nodes that no street enters before the walk is done.

    Returns:
        Where each walk begins, its directions ``[n, longest]`` filled up with -1, and whether it
        got stuck.
    """
    at, stuck = current.copy(), np.zeros(len(current), dtype=np.bool_)
    ways = np.full((len(at), int(turns.max(initial=0))), PAD, dtype=np.int64)
    for position in range(ways.shape[1] - 1, -1, -1):
        going = np.flatnonzero((turns > position) & ~stuck)
        first, last = streets.starts[at[going]], streets.starts[at[going] + 1]
        slots = first[:, None] + np.arange(int((last - first).max(initial=0)))
        able = slots < last[:, None]
        slots = np.where(able, slots, 0)
        if not dead_ends:
            able &= streets.reach[streets.node[slots]] >= position
        none = ~able.any(axis=1)
        stuck[going[none]] = True
        going, able, slots = going[~none], able[~none], slots[~none]
        if not len(going):
            continue
        drawn = np.where(able, rng.random(able.shape), -1).argmax(axis=1)[:, None]
        chosen = np.take_along_axis(slots, drawn, axis=1)[:, 0]
        ways[going, position] = streets.way[chosen]
        at[going] = streets.node[chosen]
    return at, ways, stuck


def walk_on(table: Ids, current: Ids, turns: Ids, rng: np.random.Generator) -> tuple[Ids, Ids]:
    """Walk at random, each street out of a node as likely; stop where none leads out.

    Returns:
        Directions ``[n, longest]`` filled up with -1, and where each walk ends.
    """
    at, going = current.copy(), np.arange(len(current))
    ways = np.full((len(at), int(turns.max(initial=0))), PAD, dtype=np.int64)
    for position in range(ways.shape[1]):
        leads_out = (table[at[going]] >= 0).any(axis=1)
        going = going[leads_out & (turns[going] > position)]
        if not len(going):
            break
        rows, able = np.nonzero(table[at[going]] >= 0)
        way = able[pick(np.bincount(rows, minlength=len(going)), rng)]
        ways[going, position] = way
        at[going] = table[at[going], way]
    return ways, at


def walk_closer(table: Ids, hops: Hops, current: Ids, destination: Ids, rng: np.random.Generator) -> Ids:
    """Walk a shortest way; where several next streets are on one, each is as likely.

    Returns:
        Directions ``[n, longest]`` filled up with -1.
    """
    at, left = current.copy(), hops[current, destination].astype(np.int64)
    ways = np.full((len(at), int(left.max(initial=0))), PAD, dtype=np.int64)
    for position in range(ways.shape[1]):
        going = np.flatnonzero(left > position)
        after = table[at[going]]
        closer = hops[after, destination[going, None]] == (left[going] - position - 1)[:, None]
        way = np.where(closer & (after >= 0), rng.random(after.shape), -1).argmax(axis=1)
        ways[going, position] = way
        at[going] = after[np.arange(len(going)), way]
    return ways
