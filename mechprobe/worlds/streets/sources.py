"""Where streets come from: CSV files, networkx graphs, and a seeded irregular grid."""

import csv
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt

from mechprobe.worlds.automata.arrays import Ids
from mechprobe.worlds.automata.automaton import GraphLike
from mechprobe.worlds.streets.distances import strongly_connected

Floats = npt.NDArray[np.float64]
Conflicts = Literal["error", "keep_first"]

COMPASS = ("N", "NE", "E", "SE", "S", "SW", "W", "NW")
COLUMNS = ("node", "direction", "neighbor")


@dataclass(frozen=True, slots=True)
class Streets:
    """A street network as arrays.

    Attributes:
        nodes: Name of each node.
        directions: Name of each direction.
        table: ``[node, direction]``: the neighbor, -1 for no street.
        coordinates: ``[node, 2]``: x, y; None where unknown.
        lengths: ``[node, direction]``, in the unit of the source; None where unknown.
        dropped: Streets left out since another one has the same label.
    """

    nodes: list[str]
    directions: list[str]
    table: Ids
    coordinates: Floats | None = None
    lengths: Floats | None = None
    dropped: int = 0


@dataclass(frozen=True, slots=True)
class Street:
    """One street: from a node, by a label, to a node, and where it was read."""

    node: str
    direction: str
    neighbor: str
    where: str
    length: float = math.nan


def read_edges(path: str | Path) -> list[Street]:
    """Read streets from a CSV file with the columns node, direction, neighbor (and length).

    Raises:
        ValueError: A column is missing, or a field empty: with the line.
    """
    where = Path(path).expanduser()
    with where.open(newline="", encoding="utf-8") as file:
        rows = csv.DictReader(file)
        missing = [c for c in COLUMNS if c not in (rows.fieldnames or ())]
        if missing:
            msg = (
                f"{where.name} has no column {missing[0]!r}; its first line must name "
                f"{', '.join(COLUMNS)}; found {rows.fieldnames}."
            )
            raise ValueError(msg)
        out: list[Street] = []
        for row in rows:
            fields = [(row[c] or "").strip() for c in COLUMNS]
            at = f"{where.name}, line {rows.line_num}"
            if not all(fields):
                msg = f"{at}: {COLUMNS[fields.index('')]} is empty."
                raise ValueError(msg)
            node, direction, neighbor = fields
            length = float(row.get("length") or math.nan)
            out.append(Street(node, direction, neighbor, at, length))
    return out


def assemble(
    name: str,
    streets: Iterable[Street],
    *,
    nodes: Iterable[str] = (),
    coordinates: Mapping[str, tuple[float, float]] | None = None,
    conflicts: Conflicts = "error",
) -> Streets:
    """Put streets into a table.

    Args:
        name: What messages call it.
        streets: One by one.
        nodes: Further nodes, without streets.
        coordinates: x and y of every node.
        conflicts: What to do with a second street of one label out of one node.

    Raises:
        ValueError: No streets, two of one label out of one node, or a node without coordinates.
    """
    rows = list(streets)
    if not rows:
        msg = f"{name} has no streets; a street map needs at least one."
        raise ValueError(msg)
    ends = (end for street in rows for end in (street.node, street.neighbor))
    names = sorted(dict.fromkeys([*ends, *nodes]), key=_natural)
    labels = sorted({street.direction for street in rows}, key=_by_compass)
    node, label = ({word: i for i, word in enumerate(words)} for words in (names, labels))
    table = np.full((len(names), len(labels)), -1, dtype=np.int64)
    lengths, dropped = np.full(table.shape, np.nan), 0
    for street in rows:
        at = node[street.node], label[street.direction]
        if table[at] >= 0:
            if conflicts == "error":
                msg = (
                    f"{street.where}: a second street {street.direction!r} out of node "
                    f"{street.node!r} (to {street.neighbor!r}; the first goes to "
                    f"{names[int(table[at])]!r}); a label may leave a node once."
                )
                raise ValueError(msg)
            dropped += 1
            continue
        table[at], lengths[at] = node[street.neighbor], street.length
    places = None if coordinates is None else _places(name, names, coordinates)
    known = lengths if bool(np.isfinite(lengths).any()) else None
    return Streets(names, labels, table, places, known, dropped)


def from_graph(name: str, graph: GraphLike, direction: str | None, conflicts: Conflicts) -> Streets:
    """Read streets from a networkx graph; see ``StreetMap.from_graph``."""
    words = {node: "".join(str(node).split()) for node in graph.nodes}
    if len(set(words.values())) < len(words):
        msg = f"{name}: two nodes have the same name once written as a word; relabel them."
        raise ValueError(msg)
    places = {
        words[node]: (float(data["x"]), float(data["y"]))
        for node, data in graph.nodes(data=True)
        if "x" in data and "y" in data
    }
    complete = len(places) == len(words)
    if direction is None and not complete:
        msg = (
            f"{name}: directions can be derived only where every node has x and y, and "
            f"{len(words) - len(places)} of {len(words)} have none; name the edge attribute that "
            "holds the direction (direction='...')."
        )
        raise ValueError(msg)
    degrees = "4326" in str(getattr(graph, "graph", {}).get("crs", ""))
    streets: list[Street] = []
    for u, v, data in graph.edges(data=True):
        ways = [(u, v)] if graph.is_directed() else [(u, v), (v, u)]
        for source, target in ways:
            at = f"{name}, edge {source!r} -> {target!r}"
            if direction is None:
                label = compass(places[words[source]], places[words[target]], degrees=degrees)
            elif direction in data and graph.is_directed():
                label = str(data[direction])
            else:
                msg = f"{at}: needs the attribute {direction!r}, in a directed graph."
                raise ValueError(msg)
            length = float(data.get("length", math.nan))
            streets.append(Street(words[source], label, words[target], at, length))
    known = places if complete and places else None
    return assemble(name, streets, nodes=words.values(), coordinates=known, conflicts=conflicts)


def compass(source: tuple[float, float], target: tuple[float, float], *, degrees: bool = False) -> str:
    """Return which of eight directions leads from one point to another (x east, y north).

    Args:
        source: x and y.
        target: x and y; the same point counts as north.
        degrees: Whether they are longitude and latitude; east is then shorter away from the
            equator.

    Example:
        >>> compass((0.0, 0.0), (1.0, 0.1)), compass((0.0, 0.0), (-1.0, -1.0))
        ('E', 'SW')
    """
    scale = math.cos(math.radians((source[1] + target[1]) / 2)) if degrees else 1.0
    angle = math.atan2((target[0] - source[0]) * scale, target[1] - source[1])
    return COMPASS[round(angle / (math.pi / 4)) % 8]


def irregular_grid(n: int, seed: int, longer: float, missing: float) -> Streets:
    """Return an n x n grid whose streets skip crossings, lead one way, or are missing.

    From a full grid, each street in random order is removed (probability ``missing``) or made two
    or three blocks long (``longer``), unless some crossing could then not be reached from another.

    Args:
        n: Crossings along an edge.
        seed: Draws everything.
        longer: Share of streets to lengthen.
        missing: Share of streets to remove.

    Raises:
        ValueError: n below 2, or a share outside 0..1.
    """
    if n < 2:
        msg = f"a grid needs at least 2 crossings along an edge; found {n}."
        raise ValueError(msg)
    if not (0 <= missing <= 1 and 0 <= longer <= 1 and missing + longer <= 1):
        msg = f"longer={longer} and missing={missing} must be shares that add up to at most 1."
        raise ValueError(msg)
    rng = np.random.default_rng(seed)
    row, column = np.divmod(np.arange(n * n), n)
    shifts = {"N": (-1, 0), "E": (0, 1), "S": (1, 0), "W": (0, -1)}

    def arrive(node: int, way: int, blocks: int) -> int:
        down, right = list(shifts.values())[way]
        r, c = int(row[node]) + blocks * down, int(column[node]) + blocks * right
        return r * n + c if 0 <= r < n and 0 <= c < n else -1

    table = np.array([[arrive(u, d, 1) for d in range(4)] for u in range(n * n)], dtype=np.int64)
    for street in rng.permutation(np.flatnonzero(table.reshape(-1) >= 0)).tolist():
        u, d = divmod(street, 4)
        before, draw = table[u, d], rng.random()
        if draw < missing:
            table[u, d] = -1
        elif draw < missing + longer:
            table[u, d] = arrive(u, d, int(rng.integers(2, 4)))
        if table[u, d] != before and not strongly_connected(table):
            table[u, d] = before
    places = np.column_stack([column, n - 1 - row]).astype(np.float64)
    lengths = np.abs(places[table] - places[:, None]).sum(axis=2)
    lengths[table < 0] = np.nan
    names = [str(i) for i in range(n * n)]
    return Streets(names, list(shifts), table, places, lengths)


def _places(name: str, nodes: list[str], coordinates: Mapping[str, tuple[float, float]]) -> Floats:
    without = [node for node in nodes if node not in coordinates]
    if without:
        msg = f"{name}: node {without[0]!r} has no coordinates ({len(without)} have none)."
        raise ValueError(msg)
    return np.array([coordinates[node] for node in nodes], dtype=np.float64)


def _natural(word: str) -> tuple[bool, int, str]:
    """Numbers by value, before all other words."""
    number = word.isascii() and word.isdigit()
    return not number, int(word) if number else 0, word


def _by_compass(label: str) -> tuple[int, str]:
    return COMPASS.index(label) if label in COMPASS else len(COMPASS), label
