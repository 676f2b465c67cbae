"""Streets as a world: ``origin destination direction direction ... end``."""

from collections.abc import Callable, Mapping
from functools import cached_property
from pathlib import Path

import numpy as np
import numpy.typing as npt

from mechprobe.worlds.automata.arrays import PAD, REJECT, Ids, Mask, Prefixes, States, unpad
from mechprobe.worlds.automata.automaton import GraphLike
from mechprobe.worlds.automata.base import CHUNK, World
from mechprobe.worlds.streets import sources
from mechprobe.worlds.streets.distances import Hops, count_within, hop_distances
from mechprobe.worlds.streets.walks import Incoming, incoming, walk_back, walk_closer, walk_on

START, ORIGIN, WALKING, ARRIVED = 0, 1, 2, 3
END = 0


class StreetMap(World):
    """Walks over a map of one-way streets, each with a label that is unique at its node.

    A sequence names origin and destination, then the directions taken, then ``end``. A state is
    (phase, current node, destination): before the origin (0), before the destination (1), walking
    (2), arrived (3). Any street out of the current node is legal, ``end`` only at the destination.
    Nodes that no street leaves are allowed, and streets from a node to itself.

    Attributes:
        nodes: Name of each node; ``node_token(i)`` is its id.
        directions: Name of each direction; its id is its place plus one, ``end`` has id 0.
        table: ``[node, direction]``: the neighbor, -1 for no street.
        coordinates: x and y of each node, or None.
        lengths: Length of each street, ``[node, direction]``, in the unit of its source, or None.

    Example:
        >>> world = StreetMap.grid(6, seed=0)
        >>> walk = world.route("0", "35")
        >>> walk[0], walk[1], walk[-1]
        ('0', '35', 'end')
        >>> bool(world.accepts(world.initial(), world.encode(walk)[None])[0])
        True

    Source:
        Vafa et al. (2024), https://arxiv.org/abs/2406.03689, section 3.
    """

    spelled = "grid:6"

    prompt_words = 2

    def __init__(self, streets: sources.Streets, *, name: str = "streets", max_length: int = 100) -> None:
        self.nodes, self.directions = tuple(streets.nodes), tuple(streets.directions)
        self.table = streets.table
        self.coordinates, self.lengths = streets.coordinates, streets.lengths
        self._dropped = streets.dropped
        words = ["end", *self.directions, *self.nodes]
        super().__init__(name, words, end=END, max_length=max_length)

    @classmethod
    def from_edges(
        cls,
        path: str | Path,
        *,
        coordinates: Mapping[str, tuple[float, float]] | None = None,
        max_length: int = 100,
        name: str | None = None,
    ) -> "StreetMap":
        """Read a map from a CSV file with the columns node, direction, neighbor (and length).

        Args:
            path: The file.
            coordinates: x and y of every node, where known.
            max_length: Words that a sequence may have.
            name: What tables and figures call it; the file's name if None.

        Raises:
            ValueError: A column is missing, a field empty, no streets, or two of one label out of
                one node: with the line.

        Example:
            >>> StreetMap.from_edges("edges.csv")  # doctest: +SKIP
        """
        called = name or Path(path).stem
        rows = sources.read_edges(path)
        streets = sources.assemble(Path(path).name, rows, coordinates=coordinates)
        return cls(streets, name=called, max_length=max_length)

    @classmethod
    def from_graph(
        cls,
        graph: GraphLike,
        *,
        direction: str | None = None,
        conflicts: sources.Conflicts = "error",
        max_length: int = 100,
        name: str = "graph",
    ) -> "StreetMap":
        """Take over a networkx or OSMnx graph.

        Args:
            graph: Edges are streets; in an undirected graph, both ways.
            direction: Edge attribute that holds the label; None derives one of eight from the x
                and y of the nodes (longitude and latitude where the graph's crs says so).
            conflicts: ``"keep_first"`` keeps the first of several streets of one label out of one
                node and counts the others in ``summary()``; ``"error"`` refuses them.
            max_length: Words that a sequence may have.
            name: What tables and figures call it.

        Raises:
            ValueError: No edges, no coordinates to derive directions from, an edge without the
                attribute, or two streets of one label out of one node.
        """
        streets = sources.from_graph(name, graph, direction, conflicts)
        return cls(streets, name=name, max_length=max_length)

    @classmethod
    def maker(cls) -> "Callable[..., World]":
        """Return ``grid``."""
        return cls.grid

    @classmethod
    def grid(
        cls, n: int, *, seed: int = 0, longer: float = 0.25, missing: float = 0.2, max_length: int = 100
    ) -> "StreetMap":
        """Return an irregular n x n grid: streets of one to three blocks, some one way or missing.

        On a plain grid the place follows from how often each direction was taken; here it does
        not. Every crossing can be reached from every other.

        Args:
            n: Crossings along an edge.
            seed: Draws the streets.
            longer: Share of streets that become two or three blocks long.
            missing: Share of streets that are removed.
            max_length: Words that a sequence may have.

        Raises:
            ValueError: n below 2, or shares that do not fit.
        """
        streets = sources.irregular_grid(n, seed, longer, missing)
        return cls(streets, name=f"grid {n}x{n} seed {seed}", max_length=max_length)

    @property
    def n_nodes(self) -> int:
        """How many nodes there are."""
        return len(self.nodes)

    @property
    def first_node(self) -> int:
        """Id of the first node; nodes come last among the tokens."""
        return 1 + len(self.directions)

    @cached_property
    def distances(self) -> Hops:
        """``[from, to]``: the fewest streets between two nodes, -1 for no way."""
        return hop_distances(self.table)

    def state(self, current: str, destination: str) -> States:
        """Return the state of walking at one node to another, ``[1, 3]``.

        Raises:
            ValueError: Not a node.
        """
        return np.array([[WALKING, self.node(current), self.node(destination)]], dtype=np.int64)

    def node(self, word: str) -> int:
        """Return the index of a node.

        Raises:
            ValueError: Not a node.
        """
        index = self._index.get(word, END) - self.first_node
        if index < 0:
            msg = f"{word!r} is no node of {self.name}, which has {self.n_nodes}."
            raise ValueError(msg)
        return index

    def initial(self, n: int = 1) -> States:
        """Return the state before the origin, ``n`` times."""
        return np.tile(np.array([[START, -1, -1]], dtype=np.int64), (n, 1))

    def step(self, states: States, tokens: Ids) -> States:
        """Return where one word leads from each state; reject stays reject."""
        phase, current, destination = states.T
        node, way = tokens - self.first_node, tokens - 1
        out = np.full_like(states, REJECT)
        origin = (phase == START) & (node >= 0)
        out[origin, 0], out[origin, 1] = ORIGIN, node[origin]
        walks = (phase == ORIGIN) & (node >= 0)
        out[walks] = np.column_stack([np.full_like(node, WALKING), current, node])[walks]
        turn = np.flatnonzero((phase == WALKING) & (way >= 0) & (node < 0))
        to = self.table[current[turn], way[turn]]
        turn, to = turn[to >= 0], to[to >= 0]
        out[turn] = np.column_stack([np.full_like(to, WALKING), to, destination[turn]])
        out[(phase == WALKING) & (tokens == END) & (current == destination), 0] = ARRIVED
        return out

    def legal(self, states: States) -> Mask:
        """Return ``[n, token]``: which words do not lead to reject."""
        out = np.zeros((len(states), len(self.tokens)), dtype=np.bool_)
        out[(states[:, 0] == START) | (states[:, 0] == ORIGIN), self.first_node :] = True
        out[:, : self.first_node] = self._turns(states)
        return out

    def moves(self, states: States) -> tuple[Ids, Ids]:
        """Return the legal words as (row, token), sorted by row, then token."""
        if bool((states[:, 0] < WALKING).any()):
            return super().moves(states)
        rows, tokens = np.nonzero(self._turns(states))
        return rows, tokens

    def sample_states(self, rng: np.random.Generator, n: int, *, published: bool = False) -> States:
        """Draw uniformly among (current, destination) that leave room for a prefix.

        The shortest way must have so few nodes that nodes + 3 < ``max_length``.

        Args:
            rng: Draws them.
            n: How many.
            published: Only states that are not yet at their destination.

        Raises:
            ValueError: There are none.
        """
        counts = self._usable(0 if not published else 1)
        total = np.cumsum(counts)
        if not int(total[-1]):
            msg = (
                f"{self.name} has no two nodes with a way of fewer than {self.max_length - 3} "
                "nodes between them; give a larger max_length."
            )
            raise ValueError(msg)
        rank = rng.integers(0, total[-1], n)
        current = np.searchsorted(total, rank, side="right")
        place = rank - (total - counts)[current]
        destination = np.empty(n, dtype=np.int64)
        for node in np.unique(current):
            here, hops = current == node, self.distances[node]
            able = (hops >= (1 if published else 0)) & (hops <= self.max_length - 5)
            destination[here] = np.flatnonzero(able)[place[here]]
        return np.column_stack([np.full(n, WALKING), current, destination])

    def sample_prefixes(
        self, states: States, rng: np.random.Generator, lengths: Ids | None = None, *, published: bool = False
    ) -> Prefixes:
        """Draw walks that lead to the states: random walks backwards, street by street.

        A prefix is origin, destination and l directions. Where no length is asked for, l is
        uniform on 1..max_length - nodes - 4, with the nodes of the shortest way that is left; less
        where one cannot walk back that far.

        Args:
            states: Walking states.
            rng: Draws them.
            lengths: Words of each prefix, l + 2.
            published: Step back into nodes that no street enters, and fail there, as the paper's
                code does; otherwise only streets that allow the walk to go on are taken.

        Returns:
            Prefixes; where there is none, the reason.
        """
        walking = states[:, 0] == WALKING
        current = np.where(walking, states[:, 1], 0)
        destination = np.where(walking, states[:, 2], 0)
        hops = self.distances[current, destination].astype(np.int64)
        longest = np.maximum(self.max_length - (hops + 1) - 4, 1)
        if not published:
            longest = np.minimum(longest, self._incoming.reach[current])
        drawn = np.minimum(1 + (rng.random(len(states)) * longest).astype(np.int64), longest)
        turns = drawn if lengths is None else lengths - 2
        fits = (turns >= 0) & (turns <= self.max_length - 3)
        able = walking & fits & ((hops >= 0) | (lengths is not None))
        origin, words, stuck = walk_back(
            self._incoming, current, np.where(able, turns, 0), rng, dead_ends=published
        )
        ok = able & ~stuck
        ids = np.column_stack([origin + self.first_node, destination + self.first_node, words + 1])
        counts = np.where(ok, turns + 2, 0)
        ids[np.arange(ids.shape[1]) >= counts[:, None]] = PAD
        reasons = np.full(len(states), "", dtype=object)
        reasons[stuck] = "no street enters a node on the way back"
        reasons[hops < 0] = "the destination cannot be reached from the current node"
        reasons[~fits] = "no prefix has the length asked for"
        reasons[~walking] = "only a walk with origin and destination has a prefix to be drawn"
        reasons[ok] = ""
        return Prefixes(ids[:, : int(counts.max(initial=0))], counts, tuple(map(str, reasons)))

    def random_walks(self, n: int, rng: np.random.Generator, *, length: int | None = None) -> list[Ids]:
        """Return walks from a uniform origin that end wherever they are, which is the destination.

        Args:
            n: How many.
            rng: Draws them.
            length: Words of each; uniform on 4..``max_length`` if None. Fewer where a walk comes
                to a node that no street leaves.
        """
        out: list[Ids] = []
        leaves = np.flatnonzero((self.table >= 0).any(axis=1))
        for start in range(0, n, CHUNK):
            size = min(CHUNK, n - start)
            words = rng.integers(4, self.max_length + 1, size) if length is None else length
            turns = np.maximum(np.broadcast_to(np.asarray(words), size) - 3, 0)
            current = leaves[rng.integers(len(leaves), size=size)]
            origin = current.copy()
            walk, current = walk_on(self.table, current, turns, rng)
            out += self._worded(origin, current, walk)
        return out

    def shortest_paths(self, n: int, rng: np.random.Generator, *, states: States | None = None) -> list[Ids]:
        """Return shortest walks (in streets), from origin to destination.

        Where several next streets are on a shortest way, one is drawn.

        Args:
            n: How many.
            rng: Draws them.
            states: Origins and destinations (as states); drawn by ``sample_states`` if None.

        Raises:
            ValueError: A destination cannot be reached.
        """
        if states is None:
            states = self.sample_states(rng, n, published=True)
        current, destination = states[:, 1], states[:, 2]
        hops = self.distances[current, destination].astype(np.int64)
        if bool((hops < 0).any()):
            row = int(np.flatnonzero(hops < 0)[0])
            msg = (
                f"node {self.nodes[destination[row]]!r} cannot be reached from "
                f"{self.nodes[current[row]]!r} on {self.name}; choose another destination."
            )
            raise ValueError(msg)
        walk = walk_closer(self.table, self.distances, current, destination, rng)
        return self._worded(current, destination, walk)

    def route(self, origin: str, destination: str) -> list[str]:
        """Return the words of one shortest walk.

        Raises:
            ValueError: Not a node, or the destination cannot be reached.
        """
        states = self.state(origin, destination)
        return self.decode(self.shortest_paths(1, np.random.default_rng(0), states=states)[0])

    def state_labels(self, states: States) -> dict[str, Ids]:
        """Return the current node and the destination; -1 where there is none yet."""
        return {"current": states[:, 1], "destination": states[:, 2]}

    def summary(self) -> dict[str, str | int]:
        """Return nodes, streets, states (current, destination, and arrived), and oddities."""
        out = super().summary() | {
            "nodes": self.n_nodes,
            "streets": int((self.table >= 0).sum()),
            "states": self.n_nodes**2 + 1,
            "sinks": int((self.table < 0).all(axis=1).sum()),
            "self_loops": int((self.table == np.arange(self.n_nodes)[:, None]).sum()),
        }
        return out | ({"streets_dropped": self._dropped} if self._dropped else {})

    def usable_states(self, *, published: bool = False) -> int:
        """Return how many states ``sample_states`` draws from."""
        return int(self._usable(1 if published else 0).sum())

    def _usable(self, low: int) -> Ids:
        """Return for each node how many destinations are near enough, but ``low`` away."""
        return count_within(self.distances, low, self.max_length - 5)

    def _content(self) -> tuple[npt.NDArray[np.integer], ...]:
        return (self.table,)

    def _turns(self, states: States) -> Mask:
        """Return ``[n, 1 + direction]``: ``end`` and the directions that are legal."""
        walking = states[:, :1] == WALKING
        arrived = states[:, 1:2] == states[:, 2:3]
        return np.column_stack([arrived, self.table[states[:, 1]] >= 0]) & walking

    @cached_property
    def _incoming(self) -> Incoming:
        return incoming(self.table)

    def _worded(self, origin: Ids, destination: Ids, ways: Ids) -> list[Ids]:
        """Return walks as sequences: origin, destination, directions, ``end``."""
        made = (ways != PAD).sum(axis=1)
        ids = np.full((len(ways), ways.shape[1] + 3), PAD, dtype=np.int64)
        ids[:, 0], ids[:, 1] = origin + self.first_node, destination + self.first_node
        ids[:, 2:-1] = np.where(ways == PAD, PAD, ways + 1)
        ids[np.arange(len(ids)), made + 2] = END
        return unpad(ids, made + 3)
