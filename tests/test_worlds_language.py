"""Suffix languages: the product search against listing every string."""

import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

Strings = set[tuple[int, ...]]

SMALL: dict[str, Callable[[Any], Any]] = {
    "grid": lambda w: w.StreetMap.grid(3, seed=2, max_length=20),
    "sinks": lambda w: w.Automaton(
        {"p": {"a": "q", "b": "p"}, "q": {"a": "p", "c": "r"}, "r": {}, "s": {"a": "r"}}
    ),
    "seating": lambda w: w.Seating(3),
    "connect4": lambda w: w.CumulativeConnect4(2),
    "dyck": lambda w: w.Dyck(2, 3),
    "dyck end": lambda w: w.Dyck(1, 4, end="end"),
    "group": lambda w: w.Group("S3", generators="two"),
    "othello": lambda w: w.Othello(6, pool=40),
}


@pytest.fixture(scope="module", params=SMALL)
def world(request: pytest.FixtureRequest) -> Any:
    from mechprobe import worlds

    return SMALL[request.param](worlds)


def legal_strings(world: Any, state: np.ndarray, k: int, without: int | None = None) -> Strings:
    """All strings of 1 to k words that are legal from a state, one word at a time."""
    out: Strings = set()
    level: list[tuple[tuple[int, ...], np.ndarray]] = [((), state)]
    for _ in range(k):
        longer: list[tuple[tuple[int, ...], np.ndarray]] = []
        for string, at in level:
            tokens = np.flatnonzero(world.legal(at[None])[0]).tolist()
            longer += [
                ((*string, token), world.step(at[None], np.array([token]))[0])
                for token in tokens
                if token != without
            ]
        out |= {string for string, _ in longer}
        level = longer
    return out


def listed_boundary(world: Any, one: np.ndarray, other: np.ndarray, k: int) -> Strings:
    """The definition, literally."""
    ours, theirs = legal_strings(world, one, k), legal_strings(world, other, k)
    both = ours & theirs
    return {s for s in ours - theirs if all(s[:i] in both for i in range(1, len(s)))}


def published_boundary(world: Any, one: np.ndarray, other: np.ndarray, k: int) -> Strings:
    """Strings of exactly k words without ``end``, cut where the second state first refuses."""
    ours = {s for s in legal_strings(world, one, k, world.end) if len(s) == k}
    theirs = legal_strings(world, other, k, world.end)
    cut = (next((s[:i] for i in range(1, k + 1) if s[:i] not in theirs), None) for s in ours)
    return {s for s in cut if s is not None}


def as_sets(found: Any) -> list[Strings]:
    strings = [[tuple(s.tolist()) for s in found.of(i)] for i in range(found.n_pairs)]
    assert all(len(set(rows)) == len(rows) for rows in strings), "a string is listed once"
    return [set(rows) for rows in strings]


@pytest.mark.parametrize("k", [1, 2, 3, 4])
def test_boundary_equals_listing_all_strings(world: Any, k: int) -> None:
    from mechprobe.worlds import boundary, boundary_sizes

    n = 4 if k == 4 else 12
    first, second = world.sample_state_pairs(np.random.default_rng(k), n)
    first[0] = second[0]  # equal states have an empty boundary
    found = boundary(world, first, second, k)
    expected = [listed_boundary(world, a, b, k) for a, b in zip(first, second, strict=True)]
    assert as_sets(found) == expected
    assert expected[0] == set()
    assert found.sizes.tolist() == [len(strings) for strings in expected]
    assert (np.diff(found.pair) >= 0).all()
    sizes = boundary_sizes(world, first, second, k)
    for row, strings in zip(sizes, expected, strict=True):
        assert row.tolist() == [sum(len(s) == i for s in strings) for i in range(1, k + 1)]


@pytest.mark.parametrize("k", [1, 3])
def test_published_boundary_equals_its_listing(world: Any, k: int) -> None:
    from mechprobe.worlds import boundary, boundary_sizes

    first, second = world.sample_state_pairs(np.random.default_rng(k), 12)
    found = boundary(world, first, second, k, published=True)
    expected = [published_boundary(world, a, b, k) for a, b in zip(first, second, strict=True)]
    assert as_sets(found) == expected
    sizes = boundary_sizes(world, first, second, k, published=True)
    assert sizes.sum(axis=1).tolist() == [len(strings) for strings in expected]


def test_published_boundaries_are_others() -> None:
    """``end`` is never in them, nor what cannot be continued to k words."""
    from mechprobe.worlds import Automaton, StreetMap, boundary

    world = StreetMap.grid(3, seed=0)
    here, there = world.state("0", "0"), world.state("0", "8")
    assert world.decode(boundary(world, here, there, 1).strings[0]) == ["end"]
    assert len(boundary(world, here, there, 1, published=True)) == 0
    rows = {"p": {"a": "end of the road", "b": "p"}, "q": {"b": "q"}, "end of the road": {}}
    dead_end = Automaton({"first": {"p": "p", "q": "q"}, **rows})
    pair = dead_end.state("p"), dead_end.state("q")
    assert boundary(dead_end, *pair, 2).lengths.tolist() == [1, 2]
    assert boundary(dead_end, *pair, 2, published=True).lengths.tolist() == [2]


def test_boundary_of_three_states_by_hand() -> None:
    from mechprobe.worlds import Automaton, boundary, distinguishing_length

    world = Automaton(
        {"idle": {"start": "run"}, "run": {"stop": "idle", "fail": "broken"}, "broken": {"stop": "idle"}}
    )

    def strings(one: str, other: str) -> list[str]:
        found = boundary(world, world.state(one), world.state(other), 3)
        return [" ".join(world.decode(s)) for s in found.of(0)]

    assert strings("run", "broken") == ["fail"]
    assert strings("broken", "run") == []
    assert strings("idle", "run") == ["start"]
    assert distinguishing_length(world, world.state("broken"), world.state("run")).tolist() == [1]


def test_connect4_interior_is_huge_and_counted() -> None:
    """With one column full, boundaries are the strings that first reach for it: 6^(l-1)."""
    from mechprobe.worlds import CumulativeConnect4, boundary_sizes

    world = CumulativeConnect4(30)
    full = world.initial()
    full[0, 6] = 30
    found = boundary_sizes(world, world.initial(), full, 10)
    assert found.tolist() == [[6**i for i in range(10)]]


@pytest.mark.parametrize("depth", [2, 5, 9])
def test_distinguishing_length_of_stacks(depth: int) -> None:
    """Depth 0 and depth d of one bracket are told apart by the first bracket too many."""
    from mechprobe.worlds import Dyck, distinguishing_length

    world = Dyck(1, 10)
    one = np.array([[depth]])
    other = np.array([[depth - 1]])
    found = distinguishing_length(world, one, other, 30)
    assert found.tolist() == [min(depth, 11 - depth)]
    assert distinguishing_length(world, one, one, 30).tolist() == [-1]
    assert distinguishing_length(world, other, one, 30).tolist() == found.tolist()


def test_distinguishing_length_agrees_with_boundaries(world: Any) -> None:
    from mechprobe.worlds import boundary, distinguishing_length

    first, second = world.sample_state_pairs(np.random.default_rng(0), 30)
    found = distinguishing_length(world, first, second, 3)
    there, back = boundary(world, first, second, 3), boundary(world, second, first, 3)
    for i, length in enumerate(found.tolist()):
        lengths = list(map(len, itertools.chain(there.of(i), back.of(i))))
        assert length == min(lengths, default=-1)


def test_states_that_have_met_are_not_followed() -> None:
    from mechprobe.worlds import CumulativeConnect4, boundary

    world = CumulativeConnect4(4)
    assert len(boundary(world, world.initial(), world.initial(), 8, limit=10)) == 0


def test_refusals() -> None:
    from mechprobe.worlds import CumulativeConnect4, boundary, boundary_sizes

    world = CumulativeConnect4(4)
    rng = np.random.default_rng(0)
    first, second = world.sample_state_pairs(rng, 4)
    with pytest.raises(ValueError, match=r"at most 0 words .* k must be at least 1"):
        boundary(world, first, second, 0)
    with pytest.raises(ValueError, match=r"found 4 and 3"):
        boundary_sizes(world, first, second[:3], 2)
    with pytest.raises(ValueError, match=r"a rejected state has no suffixes"):
        boundary(world, first, np.full_like(first, -1), 2)
    with pytest.raises(ValueError, match=r"more than limit=100; take a smaller k"):
        boundary(world, first, second, 6, limit=100)
