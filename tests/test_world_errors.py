"""Errors that are planted: what the noise-matched oracle makes of them, and what no M hides."""

from collections.abc import Callable
from functools import cache
from itertools import combinations
from typing import Any

import numpy as np
import pytest

QUIET: dict[str, Any] = {"progress": False}
WORLDS: dict[str, Callable[[Any], Any]] = {
    "streets": lambda w: w.StreetMap.grid(4, seed=1, max_length=30),
    "dyck": lambda w: w.Dyck(2, 3, end="end", max_length=24),
    "seating": lambda w: w.Seating(3),
    "othello": lambda w: w.Othello(6),
}


def chance(ids: np.ndarray, n_tokens: int) -> np.ndarray:
    """A number in [0, 1) for each word after each sequence: the same whenever it is asked for."""
    rng = np.random.default_rng(3)
    some = rng.uniform(1, 50, (ids.shape[1], 1))
    return np.abs(np.sin((ids + 1) @ some + rng.uniform(1, 50, n_tokens)) * 43758.5453) % 1


def planted(world: Any, refused: float, accepted: float, favour: float = 1.0, first: bool = False) -> Any:
    """A model that knows the world and errs in single words.

    ``first``: its first legal word is never refused and has ``favour`` times the probability of
    others (a little more at least), so that a legal word is always its likeliest.
    """
    from mechprobe.worlds import callable_model

    def model(ids: np.ndarray) -> np.ndarray:
        legal = world.legal(world.run(world.initial(len(ids)), ids))
        u = chance(ids, legal.shape[1])
        weight = (legal ^ (u < np.where(legal, refused, accepted))).astype(float)
        if first:
            row = np.flatnonzero(legal.any(axis=1))
            weight[row, legal[row].argmax(axis=1)] = 1.01 * favour
        weight /= np.maximum(weight.sum(axis=1, keepdims=True), 1)
        with np.errstate(divide="ignore"):
            return np.log(weight)

    return callable_model(model, world, name="planted")


@pytest.mark.parametrize("name", WORLDS)
def test_the_oracle_errs_as_often_as_it_was_asked(name: str) -> None:
    """In every test by itself; the model errs more just behind prefixes than further on."""
    from mechprobe import worlds

    world = WORLDS[name](worlds)
    words = np.arange(len(world.tokens))

    def judge(states: np.ndarray, hashes: np.ndarray, steps: int) -> np.ndarray:
        legal = world.legal(states)
        u = np.random.default_rng(0).uniform(1, 50, len(words))[words]
        u = np.abs(np.sin((hashes % np.uint64(1_000_003))[:, None] * 0.1234 + u) * 43758.5453) % 1
        return legal ^ (u < np.where(legal, 0.2 if steps else 0.4, 0.1))

    model = worlds.Oracle("planted", world, judge)
    # Pairs of Othello's boards, drawn from the world, take minutes.
    walks = world.random_walks(150, np.random.default_rng(0))
    n, prefixes = (100, walks) if name == "othello" else (1000, "random_walk")
    out = worlds.evaluate_world_model(model, world, n, 3, 2, prefixes=prefixes, **QUIET)
    matched = out.matched()
    for kind in ("refused", "accepted"):
        ratio = matched[f"{kind} realised"] / matched[f"{kind} asked"]
        np.testing.assert_allclose(ratio, 1, atol=0.1, err_msg=kind)
    np.testing.assert_allclose(matched["accepted asked"], 0.1, rtol=0.3)
    asked = matched["refused asked"]
    assert asked.between(0.18, 0.42).all()
    assert asked.max() > 1.1 * asked.min(), "tests look at different places"


def test_errors_are_counted_where_a_test_looks() -> None:
    """Strings of one word: exactly the words behind the two prefixes of every pair."""
    from mechprobe import worlds
    from mechprobe.worlds.metrics.drawing import drawn_pairs
    from mechprobe.worlds.metrics.request import checked
    from mechprobe.worlds.metrics.scores import TESTS, gather, scored

    world = WORLDS["dyck"](worlds)
    model = planted(world, 0.2, 0.1)
    request = checked(world, 40, 4, 1, worlds.Epsilon(0.001), "exact", None, 0)
    same, different = drawn_pairs(model, world, request, "random_walk")
    for tests, pairs in ((TESTS[:1], same), (TESTS[1:2], different), (TESTS[2:], different)):
        parts = [part for _, part in scored(tests, model, world, pairs, request.sampling, 7)]
        wrong = np.zeros(4, dtype=int)
        for prefixes in (pairs.prefixes1, pairs.prefixes2):
            for prefix in prefixes:
                ids = prefix[prefix >= 0][None]
                legal = world.legal(world.run(world.initial(1), ids))[0]
                allowed = np.exp(model.fn(ids)[0]) > 0.001
                if legal.any():
                    wrong += [(legal & ~allowed).sum(), legal.sum(), (allowed & ~legal).sum(), (~legal).sum()]
        judged = gather(len(pairs), parts).judged
        assert [judged.refused, judged.legal, judged.accepted, judged.illegal] == wrong.tolist()
        np.testing.assert_allclose(judged.rates, (wrong[0] / wrong[1], wrong[2] / wrong[3]))


@pytest.mark.parametrize(("mode", "favour"), [("corrected", 1.0), ("exact", 1.0), ("exact", 9.0)])
def test_independent_errors_score_as_their_oracle(mode: str, favour: float) -> None:
    """It knows the grid, always says a legal word first and errs in 2 % of what it accepts.

    By its likeliest word it never errs, and an oracle matched on that is the automaton: 1.
    """
    from mechprobe.worlds import StreetMap, evaluate_world_model

    world = StreetMap.grid(4, seed=1, max_length=30)
    model = planted(world, 0.02, 0.0025, favour, first=True)
    data = evaluate_world_model(model, world, 250, 5, 3, mode=mode, **QUIET).data
    assert data["next_token_validity"].values[0] == 1
    metrics = ["compression_precision", "distinction_precision", "distinction_recall"]
    shown = [[data[m].values[i].item() for m in metrics] for i in (0, 4)]
    assert shown[0][0] < 0.7
    np.testing.assert_allclose(shown[0], shown[1], atol=0.06)


def test_consistent_errors_stand_out() -> None:
    """It errs in 2 % of its words by the state alone: far above an oracle with as many errors."""
    from mechprobe.worlds import StreetMap, callable_model, evaluate_world_model

    world = StreetMap.grid(4, seed=1, max_length=30)

    def model(ids: np.ndarray) -> np.ndarray:
        states = world.run(world.initial(len(ids)), ids)
        legal = world.legal(states)
        weight = (legal ^ (chance(states, legal.shape[1]) < np.where(legal, 0.02, 0.0025))).astype(float)
        weight /= np.maximum(weight.sum(axis=1, keepdims=True), 1)
        with np.errstate(divide="ignore"):
            return np.log(weight)

    out = evaluate_world_model(callable_model(model, world), world, 100, 5, 3, **QUIET)
    data, compression = out.data, out.data["compression_precision"].values
    assert data["refused_legal"].values[0, 0] > 0.01
    assert data["compression_precision_low"].values[0] > data["compression_precision_high"].values[4] + 0.2
    # Beyond the illegal words, which leave the world and with it the state.
    assert compression[0] > 0.9


def test_fewer_suffixes_are_all_subsets() -> None:
    from mechprobe.worlds.metrics.dataset import none_refused

    n_samples = 6
    for x in range(n_samples + 1):
        refused = np.arange(n_samples) < x
        for m in range(1, n_samples + 1):
            subsets = [not refused[list(some)].any() for some in combinations(range(n_samples), m)]
            found = none_refused(np.array([x / n_samples, np.nan]), n_samples, m)
            np.testing.assert_allclose(found, [float(np.mean(subsets)), np.nan], rtol=1e-12)


def test_suffix_error_knows_no_m() -> None:
    """A model with slips: its error is that of a plain simulation, at 5 suffixes and at 30.

    Compression at 30 is at its floor.
    """
    from mechprobe.worlds import Epsilon, StreetMap, evaluate_world_model
    from mechprobe.worlds.metrics.drawing import drawn_pairs
    from mechprobe.worlds.metrics.request import checked

    world = StreetMap.grid(3, seed=2, max_length=16)
    model = planted(world, 0.05, 0.006)
    few, many = (
        evaluate_world_model(model, world, 120, m, 1, Epsilon(0.001), baselines=False, **QUIET).data
        for m in (5, 30)
    )
    request = checked(world, 120, 5, 1, Epsilon(0.001), "corrected", None, 0)
    pairs, rng = drawn_pairs(model, world, request, "random_walk")[0], np.random.default_rng(8)
    wrong = np.zeros(len(pairs))

    @cache
    def able(*ids: int) -> np.ndarray:
        return np.flatnonzero(np.isfinite(model.fn(np.array([ids]))[0]))

    for i in range(len(pairs)):
        one, other = (p[i][p[i] >= 0] for p in (pairs.prefixes1, pairs.prefixes2))
        for _ in range(6):
            said: list[int] = []
            while max(len(one), len(other)) + len(said) < 16:
                if not len(able(*one, *said)):
                    break
                said.append(int(rng.choice(able(*one, *said))))
                if said[-1] not in able(*other, *said[:-1]):
                    wrong[i] += 1 / 6
                    break
                if said[-1] == world.end:
                    break
    state = pairs.clusters(False)
    truth = np.mean([wrong[state == s].mean() for s in np.unique(state)])
    for data in (few, many):
        assert data["suffix_error_low"].values[0] < truth < data["suffix_error_high"].values[0]
        errors = data["pair_suffix_error"].values[0]
        np.testing.assert_array_equal(errors == 0, data["score"].values[0, 0] == 1)
        curve = data["compression_curve"].values[0]
        np.testing.assert_allclose(curve[0], 1 - data["suffix_error"].values[0])
        np.testing.assert_allclose(curve[-1], data["compression_precision"].values[0])
        assert (np.diff(curve) < 0).all()
    assert many["m"].values.tolist() == [1, 2, 5, 10, 20, 30]
    np.testing.assert_allclose(many["suffix_error"], few["suffix_error"], atol=0.04)
    at_five = many["compression_curve"].sel(m=5)
    np.testing.assert_allclose(at_five, few["compression_precision"], atol=0.08)
    assert many["compression_precision"].values[0] < 0.06 < at_five.values[0] - 0.04
