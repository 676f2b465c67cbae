"""What holds for every world, whatever it is a world of."""

import gzip
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

MAKERS: dict[str, Callable[[Any], Any]] = {
    "grid": lambda w: w.StreetMap.grid(4, seed=1, max_length=40),
    "othello 6": lambda w: w.Othello(6, pool=60),
    "seating 3": lambda w: w.Seating(3),
    "connect4": lambda w: w.CumulativeConnect4(2),
    "dyck": lambda w: w.Dyck(2, 3),
    "dyck end": lambda w: w.Dyck(1, 3, end="end"),
    "counter": lambda w: w.Counter(4),
    "group": lambda w: w.Group("S3", generators="two"),
    "automaton": lambda w: w.Automaton({"p": {"a": "q"}, "q": {"b": "p", "c": "r"}, "r": {"a": "r"}}),
    "automaton end": lambda w: w.Automaton(
        {"p": {"a": "q"}, "q": {"b": "p", "a": "q"}}, finals=["q"], end="end"
    ),
}


@pytest.fixture(scope="module", params=MAKERS)
def world(request: pytest.FixtureRequest) -> Any:
    from mechprobe import worlds

    return MAKERS[request.param](worlds)


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(3)


def walked(world: Any, rng: np.random.Generator, n: int = 40) -> np.ndarray:
    """States along random walks: initial, in between, and at the end."""
    from mechprobe.worlds import pad

    ids = pad(world.random_walks(n, rng))
    ids[np.arange(ids.shape[1]) >= rng.integers(0, ids.shape[1] + 1, n)[:, None]] = -1
    return world.run(world.initial(n), ids)


def test_is_a_world(world: Any) -> None:
    from mechprobe.worlds import World

    assert isinstance(world, World)
    assert world.name in repr(world)
    assert world.summary()["tokens"] == len(world.tokens)


def test_legal_is_where_step_does_not_reject(world: Any, rng: np.random.Generator) -> None:
    states = np.concatenate([walked(world, rng), np.full_like(world.initial(2), -1)])
    legal = world.legal(states)
    assert legal.any()
    assert not legal[-2:].any()
    for token in range(len(world.tokens)):
        after = world.step(states, np.full(len(states), token))
        assert after.dtype == np.int64
        assert after.shape == states.shape
        np.testing.assert_array_equal(after[:, 0] >= 0, legal[:, token])
        assert (after[~legal[:, token]] == -1).all()
    rows, tokens = world.moves(states)
    np.testing.assert_array_equal(np.stack([rows, tokens]), np.nonzero(legal))


def test_reject_is_absorbing(world: Any) -> None:
    rejected = np.full_like(world.initial(len(world.tokens)), -1)
    assert (world.step(rejected, np.arange(len(world.tokens))) == -1).all()


def test_stepping_leaves_its_input_alone(world: Any, rng: np.random.Generator) -> None:
    states = walked(world, rng)
    before = states.copy()
    world.step(states, rng.integers(len(world.tokens), size=len(states)))
    world.run(states, rng.integers(len(world.tokens), size=(len(states), 3)))
    np.testing.assert_array_equal(states, before)


def test_accepts_equals_stepping(world: Any, rng: np.random.Generator) -> None:
    states = walked(world, rng, 60)
    suffixes = rng.integers(len(world.tokens), size=(60, 3))
    rows, tokens = world.moves(states)
    suffixes[rows, 0] = tokens  # so that not all are rejected at once
    suffixes[::3, 2] = -1
    found = world.accepts(states, suffixes)
    for state, suffix, verdict in zip(states, suffixes, found, strict=True):
        at, ok = state[None], True
        for token in suffix[suffix >= 0]:
            ok = ok and bool(world.legal(at)[0, token])
            at = world.step(at, np.array([token]))
        assert verdict == ok
    assert world.accepts(states, np.full((60, 0), -1, dtype=np.int64)).all()


def test_trace_is_running_every_beginning(world: Any, rng: np.random.Generator) -> None:
    from mechprobe.worlds import pad

    ids = pad(world.random_walks(8, rng, length=6))
    ids[0, 3] = rng.integers(len(world.tokens))
    found = world.trace(world.initial(8), ids)
    assert found.shape == (8, ids.shape[1] + 1, world.initial().shape[1])
    for i in range(ids.shape[1] + 1):
        np.testing.assert_array_equal(found[:, i], world.run(world.initial(8), ids[:, :i]))


@pytest.mark.parametrize("published", [False, True])
def test_prefixes_reach_their_states(world: Any, rng: np.random.Generator, published: bool) -> None:
    states = world.sample_states(rng, 60, published=published)
    assert world.legal(states).any(axis=1).all()
    first = world.sample_prefixes(states, rng, published=published)
    assert first.ok.all()
    assert (first.lengths > 0).all()
    assert (first.lengths < world.max_length).all()
    np.testing.assert_array_equal(world.run(world.initial(60), first.ids), states)
    again = world.sample_prefixes(states, rng, first.lengths, published=published)
    assert again.ok.all()
    np.testing.assert_array_equal(again.lengths, first.lengths)
    np.testing.assert_array_equal(world.run(world.initial(60), again.ids), states)
    assert [len(again[i]) for i in range(60)] == again.lengths.tolist()
    assert (first.ids != again.ids).any(), "drawn, not looked up"


def test_failures_are_said(world: Any, rng: np.random.Generator) -> None:
    states = np.concatenate([world.sample_states(rng, 2), np.full_like(world.initial(), -1)])
    lengths = np.array([world.max_length + 1, 1000, 3])
    found = world.sample_prefixes(states, rng, lengths)
    assert not found.ok.any()
    assert sum(found.failures().values()) == 3
    assert found.lengths.tolist() == [0, 0, 0]


def test_pairs_differ(world: Any, rng: np.random.Generator) -> None:
    first, second = world.sample_state_pairs(rng, 50)
    assert first.shape == second.shape == (50, world.initial().shape[1])
    assert (first != second).any(axis=1).all()


def test_seeds_repeat(world: Any) -> None:
    def draw(seed: int) -> list[Any]:
        rng = np.random.default_rng(seed)
        states = world.sample_states(rng, 20)
        prefixes = world.sample_prefixes(states, rng)
        walks = [walk.tolist() for walk in world.random_walks(5, rng)]
        return [states.tolist(), prefixes.ids.tolist(), walks]

    assert draw(1) == draw(1)
    assert draw(1) != draw(2)


def test_walks_are_legal(world: Any, rng: np.random.Generator) -> None:
    from mechprobe.worlds import first_illegal

    walks = world.random_walks(30, rng)
    assert len(walks) == 30
    assert (first_illegal(world, walks) == -1).all()
    assert max(map(len, walks)) <= world.max_length
    assert max(map(len, world.random_walks(30, rng, length=4))) == 4


def test_words_and_ids_round_trip(world: Any, rng: np.random.Generator) -> None:
    for walk in world.random_walks(5, rng):
        words = world.decode(walk)
        np.testing.assert_array_equal(world.encode(words), walk)
        np.testing.assert_array_equal(world.encode(" ".join(words)), walk)
    assert world.decode(np.array([0, -1])) == [world.tokens[0]]
    with pytest.raises(ValueError, match=r"word 2, 'nowhere', is no token of"):
        world.encode(f"{world.tokens[0]} nowhere")


def test_labels_belong_to_states(world: Any, rng: np.random.Generator) -> None:
    states = world.sample_states(rng, 30)
    labels = world.state_labels(states)
    assert labels
    for values in labels.values():
        assert len(values) == 30
        assert np.issubdtype(values.dtype, np.integer)
    alone = world.state_labels(states[:1])
    assert all((alone[key][0] == values[0]).all() for key, values in labels.items())


def test_sequences_are_read(world: Any, rng: np.random.Generator, tmp_path: Path) -> None:
    from mechprobe.worlds import read_sequences

    walks = world.random_walks(4, rng)
    text = "\n".join(" ".join(world.decode(walk)) for walk in walks) + "\n"
    (tmp_path / "walks.txt").write_text(text)
    (tmp_path / "walks.txt.gz").write_bytes(gzip.compress(text.encode()))
    for name in ("walks.txt", "walks.txt.gz"):
        found = read_sequences(tmp_path / name, world, legal=True)
        assert [walk.tolist() for walk in found] == [walk.tolist() for walk in walks]
    assert read_sequences(tmp_path / "walks.txt") == [world.decode(walk) for walk in walks]


def test_reading_names_line_and_word(tmp_path: Path) -> None:
    from mechprobe.worlds import Dyck, read_sequences

    path = tmp_path / "walks.txt"
    path.write_text("( )\n\n( up )\n")
    with pytest.raises(ValueError, match=r"walks\.txt, line 3: 'up' is no token of dyck"):
        read_sequences(path, Dyck(1, 2))
    path.write_text("( )\n( ) )\n")
    assert len(read_sequences(path, Dyck(1, 2))) == 2
    with pytest.raises(ValueError, match=r"line 2: word 3, '\)', is not legal there; .* allows \("):
        read_sequences(path, Dyck(1, 2), legal=True)
    path.write_text("\n \n")
    with pytest.raises(ValueError, match=r"walks\.txt holds no sequence"):
        read_sequences(path)


def test_first_illegal_word() -> None:
    from mechprobe.worlds import Dyck, first_illegal

    world = Dyck(2, 2)
    walks = [world.encode(text) for text in ("( [ ] )", "( ]", ")", "( ( (", "( [ ] ) ) (")]
    assert first_illegal(world, walks).tolist() == [-1, 1, 0, 2, 4]


def test_a_world_needs_little() -> None:
    """A world of one's own gives four methods and has all others."""
    from mechprobe.worlds import Prefixes, World, boundary

    class Countdown(World):
        """``tick`` is legal while something is left."""

        def initial(self, n: int = 1) -> np.ndarray:
            return np.full((n, 1), 3, dtype=np.int64)

        def step(self, states: np.ndarray, tokens: np.ndarray) -> np.ndarray:
            del tokens
            return np.maximum(states - 1, -1)

        def sample_states(self, rng: np.random.Generator, n: int, *, published: bool = False) -> np.ndarray:
            del published
            return rng.integers(1, 3, (n, 1))

        def sample_prefixes(self, states: np.ndarray, *_: Any, **__: Any) -> Prefixes:
            lengths = 3 - states[:, 0]
            return Prefixes(np.zeros((len(states), 3), dtype=np.int64), lengths, ("",) * len(states))

    world = Countdown("countdown", ["tick"], max_length=5)
    assert isinstance(world, World)
    assert [len(walk) for walk in world.random_walks(2, np.random.default_rng(0))] == [3, 3]
    two, one = np.array([[2]]), np.array([[1]])
    assert boundary(world, two, one, 4).strings.tolist() == [[0, 0, -1, -1]]
    with pytest.raises(ValueError, match=r"max_length must be at least 2"):
        Countdown("countdown", ["tick"], max_length=1)
    no_words: list[str] = []
    for words, message in [
        (no_words, "has no tokens"),
        (["a b"], "'a b' cannot be a token"),
        (["a", "a"], "'a' would stand for two tokens"),
    ]:
        with pytest.raises(ValueError, match=message):
            Countdown("countdown", words)


def test_digest_tells_worlds_apart() -> None:
    from mechprobe import worlds

    first = {key: make(worlds).digest() for key, make in MAKERS.items()}
    assert first == {key: make(worlds).digest() for key, make in MAKERS.items()}
    others = [
        worlds.StreetMap.grid(4, seed=2, max_length=40).digest(),
        worlds.Othello(6, pool=61).digest(),
        worlds.Automaton({"p": {"a": "q"}, "q": {"b": "p", "c": "p"}}).digest(),
        worlds.Automaton({"p": {"a": "q"}, "q": {"b": "p", "c": "q"}}).digest(),
    ]
    assert len({*first.values(), *others}) == len(first) + len(others)
    a, b = ({"p": {"x": "q"}, "q": {"y": "p"}} for _ in range(2))
    assert worlds.Automaton(a, name="a").digest() == worlds.Automaton(b, name="b").digest()


def test_worlds_load_no_model_library() -> None:
    code = (
        "import sys, mechprobe.worlds as w; w.StreetMap.grid(3); w.Seating(3);"
        "print([m for m in ('torch', 'transformer_lens', 'networkx', 'scipy') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
