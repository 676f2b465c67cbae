"""Figures: the right token in the right cell, nothing collapsed, nothing taken for markup."""

import re
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import xarray as xr

LAYERS = (-1, 0, 1)
EVIL = "<script>alert(1)</script>"


def _lens(
    read: Sequence[str] = ("the", " cat", "the"),
    *,
    targets: Sequence[str] = (),
    following: Sequence[str] | None = None,
    n_padding: int = 0,
    n_layers: int = 3,
    k: int = 2,
) -> xr.Dataset:
    """Return one prompt of a lens; cell (pos, layer) says ``p{pos}l{layer}k0``, ``...k1``."""
    n_pos, n = len(read), len(read) + n_padding
    layers = np.arange(-1, n_layers - 1)
    text = np.full((n, n_layers, k), "", dtype=object)
    for pos, i, j in np.ndindex(n_pos, n_layers, k):
        text[pos, i, j] = f"p{pos}l{i - 1}k{j}"
    log_prob = np.full((n, n_layers, k), np.nan)
    log_prob[:n_pos] = np.log(np.linspace(0.6, 0.1, n_pos * n_layers * k)).reshape(n_pos, n_layers, k)
    token = np.full((n, n_layers, k), -1)
    token[:n_pos] = np.arange(n_pos * n_layers * k).reshape(n_pos, n_layers, k)

    def padded(values: Sequence[Any], fill: object) -> Any:
        return np.array([*values, *[fill] * n_padding], dtype=object if fill == "" else None)

    cells = np.where(np.arange(n)[:, None] < n_pos, np.arange(n_layers) + 0.5, np.nan)
    data = xr.Dataset(
        {
            "top_token": (("pos", "layer", "k"), token),
            "top_text": (("pos", "layer", "k"), text),
            "top_log_prob": (("pos", "layer", "k"), log_prob),
            "entropy": (("pos", "layer"), cells, {"long_name": "entropy of it", "units": "nats"}),
            "kl_to_final": (("pos", "layer"), cells[:, ::-1] * 2, {"long_name": "KL", "units": "nats"}),
            "model_token": (("pos", "k"), token[:, -1].copy()),
            "model_text": (("pos", "k"), text[:, -1].copy()),
            "token_text": ("pos", padded(read, "")),
            "position": ("pos", padded(range(5, 5 + n_pos), -1)),
            "valid": ("pos", padded([True] * n_pos, False)),
            "prompt_text": ((), np.array("".join(read), dtype=object)),
        },
        coords={"layer": layers.astype(np.int32)},
    )
    if following is not None:
        data["next_text"] = ("pos", padded(following, ""))
        data["next_token"] = ("pos", padded([0] * n_pos, -1))
    if targets:
        rank = np.arange(n * n_layers * len(targets)).reshape(n, n_layers, len(targets))
        data["target_rank"] = (("pos", "layer", "target"), rank)
        data["target_log_prob"] = (("pos", "layer", "target"), -rank.astype(np.float64))
        data = data.assign_coords(target=np.array(targets, dtype=object))
    return data


def _figure(data: xr.Dataset, kind: str) -> Any:
    from mechprobe.plots.lens import lens_figure

    return lens_figure(data, kind)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("", ""),
        (" the", "␣the"),
        ("the  ", "the␣␣"),
        ("  ", "␣␣"),
        ("a b", "a b"),
        ("\n\n", "↵↵"),
        (" \t\n", "␣⇥↵"),
        ("a\x0bb\r", "a\\x0bb\\r"),
        ("\u200b", "\\u200b"),
        ("\u202eevil", "\\u202eevil"),
        ("\xa0x", "\\xa0x"),
        ("👩\u200d🚀", "👩\u200d🚀"),
        ("\u200d", "\\u200d"),
        ("\ufe0f", "◌\ufe0f"),
        (" ⟨f0 9f⟩", "␣⟨f0 9f⟩"),
        ("é日本", "é日本"),
    ],
)
def test_white_space_and_control_characters_become_visible(text: str, shown: str) -> None:
    from mechprobe.plots.text import visible

    assert visible(text) == shown


@pytest.mark.parametrize(
    ("text", "keep", "shown"),
    [
        ("", "start", ""),
        ("0123456789", "start", "0123456789"),
        ("0123456789a", "start", "012345678…"),
        ("0123456789a", "end", "…23456789a"),
        ("日本語日本", "start", "日本語日本"),
        ("日本語日本語", "start", "日本語日…"),
    ],
)
def test_labels_are_clipped_to_ten_columns(text: str, keep: str, shown: str) -> None:
    from mechprobe.plots.text import clipped

    assert clipped(text, keep=keep) == shown


def test_markup_and_tex_are_escaped() -> None:
    from mechprobe.plots.text import markup

    assert markup("<b>&amp; $x$") == "&lt;b&gt;&amp;amp; &#36;x&#36;"


@pytest.mark.parametrize(
    ("log_prob", "shown"),
    [(0.0, "1.000"), (np.log(0.25), "0.250"), (np.log(1e-7), "1e-07"), (-np.inf, "0"),
     (-800.0, "e^-800")],
)  # fmt: skip
def test_probabilities_are_never_rounded_to_nothing(log_prob: float, shown: str) -> None:
    from mechprobe.plots.text import probability

    assert probability(log_prob) == shown


@pytest.mark.parametrize("kind", ["tokens", "entropy", "kl"])
def test_cells_hold_the_best_token_of_their_layer_and_position(kind: str) -> None:
    data = _lens(n_padding=2)
    heat = _figure(data, kind).data[0]
    assert [list(row) for row in heat.text] == [[f"p{pos}l{layer}k0" for pos in range(3)] for layer in LAYERS]
    name = {"entropy": "entropy", "kl": "kl_to_final"}.get(kind)
    values = data[name].values if name else np.exp(data["top_log_prob"].values[:, :, 0])
    np.testing.assert_allclose(np.array(heat.z, float), values[:3].T)
    hover = heat.hovertext[2][1]
    assert "layer 1, position 6" in hover
    assert "p1l1k0" in hover
    assert "p1l1k1" in hover
    assert "entropy 2.5 nats, KL(final ‖ layer) 1 nats" in hover


def test_layers_are_named_and_the_last_is_on_top() -> None:
    axis = _figure(_lens(), "tokens").layout.yaxis
    assert list(axis.ticktext) == ["embed", "0", "1"]
    assert list(axis.tickvals) == [0, 1, 2]
    assert axis.range[0] < axis.range[1]


def test_repeated_tokens_stay_apart() -> None:
    figure = _figure(_lens(["the"] * 5), "tokens")
    assert list(figure.data[0].x) == list(figure.layout.xaxis.tickvals) == [0, 1, 2, 3, 4]
    assert figure.layout.xaxis.type == "linear"
    assert list(figure.layout.xaxis.ticktext) == [f"the<br>{5 + i}" for i in range(5)]


def test_a_generation_shows_what_followed() -> None:
    figure = _figure(_lens(["a", " b"], following=[" b", "\n"]), "tokens")
    assert list(figure.layout.xaxis.ticktext) == ["a<br>5<br>→ ␣b", "␣b<br>6<br>→ ↵"]
    assert "followed by <b>␣b</b>" in figure.data[0].hovertext[0][0]


@pytest.mark.parametrize("kind", ["tokens", "entropy", "kl", "rank", "prob"])
def test_tokens_are_never_markup(kind: str) -> None:
    data = _lens([EVIL, "<b>x</b>"], targets=["<i>y</i>"], following=[EVIL, "<u>"])
    data["top_text"][:] = EVIL
    figure = _figure(data, kind)
    written = str(figure.to_dict())
    assert set(re.findall(r"<[^>]*>", written)) <= {"<br>", "<b>", "</b>", "<extra>", "</extra>"}
    assert "&lt;script&gt;alert" in written
    assert "<b>x" not in written


@pytest.mark.parametrize(("n_pos", "least", "most"), [(1, 500, 560), (8, 900, 1200), (60, 4000, 5000)])
def test_size_follows_the_cells(n_pos: int, least: int, most: int) -> None:
    layout = _figure(_lens(["x"] * n_pos, n_layers=31), "tokens").layout
    assert least <= layout.width <= most
    assert layout.height >= 31 * 20
    assert layout.paper_bgcolor == layout.plot_bgcolor == "rgba(0,0,0,0)"


def test_one_far_cell_does_not_flatten_the_colours() -> None:
    data = _lens(["x"] * 20)
    data["kl_to_final"][:] = 1.0
    data["kl_to_final"][3, 0] = 150.0
    heat = _figure(data, "kl").data[0]
    assert heat.zmax == 1.0
    assert heat.z[0][3] == 150.0
    assert "colours end<br>at 1" in heat.colorbar.title.text


def test_colours_of_nothing_but_zeros() -> None:
    data = _lens()
    data["kl_to_final"][:] = 0.0
    assert _figure(data, "kl").data[0].zmax > 0


def test_ranks_are_drawn_from_one_with_the_best_on_top() -> None:
    data = _lens(["a", "b"], targets=[" x", " y"], n_padding=1)
    figure = _figure(data, "rank")
    assert figure.layout.yaxis.type == "log"
    assert figure.layout.yaxis.autorange == "reversed"
    assert [t.name for t in figure.data] == [
        f"␣{target} at {p} (read {read})" for target in "xy" for p, read in ((5, "a"), (6, "b"))
    ]
    for trace, (target, pos) in zip(figure.data, np.ndindex(2, 2), strict=True):
        assert list(trace.x) == list(LAYERS)
        expected = data["target_rank"].values[pos, :, target] + 1
        np.testing.assert_array_equal(trace.y, expected)
    assert "embed" in figure.layout.xaxis.ticktext


def test_probabilities_are_logarithmic_and_zero_stands_at_the_floor() -> None:
    from mechprobe.plots.trajectories import FLOOR

    data = _lens(["a"], targets=["x"])
    data["target_log_prob"][0, :, 0] = [-np.inf, -90.0, np.log(0.5)]
    figure = _figure(data, "prob")
    assert figure.layout.yaxis.type == "log"
    (trace,) = figure.data
    np.testing.assert_allclose(trace.y, [FLOOR, FLOOR, 0.5])
    assert list(trace.marker.symbol) == ["triangle-down-open"] * 2 + ["circle"]
    assert "probability 0, log-probability -inf" in trace.hovertext[0]
    assert "probability 8e-40" in trace.hovertext[1]


def test_without_targets_the_models_own_choice_is_followed_with_gaps() -> None:
    data = _lens(["a", "b"])
    data["top_token"][1, 0, 1] = data["model_token"][1, 0]
    figure = _figure(data, "prob")
    assert [t.name for t in figure.data] == ["p0l1k0 at 5 (read a)", "p1l1k0 at 6 (read b)"]
    first, second = (list(t.y) for t in figure.data)
    p = np.exp(data["top_log_prob"].values)
    assert first == [None, None, pytest.approx(p[0, 2, 0])]
    assert second == [pytest.approx(p[1, 0, 1]), None, pytest.approx(p[1, 2, 0])]
    assert not figure.data[0].connectgaps


def test_a_choice_that_is_nowhere_else_in_reach_draws_nothing_and_no_warning() -> None:
    data = _lens(["a"])
    data["model_token"][:] = 999
    (trace,) = _figure(data, "prob").data
    assert list(trace.y) == [None, None, None]


def test_many_positions_get_distinct_colours() -> None:
    figure = _figure(_lens(["x"] * 40, targets=["y"]), "rank")
    assert len({t.line.color for t in figure.data}) == 40


def test_unknown_kinds_of_lens_figure_are_refused() -> None:
    with pytest.raises(ValueError, match=r"no figure 'heat'; .* tokens, entropy, kl_to_final, rank, prob"):
        _figure(_lens(), "heat")


def test_ranks_need_targets() -> None:
    with pytest.raises(ValueError, match=r"no targets in this result.*targets=\[...\]"):
        _figure(_lens(), "rank")


def _neighbors() -> xr.Dataset:
    data = xr.Dataset(
        {
            "token": ("k", np.array([4, 9, 7], np.int32)),
            "text": ("k", np.array(["⟨90⟩", EVIL, "⟨90⟩"], dtype=object)),
            "score": ("k", np.array([0.9, 0.5, -0.25])),
            "is_input": ("k", np.array([True, False, True])),
            "weight": ("term", np.array([1.0, -2.0])),
        },
        coords={"term": np.array([" sea", "<b>"], dtype=object)},
    )
    data["score"].attrs["long_name"] = "cosine"
    return data


def test_neighbours_are_bars_with_the_query_set_apart() -> None:
    from mechprobe.plots.vocabulary import neighbors_figure

    figure: Any = neighbors_figure(_neighbors(), "score")
    own, other = figure.data
    assert (list(own.x), list(own.y)) == ([0.9, -0.25], [0, 2])
    assert (list(other.x), list(other.y)) == ([0.5], [1])
    assert own.marker.color != other.marker.color
    assert list(figure.layout.yaxis.ticktext) == ["⟨90⟩", "&lt;script&gt;alert(1)&lt;…", "⟨90⟩"]
    assert figure.layout.yaxis.range[0] > figure.layout.yaxis.range[1]
    assert figure.layout.title.subtitle.text == "query: 1 · ␣sea + -2 · &lt;b&gt;"
    assert figure.layout.xaxis.title.text == "score: cosine"


def test_neighbours_of_a_vector_have_no_query() -> None:
    from mechprobe.plots.vocabulary import neighbors_figure

    data = _neighbors().drop_vars(["term", "weight"])
    figure: Any = neighbors_figure(data, "score")
    assert figure.layout.title.subtitle.text == ""


@pytest.mark.parametrize(("margin", "verdict"), [(0.1, "its own"), (-0.1, "another token wins")])
def test_expressible_names_the_winner(margin: float, verdict: str) -> None:
    from mechprobe.plots.vocabulary import expressible_figure

    data = xr.Dataset(
        {
            "asked": ((), np.array("🐠", dtype=object)),
            "text": ("piece", np.array(["⟨f0 9f⟩", "⟨90⟩"], dtype=object)),
            "one_token": ((), False),
            "own": ((), 0.5 + margin),
            "other": ((), 0.5),
            "other_text": ((), np.array("<i>", dtype=object)),
            "margin": ((), margin),
        }
    )
    figure: Any = expressible_figure(data, "score")
    assert [t.x[0] for t in figure.data] == [0.5 + margin, 0.5]
    assert "&lt;i&gt;" in figure.data[1].name
    assert verdict in figure.layout.annotations[0].text
    assert f"margin {margin:+.3g}" in figure.layout.annotations[0].text
    assert figure.layout.title.subtitle.text == "🐠 is 2 tokens: ⟨f0 9f⟩ + ⟨90⟩"
    with pytest.raises(ValueError, match=r"no figure 'bars' of the vocabulary; .* 'score'"):
        expressible_figure(data, "bars")


def test_unknown_kinds_of_vocabulary_figure_are_refused() -> None:
    from mechprobe.plots.vocabulary import neighbors_figure

    with pytest.raises(ValueError, match=r"no figure '' of the vocabulary; the only kind is"):
        neighbors_figure(_neighbors(), "")


def test_any_statistic_of_the_cells_can_be_drawn() -> None:
    """A variable over position and layer is a kind of figure, named and measured by its attributes."""
    data = _lens(["a", " b"])
    values = np.arange(6.0).reshape(2, 3)
    data["surprise"] = (("pos", "layer"), values, {"long_name": "how odd it is", "units": "bit"})
    figure = _figure(data, "surprise")
    assert figure.layout.title.text.startswith("How odd it is, after every layer")
    assert figure.data[0].colorbar.title.text == "surprise<br>(bit)"
    np.testing.assert_array_equal(np.array(figure.data[0].z), values.T)
    assert "surprise 4 bit" in figure.data[0].hovertext[1][1]
