"""Figures of the world metrics: bars beside their baselines, and what the settings do to them."""

from typing import Any

import numpy as np
import plotly.graph_objects as go
import xarray as xr
from plotly.subplots import make_subplots

from mechprobe.plots.style import CATEGORIES, INK, styled
from mechprobe.plots.text import label, markup

_COLORS = {
    "given": CATEGORIES[1],
    "uniform": "#9a9a9a",
    "legal_only": CATEGORIES[0],
    "automaton": CATEGORIES[2],
    "noisy_oracle": CATEGORIES[4],
}
_NAMES = {
    "uniform": "uniform: accepts everything",
    "legal_only": "legal-only: knows the next word, no more",
    "automaton": "true automaton",
    "noisy_oracle": "automaton with the model's error rates",
}
_KNOBS = {"epsilon": "ε", "suffixes": "suffixes per pair (M)", "k": "longest string (k)"}


def metrics_figure(data: xr.Dataset) -> go.Figure:
    """Draw each metric as a group of bars: the model, then what it must be compared with.

    Args:
        data: Data of a ``WorldModelResult``.

    Returns:
        A figure with a transparent background; where no pair was left it says so.
    """
    models = [str(m) for m in data["model"].values.tolist()]
    metrics = [str(m) for m in data["metric"].values.tolist()]
    figure = go.Figure()
    width = 0.84 / len(models)
    for i, model in enumerate(models):
        _add_bars(figure, data, metrics, i, model, width)
    styled(figure, "Does the model hold the world?", _settings(data), height=440)
    figure.update_layout(
        width=900,
        margin={"l": 56, "r": 24, "t": 76, "b": 112},
        barmode="overlay",
        legend={"orientation": "h", "x": 0, "y": -0.16, "yanchor": "top", "font": {"size": 11}},
    )
    names = [m.replace("_", " ") for m in metrics]
    figure.update_xaxes(
        type="linear",
        tickvals=list(range(len(names))),
        ticktext=names,
        showgrid=False,
        range=[-0.5, len(names) - 0.5],
    )
    figure.update_yaxes(range=[0, 1.04])
    return figure


def _add_bars(
    figure: go.Figure, data: xr.Dataset, metrics: list[str], i: int, model: str, width: float
) -> None:
    """Draw one model's bar in every group."""
    name = str(data["model_name"].values[i])
    value, low, high = (
        np.array([float(data[f"{m}{e}"].values[i]) for m in metrics]) for e in ("", "_low", "_high")
    )
    x = [j - 0.42 + (i + 0.5) * width for j in range(len(metrics))]
    figure.add_bar(
        x=x,
        y=np.nan_to_num(value).tolist(),
        width=width * 0.9,
        name=_NAMES.get(model, label(name, 40)),
        marker={"color": _COLORS.get(model, INK), "opacity": 1 if i == 0 else 0.65},
        error_y={**_error_bars(value, low, high), "color": INK, "thickness": 1.5},
        hovertext=[_hover(data, i, j) for j in range(len(metrics))],
        hovertemplate="%{hovertext}<extra></extra>",
    )
    for place, v in zip(x, value.tolist(), strict=True):
        if v != v:
            figure.add_annotation(
                x=place,
                y=0,
                text="no pair",
                textangle=-90,
                showarrow=False,
                yanchor="bottom",
                font={"size": 10},
            )


def _error_bars(value: np.ndarray, low: np.ndarray, high: np.ndarray) -> dict[str, Any]:
    return {
        "array": np.nan_to_num(high - value).tolist(),
        "arrayminus": np.nan_to_num(value - low).tolist(),
        "thickness": 1.2,
        "width": 3,
    }


def suffixes_figure(data: xr.Dataset) -> go.Figure:
    """Draw compression against the number of suffixes that it rests on, for every model.

    Args:
        data: Data of a ``WorldModelResult`` with ``compression_curve``.

    Returns:
        A figure with a transparent background; at M = 1 it is 1 minus the suffix error.
    """
    at, figure = data["m"].values.tolist(), go.Figure()
    for i, model in enumerate(data["model"].values.tolist()):
        value, low, high = (data[f"compression_curve{e}"].values[i] for e in ("", "_low", "_high"))
        called = _NAMES.get(str(model), label(str(data["model_name"].values[i]), 40))
        figure.add_scatter(
            x=at,
            y=value.tolist(),
            name=called,
            mode="lines+markers",
            line={"color": _COLORS.get(str(model), INK), "width": 2},
            error_y=_error_bars(value, low, high),
            hovertemplate=f"<b>{markup(called)}</b>, M = %{{x}}: %{{y:.3f}}<extra></extra>",
        )
    styled(figure, "Compression against the number of suffixes", _settings(data), height=420)
    figure.update_layout(
        width=720,
        margin={"l": 56, "r": 24, "t": 76, "b": 132},
        legend={"orientation": "h", "x": 0, "y": -0.22, "yanchor": "top", "font": {"size": 11}},
    )
    ticks = [str(m) for m in at]
    figure.update_xaxes(type="log", tickvals=at, ticktext=ticks, title_text=_KNOBS["suffixes"])
    figure.update_yaxes(range=[-0.02, 1.04])
    return figure


def sensitivity_figure(data: xr.Dataset) -> go.Figure:
    """Draw the model's metrics against epsilon, the number of suffixes and the longest string.

    Args:
        data: Data of a ``WorldModelResult`` with ``sensitivity``.

    Returns:
        A figure with a transparent background, one panel for each setting that was varied.
    """
    knobs = data["knob"].values.tolist()
    shown = list(dict.fromkeys(str(k) for k in knobs))
    titles = [_KNOBS.get(k, k) for k in shown]
    figure = make_subplots(1, len(shown), subplot_titles=titles, shared_yaxes=True, horizontal_spacing=0.06)
    for m in range(data.sizes["metric"]):
        _add_curves(figure, data, shown, m)
    name = label(str(data["model_name"].values[0]), 40)
    styled(figure, "What the settings do to the metrics", f"{name}; {_settings(data)}", height=420)
    figure.update_layout(
        width=max(480, 340 * len(shown)),
        margin={"l": 56, "r": 24, "t": 100, "b": 84},
        legend={"orientation": "h", "x": 0, "y": -0.14, "yanchor": "top"},
    )
    figure.update_annotations(font={"size": 13})
    for column, knob in enumerate(shown, 1):
        at = sorted({float(data["at"].values[i]) for i, k in enumerate(knobs) if k == knob})
        kind = "linear" if knob == "k" else "log"
        figure.update_xaxes(type=kind, tickvals=at, ticktext=[f"{v:g}" for v in at], row=1, col=column)
    figure.update_yaxes(range=[-0.02, 1.04])
    return figure


def _add_curves(figure: go.Figure, data: xr.Dataset, shown: list[str], m: int) -> None:
    """Draw one metric in every panel; one entry in the legend stands for all."""
    name, named = str(data["metric"].values[m]).replace("_", " "), False
    for column, knob in enumerate(shown, 1):
        rows = np.flatnonzero(data["knob"].values.astype(str) == knob)
        value, low, high = (data[f"sensitivity{e}"].values[rows, m] for e in ("", "_low", "_high"))
        if np.isnan(value).all():
            continue
        figure.add_scatter(
            x=data["at"].values[rows].tolist(),
            y=value.tolist(),
            name=name,
            legendgroup=name,
            showlegend=not named,
            mode="lines+markers",
            line={"color": CATEGORIES[m], "width": 2},
            error_y=_error_bars(value, low, high),
            hovertemplate=f"{markup(name)}, {_KNOBS.get(knob, knob)} %{{x:g}}: %{{y:.3f}}<extra></extra>",
            row=1,
            col=column,
        )
        named = True


def _settings(data: xr.Dataset) -> str:
    return markup(
        f"{data['world'].item()}; mode {data['mode'].item()}, {data['acceptance'].item()}, "
        f"M = {int(data['suffixes'])}, k = {int(data['k'])}; 95 % intervals over states"
    )


def _hover(data: xr.Dataset, model: int, metric: int) -> str:
    name = str(data["metric"].values[metric])
    value, low, high = (float(data[f"{name}{e}"].values[model]) for e in ("", "_low", "_high"))
    kept, drawn = int(data["n_kept"].values[model, metric]), int(data["n_drawn"].values[metric])
    lines = [
        f"<b>{markup(str(data['model_name'].values[model]))}</b>",
        f"{name.replace('_', ' ')} {value:.3f} [{low:.3f}, {high:.3f}]",
        f"{kept} of {drawn} kept",
    ]
    dropped = data["dropped"].values[model, metric]
    reasons = zip(data["reason"].values.tolist(), dropped.tolist(), strict=True)
    lines += [f"{count}: {markup(str(reason))}" for reason, count in reasons if count]
    return "<br>".join(lines)
