"""Detours: drivers whose success is known, draws that do not depend on batches, and a reference."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

P = (0.0, 0.1, 0.5, 1.0)


@pytest.fixture(scope="module")
def world() -> Any:
    from mechprobe.worlds import StreetMap

    return StreetMap.grid(4, seed=2, max_length=30)


def driven(model: Any, world: Any, **options: Any) -> Any:
    from mechprobe.worlds.streets.detours import detours

    asked: dict[str, Any] = {"p": P, "progress": False, **options}
    return detours(model, world, **asked)


def by_words(world: Any, score: Callable[[Any], Any]) -> Any:
    """A model that scores every word from the state that the words lead to."""
    from mechprobe.worlds.predictors.callables import callable_model

    def fn(ids: Any) -> Any:
        scores = score(world.run(world.initial(len(ids)), ids))
        return scores - np.log(np.exp(scores).sum(axis=1, keepdims=True))

    return callable_model(fn, world, name="by words")


@pytest.mark.parametrize("kind", ["random_valid", "least_likely", "second_most_likely"])
def test_who_knows_the_map_always_arrives(world: Any, kind: Any) -> None:
    """Forced turns leave just room enough for the shortest way that is left."""
    from mechprobe.worlds.streets.detours import Navigator

    data = driven(Navigator(world), world, kind=kind, n=80).data
    np.testing.assert_array_equal(data["success"].values, np.ones(4))
    np.testing.assert_array_equal(data["navigator"].values, np.ones(4))
    assert (np.diff(data["n_detours"].values) > 0).all()
    assert float(data["n_detours"][0]) == 0
    assert (data["success_low"].values > 0.9).all()
    np.testing.assert_allclose(data["outcome_share"].sum("outcome").values, 1)


def test_outcomes_by_hand(world: Any) -> None:
    """One who always ends, one who always turns north, and one who goes to and fro."""
    n = len(world.tokens)

    def always(word: str) -> Any:
        words = 8.0 * (np.arange(n) == world._index[word])

        def score(states: Any) -> Any:
            return np.tile(words, (len(states), 1))

        return by_words(world, score)

    def legal_turn(states: Any) -> Any:
        turns = world.legal(states)
        turns[:, 0] = False
        return 9.0 * turns

    names = ["arrived", "illegal turn", "ended elsewhere", "not within the length"]
    for model, expected in (
        (always("end"), "ended elsewhere"),
        (always("N"), "illegal turn"),
        (by_words(world, legal_turn), "not within the length"),
    ):
        data = driven(model, world, p=(0,), n=30).data
        assert data["outcome"].values.tolist() == names
        assert float(data["outcome_share"].sel(outcome=expected)[0]) == 1
        assert float(data["success"][0]) == 0


def test_forced_turns_by_hand() -> None:
    """At a crossing with three legal turns, every kind forces the one it should."""
    from mechprobe.worlds import StreetMap
    from mechprobe.worlds.streets.detours import _forced

    world = StreetMap.grid(3, longer=0.0, missing=0.0, max_length=30)
    states = np.repeat(world.state("3", "5"), 3, axis=0)  # west side: N, E, S
    words = np.full((3, len(world.tokens)), -9.0, dtype=np.float32)
    for word, value in (("N", -3.0), ("E", -1.0), ("S", -2.0), ("W", -0.5)):
        words[:, world._index[word]] = value
    east = np.full(3, world._index["E"])

    def forced(kind: str, draw: list[float], position: int = 2, said: Any = east) -> list[str]:
        found = _forced(world, states, words, said, np.array(draw), position, kind)
        return [world.tokens[i] if i >= 0 else "" for i in found.tolist()]

    draw = [0.0, 0.49, 0.51]
    assert forced("random_valid", draw) == ["N", "N", "S"], "not its own, and W is no street here"
    assert forced("least_likely", draw) == ["N"] * 3
    assert forced("second_most_likely", draw) == ["S"] * 3
    # With words for the turn, two more turns and ``end``, only the straight way is left.
    assert forced("random_valid", draw, position=27) == ["E"] * 3
    assert forced("random_valid", draw, position=28) == [""] * 3
    assert forced("random_valid", draw, position=27, said=np.zeros(3, np.int64)) == ["E"] * 3
    words[:] = -np.inf
    assert set(forced("second_most_likely", draw)) <= {"N", "S"}
    assert set(forced("least_likely", draw)) <= {"N", "E", "S"}


def test_batches_do_not_matter(world: Any) -> None:
    def towards_the_east(states: Any) -> Any:
        return 4.0 * world.legal(states) + np.linspace(0, 1, len(world.tokens))

    model = by_words(world, towards_the_east)
    one = driven(model, world, n=40, seed=3)
    other = driven(model, world, n=40, seed=3, batch=7)
    assert one.data.identical(other.data)
    assert one.provenance.arguments == {**other.provenance.arguments, "batch": 512}
    assert not one.data.identical(driven(model, world, n=40, seed=4).data)
    alone = driven(model, world, n=40, seed=3, p=(0.5,))
    assert float(alone.data["success"][0]) == float(one.data["success"][2])


def test_success_is_what_the_words_say(world: Any) -> None:
    """A driver who errs at one crossing fails exactly on the trips that come to it."""
    from mechprobe.worlds.streets.detours import Navigator

    bad = 5
    navigator = Navigator(world)

    class Lost:
        name = "lost"

        def start(self, prefixes: Any) -> Any:
            cursor = navigator.start(prefixes)

            class At:
                @property
                def log_probs(self) -> Any:
                    out = cursor.log_probs.copy()
                    here = cursor._states[:, 1] == bad
                    out[here] = -np.inf
                    out[here, 0] = 0.0
                    return out

                def advance(self, rows: Any, tokens: Any) -> None:
                    cursor.advance(rows, tokens)

            return At()

    trips = world.sample_states(np.random.default_rng(0), 60, published=True)
    data = driven(Lost(), world, trips=trips, p=(0.0,)).data
    met = 0
    for _, at, goal in trips.tolist():
        while at != goal and at != bad:
            left = [world.distances[v, goal] if v >= 0 else 999 for v in world.table[at].tolist()]
            at = int(world.table[at, int(np.argmin(left))])
        met += at == bad and goal != bad
    assert 0 < met < 60
    assert float(data["success"][0]) == pytest.approx(1 - met / 60)


def test_bad_input(world: Any, tmp_path: Path) -> None:
    from mechprobe.worlds import StreetMap
    from mechprobe.worlds.streets.detours import Navigator

    model = Navigator(world)
    cases: list[tuple[dict[str, Any], str]] = [
        ({"p": (0.5, 1.2)}, r"p must be probabilities in 0\.\.1, at least one; got \[0.5, 1.2\]"),
        ({"p": ()}, r"p must be probabilities"),
        ({"n": 0}, r"n must be at least 1 trip; got 0"),
        ({"batch": 0}, r"batch must be at least 1 row"),
        ({"trips": world.initial(3)}, r"trips must be states of walking, 2, origin, destination"),
    ]
    for options, message in cases:
        with pytest.raises(ValueError, match=message):
            driven(model, world, **options)
    path = tmp_path / "way.csv"
    path.write_text("node,direction,neighbor\na,E,b\nb,E,c\n")
    way = StreetMap.from_edges(path)
    with pytest.raises(ValueError, match=r"trip 0: 'a' cannot be reached from 'c' within 100 words"):
        driven(Navigator(way), way, trips=way.state("c", "a"))


@pytest.mark.usefixtures("as_users_run_it")
def test_unknown_kind(world: Any) -> None:
    from mechprobe.worlds import Dyck
    from mechprobe.worlds.streets.detours import Navigator

    with pytest.raises(ValueError, match=r"there are no detours 'worst'; choose one of random_val"):
        driven(Navigator(world), world, kind="worst")
    with pytest.raises(TypeError, match=r"detours need streets and a destination; Dyck has none"):
        driven(Navigator(world), Dyck(1, 2))
    with pytest.raises(TypeError, match=r"must be a function of ids \[n, length\]; found object"):
        driven(object(), world)


def test_saved_and_drawn(world: Any, tmp_path: Path) -> None:
    from mechprobe import load_result
    from mechprobe.worlds.streets.detours import Navigator

    found = driven(Navigator(world), world, n=5)
    again = load_result(found.save(tmp_path / "d.nc"))
    assert again.data.identical(found.data)
    curve: Any = again.plot()
    assert [t.name for t in curve.data] == ["knows the map", "model"]
    outcomes: Any = again.plot("outcomes")
    bars = outcomes.data
    assert [t.name for t in bars] == found.data["outcome"].values.tolist()
    np.testing.assert_allclose(np.sum([t.y for t in bars], axis=0), 1)
    with pytest.raises(ValueError, match=r"no figure 'pie' of detours; choose 'curve', 'outcomes'"):
        found.plot("pie")


def test_reference(data_folder: Path) -> None:
    """The published code: 1 of 100 trips arrives with random valid detours at p = 0.1."""
    from mechprobe.worlds import StreetMap, read_sequences
    from mechprobe.worlds.predictors.loaded import load_sequence_model

    folder = data_folder / "street_grid_6x6"
    world = StreetMap.from_edges(folder / "edges.csv")
    net = load_sequence_model(folder, world)
    held_out = read_sequences(folder / "heldout_sequences.txt.gz", world)[:300]
    trips = np.array([[2, *(s[:2] - world.first_node)] for s in held_out])
    value = float(driven(net, world, trips=trips, p=(0.1,)).data["success"][0])
    errors = [np.sqrt(p * (1 - p) / n) for p, n in ((0.01, 100), (value, 300))]
    assert abs(value - 0.01) < 3 * np.hypot(*errors)
