"""Draw the map that walks imply: as many true streets as possible, invented ones where needed."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from tqdm.auto import tqdm

from mechprobe.provenance import Call, digest_json
from mechprobe.worlds.automata.arrays import PAD, Ids, Mask
from mechprobe.worlds.streets.layout import Measure, layout, near_nodes
from mechprobe.worlds.streets.results import MapReconstruction, reconstruction_of
from mechprobe.worlds.streets.street_map import END, StreetMap
from mechprobe.worlds.streets.traversals import valid_traversals

NO_NODES = "does not begin with two nodes"
NO_DIRECTIONS = "holds a word that is no direction"
NO_END = "does not say where it ends"
NO_STREET = "no street within the limits explains it"


def reconstruct_map(
    world: StreetMap,
    walks: Sequence[Ids],
    *,
    degree: int = 4,
    radius: float | int = 6,
    measure: Measure = "hops",
    keep_failed: bool = False,
    seed: int | None = 0,
    name: str = "walks",
    progress: bool = True,
) -> MapReconstruction:
    """Draw the streets that walks must have taken, if they were taken anywhere.

    The nodes are the true ones. Walk after walk is laid over the map: a true street is used where
    it fits, and where the walk gets stuck a new street is invented, to whichever near node lets it
    go on for longest. A node has at most one street of each direction and at most ``degree`` in
    all; a street that has been used, true or invented, stays. The last street of a walk goes
    straight to its destination.

    A walk that fails in the end takes back what it added, unless ``keep_failed``; in the published
    code it does not, and most of the streets invented there are such remains. A street that is
    "invented" where it truly is counts as true, unlike there.

    Args:
        world: The true map.
        walks: Ids of each: origin, destination, directions, ``end``; what follows is not read.
        degree: Most streets out of a node.
        radius: How far an invented street may reach.
        measure: ``"hops"``: streets between the two nodes, either way; ``"miles"``: great circle,
            where coordinates are longitude and latitude; ``"units"``: straight, in the unit of the
            coordinates.
        keep_failed: Leave what a failed walk added, as the published code does.
        seed: Draws the order of the walks, which matters: earlier walks take the streets. None
            leaves them as they are.
        name: Whose walks they are, for tables and figures.
        progress: Show a bar.

    Returns:
        How many walks are valid and how many failed, the streets used, true and invented, with
        their precision and recall.

    Raises:
        ValueError: No walks, limits that leave no streets, or a distance without coordinates.

    Example:
        >>> world = StreetMap.grid(4, seed=0)
        >>> walks = world.random_walks(200, np.random.default_rng(0))
        >>> int(reconstruct_map(world, walks, progress=False).data["n_invented"])
        0

    References:
        Vafa et al. (2024), https://arxiv.org/abs/2406.03689, section 3 and appendix G.
    """
    call = Call("reconstruct_map", locals())
    if degree < 1 or radius <= 0:
        msg = f"degree must be at least 1 and radius above 0; got degree={degree}, radius={radius}."
        raise ValueError(msg)
    valid = valid_traversals(world, walks).ok
    drawing = _Drawing(world, degree, near_nodes(world, radius, measure))
    reasons = np.full(len(walks), "", dtype=object)
    order = list(range(len(walks)))
    if seed is not None:
        order = np.random.default_rng(seed).permutation(len(walks)).tolist()
    for i in tqdm(order, desc="map", unit="walk", disable=not progress, leave=False):
        reasons[i] = drawing.lay(walks[i], keep_failed=keep_failed)
    data = {"world": world.digest(), "walks": digest_json([w.tolist() for w in walks])}
    provenance = call.record(
        {"name": name, "world": world.name}, data, seed=seed, world=world.name, n_walks=len(walks)
    )
    places, source = layout(world)
    return reconstruction_of(
        drawing.streets(),
        world.table,
        (world.nodes, world.directions),
        (places, source),
        valid,
        reasons,
        provenance,
    )


def corrupted(world: StreetMap, walks: Sequence[Ids], share: float, seed: int = 0) -> list[Ids]:
    """Return the walks, in some of which one direction is replaced by another one: the control.

    What a map looks like if its author knows the streets but errs at random.

    Args:
        world: The map.
        walks: Ids of each; those without a direction stay as they are.
        share: Of the walks, to the nearest whole number.
        seed: Draws walks, places and directions.

    Raises:
        ValueError: A share outside 0..1, or a map with one direction.

    Example:
        >>> world = StreetMap.grid(4, seed=0)
        >>> walks = world.random_walks(10, np.random.default_rng(0))
        >>> noisy = corrupted(world, walks, 0.2)
        >>> int(sum((a != b).sum() for a, b in zip(walks, noisy)))
        2
    """
    n_ways = len(world.directions)
    if not 0 <= share <= 1 or n_ways < 2:
        msg = f"share={share} must lie in 0..1, and {world.name} have two directions ({n_ways})."
        raise ValueError(msg)
    rng = np.random.default_rng(seed)
    out = [walk.copy() for walk in walks]
    able = [i for i, walk in enumerate(walks) if _is_way(world, walk).any()]
    n = min(round(share * len(walks)), len(able))
    for i in rng.choice(len(able), n, replace=False).tolist():
        walk = out[able[i]]
        at = int(rng.choice(np.flatnonzero(_is_way(world, walk))))
        walk[at] = 1 + (walk[at] - 1 + rng.integers(1, n_ways)) % n_ways
    return out


def _is_way(world: StreetMap, walk: Ids) -> Mask:
    return (walk >= 1) & (walk < world.first_node) & (np.arange(len(walk)) >= 2)


@dataclass(slots=True)
class _Try:
    """How far a walk comes from one node.

    Attributes:
        taken: (node, way, neighbor) of the part that is to be kept.
        done: Whether it is all of the walk.
    """

    taken: list[tuple[int, int, int]] = field(default_factory=list)
    done: bool = False


class _Drawing:
    """The streets in use, and the rules for taking more into use."""

    def __init__(self, world: StreetMap, degree: int, near: Sequence[Ids]) -> None:
        self.first_node, self.degree, self.near = world.first_node, degree, near
        self.true: list[list[int]] = world.table.tolist()
        self.used = [[PAD] * len(world.directions) for _ in world.nodes]
        self.room = [degree] * world.n_nodes

    def streets(self) -> Ids:
        """Return ``[node, direction]``: the neighbor by the street in use, -1 for none."""
        return np.array(self.used, dtype=np.int64)

    def lay(self, walk: Ids, *, keep_failed: bool = False) -> str:
        """Take the streets of a walk into use; return why not, and take none then."""
        words = walk.tolist()
        if len(words) < 2 or min(words[:2]) < self.first_node:
            return NO_NODES
        if END not in words:
            return NO_END
        ways = [word - 1 for word in words[2 : words.index(END)]]
        if any(not 0 <= way < len(self.used[0]) for way in ways):
            return NO_DIRECTIONS
        origin, destination = (word - self.first_node for word in words[:2])
        added: list[tuple[int, int]] = []
        if self._lay(origin, destination, ways, added):
            return ""
        for node, way in [] if keep_failed else added:
            self.used[node][way] = PAD
            self.room[node] += 1
        return NO_STREET

    def _lay(self, origin: int, destination: int, ways: list[int], added: list[tuple[int, int]]) -> bool:
        if not ways:
            return origin == destination
        found = self._follow(origin, destination, ways)
        node, done = origin, found.done
        while True:
            for u, way, v in found.taken:
                self._take(u, way, v, added)
                node = v
            ways = ways[len(found.taken) :]
            if done:
                return True
            if not self.room[node] or self.used[node][ways[0]] != PAD:
                return False
            if len(ways) == 1:
                if destination not in self.near[node]:
                    return False
                self._take(node, ways[0], destination, added)
                return True
            found = self._best(node, destination, ways)
            if not found.taken:
                return False
            done = found.done

    def _best(self, node: int, destination: int, ways: list[int]) -> _Try:
        """Return the longest way on over a new street, which comes first in it."""
        best, length = _Try(), 0
        for near in self.near[node].tolist():
            found = self._follow(near, destination, ways[1:], (node, ways[0], near))
            if len(found.taken) > length:
                length = len(found.taken)
                best = _Try([(node, ways[0], near), *found.taken], found.done)
        return best

    def _follow(
        self, node: int, destination: int, ways: list[int], new: tuple[int, int, int] | None = None
    ) -> _Try:
        """Walk on over streets in use and true ones that may be taken into use.

        Where that does not arrive, the walk is cut at the last node where a street of the next
        direction could be invented.
        """
        pending = {} if new is None else {new[:2]: new[2]}
        asked: dict[int, int] = {} if new is None else {new[0]: 1}
        taken: list[tuple[int, int, int]] = []
        kept = 0
        for i, way in enumerate(ways):
            after = self.used[node][way]
            if after == PAD:
                after = pending.get((node, way), PAD)
            if after == PAD:
                after = self.true[node][way]
                if after == PAD or asked.get(node, 0) >= self.room[node]:
                    break
                pending[node, way] = after
                asked[node] = asked.get(node, 0) + 1
            taken.append((node, way, after))
            node = after
            if i + 1 < len(ways) and self._could_invent(node, ways[i + 1], pending, asked):
                kept = i + 1
        done = len(taken) == len(ways) and node == destination
        return _Try(taken if done else taken[:kept], done)

    def _could_invent(
        self, node: int, way: int, pending: dict[tuple[int, int], int], asked: dict[int, int]
    ) -> bool:
        free = self.used[node][way] == PAD and (node, way) not in pending
        return free and asked.get(node, 0) < self.room[node]

    def _take(self, node: int, way: int, after: int, added: list[tuple[int, int]]) -> None:
        if self.used[node][way] == PAD:
            self.used[node][way] = after
            self.room[node] -= 1
            added.append((node, way))
