"""The call that patches states: what is drawn, counted, saved, drawn as a figure and refused."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch

from tests.bigram import dyck_net

QUIET: dict[str, Any] = {"progress": False}
CONDITIONS = ("swap", "same_state", "random_state")


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


@pytest.fixture(scope="module")
def result(trained: Any, streets: Any) -> Any:
    from mechprobe.worlds import patch_states

    return patch_states(trained, streets, n=24, k=3, layers=[-1, 0], **QUIET)


def test_trials(streets: Any) -> None:
    """Equal lengths; donors of the other state, of the same and of a third; strings that fit."""
    from mechprobe.worlds import Epsilon
    from mechprobe.worlds.inside.trials import draw_trials
    from mechprobe.worlds.metrics.request import checked

    request = checked(streets, 100, 1, 3, Epsilon(), "corrected", None, 0)
    trials = draw_trials(streets, request, 3)
    pairs, begin = trials.pairs, streets.initial(len(trials.pairs))
    lengths = (pairs.prefixes1 >= 0).sum(axis=1)
    assert lengths.min() >= 3
    assert len(pairs) + sum(pairs.dropped.values()) == 100
    for name, prefixes in trials.donors.items():
        np.testing.assert_array_equal((prefixes >= 0).sum(axis=1), lengths)
        states, has = streets.run(begin, prefixes), trials.has[CONDITIONS.index(name)]
        assert has.any(), name
        differs = (prefixes != pairs.prefixes1).any(axis=1)
        np.testing.assert_array_equal(differs, has)
        if name == "swap":
            np.testing.assert_array_equal(states, pairs.states2)
        apart = [(states != s).any(axis=1)[has] for s in (pairs.states1, pairs.states2)]
        assert apart[0].all() if name != "same_state" else not apart[0].any()
        assert apart[1].all() if name != "swap" else not apart[1].any()
    strings = trials.strings.strings
    assert trials.n_strings - trials.too_long == len(strings)
    assert (lengths[strings.pair] + strings.lengths <= streets.max_length).all()
    one, other = (streets.accepts(s[strings.pair], strings.strings) for s in (pairs.states1, pairs.states2))
    np.testing.assert_array_equal(other, trials.strings.of_donor)
    np.testing.assert_array_equal(one, ~trials.strings.of_donor)


def test_nothing_is_lost(streets: Any, result: Any) -> None:
    from mechprobe.stats import unit_interval

    data = result.data
    assert int(data["n_kept"]) + int(data["dropped"].sum()) == int(data["n_drawn"]) == 24
    followed = int(data["n_followed"])
    assert followed + int(data["strings_dropped"].sum()) == int(data["n_strings"])
    assert data["n_pairs"].values[0] == int(data["n_kept"]) == data.sizes["pair"]
    sampled = float(data["states_sampled"])
    assert 0 < sampled <= 24 / streets.usable_states()
    for i, name in enumerate(CONDITIONS):
        scores = data["score"].values[i]
        assert ((~np.isnan(scores)).sum(axis=-1) == data["n_pairs"].values[i]).all()
        expected = [[unit_interval(s, data["state"].values, sampled=sampled) for s in row] for row in scores]
        for j, end in enumerate(("", "_low", "_high")):
            np.testing.assert_array_equal(data[f"{name}{end}"], np.array(expected)[:, :, j])
    for name in (*CONDITIONS, "gained", "lost", "above_random"):
        value, low, high = (data[f"{name}{e}"].values for e in ("", "_low", "_high"))
        assert ((low <= value) & (value <= high)).all(), name
        band_low, band_high = (data[f"{name}_band_{e}"].values for e in ("low", "high"))
        assert ((band_low <= low) & (high <= band_high)).all(), name


def test_batches_change_nothing(trained: Any, streets: Any, result: Any) -> None:
    from mechprobe.worlds import patch_states

    asked: dict[str, Any] = {"layers": [0], "positions": [-3], "batch_size": 9}
    parts = patch_states(trained, streets, n=24, k=3, **asked, **QUIET)
    whole = result.data["score"].sel(layer=[0], position=[-3])
    np.testing.assert_array_equal(parts.data["score"], whole)
    assert len(np.unique(whole.values[~np.isnan(whole.values)])) > 2
    assert int(parts.data["n_followed"]) == int(result.data["n_followed"])


def test_saved_and_loaded(result: Any, tmp_path: Path) -> None:
    import xarray as xr

    from mechprobe.saved import load_result
    from mechprobe.worlds.inside.results import StatePatching

    back = load_result(result.save(tmp_path / "patching.nc"))
    assert isinstance(back, StatePatching)
    xr.testing.assert_identical(back.data, result.data)
    assert back.provenance == result.provenance
    assert back.note() == result.note()
    assert "geiger2023das" in back.citation()


def test_shown(result: Any) -> None:
    data = result.data
    figure = result.plot()
    assert len(figure.data) == 4 * 3 + 2, "a panel for each position, a band in each"
    assert {"pointwise 95 %", "simultaneous 95 %"} < {t.name for t in figure.data if t.showlegend}
    by_name = {t.name: t for t in figure.data if t.xaxis == "x3" and t.name}
    named = {"donor: the other state": "swap", "control: a third state": "random_state",
             "control: the same state (any change)": "same_state"}  # fmt: skip
    assert set(by_name) == set(named)
    for name, variable in named.items():
        np.testing.assert_allclose(list(by_name[name].y), data[variable].sel(position=-1))
    assert by_name["donor: the other state"].line.dash == "solid"
    grid = result.plot("grid")
    assert [t.type for t in grid.data] == ["heatmap"] * 3
    np.testing.assert_allclose(np.array(grid.data[0].z, dtype=float), data["swap"])
    assert "simultaneous 95 %, all cells" in grid.data[0].hovertext[0][0]
    assert (grid.layout.coloraxis.cmin, grid.layout.coloraxis.cmax) == (0, 1)
    with pytest.raises(ValueError, match="there is no figure 'pie' of state patching; choose"):
        result.plot("pie")
    assert len(result.section().figures) == 2
    assert "strings followed" in result.section().note
    assert "embedding" in result._repr_html_()
    assert len(result.to_dataframe()) == data.sizes["layer"] * data.sizes["position"]


@pytest.fixture
def no_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    from mechprobe.models import cursor

    def fails(*args: object, **kwargs: object) -> None:
        raise AssertionError(args, kwargs)

    monkeypatch.setattr(cursor, "run", fails)


@pytest.mark.usefixtures("no_pass")
@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"n": 0}, "n must be at least 1; found 0"),
        ({"k": 0}, "k must be at least 1; found 0"),
        ({"layers": [99]}, r"layers=\[99\]: .* has blocks 0\.\.\d+, and -1 is the embedding"),
        ({"layers": []}, r"layers=\[\]"),
        ({"layers": [0, 0]}, "name each once"),
        ({"positions": [0]}, r"positions=\[0\]: words are counted from the end .* -1 the last"),
        ({"positions": [-32]}, r"a prefix has at most 31 of them \(max_tokens=32\)"),
        ({"positions": []}, "name each position once"),
        ({"extent": "all"}, "extent='all' is unknown; choose from position, tail"),
        ({"positions": [-31], "n": 5}, "no pair of prefixes is left to test patching: 5 were"),
        ({"max_tokens": 500}, r"sequences of 499 words were asked for; .* holds"),
    ],
)
@pytest.mark.usefixtures("as_users_run_it")
def test_refused(trained: Any, streets: Any, asked: dict[str, Any], message: str) -> None:
    from mechprobe.worlds import patch_states

    with pytest.raises(ValueError, match=message):
        patch_states(trained, streets, **asked, **QUIET)


@pytest.mark.usefixtures("as_users_run_it", "no_pass")
def test_refused_types(trained: Any, streets: Any) -> None:
    from mechprobe.worlds import patch_states, true_automaton

    with pytest.raises(TypeError, match="automaton is Oracle and has no layers to look into"):
        patch_states(cast("Any", true_automaton(streets)), streets, **QUIET)
    with pytest.raises(TypeError, match=r"pow is .* and has no layers to look into"):
        patch_states(cast("Any", pow), streets, **QUIET)
    with pytest.raises(TypeError, match=r"acceptance must be Epsilon\(0.01\)"):
        patch_states(trained, streets, acceptance=cast("Any", 0.01), **QUIET)


def deaf(*args: object, **kwargs: object) -> torch.Tensor:
    del args, kwargs
    return torch.zeros(1, 1, 3)


def test_refused_models(
    tiny: Callable[..., Any], trained: Any, streets: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mechprobe.worlds import Dyck, patch_states
    from mechprobe.worlds.inside import patching

    net = dyck_net(tiny, "gemma3")
    with pytest.raises(NotImplementedError, match="keeps no cache whose rows can be repeated, and"):
        patch_states(net, net.world, **QUIET)
    with pytest.raises(ValueError, match=r"layer 0 is read at a layer already; pass the model"):
        patch_states(trained.at_layer(0), streets, **QUIET)
    with pytest.raises(ValueError, match=r"predicts the words of .* and dyck .* was to be tested"):
        patch_states(trained, Dyck(1, 2), **QUIET)
    # Whatever is put into it, it answers the same.
    monkeypatch.setattr(patching.Cursor, "read", deaf)
    with pytest.raises(NotImplementedError, match=r"changing blocks\.1\.hook_resid_post changes"):
        patch_states(trained, streets, layers=[1], **QUIET)


def test_a_model_that_is_never_right(tiny: Callable[..., Any]) -> None:
    from mechprobe.worlds import Epsilon, patch_states

    net = dyck_net(tiny, "gpt2", start_id=3)
    with pytest.raises(ValueError, match=r"the unpatched model is right about none after both"):
        patch_states(
            net, net.world, n=5, k=2, layers=[0], positions=[-1],
            acceptance=Epsilon(0.0), **QUIET,
        )  # fmt: skip
