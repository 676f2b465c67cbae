"""The public call: what is drawn, kept and dropped, continued, saved, drawn and refused."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest

QUIET: dict[str, Any] = {"progress": False}


@pytest.fixture(scope="module")
def world() -> Any:
    from mechprobe.worlds import StreetMap

    return StreetMap.grid(3, seed=2, max_length=24)


@pytest.fixture(scope="module")
def result(world: Any) -> Any:
    from mechprobe.worlds import evaluate_world_model, noisy_oracle

    model = noisy_oracle(world, 0.05, 0.01, seed=4)
    return evaluate_world_model(model, world, n=60, suffixes=8, k=3, sensitivity=True, **QUIET)


def test_nothing_is_lost(result: Any) -> None:
    data = result.data
    assert data["model"].values.tolist() == [
        "given", "uniform", "legal_only", "automaton", "noisy_oracle",
    ]  # fmt: skip
    tests = data["test"].values.tolist()
    for test in tests:
        kept = data["n_kept"].sel(metric=test).values
        dropped = data["dropped"].sel(metric=test).sum("reason").values
        np.testing.assert_array_equal(kept + dropped, np.full(5, 60))
        scores = data["score"].sel(test=test).values
        np.testing.assert_array_equal((~np.isnan(scores)).sum(axis=1), kept)
    assert data["n_kept"].sel(model="uniform", metric="distinction_precision") == 0
    for metric in data["metric"].values.tolist():
        value, low, high = (data[f"{metric}{e}"].values for e in ("", "_low", "_high"))
        known = ~np.isnan(value)
        assert (low[known] <= value[known]).all()
        assert (value[known] <= high[known]).all()
        assert known.sum() >= 4
        assert value[3] == 1
    # The baseline errs as often as the model does; here the model is such a one.
    matched = result.matched()
    assert matched.index.tolist() == data["metric"].values.tolist()
    assert (matched[["refused asked", "refused realised"]] > 0.02).all(axis=None)
    np.testing.assert_array_equal(matched["refused realised"], data["refused_legal"].values[4])
    np.testing.assert_array_equal(matched["accepted asked"], data["accepted_illegal"].values[0])


def test_means_are_over_states(result: Any) -> None:
    data = result.data
    scores = data["score"].sel(model="given", test="compression_precision").values
    states = data["state"].sel(test="compression_precision").values
    means = [np.nanmean(scores[states == s]) for s in np.unique(states[states >= 0])]
    assert len(means) < len(scores)
    np.testing.assert_allclose(data["compression_precision"].values[0], np.mean(means))


def test_sensitivity(result: Any) -> None:
    data = result.data
    knobs = data["knob"].values.tolist()
    assert set(knobs) == {"epsilon", "suffixes", "k"}
    curve = data["sensitivity"].sel(metric="compression_precision").values
    over_m = [float(curve[i]) for i, knob in enumerate(knobs) if knob == "suffixes"]
    assert data["at"].values[[k == "suffixes" for k in knobs]].tolist() == [1, 5, 30, 100]
    assert over_m == sorted(over_m, reverse=True)
    assert over_m[0] > over_m[-1]
    recall = data["sensitivity"].sel(metric="distinction_recall").values
    assert np.isnan(recall[[k == "suffixes" for k in knobs]]).all(), "it draws nothing"
    assert not np.isnan(recall[[k == "k" for k in knobs]]).any()
    at_three = [i for i, k in enumerate(knobs) if k == "k" and data["at"].values[i] == 3]
    np.testing.assert_allclose(recall[at_three[0]], data["distinction_recall"].values[0])


def test_saved_and_loaded(result: Any, tmp_path: Path) -> None:
    from mechprobe.saved import load_result
    from mechprobe.worlds.metrics.results import WorldModelResult

    loaded = load_result(result.save(tmp_path / "world.nc"))
    assert isinstance(loaded, WorldModelResult)
    assert loaded.data.equals(result.data)
    assert loaded.provenance == result.provenance
    assert result.provenance.arguments["acceptance"] == "ε = 0.01"
    assert result.provenance.function == "mechprobe.evaluate_world_model"
    assert len(result.to_json()) > 1000


def test_summary_stands_beside_baselines(result: Any) -> None:
    table = result.summary()
    assert table.index.tolist()[0] == "given"
    assert table.columns.tolist() == [
        "suffix error", "compression precision", "distinction precision", "distinction recall",
        "next token validity", "legal refused", "illegal accepted",
    ]  # fmt: skip
    assert re.fullmatch(r"(0\.0\d+( / )?){3}", table.loc["noisy_oracle", "legal refused"])
    assert table.loc["uniform", "distinction precision"] == "no pair left"
    assert re.fullmatch(r"1\.000 \[0\.\d+, 1\.000\]", table.loc["automaton", "distinction recall"])
    assert len(result.to_dataframe()) == 20
    assert set(result.dropped()["reason"]) >= {"the model tells nothing apart"}
    assert "grid 3x3" in result.note()
    assert "noisy_oracle" in repr(result)
    assert "<table" in result._repr_html_()


def test_figures(result: Any) -> None:
    figure = result.plot()
    assert len(figure.data) == 5
    assert figure.data[0].y[0] == pytest.approx(result.data["compression_precision"].values[0])
    assert any(note.text == "no pair" for note in figure.layout.annotations)
    curves = result.plot("sensitivity")
    assert {trace.name for trace in curves.data} == {
        "compression precision", "distinction precision", "distinction recall",
    }  # fmt: skip
    over_m = result.plot("suffixes")
    assert list(over_m.data[0].x) == [1, 2, 5, 8]
    np.testing.assert_allclose(over_m.data[0].y, result.data["compression_curve"].values[0])
    assert len(result.section().figures) == 3
    with pytest.raises(ValueError, match="no figure 'map'; the kinds are metrics, suffixes, sens"):
        result.plot("map")


@pytest.mark.browser
def test_figures_open(result: Any, tmp_path: Path) -> None:
    from mechprobe.results.html import Section, write_page
    from tests.browser import opened

    figures = [result.plot(), result.plot("suffixes"), result.plot("sensitivity")]
    section = Section("world", figures, result.summary(), result.provenance.to_json(), "")
    page = write_page(tmp_path / "world.html", "world", [section])
    with opened(page) as seen:
        assert seen.errors == []
        assert seen.page.locator(".main-svg").count() >= 2


def test_no_curves_unasked(world: Any) -> None:
    from mechprobe.worlds import evaluate_world_model, true_automaton

    out = evaluate_world_model(true_automaton(world), world, n=10, baselines=False, **QUIET)
    assert out.data.sizes["model"] == 1
    with pytest.raises(ValueError, match="has no curves; evaluate with sensitivity=True"):
        out.plot("sensitivity")
    with pytest.raises(ValueError, match="no noise-matched oracle; evaluate with baselines=True"):
        out.matched()
    exact = evaluate_world_model(true_automaton(world), world, n=10, mode="exact", baselines=False, **QUIET)
    with pytest.raises(ValueError, match="mode 'exact' draws no suffixes"):
        exact.plot("suffixes")
    assert "suffix error" not in exact.summary()
    assert np.isnan(exact.data["pair_suffix_error"]).all()


def test_same_call_same_numbers(world: Any) -> None:
    from mechprobe.worlds import evaluate_world_model, noisy_oracle

    def call(seed: int, **options: Any) -> Any:
        return evaluate_world_model(
            noisy_oracle(world, 0.05, 0.01), world, n=30, suffixes=5, seed=seed, **QUIET, **options
        )

    first = call(0)
    assert first.data.equals(call(0, batch_size=7).data)
    assert first.provenance.without_time() == call(0).provenance.without_time()
    assert not first.data["score"].equals(call(1).data["score"])


class Counted:
    """A predictor that counts what it reads, and gives up after some prefixes."""

    def __init__(self, inner: Any, most: int | None = None) -> None:
        self.name, self._inner, self._most = "counted", inner, most
        self.n_started = 0

    def start(self, prefixes: np.ndarray) -> Any:
        if self._most is not None and self.n_started >= self._most:
            raise KeyboardInterrupt
        self.n_started += 1
        return self._inner.start(prefixes)


def test_an_interrupted_run_goes_on(world: Any, tmp_path: Path) -> None:
    from mechprobe.worlds import evaluate_world_model, noisy_oracle

    oracle = noisy_oracle(world, 0.05, 0.01)
    options: dict[str, Any] = {"n": 30, "suffixes": 5, "batch_size": 4, "baselines": False, **QUIET}
    whole = Counted(oracle)
    expected = evaluate_world_model(whole, world, **options)
    journal = tmp_path / "run.jsonl"
    with pytest.raises(KeyboardInterrupt):
        evaluate_world_model(Counted(oracle, 15), world, resume=journal, **options)
    lines = journal.read_text().splitlines()
    assert len(lines) > 3
    # The last line cut short, as a kill would leave it.
    journal.write_text("\n".join(lines)[:-9])
    rest = Counted(oracle)
    found = evaluate_world_model(rest, world, resume=journal, **options)
    assert found.data.equals(expected.data)
    assert rest.n_started < whole.n_started
    again = Counted(oracle)
    assert evaluate_world_model(again, world, resume=journal, **options).data.equals(expected.data)
    assert again.n_started < rest.n_started
    with pytest.raises(ValueError, match=r"run\.jsonl belongs to another run: seed differ"):
        evaluate_world_model(Counted(oracle), world, resume=journal, seed=3, **options)
    journal.write_text("no journal\n")
    with pytest.raises(ValueError, match="is not what an interrupted run left"):
        evaluate_world_model(Counted(oracle), world, resume=journal, **options)


def test_prefixes_on_policy_and_given(world: Any) -> None:
    from mechprobe.worlds import Epsilon, evaluate_world_model, noisy_oracle, true_automaton
    from mechprobe.worlds.metrics.drawing import drawn_pairs
    from mechprobe.worlds.metrics.request import checked

    request = checked(world, 80, 5, 4, Epsilon(), "corrected", None, 0)
    walks = world.random_walks(40, np.random.default_rng(9))
    known = {tuple(w[:i].tolist()) for w in walks for i in range(len(w) + 1)}
    for prefixes in ("on_policy", walks):
        same, different = drawn_pairs(true_automaton(world), world, request, prefixes)
        assert len(same) == len(different) == 80
        assert (same.states1 == same.states2).all()
        assert (different.states1 != different.states2).any(axis=1).all()
        for pairs in (same, different):
            for states, ids in ((pairs.states1, pairs.prefixes1), (pairs.states2, pairs.prefixes2)):
                np.testing.assert_array_equal(world.run(world.initial(80), ids), states)
                if prefixes is walks:
                    assert all(tuple(row[row >= 0].tolist()) in known for row in ids)
        for one, other in zip(same.prefixes1, same.prefixes2, strict=True):
            assert one[one >= 0].tolist() != other[other >= 0].tolist()
    out = evaluate_world_model(
        noisy_oracle(world, 0.02, 0.005), world, n=20, prefixes=walks, baselines=False, **QUIET
    )
    assert str(out.provenance.arguments["prefixes"]).startswith("40 sequences, sha256")


def test_equal_prefixes_are_dropped_or_drawn_again() -> None:
    """``Dyck(1, 1)``: one string of each length, so two prefixes of one length are always equal."""
    from mechprobe.worlds import Dyck, Seating, evaluate_world_model, true_automaton

    only = Dyck(1, 1)
    for mode in ("corrected", "vafa2024"):
        with pytest.raises(
            ValueError,
            match="no pair of prefixes is left to test compression: 9 were drawn, and all dropped "
            r"\(9 times: both prefixes are the same\)",
        ):
            evaluate_world_model(true_automaton(only), only, n=9, mode=mode, **QUIET)
    seating = Seating(3)
    options: dict[str, Any] = {"n": 300, "suffixes": 2, "k": 1, "baselines": False, **QUIET}
    fixed = evaluate_world_model(true_automaton(seating), seating, **options).data
    published = evaluate_world_model(true_automaton(seating), seating, mode="vafa2024", **options).data
    metric = "compression_precision"
    assert fixed["n_redrawn"].sel(metric=metric) > 0
    assert fixed["n_kept"].sel(metric=metric).item() == 300
    assert published["n_redrawn"].sel(metric=metric) == 0
    assert published["n_kept"].sel(metric=metric).item() < 300


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"n": 0}, "n must be at least 1; found 0"),
        ({"suffixes": 0}, "suffixes must be at least 1"),
        ({"k": 0}, "k must be at least 1"),
        ({"mode": "fast"}, "no mode 'fast'; the modes are corrected, vafa2024, exact"),
        ({"prefixes": "mine"}, "no prefixes 'mine'; pass 'random_walk', 'on_policy'"),
        ({"sequences": []}, "no sequence was given to test next words on"),
    ],
)
def test_bad_settings(world: Any, options: dict[str, Any], message: str) -> None:
    from mechprobe.worlds import evaluate_world_model, true_automaton

    call: dict[str, Any] = {"n": 5, **options, **QUIET}
    with pytest.raises(ValueError, match=message):
        evaluate_world_model(true_automaton(world), world, **call)


@pytest.mark.usefixtures("as_users_run_it")
def test_wrong_kinds(world: Any) -> None:
    from mechprobe.worlds import Dyck, Seating, TopK, evaluate_world_model, true_automaton

    with pytest.raises(TypeError, match=r"must be Epsilon\(0\.01\), TopK\(k\) or TopP\(p\); found"):
        evaluate_world_model(true_automaton(world), world, acceptance=cast("Any", 0.01), **QUIET)
    with pytest.raises(ValueError, match="knows a threshold only; top-3 goes with 'corrected'"):
        evaluate_world_model(true_automaton(world), world, acceptance=TopK(3), mode="vafa2024", **QUIET)
    with pytest.raises(TypeError, match="must be a function of ids"):
        evaluate_world_model(cast("Any", "gpt2"), world, **QUIET)
    with pytest.raises(ValueError, match=r"predicts the words of dyck .*, and seating 3 was to be"):
        evaluate_world_model(true_automaton(Dyck()), Seating(3), **QUIET)


def test_a_context_too_short(tiny: Callable[..., Any]) -> None:
    from mechprobe.worlds import Dyck, evaluate_world_model, language_model

    long = Dyck(1, 2, max_length=70)
    words = {"(": 5, ")": 6}
    net = language_model(tiny("gpt2"), long, words)
    with pytest.raises(ValueError, match=r"sequences of 69 words .* Pass a smaller max_tokens"):
        evaluate_world_model(net, long, n=2, **QUIET)


def test_a_transformer_end_to_end(tiny: Callable[..., Any]) -> None:
    from mechprobe.worlds import Dyck, TopP, evaluate_world_model, language_model

    world = Dyck(2, 3, max_length=16)
    net = language_model(tiny("gpt2"), world, {w: 9 + i for i, w in enumerate(world.tokens)})
    out = evaluate_world_model(
        net, world, n=8, suffixes=4, k=2, acceptance=TopP(0.001), batch_size=3, **QUIET
    )
    assert out.provenance.model["architecture"] == "GPT2LMHeadModel"
    assert out.provenance.model["vocabulary_sha256"]
