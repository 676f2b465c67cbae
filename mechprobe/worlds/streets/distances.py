"""Hops between all pairs of nodes, as small integers."""

import numpy as np
import numpy.typing as npt

from mechprobe.worlds.automata.arrays import Ids, Mask

Hops = npt.NDArray[np.int8] | npt.NDArray[np.int16] | npt.NDArray[np.int32]

# Rows unpacked at once; 256 x 4,579 distances are a megabyte.
ROWS = 256


def hop_distances(successors: Ids) -> Hops:
    r"""Return the fewest edges from every node to every other, ``[from, to]``; -1 for no way.

    One breadth-first search from all nodes at once: :math:`R_d(u)`, the nodes within d edges of u,
    is a row of bits, and :math:`R_{d+1}(u) = R_d(u) \cup \bigcup_v R_d(v)` over the successors v
    of u. Distances are kept as bit planes until the end, so that a level costs ``edges x nodes /
    64`` word operations and memory stays near ``nodes^2`` bytes.

    Args:
        successors: ``[node, slot]``, -1 where a slot is empty.

    Returns:
        int8 where the largest distance is below 128, else int16 or int32.

    Example:
        >>> hop_distances(np.array([[1], [2], [-1]])).tolist()
        [[0, 1, 2], [-1, 0, 1], [-1, -1, 0]]
    """
    n = len(successors)
    bits = np.zeros((n, -(-n // 64) * 8), dtype=np.uint8)
    nodes = np.arange(n)
    bits[nodes, nodes // 8] = 1 << (nodes % 8)
    within = bits.view(np.uint64)
    new, planes, distance = within, list[npt.NDArray[np.uint64]](), 0
    edges = [(np.flatnonzero(slot >= 0), slot[slot >= 0]) for slot in _packed(successors).T]
    while True:
        distance += 1
        after = within.copy()
        for sources, targets in edges:
            after[sources] |= new[targets]
        new = after ^ within
        if not new.any():
            break
        if distance >> len(planes):
            planes.append(np.zeros_like(within))
        for bit, plane in enumerate(planes):
            if distance >> bit & 1:
                plane |= new
        within = after
    return _unpacked(planes, within, n)


def _packed(successors: Ids) -> Ids:
    """Move the filled slots of each node to the left, so that few slots hold all edges."""
    order = np.argsort(successors < 0, axis=1, kind="stable")
    packed = np.take_along_axis(successors, order, axis=1)
    return packed[:, : int((successors >= 0).sum(axis=1).max(initial=0))]


def _unpacked(planes: list[npt.NDArray[np.uint64]], within: npt.NDArray[np.uint64], n: int) -> Hops:
    out: Hops
    if len(planes) < 8:
        out = np.empty((n, n), dtype=np.int8)
    elif len(planes) < 16:
        out = np.empty((n, n), dtype=np.int16)
    else:
        out = np.empty((n, n), dtype=np.int32)
    for start in range(0, n, ROWS):
        rows = slice(start, start + ROWS)
        block = out[rows]
        block[:] = 0
        for bit, plane in enumerate(planes):
            block |= _bits(plane[rows], n).astype(out.dtype) << bit
        block[_bits(within[rows], n) == 0] = -1
    return out


def _bits(words: npt.NDArray[np.uint64], n: int) -> npt.NDArray[np.uint8]:
    return np.unpackbits(words.view(np.uint8), axis=1, bitorder="little")[:, :n]


def count_within(hops: Hops, low: int, high: int) -> Ids:
    """Return for each node how many others lie ``low`` to ``high`` edges away."""
    out = np.empty(len(hops), dtype=np.int64)
    for start in range(0, len(hops), ROWS):
        block = hops[start : start + ROWS]
        out[start : start + ROWS] = ((block >= low) & (block <= high)).sum(axis=1)
    return out


def strongly_connected(successors: Ids) -> bool:
    """Whether every node is reached from every other."""
    n = len(successors)
    sources, slots = np.nonzero(successors >= 0)
    targets = successors[sources, slots]
    return _reaches_all(sources, targets, n) and _reaches_all(targets, sources, n)


def _reaches_all(sources: Ids, targets: Ids, n: int) -> bool:
    seen: Mask = np.zeros(n, dtype=np.bool_)
    seen[0] = True
    count = 1
    while count < n:
        seen[targets[seen[sources]]] = True
        found = int(seen.sum())
        if found == count:
            return False
        count = found
    return True


def longest_way_back(sources: Ids, targets: Ids, n: int) -> Ids:
    """Return how many edges one can go backwards from each node, the largest int64 for any number.

    Only nodes with no cycle behind them have a bound: they are peeled off from those that no edge
    enters.
    """
    out = np.full(n, np.iinfo(np.int64).max)
    left = np.bincount(targets, minlength=n)
    layer, depth = np.flatnonzero(left == 0), 0
    while len(layer):
        out[layer] = depth
        peeled = np.isin(sources, layer)
        np.subtract.at(left, targets[peeled], 1)
        after = np.unique(targets[peeled])
        layer, depth = after[left[after] == 0], depth + 1
    return out
