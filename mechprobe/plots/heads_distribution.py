"""Distributions: the scores of one head by answer, and a selection under permuted labels."""

import numpy as np
import numpy.typing as npt
import plotly.graph_objects as go
import xarray as xr

from mechprobe.plots.style import CATEGORIES, INK, styled
from mechprobe.plots.text import label, markup

_HEIGHT = 400
_BINS = 40


def distribution_figure(data: xr.Dataset, name: str, subtitle: str) -> go.Figure:
    """Draw the scores of one head, apart by answer.

    Where every example chooses between the same two answers (true, false), the difference of
    their scores is drawn, once for each right answer: the head decides by its sign. Otherwise the
    right candidate's score and the wrong ones' are drawn.

    Args:
        data: ``score`` (example, candidate), ``answer`` (example), ``candidate_text``
            (example, candidate; "" where there is none).
        name: Name of the head.
        subtitle: A second line, plain text.

    Returns:
        A figure with a transparent background.
    """
    data = data.transpose("example", "candidate", ...)
    score = data["score"].values.astype(np.float64)
    answer = data["answer"].values
    text = data["candidate_text"].values
    two = text.shape[1] == 2 and bool((text == text[0]).all())
    if two:
        gap = score[:, 0] - score[:, 1]
        first, second = (label(str(t), 16) for t in text[0].tolist())
        parts = {f"{first} is right": gap[answer == 0], f"{second} is right": gap[answer == 1]}
        title, axis = f"Scores of {name} by answer", f"score of {first} - score of {second}"
    else:
        is_right = np.arange(score.shape[1]) == answer[:, None]
        known = ~np.isnan(score)
        parts = {"right candidate": score[is_right & known], "wrong candidates": score[~is_right & known]}
        title, axis = f"Scores of {name}, right and wrong candidates", "score"
    figure = _histograms(parts, title, subtitle, axis)
    if two:
        _mark_zero(figure)
    return figure


def _histograms(parts: dict[str, npt.NDArray[np.float64]], title: str, subtitle: str, axis: str) -> go.Figure:
    everything = np.concatenate(list(parts.values()))
    edges = np.histogram_bin_edges(everything, bins=_BINS)
    figure = go.Figure()
    for (name, values), color in zip(parts.items(), (CATEGORIES[1], CATEGORIES[0]), strict=True):
        counts = np.histogram(values, edges)[0] / max(len(values), 1)
        figure.add_bar(
            x=((edges[1:] + edges[:-1]) / 2).tolist(),
            y=counts.tolist(),
            width=float(edges[1] - edges[0]),
            name=f"{name} ({len(values)})",
            marker={"color": color, "opacity": 0.6, "line": {"width": 0}},
            hovertemplate="%{x:.3g}: %{y:.1%}<extra></extra>",
        )
    styled(figure, title, markup(subtitle), height=_HEIGHT)
    _finish(figure, axis, "share of its examples")
    figure.update_layout(barmode="overlay")
    figure.update_yaxes(tickformat=".0%")
    return figure


def null_figure(data: xr.Dataset, name: str) -> go.Figure:
    """Draw a selection's held-out accuracy against what permuted labels give.

    Args:
        data: ``null_accuracy`` (permutation), ``accuracy``, ``p_value``, ``chance``, ``model`` and
            ``shortcut`` (NaN where not known).
        name: Name of the chosen heads.

    Returns:
        A figure with a transparent background.
    """
    null = data["null_accuracy"].values.astype(np.float64)
    found, p = float(data["accuracy"]), float(data["p_value"])
    values, counts = np.unique(null, return_counts=True)
    figure = go.Figure(
        go.Bar(
            x=values.tolist(),
            y=(counts / len(null)).tolist(),
            name=f"selection on permuted labels ({len(null)} times)",
            marker={"color": CATEGORIES[0], "opacity": 0.7, "line": {"width": 0}},
            hovertemplate="%{x:.3f}: %{y:.1%}<extra></extra>",
        )
    )
    subtitle = f"{name}; the whole selection is repeated for every permutation"
    styled(figure, f"Held-out accuracy against chance: p = {p:.2g}", subtitle, height=_HEIGHT)
    _finish(figure, "held-out accuracy", "share of permutations")
    figure.update_yaxes(tickformat=".0%")
    marks = [
        (found, "chosen heads", "solid", CATEGORIES[1]),
        (float(data["model"]), "model", "dash", INK),
        (float(data["shortcut"]), "best shortcut", "dot", CATEGORIES[3]),
    ]
    shown = [v for v in [null.min(), null.max(), *(m[0] for m in marks)] if not np.isnan(v)]
    slack = 0.04 * (max(shown) - min(shown)) + 0.005
    figure.update_xaxes(range=[min(shown) - slack, max(shown) + slack])
    for at, text, dash, color in marks:
        if not np.isnan(at):
            figure.add_scatter(
                x=[at, at],
                y=[0, float(counts.max() / len(null))],
                mode="lines",
                name=f"{text} {at:.2f}",
                line={"color": color, "dash": dash, "width": 2.5},
                hovertemplate=f"{text} {at:.3f}<extra></extra>",
            )
    return figure


def _mark_zero(figure: go.Figure) -> None:
    figure.add_shape(type="line", x0=0, x1=0, y0=0, y1=1, yref="paper", line={"color": INK, "width": 1.5})


def _finish(figure: go.Figure, across: str, up: str) -> None:
    figure.update_layout(
        margin={"l": 64, "r": 24, "t": 112, "b": 52},
        bargap=0,
        showlegend=True,
        legend={"orientation": "h", "x": 0, "y": 1.04, "yanchor": "bottom"},
    )
    figure.update_xaxes(title=across, title_standoff=8)
    figure.update_yaxes(title=up, rangemode="tozero")
