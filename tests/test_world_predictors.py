"""Predictors: a cache changes nothing, a batch changes nothing, and bad models are refused."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch

WORDS = 16


@pytest.fixture(scope="module")
def world() -> Any:
    from mechprobe.worlds import Dyck

    return Dyck(8, 3, max_length=40)


def vocabulary(world: Any) -> dict[str, int]:
    """Ids far from 0..n, in another order than the world's."""
    return {word: 200 - 7 * i for i, word in enumerate(world.tokens)}


@pytest.fixture
def prefixes() -> np.ndarray:
    from mechprobe.worlds import pad

    rng = np.random.default_rng(0)
    return pad([rng.integers(0, WORDS, n) for n in (5, 1, 9, 5, 2, 12)])


def wandered(cursor: Any, rng: np.random.Generator) -> list[np.ndarray]:
    """Repeat, drop and shuffle rows for some words, and note every answer."""
    out = [cursor.log_probs.copy()]
    for n in (14, 40, 9, 9, 3, 0):
        rows = rng.integers(0, len(out[-1]), n)
        if n == 9:
            rows = np.sort(rng.permutation(len(out[-1]))[:n])
        cursor.advance(rows, rng.integers(0, WORDS, n))
        out.append(cursor.log_probs.copy())
    return out


@pytest.mark.parametrize(
    ("architecture", "start_id"),
    [("gpt2", None), ("gpt2", 3), ("llama", None), ("gpt_neox", 3), ("bloom", None), ("stablelm", 3)],
)
def test_cache_equals_no_cache(
    tiny: Callable[..., Any], world: Any, prefixes: np.ndarray, architecture: str, start_id: int | None
) -> None:
    from mechprobe.worlds import language_model

    model = tiny(architecture)
    found = [
        wandered(
            language_model(model, world, vocabulary(world), start_id=start_id, cached=cached).start(prefixes),
            np.random.default_rng(1),
        )
        for cached in (None, False)
    ]
    for with_cache, without in zip(*found, strict=True):
        assert with_cache.dtype == np.float32
        np.testing.assert_allclose(np.exp(with_cache), np.exp(without), atol=2e-5)
    assert found[0][0].std() > 0.1


def test_which_models_are_cached(tiny: Callable[..., Any], world: Any) -> None:
    from mechprobe.worlds import language_model

    assert language_model(tiny("gpt2"), world, vocabulary(world)).cached
    assert not language_model(tiny("gemma3"), world, vocabulary(world)).cached, "sliding window"
    with pytest.raises(ValueError, match="keeps no cache whose rows can be repeated"):
        language_model(tiny("gemma3"), world, vocabulary(world), cached=True)


def test_against_the_model_itself(tiny: Callable[..., Any], world: Any, prefixes: np.ndarray) -> None:
    from mechprobe.worlds import language_model

    model, words = tiny("gpt2"), vocabulary(world)
    net = language_model(model, world, words)
    ids = [words[world.tokens[i]] for i in prefixes[2][:9]]
    with torch.no_grad():
        logits = model.original_model(torch.tensor([ids])).logits[0].double()
    every = logits.log_softmax(-1)[:, [words[w] for w in world.tokens]].numpy()
    np.testing.assert_allclose(net.start(prefixes).log_probs[2], every[-1], atol=1e-5)
    found = net.read(prefixes)
    assert found.shape == (*prefixes.shape, WORDS)
    np.testing.assert_allclose(found[2, :9], every, atol=1e-5)
    for behind in range(9, prefixes.shape[1]):
        np.testing.assert_array_equal(found[2, behind], found[2, 8])
    assert (np.exp(found).sum(-1) < 1).all(), "the rest belongs to ids that are no words"


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
def test_batched_equals_one_by_one(
    tiny: Callable[..., Any], world: Any, prefixes: np.ndarray, dtype: torch.dtype
) -> None:
    """In float64 too, where transformers' eager attention makes NaN of a column of padding alone."""
    from mechprobe.worlds import language_model

    net = language_model(tiny("llama", dtype=dtype), world, vocabulary(world))
    atol = 0.1 if dtype == torch.bfloat16 else 2e-5
    cursor = net.start(prefixes)
    said = np.random.default_rng(2).integers(0, WORDS, (6, 3))
    for step in range(3):
        if step:
            cursor.advance(np.arange(6), said[:, step - 1])
        for row, prefix in enumerate(prefixes):
            alone = np.concatenate([prefix[prefix >= 0], said[row, :step]])
            one = net.start(alone[None]).log_probs[0]
            np.testing.assert_allclose(cursor.log_probs[row], one, atol=atol)


def test_small_batches_equal_large_ones(
    tiny: Callable[..., Any], world: Any, prefixes: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mechprobe.worlds import language_model
    from mechprobe.worlds.predictors import network

    net = language_model(tiny("gpt2"), world, vocabulary(world))
    whole = wandered(net.start(prefixes), np.random.default_rng(3))
    monkeypatch.setattr(network, "STREAM_AT_ONCE", 14 * 32)
    monkeypatch.setattr(network, "ROWS_AT_ONCE", 4)
    cursor = net.start(prefixes)
    assert isinstance(cursor, network.NetworkCursor)
    assert len(cursor._groups) > 2
    parts = wandered(cursor, np.random.default_rng(3))
    for one, other in zip(whole, parts, strict=True):
        np.testing.assert_allclose(one, other, atol=2e-5)
    np.testing.assert_allclose(net.read(prefixes)[2, 8], whole[0][2], atol=2e-5)


def test_forks_go_their_own_ways(tiny: Callable[..., Any], world: Any, prefixes: np.ndarray) -> None:
    from mechprobe.worlds import language_model
    from mechprobe.worlds.predictors.callables import Forkable

    net = language_model(tiny("gpt2"), world, vocabulary(world))
    cursor = net.start(prefixes)
    cursor.advance(np.array([4, 4, 0]), np.array([1, 2, 3]))
    assert isinstance(cursor, Forkable)
    other = cursor.fork()
    first = wandered(cursor, np.random.default_rng(4))
    second = wandered(other, np.random.default_rng(4))
    for one, two in zip(first, second, strict=True):
        np.testing.assert_allclose(one, two, atol=2e-5)


@pytest.mark.parametrize("architecture", ["gpt2", "qwen2"])
def test_rows_apart_from_their_prefix_answer_the_same(
    tiny: Callable[..., Any],
    world: Any,
    prefixes: np.ndarray,
    architecture: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Also where somebody begins to listen on the way, and all goes on in one piece."""
    from mechprobe.models import cursor as models_cursor
    from mechprobe.models.forks import ForkCache
    from mechprobe.worlds import language_model
    from mechprobe.worlds.predictors import network

    model = tiny(architecture, sharpness=7.0)
    net = language_model(model, world, vocabulary(world), start_id=3)

    def doubled(activation: torch.Tensor, hook: Any) -> torch.Tensor:  # noqa: ARG001
        return 2 * activation

    def plain_only(model: Any) -> None:
        pass

    def heard() -> tuple[list[np.ndarray], bool]:
        cursor = net.start(prefixes)
        assert isinstance(cursor, network.NetworkCursor)
        apart = isinstance(cursor._groups[0]._cache, ForkCache)
        other = cursor.fork()
        found = wandered(other, np.random.default_rng(5))[:-1]
        cursor.advance(np.array([4, 2, 4, 0]), np.array([3, 1, 2, 2]))
        with model.hooks(fwd_hooks=[("blocks.1.hook_mlp_out", doubled)]):
            cursor.advance(np.array([0, 3, 2, 2]), np.array([3, 1, 2, 2]))
            found.append(cursor.log_probs)
        return found + wandered(cursor, np.random.default_rng(6))[:-1], apart

    ours, apart = heard()
    assert apart
    monkeypatch.setattr(models_cursor, "forking_body", plain_only)
    whole, apart = heard()
    assert not apart
    for one, two in zip(ours, whole, strict=True):
        np.testing.assert_allclose(one, two, atol=2e-5)


def test_callable_sees_whole_sequences(prefixes: np.ndarray, world: Any) -> None:
    from mechprobe.worlds import callable_model

    seen: list[np.ndarray] = []

    def model(ids: np.ndarray) -> np.ndarray:
        seen.append(ids)
        out = np.full((len(ids), WORDS), -9.0)
        out[np.arange(len(ids)), ids.sum(axis=1) % WORDS] = -0.1
        return out

    predictor = callable_model(model, world)
    assert predictor.name == "model"
    cursor = predictor.start(prefixes)
    assert all((ids >= 0).all() for ids in seen)
    sums = np.where(prefixes >= 0, prefixes, 0).sum(axis=1)
    np.testing.assert_array_equal(cursor.log_probs.argmax(axis=1), sums % WORDS)
    rows, tokens = np.array([5, 1, 1]), np.array([3, 0, 7])
    cursor.advance(rows, tokens)
    np.testing.assert_array_equal(cursor.log_probs.argmax(axis=1), (sums[rows] + tokens) % WORDS)


def test_reading_word_by_word(prefixes: np.ndarray, world: Any, tiny: Callable[..., Any]) -> None:
    from mechprobe.worlds import language_model
    from mechprobe.worlds.predictors.callables import read

    net = language_model(tiny("gpt2"), world, vocabulary(world))

    class Stepping:
        name = "no read()"
        start = net.start

    np.testing.assert_allclose(read(Stepping(), prefixes), read(net, prefixes), atol=2e-5)


def nan(ids: np.ndarray) -> np.ndarray:
    out = np.full((len(ids), WORDS), -3.0)
    out[0, 5] = np.nan
    return out


def narrow(ids: np.ndarray) -> np.ndarray:
    return np.zeros((len(ids), 3))


def too_likely(ids: np.ndarray) -> np.ndarray:
    return np.full((len(ids), WORDS), 0.7)


@pytest.mark.parametrize(
    ("fn", "message"),
    [
        (nan, "nan gave NaN for word id 5 in row 0"),
        (narrow, r"gave an array of shape \(6, 3\) for 6 sequences"),
        (too_likely, "a probability above 1; return natural"),
    ],
)
def test_bad_functions(world: Any, fn: Callable[[np.ndarray], np.ndarray], message: str) -> None:
    from mechprobe.worlds import callable_model

    with pytest.raises(ValueError, match=message):
        _ = callable_model(fn, world).start(np.zeros((6, 2), dtype=np.int64)).log_probs


@pytest.mark.usefixtures("as_users_run_it")
def test_no_function(world: Any) -> None:
    from mechprobe.worlds import callable_model

    with pytest.raises(TypeError, match=r"must be a function of ids .* found int"):
        callable_model(cast("Any", 3), world)


def test_bad_vocabularies(tiny: Callable[..., Any], world: Any) -> None:
    from mechprobe.worlds import language_model

    words = vocabulary(world)
    model = tiny("gpt2")
    with pytest.raises(ValueError, match=r"are not known: there is no tokens\.json"):
        language_model(model, world)
    with pytest.raises(ValueError, match=r"lacks 1 of the 16 words of dyck .*: '\)1'"):
        language_model(model, world, {k: v for k, v in words.items() if k != world.tokens[9]})
    with pytest.raises(ValueError, match=r"the id 300; the model's ids are 0\.\.299"):
        language_model(model, world, words | {world.tokens[0]: 300})
    with pytest.raises(ValueError, match="have one id, 193; ids must differ"):
        language_model(model, world, words | {world.tokens[0]: 193})


def test_too_long_and_empty(tiny: Callable[..., Any], world: Any) -> None:
    from mechprobe.worlds import language_model

    net = language_model(tiny("gpt2"), world, vocabulary(world))
    with pytest.raises(ValueError, match=r"sequences of 65 words .* holds 64\. Pass a smaller max"):
        net.start(np.zeros((1, 65), dtype=np.int64))
    with pytest.raises(ValueError, match="no start token, so nothing can be asked before"):
        net.start(np.full((2, 3), -1, dtype=np.int64))
    begun = language_model(tiny("gpt2"), world, vocabulary(world), start_id=1)
    assert begun.longest == 63
    empty = np.array([[-1, -1], [4, -1]])
    one, other = begun.start(empty).log_probs
    assert np.abs(one - other).max() > 1e-3


def test_nan_probabilities(tiny: Callable[..., Any], world: Any) -> None:
    from mechprobe.worlds import language_model

    model = tiny("gpt2")
    net = language_model(model, world, vocabulary(world))
    with (
        model.hooks(fwd_hooks=[("ln_final.hook_normalized", _to_nan)]),
        pytest.raises(ValueError, match="gave NaN for word id 0 in row 0 of 1"),
    ):
        net.start(np.zeros((1, 2), dtype=np.int64))


def _to_nan(activation: torch.Tensor, hook: object) -> torch.Tensor:
    del hook
    return activation * torch.nan


def test_loading_a_folder(tmp_path: Path, world: Any) -> None:
    from mechprobe.worlds import load_sequence_model
    from tests.tiny import save_tiny

    folder = save_tiny(tmp_path / "net", "gpt2")
    with pytest.raises(FileNotFoundError, match=r"net holds no tokens\.json"):
        load_sequence_model(folder, world)
    (folder / "tokens.json").write_text(json.dumps(["a"]))
    with pytest.raises(ValueError, match="must map words to integer ids"):
        load_sequence_model(folder, world)
    (folder / "tokens.json").write_text(json.dumps(vocabulary(world)))
    net = load_sequence_model(folder, world)
    assert net.name == "net"
    assert net.ids.tolist() == list(vocabulary(world).values())
    with pytest.raises(FileNotFoundError, match="there is no folder"):
        load_sequence_model(tmp_path / "nowhere" / "at all", world)
