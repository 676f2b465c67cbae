"""Figures of the heads probe: the right number in the right cell, and they open in a browser."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr

from tests.browser import Scheme, opened
from tests.test_head_results import all_results, scores_data, scores_of


@pytest.fixture(scope="module")
def results() -> dict[str, Any]:
    """One result of every kind, made once."""
    return all_results()


def _map(**extra: Any) -> xr.Dataset:
    share = np.array([[0.4, 0.5, 0.55], [0.6, 0.9, 0.45]])
    return xr.Dataset(
        {"accuracy": (("layer", "head"), share), "chance": 0.5, "ceiling": 0.7, **extra},
        coords={"layer": [3, 4], "head": [0, 1, 2]},
    )


def _drawn(data: xr.Dataset) -> Any:
    from mechprobe.plots.heads import accuracy_map_figure

    return accuracy_map_figure(data, "title", "one<br>two & three")


def test_a_map_shows_every_head_at_its_layer() -> None:
    figure = _drawn(_map())
    heat = figure.data[0]
    np.testing.assert_array_equal(heat.z, _map()["accuracy"].values)
    assert "<b>L4H1</b> layer 4, head 1<br>accuracy 0.900, rank 1 of 6" in heat.hovertext[1][1]
    assert "rank 6 of 6" in heat.hovertext[0][0]
    assert list(figure.layout.yaxis.ticktext) == ["3", "4"]
    assert figure.layout.yaxis.range[0] < figure.layout.yaxis.range[1]
    assert figure.layout.title.subtitle.text == "one<br>two &amp; three"


def test_chance_and_the_best_by_chance_stand_in_the_colour_bar() -> None:
    heat = _drawn(_map()).data[0]
    assert list(heat.colorbar.tickvals) == [0.4, 0.5, 0.7, 0.9]
    assert list(heat.colorbar.ticktext) == ["0.40", "0.50 chance", "0.70 best by chance", "0.90"]
    assert (heat.zmin, heat.zmax) == (0.4, 0.9)


def test_labels_of_the_colour_bar_do_not_overlap() -> None:
    heat = _drawn(_map().assign(ceiling=0.51)).data[0]
    assert list(heat.colorbar.tickvals) == [0.51, 0.9]
    assert heat.colorbar.ticktext[0] == "0.51 best by chance<br>0.50 chance"


def test_the_scale_reaches_a_ceiling_that_no_head_reaches() -> None:
    heat = _drawn(_map().assign(ceiling=0.97)).data[0]
    assert heat.zmax == 0.97


def test_colours_are_grey_at_chance_and_equally_strong_on_both_sides() -> None:
    from mechprobe.plots.heads import around

    scale = around(0.0, 0.25, 1.0)
    assert [scale[0][0], scale[-1][0]] == [0, 1]

    def channels(at: int) -> Any:
        return np.array([int(c) for c in str(scale[at][1]).strip("rgb()").split(",")])

    assert np.ptp(channels(5)) <= 1
    # The scale ends at a third of full blue below, at full orange above.
    assert channels(20).tolist() == [226, 113, 29]
    assert np.ptp(channels(0)) < np.ptp(channels(20)) / 2
    assert channels(0)[2] > channels(0)[0]


def test_chosen_heads_are_outlined() -> None:
    selected = np.zeros((2, 3), bool)
    selected[1, 2] = True
    grids = {"selected": (("layer", "head"), selected)}
    grids["picked"] = (("layer", "head"), np.full((2, 3), 0.25))
    grids["accuracy_test"] = (("layer", "head"), np.full((2, 3), 0.625))
    figure = _drawn(_map(**grids))
    assert {(s.x0, s.x1, s.y0, s.y1) for s in figure.layout.shapes} == {(1.5, 2.5, 0.5, 1.5)}
    assert "held out 0.625<br>chosen in 25% of resampled" in figure.data[0].hovertext[0][0]
    assert not _drawn(_map()).layout.shapes


def test_a_selection_draws_its_calibration_map(results: dict[str, Any]) -> None:
    found = results["selection"]
    figure = found.plot()
    np.testing.assert_array_equal(figure.data[0].z, found.data["accuracy_calibration"].values)
    assert {(s.x0, s.y0) for s in figure.layout.shapes} == {(0.5, 1.5)}
    assert f"{found.null_max:.2f} best by chance" in figure.data[0].colorbar.ticktext
    assert f"best shortcut {found.shortcut_accuracy:.2f} (polarity)" in figure.layout.title.subtitle.text


def test_many_heads_get_few_labels() -> None:
    from mechprobe.plots.heads import thinned

    assert thinned(list(range(80)), 24) == (list(range(0, 80, 4)), [str(i) for i in range(0, 80, 4)])
    assert thinned([5, 7], 24) == ([0, 1], ["5", "7"])


def test_scores_of_two_answers_are_drawn_as_their_difference() -> None:
    data = scores_data()
    figure: Any = scores_of(data).plot("distribution", head=(2, 1))
    first, second = figure.data
    assert (first.name, second.name) == ("true is right (120)", "false is right (120)")
    gap = (data["score"][:, 0] - data["score"][:, 1]).sel(layer=2, head=1).values
    for trace, answer in ((first, 0), (second, 1)):
        assert sum(trace.y) == pytest.approx(1)
        middle = np.dot(trace.x, trace.y)
        expected = gap[data["answer"].values == answer].mean()
        assert middle == pytest.approx(expected, abs=trace.width)


def test_scores_of_options_are_drawn_right_against_wrong() -> None:
    data = scores_data(n_candidates=4)
    data["score"][0, 3] = np.nan
    data["answer"][0] = 0
    data["candidate_text"][0, 3] = ""
    figure: Any = scores_of(data).plot("distribution")
    assert [t.name for t in figure.data] == ["right candidate (240)", "wrong candidates (719)"]


def test_the_null_histogram_marks_what_was_found(results: dict[str, Any]) -> None:
    found = results["selection"]
    figure = found.plot("null")
    bars, heads, model, shortcut = figure.data
    assert sum(bars.y) == pytest.approx(1)
    assert np.dot(bars.x, bars.y) == pytest.approx(found.data["null_accuracy"].values.mean())
    for trace, at in (
        (heads, found.accuracy),
        (model, found.model_accuracy),
        (shortcut, found.shortcut_accuracy),
    ):
        assert list(trace.x) == [at, at]
    low, high = figure.layout.xaxis.range
    assert low < min(bars.x)
    assert high > max(found.accuracy, 0.75)


def test_a_transfer_matrix_has_baselines_below(results: dict[str, Any]) -> None:
    found = results["transfer"]
    matrix, below = found.plot().data
    np.testing.assert_array_equal(matrix.z, found.data["accuracy"].values)
    np.testing.assert_array_equal(below.z[0], found.data["model"].values)
    np.testing.assert_array_equal(below.z[1], found.data["shortcut"].values)
    value = float(found.data["rank_correlation"][0, 1])
    assert f"rank correlation of all heads {value:.2f}" in matrix.hovertext[0][1]
    assert "<b>other</b>" in matrix.hovertext[0][1]
    assert list(below.y) == [2.5, 3.5]
    low, high = (float(found.data[f"rank_correlation_{end}"][0, 1]) for end in ("low", "high"))
    assert f"heads {value:.2f} [{low:.2f}, {high:.2f}]" in matrix.hovertext[0][1]
    assert f"corrected {float(found.data['p_adjusted'][0, 1]):.2g}" in matrix.hovertext[0][1]
    for text, p, share in zip(matrix.text, found.data["p_adjusted"], found.data["accuracy"], strict=True):
        shown = [f"{a:.2f}" + ("*" if q <= 0.05 else "") for a, q in zip(share.values, p.values, strict=True)]
        assert list(text) == shown
    assert "*" in matrix.text[0][0]


def test_difficulty_grids_share_one_scale(results: dict[str, Any]) -> None:
    found = results["difficulty"]
    figure = found.plot()
    for trace, who in zip(figure.data, ("model", "head", "shortcut"), strict=True):
        np.testing.assert_array_equal(trace.z, found.data[f"{who}_accuracy"].values)
        assert trace.coloraxis == "coloraxis"
    assert (figure.layout.coloraxis.cmin, figure.layout.coloraxis.cmax) == (0, 1)
    titles = [a.text for a in figure.layout.annotations]
    assert titles == ["model, space", "head L2H1", "shortcut: polarity"]
    hover = figure.data[1].hovertext[1][0]
    assert "2 steps, 0 distractors" in hover
    low = float(found.data["head_accuracy_band_low"].sel(steps=2, distractors=0))
    assert f"pointwise 95 %<br>[{low:.3f}, " in hover


def test_an_unknown_cell_is_empty(results: dict[str, Any]) -> None:
    from mechprobe.plots.heads_grids import difficulty_figure

    data = results["difficulty"].data.copy(deep=True)
    data["head_accuracy"][0, 1] = np.nan
    heat: Any = difficulty_figure(data).data[1]
    assert heat.z[0][1] is None
    assert heat.text[0][1] == ""


def test_ablation_bars_carry_their_intervals(results: dict[str, Any]) -> None:
    data = results["ablation"].data
    figure = results["ablation"].plot()
    assert "zero: L2H1" in figure.layout.title.subtitle.text
    assert len(figure.data) == 8
    for i, trace in enumerate(figure.data):
        name = "accuracy" if i < 4 else "logit_difference"
        value, low, high = (float(data[f"{name}{e}"][i % 4]) for e in ("", "_low", "_high"))
        assert list(trace.y) == [value]
        assert trace.error_y.array[0] == pytest.approx(high - value)
        assert trace.error_y.arrayminus[0] == pytest.approx(value - low)
    colors = [t.marker.color for t in figure.data[:4]]
    assert len(set(colors)) == 3
    assert colors[2] == colors[3]
    assert "change, paired -" in figure.data[1].hovertext[0]
    assert "change" not in figure.data[0].hovertext[0]
    found = float(data["accuracy_above_controls"])
    titles = [a.text for a in figure.layout.annotations]
    assert titles[0] == f"accuracy<br>ablated minus controls: {found:+.3f}, too few controls for an interval"


def test_heads_less_controls_stand_in_both_figures() -> None:
    from mechprobe.heads.interventions import ablation_of, steering_of
    from tests.test_head_results import record

    rng = np.random.default_rng(0)
    heads = {"ablated": [(2, 1)], **{f"control {i}": [(2, 0)] for i in range(5)}}
    right, gap = rng.random((7, 60)) < 0.6, rng.normal(size=(7, 60))
    taken = ablation_of(right, gap, np.arange(60), {"intact": [], **heads}, record(how="zero"))
    pushed = steering_of(rng.random((6, 2, 60)) < 0.5, np.arange(60), np.array([0.0, 4.0]), heads, record(),
                         chance=0.5)  # fmt: skip
    bars: Any = taken.plot().layout
    curve: Any = pushed.plot().layout
    for result, name, drawn in (
        (taken, "accuracy", bars.annotations[0].text),
        (taken, "logit_difference", bars.annotations[1].text),
        (pushed, "followed", curve.title.subtitle.text),
    ):
        last = result.data if name != "followed" else result.data.isel(strength=-1)
        value, low, high = (float(last[f"{name}_above_controls{e}"]) for e in ("", "_low", "_high"))
        assert f"{value:+.3f} [{low:+.3f}, {high:+.3f}], p = " in drawn


def test_steering_draws_heads_over_controls_and_chance(results: dict[str, Any]) -> None:
    data = results["steering"].data
    control, heads, chance = results["steering"].plot().data
    assert heads.name == "heads: L2H1"
    assert list(heads.y) == data["followed"].values[0].tolist()
    assert list(control.y) == data["followed"].values[1].tolist()
    assert list(chance.y) == [0.5, 0.5]
    assert heads.line.width > control.line.width


def test_traits_are_small_multiples(results: dict[str, Any]) -> None:
    figure = results["traits"].plot()
    titles = [a.text for a in figure.layout.annotations]
    assert titles == ["induction", "previous token", "duplicate token", "retrieval", "OV copying"]
    np.testing.assert_array_equal(figure.data[4].z, results["traits"].data["ov_copying"].values)
    assert figure.data[4].zmin == -figure.data[4].zmax
    assert figure.data[0].zmin == 0


@pytest.mark.browser
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_figure_opens_without_an_error(results: dict[str, Any], scheme: Scheme, tmp_path: Path) -> None:
    from mechprobe.results.html import Section, write_page

    figures = [r.plot() for r in results.values()]
    figures += [results["scores"].plot("distribution"), results["selection"].plot("null")]
    assert all(f.layout.paper_bgcolor == f.layout.plot_bgcolor == "rgba(0,0,0,0)" for f in figures)
    path = write_page(tmp_path / "heads.html", "heads", [Section("all", figures)])
    with opened(path, scheme) as seen:
        assert seen.errors == []
        assert seen.page.locator(".main-svg .heatmaplayer image").count() == 1 + 1 + 2 + 3 + 5
        assert seen.page.get_by_text("best by chance").count() == 2
