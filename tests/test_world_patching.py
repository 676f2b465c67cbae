"""Patched states: what is swapped is what the stream carries, and nothing else is touched."""

from collections.abc import Callable, Sequence
from typing import Any, cast

import numpy as np
import pytest
import torch

from tests.bigram import bigram, dyck_net

QUIET: dict[str, Any] = {"progress": False}


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return bigram(tmp_path_factory.mktemp("bigram"))


@pytest.fixture(scope="module")
def shipped() -> Any:
    from mechprobe.worlds.training.shipped import load_shipped

    return load_shipped("random_walks")


@pytest.fixture(scope="module")
def trained(shipped: tuple[Any, Any]) -> Any:
    return shipped[0]


@pytest.fixture(scope="module")
def streets(shipped: tuple[Any, Any]) -> Any:
    return shipped[1]


def some_prefixes(seed: int, lengths: Sequence[int] = (5, 3, 9, 5, 4, 12)) -> np.ndarray:
    from mechprobe.worlds import pad

    rng = np.random.default_rng(seed)
    return pad([rng.integers(0, 16, n) for n in lengths])


def by_full_passes(
    net: Any, own: np.ndarray, other: np.ndarray, words: np.ndarray, layer: int, columns: list[int]
) -> np.ndarray:
    """One sequence, no cache, no padding: the stream at some words from the end is replaced."""
    hook_name = "blocks.0.hook_resid_pre" if layer < 0 else f"blocks.{layer}.hook_resid_post"
    _, kept = net.model.run_with_cache(net.rectangle(other[None]))
    at = [len(own) + c + (net.start_id is not None) for c in columns]

    def change(resid: torch.Tensor, hook: object) -> torch.Tensor:
        del hook
        out = resid.clone()
        out[:, at] = kept[hook_name][:, at]
        return out

    whole = net.rectangle(np.concatenate([own, words])[None])
    with torch.no_grad(), net.model.hooks(fwd_hooks=[(hook_name, change)]):
        logits = net.model(whole)[0, -1]
    return logits.double().log_softmax(-1)[net.ids].numpy()


@pytest.mark.parametrize(
    ("architecture", "start_id", "layer", "position", "extent"),
    [
        ("gpt2", 3, -1, -3, "tail"),
        ("gpt2", 3, 1, -2, "position"),
        ("llama", None, 0, -3, "tail"),
        ("llama", None, 2, -1, "position"),
    ],
)
def test_patched_prefixes_are_the_definition(
    tiny: Callable[..., Any], architecture: str, start_id: int | None, layer: int, position: int, extent: Any
) -> None:
    from mechprobe.worlds.inside.patching import patched, read_streams
    from mechprobe.worlds.predictors.network import NetworkCursor

    net = dyck_net(tiny, architecture, start_id=start_id)
    own, other = some_prefixes(0), some_prefixes(1)
    said = np.random.default_rng(2).integers(0, 16, 6)
    _, streams = read_streams(net, other, [layer], 3)
    cursor = NetworkCursor(net, own, patched(layer, position, extent, streams[layer]))
    columns = [position] if extent == "position" else list(range(position, 0))
    for step in range(2):
        if step:
            cursor.advance(np.arange(6), said)
        for row in (0, 1, 5):
            one, two = (p[row][p[row] >= 0] for p in (own, other))
            words = said[[row] * step]
            expected = by_full_passes(net, one, two, words, layer, columns)
            np.testing.assert_allclose(cursor.log_probs[row], expected, atol=5e-5)


def wandered(cursor: Any) -> list[np.ndarray]:
    rng = np.random.default_rng(3)
    out = [cursor.log_probs.copy()]
    for _ in range(3):
        cursor.advance(rng.integers(0, 6, 6), rng.integers(0, 16, 6))
        out.append(cursor.log_probs.copy())
    return out


@pytest.mark.parametrize("layer", [-1, 0, 2])
def test_its_own_stream_changes_nothing_exactly(tiny: Callable[..., Any], layer: int) -> None:
    from mechprobe.worlds.inside.patching import patched, read_streams
    from mechprobe.worlds.predictors.network import NetworkCursor

    net, own = dyck_net(tiny, "gpt2"), some_prefixes(0)
    plain, streams = read_streams(net, own, [layer], 3)
    before = wandered(plain)
    for extent in ("position", "tail"):
        edits = patched(layer, -3, cast("Any", extent), streams[layer])
        after = wandered(NetworkCursor(net, own, edits))
        np.testing.assert_array_equal(before, after)
    for one, two in zip(before, wandered(net.start(own)), strict=True):
        np.testing.assert_allclose(one, two, atol=2e-5)


def test_the_last_layer_says_one_word_of_the_donor(tiny: Callable[..., Any]) -> None:
    from mechprobe.worlds.inside.patching import patched, read_streams
    from mechprobe.worlds.predictors.network import NetworkCursor

    net, own, other = dyck_net(tiny, "llama"), some_prefixes(0), some_prefixes(1)
    plain, _ = read_streams(net, own, [2], 3)
    donor, streams = read_streams(net, other, [2], 3)
    first, *rest = wandered(NetworkCursor(net, own, patched(2, -1, "position", streams[2])))
    np.testing.assert_array_equal(first, donor.log_probs)
    undisturbed = wandered(plain)
    assert np.abs(first - undisturbed[0]).max() > 1
    np.testing.assert_array_equal(rest, undisturbed[1:])
    earlier = NetworkCursor(net, own, patched(2, -2, "position", streams[2]))
    np.testing.assert_array_equal(wandered(earlier), undisturbed)


def test_the_whole_prefix_at_the_embedding_is_the_donor(tiny: Callable[..., Any]) -> None:
    from mechprobe.worlds.inside.patching import patched, read_streams
    from mechprobe.worlds.predictors.network import NetworkCursor

    net, lengths = dyck_net(tiny, "llama"), [4] * 6
    own, other = some_prefixes(0, lengths), some_prefixes(1, lengths)
    donor, streams = read_streams(net, other, [-1, 0], 4)
    whole = wandered(NetworkCursor(net, own, patched(-1, -4, "tail", streams[-1])))
    np.testing.assert_array_equal(whole, wandered(donor))
    # Above the first block, its keys and values remain the recipient's.
    above = wandered(NetworkCursor(net, own, patched(0, -4, "tail", streams[0])))
    np.testing.assert_array_equal(above[0], whole[0])
    assert np.abs(above[1] - whole[1]).max() > 0.1


def test_a_state_in_one_place(small: tuple[Any, Any]) -> None:
    """The last word is all that the model knows: it swaps everything, and nothing else anything.

    The world was made of the model, so that the model is right about every string; and the words
    that two states allow lead to the same state, so that every string has one word.
    """
    from mechprobe.worlds import patch_states

    net, world = small
    data = patch_states(net, world, n=40, layers=[2, -1], positions=[-1, -2], **QUIET).data
    assert data["layer"].values.tolist() == [-1, 2]
    assert data["position"].values.tolist() == [-2, -1]
    assert int(data["n_followed"]) == int(data["n_strings"]) > 40
    for variable, here in (("swap", 1.0), ("gained", 1.0), ("lost", 1.0), ("same_state", 0.0)):
        assert (data[variable].sel(position=-1) == here).all(), variable
        assert (data[variable].sel(position=-2) == 0).all(), variable
    chance = data["random_state"].sel(position=-1).values
    assert ((chance > 0.02) & (chance < 0.5)).all()
    assert (data["above_random_low"].sel(position=-1) > 0).all()
    # A third state is swapped as perfectly, so that this is what can be reached.
    np.testing.assert_allclose(data["above_random"].sel(position=-1), data["above_random_max"])
    assert float(data["above_random_max"]) < 1
    tail = patch_states(net, world, n=40, extent="tail", layers=[0], positions=[-3], **QUIET).data
    assert (tail["swap"] == 1).all()
    assert (tail["same_state"] == 0).all()


@pytest.mark.parametrize("name", ["streets", "dyck"])
def test_planted_swaps(streets: Any, name: str) -> None:
    """What a patch does is planted: it swaps, refuses all, accepts all, or errs the same everywhere.

    The share of verdicts that become the donor's is near a half for all but the first.
    """
    from mechprobe.worlds import Dyck, Epsilon
    from mechprobe.worlds.inside.scores import Flips, patching_dataset
    from mechprobe.worlds.inside.trials import draw_trials
    from mechprobe.worlds.metrics.request import checked

    world = streets if name == "streets" else Dyck(2, 3, end="end")
    request = checked(world, 200, 1, 3, Epsilon(), "corrected", None, 0)
    trials = draw_trials(world, request, 1)
    strings, of_donor = trials.strings.strings, trials.strings.of_donor
    pair = np.random.default_rng(0).integers(0, 2, strings.n_pairs).astype(bool)[strings.pair]
    said = {"swap": of_donor, "none": np.zeros_like(of_donor), "all": np.ones_like(of_donor), "either": pair}
    flips = Flips.empty(len(of_donor), len(said))
    flips.right[:] = True
    third = world.run(world.initial(strings.n_pairs), trials.donors["random_state"])
    allowed = np.array([world.accepts(third[p][None], s[None])[0] for p, s in zip(
        strings.pair.tolist(), strings.strings, strict=True)])  # fmt: skip
    for cell, verdict in enumerate(said.values()):
        flips.flipped[0, cell] = verdict == of_donor
        flips.flipped[2, cell] = allowed == of_donor
    data = patching_dataset(world, request, trials, flips, range(len(said)), [-1], "position")
    plain = [flips.flipped[0, cell].mean() for cell in range(len(said))]
    np.testing.assert_allclose(plain[1:], 0.5, atol=0.1)
    assert 0.4 < flips.flipped[2, 0].mean() < 0.6
    expected = {"swap": [1, 0, 0, 0], "gained": [1, 0, 1, None], "lost": [1, 1, 0, None]}
    for variable, values in expected.items():
        for cell, value in enumerate(values):
            if value is not None:
                assert float(data[variable].values[cell, 0]) == value, (variable, cell)
    np.testing.assert_allclose(data["random_state"] + data["above_random_max"], 1)
    np.testing.assert_allclose(data["above_random"].values[0, 0], data["above_random_max"])
    by_pair = []
    for p in np.unique(strings.pair).tolist():
        mine = strings.pair == p
        sides = [allowed[mine & of_donor], ~allowed[mine & ~of_donor]]
        if all(map(len, sides)) and trials.has[2, p]:
            by_pair.append((p, min(side.mean() for side in sides)))
    state = trials.pairs.clusters(False)
    means = [np.mean([v for p, v in by_pair if state[p] == s]) for s in {state[p] for p, _ in by_pair}]
    np.testing.assert_allclose(data["above_random_max"], 1 - np.mean(means))
    assert 0.6 < float(data["above_random_max"]) < 1


def test_the_last_layer_swaps_first_words_only(trained: Any, streets: Any) -> None:
    from mechprobe.worlds import patch_states

    last = int(trained.model.cfg.n_layers) - 1
    asked: dict[str, Any] = {"layers": [last], "positions": [-1, -2], **QUIET}
    data = patch_states(trained, streets, n=30, k=1, **asked).data
    assert int(data["n_kept"]) > 10
    assert (data["swap"].sel(position=-1) == 1).all()
    assert (data["swap"].sel(position=-2) == 0).all()
    asked["positions"] = [-1]
    longer = patch_states(trained, streets, n=30, k=3, **asked).data
    assert 0 < float(longer["swap"].item()) < 1


def test_strings_followed_one_by_one() -> None:
    """A shared tree gives what every string gives alone, after any number of prefixes."""
    from mechprobe.worlds import Boundary, Dyck, Epsilon, callable_model, pad
    from mechprobe.worlds.metrics.recall import followed

    world = Dyck(2, 3)

    def dice(ids: np.ndarray) -> np.ndarray:
        rows = [np.random.default_rng([17, *row]).normal(size=4) for row in ids.tolist()]
        out = np.array(rows) * 2
        return (out - np.log(np.exp(out).sum(axis=1, keepdims=True))).astype(np.float32)

    rng, rule = np.random.default_rng(0), Epsilon(0.1)
    prefixes = pad([rng.integers(0, 4, n) for n in rng.integers(1, 5, 12)])
    each = [rng.integers(0, 4, n) for n in rng.integers(1, 5, 200)]
    lengths = np.array([len(s) for s in each])
    strings = Boundary(rng.integers(0, 4, 200), pad(each), lengths, 4)
    rows = np.arange(12).reshape(3, 4)
    expected = np.ones((3, 200), dtype=np.bool_)
    for side in range(3):
        for i, string in enumerate(each):
            prefix = prefixes[rows[side, strings.pair[i]]]
            whole = [*prefix[prefix >= 0].tolist(), *string.tolist()]
            begin = len(whole) - len(string)
            expected[side, i] = all(
                rule.accepts(dice(np.array([whole[: begin + j]])))[0, word]
                for j, word in enumerate(string.tolist())
            )
    model = callable_model(dice, world)
    found = followed(model.start(prefixes), rows, strings, rule)
    np.testing.assert_array_equal(found, expected)
    found = followed(model.start(prefixes), rows, strings, rule, first_decides=True)
    np.testing.assert_array_equal(found[0], expected[0])
    np.testing.assert_array_equal(found[1][expected[0]], expected[1][expected[0]])
    assert 0.1 < expected.mean() < 0.9


def test_scores_are_shares_of_right_strings(trained: Any, streets: Any) -> None:
    """One cell again from the definition, string by string and without a cache."""
    from mechprobe.worlds import Epsilon, patch_states
    from mechprobe.worlds.inside.trials import draw_trials
    from mechprobe.worlds.metrics.request import checked

    data = patch_states(trained, streets, n=5, k=2, layers=[1], positions=[-1], **QUIET).data
    request = checked(streets, 5, 1, 2, Epsilon(), "corrected", None, 0)
    trials = draw_trials(streets, request, 1)

    known: dict[tuple[object, ...], np.ndarray] = {}

    def accepts(own: np.ndarray, other: np.ndarray, string: np.ndarray) -> bool:
        for i, word in enumerate(string.tolist()):
            key = (*own.tolist(), None, *other.tolist(), None, *string[:i].tolist())
            if key not in known:
                known[key] = by_full_passes(trained, own, other, string[:i], 1, [-1])
            if known[key][word] <= np.log(0.01):
                return False
        return True

    found: list[float] = []
    for pair in range(len(trials.pairs)):
        own, other = (p[pair][p[pair] >= 0] for p in (trials.pairs.prefixes1, trials.pairs.prefixes2))
        flips: dict[bool, list[bool]] = {True: [], False: []}
        for i in np.flatnonzero(trials.strings.strings.pair == pair).tolist():
            string, of_donor = trials.strings.strings.strings[i], bool(trials.strings.of_donor[i])
            string = string[string >= 0]
            if accepts(other, other, string) == of_donor != accepts(own, own, string):
                flips[of_donor].append(accepts(own, other, string) == of_donor)
        if all(flips.values()):
            found.append(float(min(np.mean(side) for side in flips.values())))
    scores = data["score"].sel(condition="swap").values[0, 0]
    np.testing.assert_allclose(scores, found)
    assert len(np.unique(scores)) > 1
