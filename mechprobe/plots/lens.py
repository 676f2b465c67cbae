"""Figures of a logit lens: what every layer would say, and how a token rises over layers."""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import plotly.graph_objects as go
import xarray as xr

from mechprobe.plots.style import MONO, styled
from mechprobe.plots.text import clipped, label, layer_label, markup, probability, visible
from mechprobe.plots.trajectories import trajectory_figure

_ROW = 20
_LEFT, _RIGHT, _TOP = 64, 150, 76
# Ten characters of the cell font are 66 pixels wide.
_NARROWEST, _WIDEST, _ACROSS = 74, 160, 900
_NARROWEST_FIGURE = 520


# Light ends and middle tones only: black text reads on every cell (contrast 6:1 at least), which no
# scale that reaches its dark end allows.
_INK = "#101418"
_BLUES = ("#eef4fb", "#c6dbef", "#9ecae1", "#6baed6", "#4a98c9")
_ORANGES = ("#fdf3e9", "#fdd9b4", "#fdbe85", "#fd9a4e", "#f07818")


TOKENS = "tokens"
TRAJECTORIES = ("rank", "prob")
_SHORT = {"kl": "kl_to_final"}
_CELL = ("pos", "layer")


class _Shade(NamedTuple):
    """What colours the cells of one kind."""

    title: str
    bar: str
    scale: tuple[str, ...]


def _shade(data: xr.Dataset, kind: str) -> _Shade:
    if kind == TOKENS:
        return _Shade("Most likely token after every layer", "probability", _BLUES)
    what, units = (str(data[kind].attrs.get(name, kind)) for name in ("long_name", "units"))
    return _Shade(f"{what[:1].upper()}{what[1:]}, after every layer", f"{_said(kind)}<br>({units})", _ORANGES)


def _said(statistic: str) -> str:
    return "KL(final ‖ layer)" if statistic == "kl_to_final" else statistic.replace("_", " ")


def _statistics(data: xr.Dataset) -> list[str]:
    """Return the variables of one number a cell."""
    return [str(name) for name, v in data.items() if set(v.dims) == set(_CELL)]


def lens_figure(data: xr.Dataset, kind: str) -> go.Figure:
    """Draw one prompt of a lens.

    Args:
        data: Data of a ``LensResult`` with ``prompt`` selected, over ``pos``, ``layer``, ``k``
            and, where targets were asked for, ``target``.
        kind: ``"tokens"`` or a variable over ``pos`` and ``layer``, as ``"entropy"`` (layer by
            position, the most likely token in each cell, coloured by its probability or by the
            variable), ``"rank"`` or ``"prob"`` (targets over layers; without targets, ``"prob"`` follows the
            model's own first choice where it is among the top k).

    Returns:
        A figure with a transparent background.

    Raises:
        ValueError: An unknown kind, or ``"rank"`` without targets.
    """
    kind, cells = _SHORT.get(kind, kind), (TOKENS, *_statistics(data))
    if kind not in (*cells, *TRAJECTORIES):
        msg = f"this lens has no figure {kind!r}; the kinds are {', '.join((*cells, *TRAJECTORIES))}."
        raise ValueError(msg)
    data = data.isel(pos=np.flatnonzero(data["valid"].values))
    data = data.transpose("pos", "layer", ...)
    if kind in cells:
        return _cells(data, kind)
    return trajectory_figure(data, kind, _subtitle(data, _ACROSS))


def _subtitle(data: xr.Dataset, width: int) -> str:
    """Return as much of the prompt's end as fits ``width`` pixels."""
    text = visible(str(data["prompt_text"].item()))
    return markup(clipped(text, int(width / 7.5), keep="end"))


def _cells(data: xr.Dataset, kind: str) -> go.Figure:
    n_pos, n_layers = data.sizes["pos"], data.sizes["layer"]
    ticks = _position_labels(data)
    bottom = 44 + 15 * (1 + ticks[0].count("<br>"))
    column = float(np.clip(_ACROSS / n_pos, _NARROWEST, _WIDEST))
    # Both sizes fixed: a long prompt scrolls sideways, its cells are never squeezed.
    width = max(round(column * n_pos) + _LEFT + _RIGHT, _NARROWEST_FIGURE)
    height = _ROW * n_layers + _TOP + bottom
    figure = go.Figure(_heat(data, kind))
    styled(figure, _shade(data, kind).title, _subtitle(data, width), height=height)
    figure.update_layout(width=width, margin={"l": _LEFT, "r": _RIGHT, "t": _TOP, "b": bottom})
    followed = ", token that followed" if "next_text" in data else ""
    axis = {"type": "linear", "showgrid": False, "ticks": "", "showline": False}
    figure.update_xaxes(
        title=f"token read, its position{followed}",
        tickvals=list(range(n_pos)),
        ticktext=ticks,
        tickangle=0,
        range=[-0.5, n_pos - 0.5],
        **axis,
    )
    figure.update_yaxes(
        title="layer",
        tickvals=list(range(n_layers)),
        ticktext=[layer_label(v) for v in data["layer"].values.tolist()],
        range=[-0.5, n_layers - 0.5],
        **axis,
    )
    return figure


def _heat(data: xr.Dataset, kind: str) -> go.Heatmap:
    n_pos, n_layers = data.sizes["pos"], data.sizes["layer"]
    shade, values = _shade(data, kind), _values(data, kind)
    top, bar = _ceiling(values, kind), shade.bar
    if (values > top).any():
        bar = f"{bar}<br>colours end<br>at {top:.3g}"
    best = data["top_text"].values[:, :, 0].tolist()
    return go.Heatmap(
        z=values.T.tolist(),
        x=list(range(n_pos)),
        y=list(range(n_layers)),
        zmin=0,
        zmax=top,
        text=[[label(best[pos][i]) for pos in range(n_pos)] for i in range(n_layers)],
        texttemplate="%{text}",
        textfont={"size": 11, "family": MONO, "color": _INK},
        hovertext=_hover(data),
        hovertemplate="%{hovertext}<extra></extra>",
        colorscale=list(shade.scale),
        # Its place counts in widths of the plot: at 1.02 it would float away from a wide one.
        colorbar={"title": {"text": bar}, "thickness": 14, "outlinewidth": 0, "x": 1, "xpad": 14},
        xgap=1,
        ygap=1,
    )


def _values(data: xr.Dataset, kind: str) -> npt.NDArray[np.float64]:
    if kind == TOKENS:
        return np.exp(data["top_log_prob"].values[:, :, 0].astype(np.float64))
    return data[kind].values.astype(np.float64)


def _ceiling(values: npt.NDArray[np.float64], kind: str) -> float:
    """Return where colours end: one far layer (the embedding's KL) must not flatten the rest."""
    if kind == TOKENS:
        return 1.0
    finite = values[np.isfinite(values)]
    most = float(finite.max(initial=0.0))
    usual = float(np.quantile(finite, 0.9)) if finite.size else 0.0
    return usual if 0 < 2 * usual < most else max(most, 1e-6)


def _position_labels(data: xr.Dataset) -> list[str]:
    """Return token, position and what followed; equal tokens stay apart, ticks are integers."""
    read = [label(t) for t in data["token_text"].values.tolist()]
    parts = [read, [str(p) for p in data["position"].values.tolist()]]
    if "next_text" in data:
        parts.append([f"→ {label(t, 8)}" for t in data["next_text"].values.tolist()])
    return ["<br>".join(lines) for lines in zip(*parts, strict=True)]


def _hover(data: xr.Dataset) -> list[list[str]]:
    layers, n_pos = data["layer"].values.tolist(), data.sizes["pos"]
    followed = data["next_text"].values.tolist() if "next_text" in data else None
    heads = [
        f"position {position}, read <b>{markup(visible(text))}</b>"
        for position, text in zip(
            data["position"].values.tolist(), data["token_text"].values.tolist(), strict=True
        )
    ]
    if followed is not None:
        heads = [
            f"{head}, followed by <b>{markup(visible(text))}</b>"
            for head, text in zip(heads, followed, strict=True)
        ]
    text, log_prob = data["top_text"].values, data["top_log_prob"].values
    known = [(_said(x), data[x].values, data[x].attrs.get("units", "")) for x in _statistics(data)]

    def cell(pos: int, i: int) -> str:
        top = zip(log_prob[pos, i].tolist(), text[pos, i].tolist(), strict=True)
        lines = [f"{probability(p):>6} {markup(visible(t))}" for p, t in top]
        numbers = ", ".join(f"{name} {values[pos, i]:.3g} {units}" for name, values, units in known)
        head = f"layer {layer_label(layers[i])}, {heads[pos]}"
        return "<br>".join([head, numbers, *lines])

    return [[cell(pos, i) for pos in range(n_pos)] for i in range(len(layers))]
