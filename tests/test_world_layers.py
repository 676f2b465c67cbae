"""Metrics by layer: the last layer is the model itself, and every layer has its control."""

from collections.abc import Callable
from itertools import count
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch

from tests.bigram import bigram, dyck_net

QUIET: dict[str, Any] = {"progress": False}
TESTS = ("compression_precision", "distinction_precision", "distinction_recall")
METRICS = (*TESTS, "next_token_validity")


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return bigram(tmp_path_factory.mktemp("bigram"))


@pytest.fixture(scope="module")
def shipped() -> Any:
    from mechprobe.worlds.training.shipped import load_shipped

    return load_shipped("random_walks")


ASKED: dict[str, Any] = {"n": 20, "suffixes": 3, "k": 3, "seed": 3}


@pytest.fixture(scope="module")
def result(shipped: tuple[Any, Any]) -> Any:
    from mechprobe.worlds import world_by_layer

    net, world = shipped
    return world_by_layer(net, world, layers=[-1, net.model.cfg.n_layers - 1], **ASKED, **QUIET)


@pytest.fixture
def prefixes() -> np.ndarray:
    from mechprobe.worlds import pad

    rng = np.random.default_rng(0)
    return pad([rng.integers(0, 16, n) for n in (5, 1, 9, 5)])


def by_lens(net: Any, ids: np.ndarray, layer: int) -> np.ndarray:
    """What the package's logit lens reads, word by word."""
    from mechprobe.lens.lens import logit_lens

    tokens = net.rectangle(ids[None])[0].tolist()
    words = net.ids.tolist()
    lens = logit_lens(net.model, [tokens], layers=[layer], top_k=1, targets=words, **QUIET)
    return lens.data["target_log_prob"].values[0, 0, 0]


@pytest.mark.parametrize(("architecture", "start_id"), [("gpt2", 3), ("llama", None)])
def test_a_layer_is_what_the_lens_reads(
    tiny: Callable[..., Any], prefixes: np.ndarray, architecture: str, start_id: int | None
) -> None:
    net = dyck_net(tiny, architecture, start_id=start_id)
    for layer in (-1, 1):
        at = net.at_layer(layer)
        found = at.start(prefixes).log_probs
        every = at.read(prefixes)
        for row in (0, 2):
            ids = prefixes[row][prefixes[row] >= 0]
            expected = by_lens(net, ids, layer)
            np.testing.assert_allclose(found[row], expected, atol=2e-5)
            np.testing.assert_allclose(every[row, len(ids) - 1], expected, atol=2e-5)


@pytest.mark.parametrize("architecture", ["gpt2", "llama", "gemma3"])
def test_the_last_layer_is_the_model(
    tiny: Callable[..., Any], prefixes: np.ndarray, architecture: str
) -> None:
    net = dyck_net(tiny, architecture)
    last = net.at_layer(2)
    assert last.name == f"{net.name}, layer 2"
    assert net.at_layer(0).at_layer(2).name == last.name
    one, other = net.start(prefixes), last.start(prefixes)
    for step in range(3):
        np.testing.assert_allclose(other.log_probs, one.log_probs, atol=1e-5)
        for cursor in (one, other):
            cursor.advance(np.array([2, 0, 0]), np.array([step, 4, 5]))
    np.testing.assert_allclose(last.read(prefixes), net.read(prefixes), atol=1e-5)
    first = net.at_layer(-1).start(prefixes).log_probs
    assert np.abs(first - net.start(prefixes).log_probs).max() > 0.1


def test_a_layer_cached_and_not(tiny: Callable[..., Any], prefixes: np.ndarray) -> None:
    with_cache, without = (
        dyck_net(tiny, "gpt2", cached=cached).at_layer(0).start(prefixes) for cached in (None, False)
    )
    for step in range(3):
        np.testing.assert_allclose(with_cache.log_probs, without.log_probs, atol=2e-5)
        for cursor in (with_cache, without):
            cursor.advance(np.array([3, 1, 1, 2]), np.array([step, 4, 5, 6]))


def test_another_way_to_the_answer_is_refused(tiny: Callable[..., Any]) -> None:
    from mechprobe.models import stream_name

    net = dyck_net(tiny, "gpt2")
    times = count(1)

    def bent(activation: torch.Tensor, hook: object) -> torch.Tensor:
        """Another norm every time that it is asked."""
        del hook
        return activation * next(times)

    with (
        net.model.hooks(fwd_hooks=[("ln_final.hook_normalized", bent)]),
        pytest.raises(ValueError, match="do not give the model's own output"),
    ):
        net.at_layer(0)
    with pytest.raises(ValueError, match=r"layers=\[3\]: .* has blocks 0\.\.2, and -1 is the emb"):
        net.at_layer(3)
    assert stream_name(-1) == "blocks.0.hook_resid_pre"


def test_the_last_layer_scores_as_the_model_does(shipped: tuple[Any, Any], result: Any) -> None:
    from mechprobe.worlds import evaluate_world_model

    net, world = shipped
    whole = evaluate_world_model(net, world, baselines=True, **ASKED, **QUIET).data
    data = result.data.isel(layer=-1)
    for metric in METRICS:
        for end in ("", "_low", "_high"):
            np.testing.assert_allclose(data[f"{metric}{end}"], whole[f"{metric}{end}"][0])
            control = data[f"control_{metric}{end}"]
            np.testing.assert_allclose(control, whole[f"{metric}{end}"].sel(model="noisy_oracle"))
            for name in ("uniform", "legal_only", "automaton"):
                np.testing.assert_array_equal(
                    result.data[f"reference_{metric}{end}"].sel(reference=name),
                    whole[f"{metric}{end}"].sel(model=name),
                )
    np.testing.assert_array_equal(data["score"], whole["score"][0])
    for rate in ("refused_legal", "accepted_illegal"):
        np.testing.assert_array_equal(data[rate], whole[rate][0])
        np.testing.assert_array_equal(data[f"control_{rate}"], whole[rate].sel(model="noisy_oracle"))
    np.testing.assert_array_equal(data["suffix_error"], whole["suffix_error"][0])


def test_the_embedding_knows_little(result: Any) -> None:
    data = result.data
    first, last = data.isel(layer=0), data.isel(layer=-1)
    assert data["layer"].values[0] == -1
    assert float(first["next_token_validity_high"]) < float(last["next_token_validity_low"])
    assert float(first["distinction_recall_high"]) < float(last["distinction_recall"])
    assert (first["refused_legal"] > 5 * last["refused_legal"]).all()


def test_a_model_that_is_its_world(small: tuple[Any, Any]) -> None:
    """At its end it is right about every string; its noise-matched control has no noise."""
    from mechprobe.worlds import world_by_layer

    net, world = small
    data = world_by_layer(net, world, n=30, k=2, mode="exact", layers=[-1, 2], **QUIET).data
    for metric in METRICS:
        assert float(data[metric].sel(layer=2)) == 1, metric
        assert float(data[f"control_{metric}"].sel(layer=2)) == 1, metric
        assert float(data[f"reference_{metric}"].sel(reference="automaton")) == 1, metric
    assert (data["above_control"].sel(layer=2) == 0).all()
    # The last word alone stands in the embedding, too: it merges what is one state, and errs.
    assert float(data["compression_precision"].sel(layer=-1)) == 1
    assert float(data["distinction_recall_high"].sel(layer=-1)) < 0.9


def test_an_interrupted_run_goes_on(
    small: tuple[Any, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mechprobe.worlds import world_by_layer
    from mechprobe.worlds.metrics import exam

    net, world = small
    asked: dict[str, Any] = {"n": 30, "k": 2, "mode": "exact", "layers": [-1, 2], **QUIET}
    whole = world_by_layer(net, world, **asked)
    scores, keys = exam.Exam.scores, list[str]()

    def stopped(self: Any, key: str, *asked: Any) -> Any:
        keys.append(key)
        if key == "control of layer 2" and keys.count(key) == 1:
            raise KeyboardInterrupt
        return scores(self, key, *asked)

    journal = tmp_path / "layers.jsonl"
    monkeypatch.setattr(exam.Exam, "scores", stopped)
    with pytest.raises(KeyboardInterrupt):
        world_by_layer(net, world, resume=journal, **asked)
    assert keys == ["layer -1", "layer 2", *["control of layer -1"] * 3, "control of layer 2"]
    there = journal.read_text().splitlines()
    rest = world_by_layer(net, world, resume=journal, **asked)
    assert rest.data.equals(whole.data)
    # What was there was not computed again.
    assert journal.read_text().splitlines()[: len(there)] == there
    tasks = [line for line in journal.read_text().splitlines() if '"layer -1 ' in line]
    assert tasks == [line for line in there if '"layer -1 ' in line]
    with pytest.raises(ValueError, match=r"layers\.jsonl belongs to another run: n differ"):
        world_by_layer(net, world, resume=journal, **(asked | {"n": 20}))


def test_nothing_is_lost(result: Any) -> None:
    data = result.data
    for prefix in ("", "control_"):
        for i, test in enumerate(TESTS):
            scores = data[f"{prefix}score"].sel(test=test).values
            kept = data[f"{prefix}n_kept"].sel(metric=test).values
            dropped = data[f"{prefix}dropped"].sel(metric=test).sum("reason").values
            np.testing.assert_array_equal((~np.isnan(scores)).sum(axis=1), kept)
            np.testing.assert_array_equal(kept + dropped, np.full(2, 20))
            state = data["state"].values[i]
            for row, layer in enumerate(scores):
                means = [np.nanmean(layer[(state == s) & ~np.isnan(layer)])
                         for s in np.unique(state[~np.isnan(layer)])]  # fmt: skip
                np.testing.assert_allclose(data[f"{prefix}{test}"].values[row], np.mean(means))
    both = data["score"].values[1, 0] - data["control_score"].values[1, 0]
    known, state = ~np.isnan(both), data["state"].values[0]
    means = [both[known & (state == s)].mean() for s in np.unique(state[known])]
    np.testing.assert_allclose(data["above_control"].values[1, 0], np.mean(means))
    assert (data["above_control_low"] <= data["above_control"]).all()


def test_saved_and_loaded(result: Any, tmp_path: Path) -> None:
    import xarray as xr

    from mechprobe.saved import load_result
    from mechprobe.worlds.metrics.results import WorldByLayer

    back = load_result(result.save(tmp_path / "layers.nc"))
    assert isinstance(back, WorldByLayer)
    xr.testing.assert_identical(back.data, result.data)
    assert back.provenance == result.provenance
    assert "nostalgebraist2020logitlens" in back.citation()


def test_shown(result: Any) -> None:
    data = result.data
    figure = result.plot()
    # Three references, control, layer and its band in each of four panels; what bars and bands are.
    assert len(figure.data) == 6 * 4 + 2
    bands = {t.xaxis: t for t in figure.data if t.fill == "toself"}
    low, high = (data[f"distinction_recall_band_{end}"].values for end in ("low", "high"))
    np.testing.assert_allclose(bands["x3"].y, [*high, *low[::-1]])
    assert {"pointwise 95 %", "simultaneous 95 %"} < {t.name for t in figure.data if t.showlegend}
    recall = {t.name: t for t in figure.data if t.xaxis == "x3"}
    np.testing.assert_allclose(list(recall["layer"].y), data["distinction_recall"])
    control = recall["automaton with the layer's own error rates"]
    np.testing.assert_allclose(list(control.y), data["control_distinction_recall"])
    assert control.line.dash == "dash"
    assert set(recall["true automaton"].y) == {1.0}
    assert sum(bool(t.showlegend) for t in figure.data) == 5 + 2
    with pytest.raises(ValueError, match="there is no figure 'bars' of metrics by layer; choose"):
        result.plot("bars")
    assert "pairs of compression precision kept" in result.section().note
    assert "embedding" in result._repr_html_()
    assert len(result.to_dataframe()) == 2 * 4
    assert result.summary().columns[:2].tolist() == ["suffix error", "control suffix error"]
    matched = result.matched()
    assert matched.index.names == ["layer", "metric"]
    np.testing.assert_array_equal(matched["refused realised"], data["control_refused_legal"].values.ravel())
    assert (result.dropped()["dropped"] > 0).all()


@pytest.fixture
def no_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    from mechprobe.models import cursor

    def fails(*args: object, **kwargs: object) -> None:
        raise AssertionError(args, kwargs)

    monkeypatch.setattr(cursor, "run", fails)


@pytest.mark.usefixtures("no_pass", "as_users_run_it")
@pytest.mark.parametrize(
    ("asked", "error", "message"),
    [
        ({"n": 0}, ValueError, "n must be at least 1; found 0"),
        ({"suffixes": 0}, ValueError, "suffixes must be at least 1; found 0"),
        ({"mode": "other"}, ValueError, "there is no mode 'other'"),
        ({"layers": [-2]}, ValueError, r"layers=\[-2\]: .* name each once"),
        ({"max_tokens": 900}, ValueError, "sequences of 899 words were asked for"),
        ({"acceptance": 0.01}, TypeError, r"acceptance must be Epsilon\(0.01\)"),
    ],
)
def test_refused(
    shipped: tuple[Any, Any], asked: dict[str, Any], error: type[Exception], message: str
) -> None:
    from mechprobe.worlds import world_by_layer

    with pytest.raises(error, match=message):
        world_by_layer(*shipped, **asked, **QUIET)


@pytest.mark.usefixtures("as_users_run_it")
def test_what_has_no_layers_is_refused(shipped: tuple[Any, Any]) -> None:
    from mechprobe.worlds import uniform, world_by_layer

    net, world = shipped
    with pytest.raises(TypeError, match="uniform is Oracle and has no layers to look into; pass a"):
        world_by_layer(cast("Any", uniform(world)), world, **QUIET)
    with pytest.raises(ValueError, match="layer 0 is read at a layer already"):
        world_by_layer(net.at_layer(0), world, **QUIET)
    with pytest.raises(ValueError, match="there are no prefixes 'my own'"):
        world_by_layer(net, world, prefixes="my own", layers=[0], **QUIET)
