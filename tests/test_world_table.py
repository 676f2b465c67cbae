"""The table of the guide: what oracles score in each world, derived without any model."""

import itertools
from collections.abc import Callable
from fractions import Fraction
from typing import Any

import numpy as np
import pytest

K = 3
WORLDS: dict[str, Callable[[Any], Any]] = {
    "streets": lambda w: w.StreetMap.grid(4, seed=1, max_length=40),
    "seating": lambda w: w.Seating(3),
    "dyck": lambda w: w.Dyck(2, 3),
    "connect4": lambda w: w.CumulativeConnect4(1),
}
# World: recall of legal-only (corrected and exact; vafa2024) and of uniform (vafa2024).
TABLE = {
    "streets": (0.308, 0.354, 0.059),
    "seating": (0.050, 0.180, 0.137),
    "dyck": (0.528, 0.503, 0.000),
    "connect4": (0.415, 0.386, 0.140),
}
MODES = ("corrected", "exact", "vafa2024")


@pytest.fixture(scope="module", params=WORLDS)
def named(request: pytest.FixtureRequest) -> tuple[str, Any]:
    from mechprobe import worlds

    return request.param, WORLDS[request.param](worlds)


def asked(name: str, world: Any) -> np.ndarray:
    """All states that a prefix of a word or more reaches, and that allow a word."""
    if name == "streets":
        n = world.n_nodes
        return np.array([[2, i, j] for i in range(n) for j in range(n)])
    if name == "connect4":
        boards = itertools.product(range(2), repeat=7)
        return np.array([board for board in boards if 0 < sum(board) < 7])
    entered = np.isin(np.arange(world.n_states), world.table)
    return np.flatnonzero(entered & (world.table >= 0).any(axis=1))[:, None]


def drawable(name: str, world: Any, one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Which pairs the published code can draw: unequal, with prefixes of one length."""
    if name == "streets":  # it never tests a state at its destination
        return (one[:, 1] != one[:, 2]) & (other[:, 1] != other[:, 2])
    if name == "connect4":
        return one.sum(axis=1) == other.sum(axis=1)
    reached = np.zeros((world.max_length // 2 + 1, world.n_states), dtype=np.bool_)
    reached[0, world.start] = True
    for before, after in itertools.pairwise(reached):
        to = world.table[before]
        after[to[to >= 0]] = True
    by_length = reached[1:].T
    return np.asarray((by_length[one[:, 0]] & by_length[other[:, 0]]).any(axis=1))


def derived(name: str, world: Any) -> tuple[float, float, float]:
    """Recall as it follows from the lengths of boundary strings, over all pairs of states."""
    from mechprobe.worlds import boundary_sizes

    states = asked(name, world)
    i, j = np.nonzero(~np.eye(len(states), dtype=np.bool_))
    one, other = states[i], states[j]
    sizes = boundary_sizes(world, one, other, K)
    some = sizes.any(axis=1)
    share = sizes[some, 0] / sizes[some].sum(axis=1)
    # A state counts once, however many pairs of it have a boundary.
    legal_only = np.mean([share[i[some] == state].mean() for state in np.unique(i[some])])
    able = drawable(name, world, one, other)
    sizes = boundary_sizes(world, one[able], other[able], K, published=True)
    empty = ~sizes.any(axis=1)
    published = np.where(empty, 1, sizes[:, 0] / np.maximum(sizes.sum(axis=1), 1)).mean()
    return float(legal_only), float(published), float(empty.mean())


def test_the_table_is_what_is_derived(named: tuple[str, Any]) -> None:
    name, world = named
    assert tuple(round(value, 3) for value in derived(name, world)) == TABLE[name]


def test_derived_by_hand() -> None:
    """Where counting needs no program.

    Seating, 18 states: a state's language lies in another's where its orders do. 6 settled states
    lie in 3 pairs of orders and 2 sets of four each, 12 pairs of orders in sets of four: 42 of
    18 * 17 pairs have no boundary.

    Connect-4 with one row, free columns A and B, a = |A & B|: d = |A - B| strings of one word, d a
    of two, d a (a - 1) of three; legal-only has 1 / (1 + a^2) of them. The published code draws
    equally full boards, and knows no string that is not the beginning of one of three words: none
    of boards with one or two free columns, 42 + 420 of 3,304 pairs. A pair of boards with m free
    columns shares a of them in C(7, m) C(m, a) C(7 - m, m - a) ways.

    Brackets of two kinds, three deep: unequal stacks are told apart by closing what is open, or by
    opening more than fits: never without a boundary.
    """
    from math import comb

    assert TABLE["seating"][2] == round(float(Fraction(6 * 5 + 12, 18 * 17)), 3)
    pairs = {m: comb(7, m) * (comb(7, m) - 1) for m in range(1, 7)}
    assert sum(pairs.values()) == 3304
    assert TABLE["connect4"][2] == round((pairs[1] + pairs[2]) / 3304, 3)
    recalled = pairs[1] + pairs[2]
    recalled += sum(
        comb(7, m) * comb(m, a) * comb(7 - m, m - a) / (1 + a**2) for m in range(3, 7) for a in range(m)
    )
    assert TABLE["connect4"][1] == round(recalled / 3304, 3)
    assert TABLE["dyck"][2] == 0


@pytest.mark.parametrize("mode", MODES)
def test_oracles_score_as_derived(named: tuple[str, Any], mode: str) -> None:
    from mechprobe.worlds import evaluate_world_model, true_automaton

    name, world = named
    # The whole tree of accepted strings is wide where most statements are legal.
    n, size = (200, 20) if mode == "exact" else (1000, None)
    out = evaluate_world_model(
        true_automaton(world), world, n, 5, K, mode=mode, seed=1, batch_size=size, progress=False
    ).data
    for metric in ("compression_precision", "distinction_precision", "distinction_recall"):
        assert out[metric].sel(model="given").item() == 1
        assert out[metric].sel(model="automaton").item() == 1
    for model in ("uniform", "legal_only"):
        assert out["compression_precision"].sel(model=model).item() == 1
    precision = out["distinction_precision"]
    assert precision.sel(model="legal_only").item() == 1
    published = mode == "vafa2024"
    uniform = precision.sel(model="uniform").item()
    assert uniform == 1 if published else np.isnan(uniform)
    legal_only, published_legal_only, published_uniform = TABLE[name]
    expected = {
        "uniform": published_uniform if published else 0.0,
        "legal_only": published_legal_only if published else legal_only,
    }
    for model, value in expected.items():
        scores = out["score"].sel(model=model, test="distinction_recall")
        known = scores.values[~np.isnan(scores.values)]
        # Four standard errors of a mean over pairs, and the rounding of the table.
        slack = 4 * known.std() / np.sqrt(len(known)) + 5e-4
        assert abs(out["distinction_recall"].sel(model=model).item() - value) <= slack, model


def test_the_lift_of_the_guide() -> None:
    """Boundaries and scores that the guide works out by hand."""
    from mechprobe.worlds import Automaton, boundary, evaluate_world_model, uniform

    floors = {
        "ground": {"up": "first"},
        "first": {"up": "second", "down": "ground"},
        "second": {"down": "first"},
    }
    lift = Automaton(floors, max_length=20)
    strings = {
        ("ground", "first"): ["up up"],
        ("ground", "second"): ["up"],
        ("first", "ground"): ["down", "up down down"],
        ("first", "second"): ["up", "down up up"],
        ("second", "ground"): ["down"],
        ("second", "first"): ["down down"],
    }
    for (one, other), expected in strings.items():
        found = boundary(lift, lift.state(one), lift.state(other), 3).of(0)
        assert [" ".join(lift.decode(string)) for string in found] == expected
    out = evaluate_world_model(uniform(lift), lift, n=300, k=3, mode="exact", progress=False).data.sel(
        model=["uniform", "legal_only", "automaton"]
    )
    assert out["compression_precision"].values.tolist() == [1, 1, 1]
    assert np.isnan(out["distinction_precision"].values[0])
    assert out["distinction_precision"].values[1:].tolist() == [1, 1]
    assert out["distinction_recall"].values[[0, 2]].tolist() == [0, 1]
    # Half on average: 0 or 1, 1/2 or 1/2, 1 or 0; 300 pairs.
    assert abs(out["distinction_recall"].values[1] - 0.5) < 4 * 0.41 / np.sqrt(300)
    assert out["next_token_validity"].values.tolist() == [0.75, 1, 1]
