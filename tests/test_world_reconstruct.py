"""Maps that walks imply: laws, by hand, and the walks of the released Manhattan models."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

# name: valid, failed, invented, and with failed walks kept: failed, invented.
MANHATTAN = {
    "shortest_paths": (733, 143, 184, 170, 528),
    "noisy_shortest_paths": (634, 202, 372, 241, 903),
    "random_walks": (816, 143, 141, 204, 801),
}


@pytest.fixture(scope="module")
def world() -> Any:
    from mechprobe.worlds import StreetMap

    return StreetMap.grid(6, seed=0, max_length=40)


@pytest.fixture(scope="module")
def square(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Corners a b / d c, one way round, and a far row of nodes behind b."""
    from mechprobe.worlds import StreetMap

    lines = ["a,E,b", "b,S,c", "c,W,d", "d,N,a", "b,E,e", "e,E,f", "f,E,g", "g,E,h", "h,W,g"]
    path = tmp_path_factory.mktemp("square") / "square.csv"
    path.write_text("\n".join(["node,direction,neighbor", *lines]) + "\n")
    places = {"a": (0.0, 1.0), "b": (1.0, 1.0), "c": (1.0, 0.0), "d": (0.0, 0.0)}
    places |= {node: (i + 2.0, 1.0) for i, node in enumerate("efgh")}
    return StreetMap.from_edges(path, coordinates=places, max_length=20)


def rebuilt(world: Any, walks: list[Any], **options: Any) -> Any:
    from mechprobe.worlds.streets.reconstruct import reconstruct_map

    return reconstruct_map(world, walks, progress=False, **options)


def streets(result: Any) -> set[tuple[str, str, str, str]]:
    frame = result.to_dataframe()
    columns = ("source", "direction", "target", "street_kind")
    return set(zip(*(frame[c] for c in columns), strict=True))


def test_true_walks_need_no_invention(world: Any) -> None:
    walks = world.random_walks(60, np.random.default_rng(0))
    found = rebuilt(world, walks, seed=5)
    walked = set()
    for walk in walks:
        node = int(walk[0]) - world.first_node
        for way in walk[2:-1].tolist():
            walked.add((node, way - 1))
            node = int(world.table[node, way - 1])
    data = found.data
    assert int(data["n_true_used"]) == len(walked)
    assert (int(data["n_invented"]), int(data["n_failed"])) == (0, 0)
    assert float(data["edge_precision"]) == 1
    assert float(data["edge_recall"]) == pytest.approx(len(walked) / (world.table >= 0).sum())
    assert int(data.sizes["unused"]) == (world.table >= 0).sum() - len(walked)


@pytest.mark.parametrize("degree", [2, 4])
@pytest.mark.parametrize("seed", range(3))
def test_walks_that_do_not_fail_can_be_walked(world: Any, seed: int, degree: int) -> None:
    """Whatever is drawn explains every walk it claims to explain, within its limits."""
    from mechprobe.worlds.streets.layout import near_nodes
    from mechprobe.worlds.streets.reconstruct import corrupted

    walks = world.random_walks(150, np.random.default_rng(seed))
    found = rebuilt(world, corrupted(world, walks, 0.6, seed), degree=degree, radius=2, seed=seed)
    data = found.data
    drawn = np.full_like(world.table, -1)
    way = [world.directions.index(d) for d in data["direction"].values]
    drawn[data["source"].values, way] = data["target"].values
    assert ((drawn >= 0).sum(axis=1) <= degree).all()
    near = near_nodes(world, 2, "hops")
    for u, v, kind in zip(*(data[k].values for k in ("source", "target", "street_kind")),
                          strict=True):  # fmt: skip
        assert kind == "true" or v in near[u]
    arrived = 0
    for walk in corrupted(world, walks, 0.6, seed):
        node = int(walk[0]) - world.first_node
        for step in walk[2:-1].tolist():
            node = int(drawn[node, step - 1]) if node >= 0 else -1
        arrived += node == int(walk[1]) - world.first_node
    assert arrived >= len(walks) - int(data["n_failed"])
    real = (drawn >= 0) & (drawn == world.table)
    assert int(data["n_true_used"]) == real.sum()
    assert int(data["n_invented"]) == (drawn >= 0).sum() - real.sum()
    assert int(data["n_invented"]) > 0


def test_a_street_is_invented_by_hand(square: Any) -> None:
    found = rebuilt(square, [square.encode("a d S end")], radius=2)
    assert streets(found) == {("a", "S", "d", "invented")}
    # The longest way on is over c (then W, N are true streets), not over a or b.
    found = rebuilt(square, [square.encode("a a S W N end")], radius=2)
    assert ("a", "S", "c", "invented") in streets(found)
    assert streets(found) == {
        ("a", "S", "c", "invented"), ("c", "W", "d", "true"), ("d", "N", "a", "true"),
    }  # fmt: skip
    assert int(found.data["n_valid"]) == 0


def test_the_last_street_goes_straight_to_the_destination(square: Any) -> None:
    assert streets(rebuilt(square, [square.encode("a c E end")])) == {("a", "E", "c", "invented")}, (
        "the true street would not arrive"
    )
    far = rebuilt(square, [square.encode("a h S end")], radius=2)
    assert int(far.data["n_failed"]) == 1
    assert streets(rebuilt(square, [square.encode("a h S end")], radius=5)) == {("a", "S", "h", "invented")}


def test_failed_walks_are_taken_back(square: Any) -> None:
    walk = square.encode("a h E S W S end")
    undone = rebuilt(square, [walk], radius=2)
    assert int(undone.data["n_failed"]) == 1
    assert streets(undone) == set()
    assert np.isnan(float(undone.data["edge_precision"]))
    kept = rebuilt(square, [walk], radius=2, keep_failed=True)
    assert int(kept.data["n_failed"]) == 1
    assert ("a", "E", "b", "true") in streets(kept)
    assert undone.data["reason"].values.tolist() == ["no street within the limits explains it"]


def test_a_street_in_use_stays(square: Any) -> None:
    walks = [square.encode("a c E end"), square.encode("a b E end")]
    found = rebuilt(square, walks, seed=None)
    assert streets(found) == {("a", "E", "c", "invented")}, "the second has no E left"
    assert int(found.data["n_failed"]) == 1
    other = rebuilt(square, walks[::-1], seed=None)
    assert streets(other) == {("a", "E", "b", "true")}


def test_degree_limits_streets(square: Any) -> None:
    walks = [square.encode("b c S end"), square.encode("b e E end")]
    assert int(rebuilt(square, walks, degree=1, seed=None).data["n_failed"]) == 1
    assert int(rebuilt(square, walks, degree=2).data["n_failed"]) == 0


def test_walks_that_are_none(square: Any) -> None:
    walks = ["a", "a E", "a b E", "a b E d end", "a b end", "a a end", "a b E end end"]
    found = rebuilt(square, [square.encode(w) for w in walks], seed=None)
    counts = dict(zip(found.data["reason"].values, found.data["n_failed_for"].values.tolist(), strict=True))
    assert counts == {
        "does not begin with two nodes": 2,
        "does not say where it ends": 1,
        "holds a word that is no direction": 1,
        "no street within the limits explains it": 1,
    }
    assert int(found.data["n_valid"]) == 2


def test_distances(square: Any) -> None:
    from mechprobe.worlds import StreetMap
    from mechprobe.worlds.streets.layout import _miles_from, near_nodes

    a, c, h = (square.node(n) for n in "ach")
    hops = near_nodes(square, 2, "hops")
    assert hops[a].tolist() == [square.node(n) for n in "abcde"]
    units = near_nodes(square, 1.5, "units")
    assert c in units[a]
    assert h not in units[a]
    # A degree of latitude, and one of longitude halfway to the pole.
    degrees = np.array([[0.0, 60.0], [0.0, 61.0], [1.0, 60.0]])
    miles = _miles_from(degrees, 0)
    assert miles[0] == 0
    assert miles[1] == pytest.approx(69.09, abs=0.02)
    assert miles[2] == pytest.approx(69.09 / 2, abs=0.02)
    plain = StreetMap.grid(3, max_length=20)
    plain.coordinates = None
    with pytest.raises(ValueError, match=r"has no coordinates, so no miles between its nodes"):
        near_nodes(plain, 1, "miles")
    plain.coordinates = np.full((9, 2), 500.0)
    with pytest.raises(ValueError, match=r"no longitude and latitude; use measure='units'"):
        near_nodes(plain, 1, "miles")


@pytest.mark.usefixtures("as_users_run_it")
def test_unknown_measure(square: Any) -> None:
    walks = [square.encode("a b E end")]
    with pytest.raises(ValueError, match=r"measure must be 'hops', 'miles' or 'units'; got 'km'"):
        rebuilt(square, walks, measure="km")


def test_layout_by_directions_is_the_grid() -> None:
    from mechprobe.worlds import StreetMap
    from mechprobe.worlds.streets.layout import layout

    plain = StreetMap.grid(5, longer=0.0, missing=0.0)
    true, plain.coordinates = plain.coordinates, None
    assert true is not None
    places, source = layout(plain)
    assert source == "streets' directions"
    shift = places - places[0] - (true - true[0])
    assert np.abs(shift).max() < 0.01
    plain.directions = ("up", "right", "down", "left")
    springs, source = layout(plain)
    assert source == "springs"
    assert len(np.unique(springs.round(6), axis=0)) == 25


def test_streets_through_streets() -> None:
    from mechprobe.worlds.streets.results import run_through

    places = np.array([[0.0, 0], [2, 2], [0, 2], [2, 0], [1, 1], [3, 0]])
    others = np.array([[2, 3]])
    asked = np.array([[0, 1], [0, 2], [3, 1], [0, 4], [5, 1]])
    assert run_through(places, asked, others).tolist() == [True, False, False, False, False]


def test_corrupted(world: Any) -> None:
    from mechprobe.worlds.streets.reconstruct import corrupted

    walks = world.random_walks(200, np.random.default_rng(0))
    noisy = corrupted(world, walks, 0.2, seed=1)
    changed = [(a != b).sum() for a, b in zip(walks, noisy, strict=True)]
    assert sorted(changed) == [0] * 160 + [1] * 40
    for a, b in zip(walks, noisy, strict=True):
        at = np.flatnonzero(a != b)
        assert ((at >= 2) & (at < len(a) - 1)).all()
        assert ((b[at] >= 1) & (b[at] < world.first_node)).all()
    again, other = corrupted(world, walks, 0.2, seed=1), corrupted(world, walks, 0.2, seed=2)
    assert all((a == b).all() for a, b in zip(noisy, again, strict=True))
    assert any((a != b).any() for a, b in zip(noisy, other, strict=True))
    with pytest.raises(ValueError, match=r"share=1.2 must lie in 0..1"):
        corrupted(world, walks, 1.2)


def test_bad_input(world: Any) -> None:
    walks = world.random_walks(2, np.random.default_rng(0))
    with pytest.raises(ValueError, match=r"no walks to judge"):
        rebuilt(world, [])
    with pytest.raises(ValueError, match=r"degree must be at least 1 and radius above 0"):
        rebuilt(world, walks, degree=0)
    with pytest.raises(ValueError, match=r"there is no figure 'bars' of a map"):
        rebuilt(world, walks).plot("bars")


def test_saved_and_drawn(square: Any, tmp_path: Path) -> None:
    from mechprobe import load_result

    found = rebuilt(square, [square.encode("a a S W N end")], name="by hand")
    again = load_result(found.save(tmp_path / "map.nc"))
    assert again.data.identical(found.data)
    figure: Any = again.plot()
    names = [trace.name for trace in figure.data if trace.name]
    assert names == [
        "true, not walked (7)", "true (2)", "invented (1)", "invented, through other streets (0)",
    ]  # fmt: skip
    assert "by hand" in figure.layout.title.subtitle.text


@pytest.mark.parametrize("name", list(MANHATTAN))
def test_manhattan(data_folder: Path, name: str) -> None:
    """The published code, on these 1,000 walks, failures kept: 158/232/225, 544/919/850."""
    from mechprobe.worlds import StreetMap, read_sequences
    from mechprobe.worlds.streets.reconstruct import corrupted, reconstruct_map
    from mechprobe.worlds.streets.traversals import valid_traversals

    folder = data_folder / "manhattan"
    manhattan = StreetMap.from_edges(folder / f"{name}_edges.csv")
    every = read_sequences(folder / f"{name}_model_samples.txt.gz", manhattan)
    every = [walk for walk in every if (walk == 0).any()]
    walks = [every[i] for i in np.random.RandomState(0).permutation(len(every))[:1000]]

    def counts(**options: Any) -> Any:
        return reconstruct_map(manhattan, walks, seed=None, progress=False, **options).data

    valid, failed, invented, failed_kept, invented_kept = MANHATTAN[name]
    undone, kept = counts(), counts(keep_failed=True)
    for data, expected in ((undone, (failed, invented)), (kept, (failed_kept, invented_kept))):
        assert int(data["n_valid"]) == valid
        assert (int(data["n_failed"]), int(data["n_invented"])) == expected
    if name == "random_walks":
        assert float(kept["edge_precision"]) == pytest.approx(0.915, abs=0.01)
        assert float(kept["edge_recall"]) == pytest.approx(0.943, abs=0.001)
        ok = valid_traversals(manhattan, walks).ok
        walks = [walk for walk, good in zip(walks, ok, strict=True) if good]
        clean = counts()
        assert int(clean["n_true_used"]) == 9049, "exactly as the published code"
        assert int(clean["n_invented"]) == 0
        walks = corrupted(manhattan, walks, 0.2)
        control = counts()
        assert int(control["n_failed"]) < failed / 10, "slips fit a map, the model's walks do not"
        assert int(kept["n_invented"]) > 3 * int(control["n_invented"])
