"""The metrics against what can be derived by hand, by brute force, and against published runs."""

import itertools
import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

SMALL: dict[str, Callable[[Any], Any]] = {
    "streets": lambda w: w.StreetMap.grid(4, seed=1, max_length=40),
    "seating": lambda w: w.Seating(3),
    "dyck": lambda w: w.Dyck(2, 3),
    "dyck end": lambda w: w.Dyck(2, 3, end="end"),
    "connect4": lambda w: w.CumulativeConnect4(2),
}
MODES = ("vafa2024", "corrected", "exact")


@pytest.fixture(scope="module", params=SMALL)
def world(request: pytest.FixtureRequest) -> Any:
    from mechprobe import worlds

    return SMALL[request.param](worlds)


@pytest.fixture(scope="module")
def street_grid(data_folder: Path) -> Any:
    from mechprobe.worlds import StreetMap

    return StreetMap.from_edges(data_folder / "street_grid_6x6" / "edges.csv")


def scores_of(
    model: Any, world: Any, mode: str, n: int = 40, k: int = 4, m: int = 10, **options: Any
) -> tuple[dict[str, np.ndarray], Any, Any]:
    """Scores of each pair, and the pairs of one state and of two."""
    from mechprobe.worlds import Epsilon
    from mechprobe.worlds.metrics.drawing import drawn_pairs
    from mechprobe.worlds.metrics.request import checked
    from mechprobe.worlds.metrics.scores import TESTS, gather, scored

    request = checked(world, n, m, k, options.pop("acceptance", Epsilon(0.01)), mode, None, 5)
    same, different = drawn_pairs(model, world, request, "random_walk")
    found: dict[str, np.ndarray] = {}
    for tests, pairs in ((TESTS[:1], same), (TESTS[1:], different)):
        parts = list(scored(tests, model, world, pairs, request.sampling, **options))
        for test in tests:
            found[test] = gather(len(pairs), [p for t, p in parts if t == test])[0]
    return found, same, different


@pytest.mark.parametrize("mode", MODES)
def test_the_true_automaton_scores_one(world: Any, mode: str) -> None:
    from mechprobe.worlds import evaluate_world_model, true_automaton

    out = evaluate_world_model(
        true_automaton(world), world, n=40, k=3, mode=mode, baselines=False, progress=False
    )
    for metric in out.data["metric"].values.tolist():
        assert out.data[metric].item() == 1.0
        assert out.data[f"{metric}_low"].item() < 1.0
        assert out.data["n_kept"].sel(metric=metric).item() > 0


@pytest.mark.parametrize("mode", MODES)
def test_it_scores_one_by_its_probabilities_too(world: Any, mode: str) -> None:
    """As any callable: accepted through epsilon, nothing known about when prefixes are alike."""
    from mechprobe.worlds import callable_model, true_automaton

    truth = true_automaton(world)

    def model(ids: np.ndarray) -> np.ndarray:
        return truth.start(ids).log_probs

    found, same, different = scores_of(callable_model(model, world), world, mode, n=12, k=3)
    for test, values in found.items():
        known = ~np.isnan(values)
        assert known.any(), test
        assert (values[known] == 1).all(), test
    assert len(same) > 0
    assert len(different) > 0


def test_uniform_by_hand(world: Any) -> None:
    """It accepts every string after every prefix.

    No suffix is ever refused, so compression is 1, and the model's boundary of two states is
    empty: distinction precision counts 1 in the published code and is not defined otherwise. Of a
    true boundary string nothing is refused after the second prefix either, so recall is 0 where
    there is one, and 1 by the published convention where there is none.
    """
    from mechprobe.worlds import boundary_sizes, uniform

    found, _, different = scores_of(uniform(world), world, "vafa2024")
    sizes = boundary_sizes(world, different.states1, different.states2, 4, published=True)
    assert (found["compression_precision"] == 1).all()
    assert (found["distinction_precision"] == 1).all()
    np.testing.assert_array_equal(found["distinction_recall"], sizes.sum(axis=1) == 0)
    for mode in ("corrected", "exact"):
        found, _, different = scores_of(uniform(world), world, mode)
        sizes = boundary_sizes(world, different.states1, different.states2, 4).sum(axis=1)
        assert (found["compression_precision"] == 1).all()
        assert np.isnan(found["distinction_precision"]).all()
        np.testing.assert_array_equal(found["distinction_recall"], np.where(sizes, 0.0, np.nan))


@pytest.mark.parametrize("mode", MODES)
def test_legal_only_by_hand(world: Any, mode: str) -> None:
    """It accepts the legal words behind the prefix, and anything after the first of them.

    Two prefixes of one state have the same legal words: compression is 1. The model's boundary is
    the set of words that are legal in the first state and not in the second, all of them right:
    distinction precision is 1 where there is one. Of the true boundary it has the strings of one
    word, and no longer ones: their first word is legal in both states, and then all is accepted.
    So recall is the share of strings of one word, which ``boundary_sizes`` counts without any
    model.
    """
    from mechprobe.worlds import boundary_sizes, legal_only

    found, _, different = scores_of(legal_only(world), world, mode)
    published = mode == "vafa2024"
    sizes = boundary_sizes(world, different.states1, different.states2, 4, published=published)
    with np.errstate(invalid="ignore"):
        expected = sizes[:, 0] / sizes.sum(axis=1)
    if published:
        expected = np.where(np.isnan(expected), 1.0, expected)
    assert (found["compression_precision"] == 1).all()
    np.testing.assert_allclose(found["distinction_recall"], expected)
    assert 0 < np.nanmean(expected) < 1
    precision = found["distinction_precision"]
    assert (precision[~np.isnan(precision)] == 1).all()
    legal = world.legal(different.states1) & ~world.legal(different.states2)
    if mode == "exact":
        np.testing.assert_array_equal(~np.isnan(precision), legal.any(axis=1))


def test_legal_only_in_closed_form() -> None:
    """Cumulative Connect-4 with one row, and brackets of one kind.

    One row: with A and B the free columns of two boards, a = |A & B| and d = |A - B|, a boundary
    string drops j discs into different columns of A & B and then one into A - B:
    d a! / (a - j)! of length j + 1. d cancels, and legal-only recall is
    1 / sum_{j < k} a! / (a - j)!.

    Brackets ``( )``, at most D open, h1 > h2 open: a boundary string closes for the first time more
    than h2 brackets, and never comes to more than D - h1 open ones more; it has one word only where
    h2 = 0. With k = 3, D = 3: from (1, 0) the strings are ``)`` and ``( ) )``; from (3, 0) only
    ``)``; with h2 = 1 the only one is ``) )`` for h1 = 3 and h1 = 2: recall 1/2, 1 and 0.
    """
    from math import perm

    from mechprobe.worlds import CumulativeConnect4, Dyck, boundary, legal_only
    from mechprobe.worlds.metrics.recall import recalled
    from mechprobe.worlds.predictors.acceptance import Epsilon

    board = CumulativeConnect4(1)
    found, _, different = scores_of(legal_only(board), board, "exact", n=200)
    free1, free2 = different.states1 == 0, different.states2 == 0
    both, apart = (free1 & free2).sum(axis=1), (free1 & ~free2).sum(axis=1)
    expected = [1 / sum(perm(a, j) for j in range(4)) for a in both.tolist()]
    np.testing.assert_allclose(found["distinction_recall"], np.where(apart > 0, expected, np.nan), rtol=1e-12)
    brackets = Dyck(1, 3)
    walk = {1: "(", 2: "( (", 3: "( ( (", 0: "( )"}
    for (high, low), recall in {(1, 0): 0.5, (3, 0): 1.0, (3, 1): 0.0, (2, 1): 0.0}.items():
        prefixes = [brackets.encode(walk[h])[None] for h in (high, low)]
        states = [brackets.run(brackets.initial(), p) for p in prefixes]
        width = max(p.shape[1] for p in prefixes)
        rows = np.full((2, width), -1, dtype=np.int64)
        for row, prefix in zip(rows, prefixes, strict=True):
            row[: prefix.shape[1]] = prefix
        true = boundary(brackets, states[0], states[1], 3)
        assert recalled(legal_only(brackets), rows, true, Epsilon())[0] == recall


def test_noisy_oracle_errs_as_often_as_asked(world: Any) -> None:
    """Each legal word is refused with one rate, each illegal one accepted with the other."""
    from mechprobe.worlds import next_token_validity, noisy_oracle, true_automaton

    rng = np.random.default_rng(0)
    walks = world.random_walks(300, rng)
    for refused, accepted in ((0.03, 0.2), (0.2, 0.01)):
        oracle = noisy_oracle(world, refused, accepted, seed=1)
        states, hashes = world.sample_states(rng, 4000), rng.integers(0, 2**63, 4000, np.uint64)
        legal, judged = world.legal(states), oracle.judge(states, hashes, 0)
        for rate, wrong, asked in ((refused, legal & ~judged, legal), (accepted, judged & ~legal, ~legal)):
            n = int(asked.sum())  # four standard errors of a share
            assert abs(wrong.sum() / max(n, 1) - rate * (n > 0)) <= 4 * np.sqrt(rate / max(n, 1)) * (n > 0)
        valid = next_token_validity(oracle, world, walks).value
        assert valid < 1
    assert next_token_validity(true_automaton(world), world, walks).value == 1
    prefix = np.array(walks[0][:2])[None]
    one, other = (noisy_oracle(world, 0.3, 0.1, seed).start(prefix).accepted for seed in (0, 0))
    np.testing.assert_array_equal(one, other)
    for rates, name in (((-0.1, 0.0), "refused"), ((0.0, 1.1), "accepted")):
        with pytest.raises(ValueError, match=rf"{name} is a share of words, in \[0, 1\]; found"):
            noisy_oracle(world, *rates)


def test_no_noise_is_the_truth(world: Any) -> None:
    from mechprobe.worlds import noisy_oracle

    found, _, _ = scores_of(noisy_oracle(world, 0.0, 0.0), world, "corrected")
    for values in found.values():
        assert (values[~np.isnan(values)] == 1).all()


def dice(world: Any, sharpness: float = 2.0) -> Callable[[np.ndarray], np.ndarray]:
    """A model that knows nothing of the world and depends on every word of its prefix."""

    def model(ids: np.ndarray) -> np.ndarray:
        out = np.empty((len(ids), len(world.tokens)))
        for row, sequence in zip(out, ids.tolist(), strict=True):
            row[:] = np.random.default_rng([17, *sequence]).normal(size=len(row)) * sharpness
        return out - np.log(np.exp(out).sum(axis=1, keepdims=True))

    return model


def brute_force(
    fn: Callable[[np.ndarray], np.ndarray],
    world: Any,
    prefixes: tuple[np.ndarray, np.ndarray],
    states: tuple[np.ndarray, np.ndarray],
    k: int,
    epsilon: float,
) -> tuple[float, float, float]:
    """The definitions, word for word, over all strings of at most k words."""

    def says(prefix: np.ndarray, string: tuple[int, ...]) -> bool:
        whole = [*prefix.tolist(), *string]
        return all(
            fn(np.array([whole[: len(prefix) + i]]))[0, word] > np.log(epsilon)
            for i, word in enumerate(string)
        )

    def legal(state: np.ndarray, string: tuple[int, ...]) -> bool:
        return bool(world.accepts(state[None], np.array([string]))[0])

    words = range(len(world.tokens))
    strings = [s for j in range(1, k + 1) for s in itertools.product(words, repeat=j)]

    def border(first: Callable[..., bool], second: Callable[..., bool]) -> list[tuple[int, ...]]:
        def in_both(s: tuple[int, ...]) -> bool:
            return all(first(s[:i]) and second(s[:i]) for i in range(1, len(s)))

        return [s for s in strings if first(s) and not second(s) and in_both(s)]

    model = border(*(partial(says, p) for p in prefixes))
    world_s = border(*(partial(legal, q) for q in states))
    right = [s for s in model if legal(states[0], s) and not legal(states[1], s)]
    known = [s for s in world_s if says(prefixes[0], s) and not says(prefixes[1], s)]
    return (
        float(not model),
        len(right) / len(model) if model else np.nan,
        len(known) / len(world_s) if world_s else np.nan,
    )


def test_exact_is_the_definition() -> None:
    from mechprobe.worlds import Automaton, Epsilon, callable_model

    world = Automaton(
        {"p": {"a": "q", "b": "p"}, "q": {"b": "p", "c": "r"}, "r": {"a": "r", "c": "q"}}, max_length=9
    )
    fn, epsilon, k = dice(world), 0.15, 3
    model = callable_model(fn, world)
    found, same, different = scores_of(model, world, "exact", n=15, k=k, acceptance=Epsilon(epsilon))
    for pairs, tests in ((same, (0,)), (different, (1, 2))):
        for i in range(len(pairs)):
            prefixes = tuple(p[i][p[i] >= 0] for p in (pairs.prefixes1, pairs.prefixes2))
            states = pairs.states1[i], pairs.states2[i]
            expected = brute_force(fn, world, prefixes, states, k, epsilon)
            for test in tests:
                np.testing.assert_allclose(list(found.values())[test][i], expected[test])
    for values in found.values():
        assert len(np.unique(values[~np.isnan(values)])) > 1, "nothing but one value was tested"


def test_many_samples_come_to_the_exact_boundary() -> None:
    """Strings of one word: after 600 samples every word above epsilon has been said."""
    from mechprobe.worlds import Dyck, Epsilon, callable_model
    from mechprobe.worlds.metrics.pairs import draw_different
    from mechprobe.worlds.metrics.suffixes import Sampling, model_boundary

    world = Dyck(2, 3)
    model = callable_model(dice(world), world)
    pairs = draw_different(world, 60, np.random.default_rng(0), published=False)
    n_strings = 0
    for length in np.unique(pairs.lengths).tolist():
        index = np.flatnonzero(pairs.lengths == length)
        found: list[set[tuple[int, int]]] = []
        for samples in (None, 600):
            how = Sampling(Epsilon(0.05), samples, 1, length + 1, False, 0)
            drawn = model_boundary(model, world, pairs, index, how, first_only=False)
            said = zip(drawn.pair.tolist(), drawn.strings, strict=True)
            found.append({(pair, int(string.item())) for pair, string in said})
        assert found[0] == found[1]
        n_strings += len(found[0])
    assert n_strings > 20


@pytest.mark.parametrize("mode", MODES)
def test_batched_equals_one_by_one(mode: str) -> None:
    from mechprobe.worlds import Dyck, callable_model

    world = Dyck(2, 3, end="end")
    model = callable_model(dice(world), world)
    whole, _, _ = scores_of(model, world, mode, n=15, k=3)
    single, _, _ = scores_of(model, world, mode, n=15, k=3, batch_size=1)
    for test, values in whole.items():
        np.testing.assert_array_equal(values, single[test])
    every = np.concatenate(list(whole.values()))
    assert len(np.unique(every[~np.isnan(every)])) > 2


def test_more_suffixes_find_more(world: Any) -> None:
    from mechprobe.worlds import noisy_oracle

    model = noisy_oracle(world, 0.1, 0.02)
    few, _, _ = scores_of(model, world, "corrected", m=1)
    many, _, _ = scores_of(model, world, "corrected", m=20)
    one, other = few["compression_precision"], many["compression_precision"]
    both = ~np.isnan(one) & ~np.isnan(other)
    assert (other[both] <= one[both]).all(), "the first of twenty samples is the one"
    assert other[both].mean() < one[both].mean()
    np.testing.assert_array_equal(few["distinction_recall"], many["distinction_recall"])


def test_published_reference(data_folder: Path, street_grid: Any) -> None:
    """Each value within three standard errors of the published code's own, on other draws."""
    from mechprobe.stats import unit_interval
    from mechprobe.worlds import Epsilon, load_sequence_model, next_token_validity, read_sequences
    from mechprobe.worlds.metrics.drawing import drawn_pairs
    from mechprobe.worlds.metrics.request import checked
    from mechprobe.worlds.metrics.scores import TESTS, gather, scored

    folder = data_folder / "street_grid_6x6"
    runs = json.loads((folder / "official_reference.json").read_text())["runs"]
    reference = {(r["test"], r.get("suffixes")): r for r in runs if "se" in r}
    net = load_sequence_model(folder, street_grid)
    found: dict[tuple[str, int], tuple[np.ndarray, np.ndarray]] = {}
    for m, tests in ((30, TESTS), (5, TESTS[1:2])):
        request = checked(street_grid, 200, m, 5, Epsilon(0.01), "vafa2024", None, 1)
        assert request.max_tokens == 128
        same, different = drawn_pairs(net, street_grid, request, "random_walk")
        for test in tests:
            pairs = same if test == TESTS[0] else different
            parts = [p for _, p in scored((test,), net, street_grid, pairs, request.sampling)]
            name = test.replace("_", " "), m
            found[name] = gather(len(pairs), parts)[0], pairs.clusters(True)
    assert len(found) == 4
    for name, (values, clusters) in found.items():
        theirs = reference[name]
        own = unit_interval(values, clusters).value
        spread = values.std() / np.sqrt(len(values))
        assert abs(own - theirs["value"]) <= 3 * np.hypot(theirs["se"], spread), name
    walks = read_sequences(folder / "heldout_sequences.txt.gz", street_grid)
    drawn = np.random.RandomState(42).choice(2000, 1000, replace=False)
    some = next_token_validity(net, street_grid, [walks[i] for i in drawn.tolist()])
    assert round(some.value, 3) == 0.969
    assert round(next_token_validity(net, street_grid, walks).value, 3) == 0.97


def test_uniform_on_the_street_grid(street_grid: Any) -> None:
    """Published: 1, 1, 0.04 on 100 pairs; over all pairs of states recall is 0.0293.

    The published boundary knows no ``end``, so it does not depend on destinations. Of the 1,260
    states (36 nodes, 35 other destinations) an ordered pair of different ones has an empty boundary
    where everything that can be walked in five streets from the first node can be walked from the
    second: always if they are the same node.
    """
    from mechprobe.worlds import boundary_sizes, evaluate_world_model, uniform

    n, there = 36, 35
    nodes = np.arange(n)
    one, other = np.repeat(nodes, n), np.tile(nodes, n)
    first, second = (np.column_stack([np.full(n * n, 2), x, (x + 1) % n]) for x in (one, other))
    empty = boundary_sizes(street_grid, first, second, 5, published=True).sum(axis=1) == 0
    assert empty[one == other].all()
    pairs = np.where(one == other, there * (there - 1), there * there)
    exact = float((empty * pairs).sum() / pairs.sum())
    assert pairs.sum() == 1260 * 1259
    assert round(exact, 4) == 0.0293
    out = evaluate_world_model(
        uniform(street_grid), street_grid, n=2000, mode="vafa2024", baselines=False, progress=False
    )
    assert out.data["compression_precision"].item() == 1
    assert out.data["distinction_precision"].item() == 1
    slack = 3 * np.sqrt(exact * (1 - exact) / 2000)
    assert abs(out.data["distinction_recall"].item() - exact) < slack
