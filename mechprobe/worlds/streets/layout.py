"""Where nodes lie and which are near: by coordinates, or by streets where there are none."""

from typing import Literal

import numpy as np
import numpy.typing as npt

from mechprobe.worlds.automata.arrays import Ids
from mechprobe.worlds.streets.sources import COMPASS
from mechprobe.worlds.streets.street_map import StreetMap

Measure = Literal["hops", "miles", "units"]
Places = npt.NDArray[np.float64]

_EARTH_MILES = 3958.7613
# Weight of "stay near the middle" against one street: it only settles where parts lie that no
# street connects.
_HOLD = 1e-4


def near_nodes(world: StreetMap, radius: float | int, measure: Measure) -> list[Ids]:
    """Return for each node the nodes within a radius, itself among them, ascending.

    Raises:
        ValueError: A distance was asked for and the map has no coordinates, or these cannot be
            degrees; an unknown measure.
    """
    if measure == "hops":
        return _near_by_hops(world.table, int(radius))
    if measure not in ("miles", "units"):
        msg = f"measure must be 'hops', 'miles' or 'units'; got {measure!r}."
        raise ValueError(msg)
    if world.coordinates is None:
        msg = (
            f"{world.name} has no coordinates, so no {measure} between its nodes; use "
            "measure='hops', or give coordinates when it is made."
        )
        raise ValueError(msg)
    x, y = world.coordinates.T
    if measure == "miles" and (np.abs(x).max() > 360 or np.abs(y).max() > 90):
        msg = (
            f"the coordinates of {world.name} reach {np.abs(x).max():g}, {np.abs(y).max():g}: no "
            "longitude and latitude; use measure='units'."
        )
        raise ValueError(msg)
    measured = _miles_from if measure == "miles" else _units_from
    return [np.flatnonzero(measured(world.coordinates, i) <= radius) for i in range(world.n_nodes)]


def _near_by_hops(table: Ids, hops: int) -> list[Ids]:
    n = len(table)
    node, way = np.nonzero(table >= 0)
    beside: list[set[int]] = [{i} for i in range(n)]
    for u, v in zip(node.tolist(), table[node, way].tolist(), strict=True):
        beside[u].add(v)
        beside[v].add(u)
    out: list[Ids] = []
    for i in range(n):
        seen, edge = {i}, {i}
        for _ in range(hops):
            edge = set().union(*(beside[u] for u in edge)) - seen
            seen |= edge
        out.append(np.array(sorted(seen), dtype=np.int64))
    return out


def _miles_from(places: Places, i: int) -> Places:
    """Great-circle distances by the haversine formula."""
    longitude, latitude = np.radians(places).T
    half = np.sin((latitude - latitude[i]) / 2) ** 2
    half += np.cos(latitude) * np.cos(latitude[i]) * np.sin((longitude - longitude[i]) / 2) ** 2
    return 2 * _EARTH_MILES * np.arcsin(np.sqrt(half))


def _units_from(places: Places, i: int) -> Places:
    return np.hypot(*(places - places[i]).T)


def layout(world: StreetMap) -> tuple[Places, str]:
    """Return where to draw each node, and where that comes from.

    Without coordinates, directions that are points of the compass say where a street leads: nodes
    are put where all streets together fit best, each one long (least squares). Otherwise springs.
    """
    if world.coordinates is not None:
        return world.coordinates, "coordinates"
    if set(world.directions) <= set(COMPASS):
        return _by_compass(world), "streets' directions"
    import networkx as nx

    node, way = np.nonzero(world.table >= 0)
    graph = nx.Graph(zip(node.tolist(), world.table[node, way].tolist(), strict=True))
    graph.add_nodes_from(range(world.n_nodes))
    found = nx.spring_layout(graph, seed=0)
    return np.array([found[i] for i in range(world.n_nodes)], dtype=np.float64), "springs"


def _by_compass(world: StreetMap) -> Places:
    from scipy.sparse import coo_array, eye_array
    from scipy.sparse.linalg import spsolve

    angle = np.array([COMPASS.index(d) for d in world.directions]) * np.pi / 4
    u, way = np.nonzero(world.table >= 0)
    v = world.table[u, way]
    other = u != v
    u, v, way = u[other], v[other], way[other]
    n, rows = world.n_nodes, np.arange(len(u))
    ones = np.ones(len(u))
    gaps = coo_array((np.r_[ones, -ones], (np.r_[rows, rows], np.r_[v, u])), shape=(len(u), n)).tocsr()
    step = np.column_stack([np.sin(angle[way]), np.cos(angle[way])])
    pull = (gaps.T @ gaps + _HOLD * eye_array(n)).tocsc()
    return np.column_stack([spsolve(pull, gaps.T @ step[:, axis]) for axis in (0, 1)])
