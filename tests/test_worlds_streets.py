"""Street maps: distances, prefixes, generators, sources, and the real Manhattan."""

import csv
import gzip
from pathlib import Path
from typing import Any

import numpy as np
import pytest

RATES = {"random_walks": 0.809, "shortest_paths": 0.727, "noisy_shortest_paths": 0.637}


@pytest.fixture(scope="module")
def manhattan(data_folder: Path) -> Any:
    from mechprobe.worlds import StreetMap

    return StreetMap.from_edges(data_folder / "manhattan" / "random_walks_edges.csv")


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(7)


def write(path: Path, *lines: str) -> Path:
    path.write_text("\n".join(lines) + "\n")
    return path


@pytest.fixture
def odd(tmp_path: Path) -> Any:
    """A loop at a, a sink d, a source s, and an island x."""
    from mechprobe.worlds import StreetMap

    lines = ["a,W,a", "a,E,b", "b,E,c", "c,N,a", "c,E,d", "s,E,a", "x,N,y"]
    path = write(tmp_path / "odd.csv", "node,direction,neighbor", *lines)
    return StreetMap.from_edges(path, max_length=20)


def test_sequences_by_hand(odd: Any) -> None:
    assert odd.tokens == ("end", "N", "E", "W", "a", "b", "c", "d", "s", "x", "y")
    for text, ok in [
        ("a d E E E end", True),
        ("a a end", True),
        ("a a W W end", True),
        ("a b end", False),
        ("a d E E E E", False),
        ("a E", False),
        ("E", False),
        ("a b E end end", False),
        ("a b b", False),
        ("x a N", True),  # the destination is out of reach, the street is there
    ]:
        assert odd.accepts(odd.initial(), odd.encode(text)[None])[0] == ok, text
    at = odd.run(odd.initial(), odd.encode("c d")[None])
    assert odd.decode(odd.moves(at)[1]) == ["N", "E"]
    np.testing.assert_array_equal(at, odd.state("c", "d"))
    labels = odd.state_labels(at)
    assert [odd.nodes[int(labels[key][0])] for key in ("current", "destination")] == ["c", "d"]


def test_summary_counts_what_is_odd(odd: Any) -> None:
    facts = odd.summary()
    assert (facts["nodes"], facts["streets"]) == (7, 7)
    assert (facts["sinks"], facts["self_loops"]) == (2, 1)
    assert facts["states"] == 50


def test_sinks_sources_and_islands_are_drawn_or_said(odd: Any, rng: np.random.Generator) -> None:
    states = odd.sample_states(rng, 2000)
    pairs = {(odd.nodes[a], odd.nodes[b]) for _, a, b in states.tolist()}
    way = (odd.distances >= 0).nonzero()
    assert pairs == {(odd.nodes[a], odd.nodes[b]) for a, b in zip(*way, strict=True)}
    found = odd.sample_prefixes(states, rng)
    assert found.ok.all()
    np.testing.assert_array_equal(odd.run(odd.initial(2000), found.ids), states)
    source = found.lengths[states[:, 1] == odd.node("s")]
    assert set(source.tolist()) == {2}, "nothing leads to a source"
    published = odd.sample_prefixes(states, rng, published=True)
    reason = "no street enters a node on the way back"
    assert published.failures().keys() == {reason}
    assert published.failures()[reason] > len(source)


def test_unreachable_destination(odd: Any, rng: np.random.Generator) -> None:
    state = odd.state("a", "x")
    found = odd.sample_prefixes(state, rng)
    assert found.reasons == ("the destination cannot be reached from the current node",)
    assert odd.sample_prefixes(state, rng, np.array([5])).ok.all(), "asked for, it is still a state"
    with pytest.raises(ValueError, match=r"node 'x' cannot be reached from 'a' on odd"):
        odd.route("a", "x")
    with pytest.raises(ValueError, match=r"'z' is no node of odd, which has 7"):
        odd.route("a", "z")
    with pytest.raises(ValueError, match=r"'end' is no node"):
        odd.state("a", "end")


def test_no_two_nodes_near_enough(rng: np.random.Generator) -> None:
    from mechprobe.worlds import StreetMap

    short = StreetMap.grid(3, max_length=4)
    with pytest.raises(ValueError, match=r"no two nodes with a way of fewer than 1 nodes"):
        short.sample_states(rng, 1)


@pytest.mark.parametrize("seed", range(4))
def test_distances_equal_networkx(seed: int) -> None:
    nx = pytest.importorskip("networkx")
    from mechprobe.worlds.streets.distances import hop_distances

    rng = np.random.default_rng(seed)
    n = int(rng.integers(1, 150))
    table = np.where(rng.random((n, 3)) < 0.5, rng.integers(0, n, (n, 3)), -1)
    graph = nx.DiGraph()
    graph.add_nodes_from(range(n))
    graph.add_edges_from((u, int(v)) for u in range(n) for v in table[u] if v >= 0)
    expected = np.full((n, n), -1)
    for source, lengths in nx.all_pairs_shortest_path_length(graph):
        for target, length in lengths.items():
            expected[source, target] = length
    found = hop_distances(table)
    assert found.dtype == np.int8
    np.testing.assert_array_equal(found, expected)


def test_long_distances_take_more_bits() -> None:
    from mechprobe.worlds.streets.distances import hop_distances

    ring = (np.arange(300)[:, None] + 1) % 300
    found = hop_distances(ring)
    assert found.dtype == np.int16
    np.testing.assert_array_equal(found[0], np.arange(300))
    np.testing.assert_array_equal(found[7], (np.arange(300) - 7) % 300)


@pytest.mark.parametrize("seed", range(3))
def test_way_back_equals_walking(seed: int) -> None:
    from mechprobe.worlds.streets.distances import longest_way_back

    rng = np.random.default_rng(seed)
    n = 12
    sources, targets = rng.integers(0, n, (2, 9))
    found = longest_way_back(sources, targets, n)
    alive = np.ones(n, dtype=bool)
    for steps in range(1, n + 2):
        alive = np.array([alive[sources[targets == v]].any() for v in range(n)])
        np.testing.assert_array_equal(alive, found >= steps)


def test_published_lengths_and_states(rng: np.random.Generator) -> None:
    """l is uniform on 1..100 - nodes - 4, and a state at its destination is never drawn."""
    from mechprobe.worlds import StreetMap

    world = StreetMap.grid(6)
    published = world.sample_states(rng, 20_000, published=True)
    assert len(np.unique(published, axis=0)) == world.usable_states(published=True) == 1260
    assert (published[:, 1] != published[:, 2]).all()
    all_states = world.sample_states(rng, 30_000)
    assert len(np.unique(all_states, axis=0)) == world.usable_states() == 1296
    state = np.repeat(published[:1], 20_000, axis=0)
    hops = int(world.distances[state[0, 1], state[0, 2]])
    turns = world.sample_prefixes(state, rng, published=True).lengths - 2
    most = 100 - (hops + 1) - 4
    counts = np.bincount(turns)[1:]
    assert len(counts) == most
    assert abs(counts - 20_000 / most).max() < 6 * np.sqrt(20_000 / most)


def test_far_destinations_are_left_out(tmp_path: Path, rng: np.random.Generator) -> None:
    """Within 12 words, the shortest way has fewer than 9 nodes: at most 7 streets."""
    from mechprobe.worlds import StreetMap

    lines = [f"{i},E,{(i + 1) % 20}" for i in range(20)]
    path = write(tmp_path / "ring.csv", "node,direction,neighbor", *lines)
    world = StreetMap.from_edges(path, max_length=12)
    states = world.sample_states(rng, 500, published=True)
    hops = world.distances[states[:, 1], states[:, 2]]
    assert set(hops.tolist()) == set(range(1, 8))
    assert world.usable_states(published=True) == 140


def test_states_are_uniform(rng: np.random.Generator) -> None:
    from mechprobe.worlds import StreetMap

    world = StreetMap.grid(3, seed=1)
    _, counts = np.unique(world.sample_states(rng, 81_000), axis=0, return_counts=True)
    assert len(counts) == 81
    assert abs(counts - 1000).max() < 6 * np.sqrt(1000)


def test_the_grid_is_irregular_and_connected() -> None:
    """Two walks with the same turns in another order part, unlike on a plain grid."""
    from mechprobe.worlds import StreetMap

    world = StreetMap.grid(6, seed=0)
    assert world.summary()["states"] == 1297
    assert (world.distances >= 0).all()
    assert world.coordinates is not None
    assert world.lengths is not None
    spans = np.abs(world.coordinates[world.table] - world.coordinates[:, None]).sum(axis=2)
    spans = spans[world.table >= 0]
    assert set(spans.tolist()) == {1, 2, 3}
    np.testing.assert_array_equal(world.lengths[world.table >= 0], spans)
    edges = {(u, v) for u, row in enumerate(world.table.tolist()) for v in row if v >= 0}
    assert any((v, u) not in edges for u, v in edges), "some streets lead one way"
    assert len(edges) < 120, "some are missing"
    parted = 0
    for u in range(36):
        first = [world.table[world.table[u, a], b] for a, b in ((1, 2), (2, 1))]
        through = [world.table[u, a] for a in (1, 2)]
        parted += min(*first, *through) >= 0 and first[0] != first[1]
    assert parted > 0
    again, other = StreetMap.grid(6, seed=0), StreetMap.grid(6, seed=1)
    np.testing.assert_array_equal(world.table, again.table)
    assert (world.table != other.table).any()


def test_plain_grid_on_request() -> None:
    from mechprobe.worlds import StreetMap

    world = StreetMap.grid(4, longer=0.0, missing=0.0)
    assert world.summary()["streets"] == 48
    assert world.route("0", "3") == ["0", "3", "E", "E", "E", "end"]


@pytest.mark.parametrize(
    ("n", "options", "message"),
    [
        (1, {}, "at least 2 crossings along an edge; found 1"),
        (3, {"longer": 0.8, "missing": 0.5}, "add up to at most 1"),
        (3, {"missing": -0.1}, "must be shares"),
    ],
)
def test_grid_refuses(n: int, options: dict[str, Any], message: str) -> None:
    from mechprobe.worlds import StreetMap

    with pytest.raises(ValueError, match=message):
        StreetMap.grid(n, **options)


def test_generated_walks_arrive(rng: np.random.Generator) -> None:
    from mechprobe.worlds import StreetMap, valid_traversals

    world = StreetMap.grid(5, seed=3)
    walks = world.random_walks(500, rng)
    assert valid_traversals(world, walks).rate == 1
    lengths = np.array(list(map(len, walks)))
    assert (lengths.min(), lengths.max()) == (4, 100)
    assert abs(lengths.mean() - 52) < 5
    paths = world.shortest_paths(500, rng)
    assert valid_traversals(world, paths).rate == 1
    for path in paths:
        ends = path[:2] - world.first_node
        assert len(path) == world.distances[ends[0], ends[1]] + 3
    same = world.shortest_paths(200, rng, states=np.repeat(world.state("0", "24"), 200, axis=0))
    assert len({tuple(path.tolist()) for path in same}) > 1, "ties are drawn"
    assert all(path[:2].tolist() == same[0][:2].tolist() for path in same)


def test_walks_stop_at_sinks(odd: Any, rng: np.random.Generator) -> None:
    from mechprobe.worlds import valid_traversals

    walks = odd.random_walks(300, rng)
    assert valid_traversals(odd, walks).rate == 1
    assert any(odd.decode(walk)[1] == "d" and len(walk) < 20 for walk in walks)


def test_verdicts_by_hand(odd: Any) -> None:
    from mechprobe.worlds import valid_traversals

    texts = ["a d E E E end", "a d E N end", "a d E end", "a d E E", "E a end", "a b E end W"]
    texts += ["a b a end", "a E end"]
    found = valid_traversals(odd, [odd.encode(text) for text in texts])
    names = ["ok", "illegal turn", "wrong place", "unfinished", "malformed", "ok", "illegal turn"]
    names += ["malformed"]
    from mechprobe.worlds.streets.traversals import VERDICTS

    assert [VERDICTS[v] for v in found.verdicts] == names
    assert found.positions.tolist() == [-1, 3, 3, -1, 0, -1, 2, 1]
    assert found.counts()["illegal turn"] == 2
    assert found.rate == pytest.approx(2 / 8)
    assert len(found) == 8
    with pytest.raises(ValueError, match=r"no walks to judge"):
        valid_traversals(odd, [])


def test_unknown_direction_names_line_and_word(odd: Any, tmp_path: Path) -> None:
    from mechprobe.worlds import read_sequences

    path = write(tmp_path / "walks.txt", "a d E E E end", "a d E UP E end")
    with pytest.raises(ValueError, match=r"walks\.txt, line 2: 'UP' is no token of odd"):
        read_sequences(path, odd)
    path = write(tmp_path / "walks.txt", "a d E E E end", "a d E N E end")
    with pytest.raises(ValueError, match=r"line 2: word 4, 'N', is not legal there; odd allows E"):
        read_sequences(path, odd, legal=True)
    path = write(tmp_path / "walks.txt", "a d E E E E")
    with pytest.raises(ValueError, match=r"word 6, 'E', is not legal there; odd allows end"):
        read_sequences(path, odd, legal=True)


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (["node,direction,neighbor", "a,E,b", "a,E,c"],
         r"line 3: a second street 'E' out of node 'a' \(to 'c'; the first goes to 'b'\)"),
        (["node,direction,neighbor"], r"has no streets"),
        (["", ""], r"has no column 'node'"),
        (["node,label,neighbor", "a,E,b"], r"has no column 'direction'; its first line must name"),
        (["node,direction,neighbor", "a,,b"], r"line 2: direction is empty"),
        (["node,direction,neighbor", "a,E"], r"line 2: neighbor is empty"),
        (["node,direction,neighbor", "a,end,b"], r"the word 'end' would stand for two tokens"),
        (["node,direction,neighbor", "E,E,b"], r"the word 'E' would stand for two tokens"),
        (["node,direction,neighbor", "a b,E,b"], r"'a b' cannot be a token"),
    ],
)  # fmt: skip
def test_edge_files_are_checked(tmp_path: Path, lines: list[str], message: str) -> None:
    from mechprobe.worlds import StreetMap

    with pytest.raises(ValueError, match=message):
        StreetMap.from_edges(write(tmp_path / "edges.csv", *lines))


def test_coordinates_and_lengths_are_kept(tmp_path: Path) -> None:
    from mechprobe.worlds import StreetMap

    path = write(tmp_path / "edges.csv", "node,direction,neighbor,length", "10,N,9,0.5", "9,S,10,")
    places = {"9": (0.0, 1.0), "10": (0.0, 0.0)}
    world = StreetMap.from_edges(path, coordinates=places, name="two")
    assert world.nodes == ("9", "10")  # by number
    assert world.name == "two"
    np.testing.assert_array_equal(world.coordinates, [[0, 1], [0, 0]])
    np.testing.assert_array_equal(world.lengths, [[np.nan, np.nan], [0.5, np.nan]])
    with pytest.raises(ValueError, match=r"node '10' has no coordinates \(1 have none\)"):
        StreetMap.from_edges(path, coordinates={"9": (0.0, 1.0)})


@pytest.mark.parametrize(
    ("to", "label"),
    [((0, 1), "N"), ((1, 1), "NE"), ((1, 0), "E"), ((1, -1), "SE"), ((0, -1), "S"),
     ((-1, -1), "SW"), ((-1, 0), "W"), ((-1, 1), "NW"), ((1, 2.3), "NE"), ((1, 2.6), "N")],
)  # fmt: skip
def test_compass(to: tuple[float, float], label: str) -> None:
    from mechprobe.worlds.streets.sources import compass

    assert compass((3.0, 5.0), (3.0 + to[0], 5.0 + to[1])) == label


def test_degrees_of_longitude_are_shorter_in_the_north() -> None:
    from mechprobe.worlds.streets.sources import compass

    there = (1.0, 61.0)
    assert compass((0.0, 60.0), there) == "NE"
    assert compass((0.0, 60.0), there, degrees=True) == "NE"
    assert compass((0.0, 60.0), (1.0, 61.4), degrees=True) == "N"
    assert compass((0.0, 60.0), (1.0, 61.4)) == "NE"


def test_from_networkx() -> None:
    nx = pytest.importorskip("networkx")
    from mechprobe.worlds import StreetMap

    square = {"a": (0, 0), "b": (1, 0), "c": (1, 1), "d": (0, 1)}
    graph = nx.Graph()
    for node, (x, y) in square.items():
        graph.add_node(node, x=x, y=y)
    graph.add_edges_from([("a", "b"), ("b", "c"), ("c", "d"), ("a", "c")], length=2.0)
    world = StreetMap.from_graph(graph)
    assert world.route("d", "a") == ["d", "a", "E", "SW", "end"]
    assert world.summary()["streets"] == 8
    np.testing.assert_array_equal(world.coordinates, list(square.values()))
    assert world.lengths is not None
    assert set(world.lengths[world.table >= 0].tolist()) == {2.0}

    named = nx.MultiDiGraph()
    named.add_edge(1, 2, way="up")
    named.add_edge(1, 3, way="down")
    named.add_edge(3, 1, way="up")
    named.add_node((5, 6))
    world = StreetMap.from_graph(named, direction="way")
    assert world.nodes == ("1", "2", "3", "(5,6)")
    assert world.coordinates is None
    assert world.route("3", "2") == ["3", "2", "up", "up", "end"]


def test_longitude_and_latitude_are_told_by_the_crs() -> None:
    nx = pytest.importorskip("networkx")
    from mechprobe.worlds import StreetMap

    graph = nx.MultiDiGraph(crs="epsg:4326")
    graph.add_node(1, x=0.0, y=60.0)
    graph.add_node(2, x=1.0, y=61.4)
    graph.add_edge(1, 2, length=10.0)
    assert StreetMap.from_graph(graph).directions == ("N",)
    graph.graph["crs"] = "epsg:3857"
    assert StreetMap.from_graph(graph).directions == ("NE",)


def test_graphs_are_checked() -> None:
    nx = pytest.importorskip("networkx")
    from mechprobe.worlds import StreetMap

    graph = nx.MultiDiGraph()
    with pytest.raises(ValueError, match=r"has no streets"):
        StreetMap.from_graph(graph)
    graph.add_edge("a", "b", way="up")
    with pytest.raises(ValueError, match=r"2 of 2 have none; name the edge attribute"):
        StreetMap.from_graph(graph)
    graph.add_edge("a", "c")
    with pytest.raises(ValueError, match=r"edge 'a' -> 'c': needs the attribute 'way'"):
        StreetMap.from_graph(graph, direction="way")
    graph.add_edge("a", "d", way="up")
    graph.remove_node("c")
    with pytest.raises(ValueError, match=r"a second street 'up' out of node 'a' \(to 'd'"):
        StreetMap.from_graph(graph, direction="way")
    kept = StreetMap.from_graph(graph, direction="way", conflicts="keep_first")
    assert kept.summary()["streets_dropped"] == 1
    assert kept.route("a", "b") == ["a", "b", "up", "end"]
    twins = nx.DiGraph([("a b", "ab")])
    with pytest.raises(ValueError, match=r"two nodes have the same name"):
        StreetMap.from_graph(twins, direction="way")


def test_the_reference_grid(data_folder: Path) -> None:
    from mechprobe.worlds import StreetMap, read_sequences, valid_traversals

    folder = data_folder / "street_grid_6x6"
    world = StreetMap.from_edges(folder / "edges.csv")
    facts = world.summary()
    assert (facts["nodes"], facts["streets"], facts["states"]) == (36, 92, 1297)
    assert world.usable_states(published=True) == 1260
    heldout = read_sequences(folder / "heldout_sequences.txt.gz", world, legal=True)
    assert len(heldout) == 2000
    assert valid_traversals(world, heldout).rate == 1
    assert len(world.tokens) == 41  # the model adds <pad>


def test_manhattan_counts(manhattan: Any) -> None:
    facts = manhattan.summary()
    assert (facts["nodes"], facts["streets"]) == (4579, 9705)
    assert (facts["sinks"], facts["self_loops"]) == (17, 6)
    assert facts["states"] == 20_967_242
    degrees = (manhattan.table >= 0).sum(axis=1)
    assert np.bincount(degrees).tolist() == [17, 717, 2698, 996, 151]
    assert np.isin(np.arange(4579), manhattan.table[manhattan.table >= 0]).sum() == 4579 - 45
    assert manhattan.directions == ("N", "NE", "E", "SE", "S", "SW", "W", "NW")
    counts = (manhattan.table >= 0).sum(axis=0).tolist()
    assert counts == [660, 1940, 405, 1855, 622, 1940, 380, 1903]


def test_manhattan_distances(manhattan: Any) -> None:
    distances = manhattan.distances
    assert distances.dtype == np.int8
    assert distances.max() == 124
    assert int((distances > 0).sum()) == 20_457_139
    assert manhattan.usable_states(published=True) == 20_323_480


@pytest.mark.parametrize("model", RATES)
def test_manhattan_samples(data_folder: Path, model: str) -> None:
    from mechprobe.worlds import StreetMap, read_sequences, valid_traversals

    folder = data_folder / "manhattan"
    world = StreetMap.from_edges(folder / f"{model}_edges.csv")
    walks = read_sequences(folder / f"{model}_model_samples.txt.gz", world)
    found = valid_traversals(world, walks)
    assert len(found) == 6400
    assert round(found.rate, 3) == pytest.approx(RATES[model], abs=1e-9)
    if model == "shortest_paths":
        assert (found.counts()["illegal turn"], found.counts()["wrong place"]) == (1315, 434)


def test_manhattan_prefixes(manhattan: Any, rng: np.random.Generator) -> None:
    states = manhattan.sample_states(rng, 500)
    found = manhattan.sample_prefixes(states, rng)
    assert found.ok.all()
    np.testing.assert_array_equal(manhattan.run(manhattan.initial(500), found.ids), states)
    published = manhattan.sample_prefixes(states, rng, published=True)
    assert 0.05 < 1 - published.ok.mean() < 0.25  # what the published code drops in silence


def test_edges_of_three_models_differ_as_stated(data_folder: Path) -> None:
    def edges(model: str) -> set[tuple[str, ...]]:
        with (data_folder / "manhattan" / f"{model}_edges.csv").open() as file:
            return {tuple(row) for row in csv.reader(file)}

    assert edges("random_walks") == edges("noisy_shortest_paths")
    assert len(edges("random_walks") ^ edges("shortest_paths")) == 88


def test_broken_archives_are_refused(tmp_path: Path) -> None:
    from mechprobe.worlds import read_sequences

    path = tmp_path / "walks.txt.gz"
    path.write_bytes(gzip.compress(b"a b c\n")[:-9])
    with pytest.raises(ValueError, match=r"walks\.txt\.gz .* gzip"):
        read_sequences(path)
