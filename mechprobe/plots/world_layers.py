"""Inside a model of a world: metrics against the layer, and what a patched state swaps."""

import numpy as np
import plotly.graph_objects as go
import xarray as xr
from plotly.subplots import make_subplots

from mechprobe.plots.bands import POINTWISE, add_band, add_key, both_bounds
from mechprobe.plots.heads_grids import SCALE
from mechprobe.plots.style import CATEGORIES, GRID, MONO, styled
from mechprobe.plots.text import markup, require_kind, titled

_MODEL, _CONTROL, _DAMAGE = CATEGORIES[1], CATEGORIES[4], CATEGORIES[0]
_REFERENCES = {
    "uniform": ("uniform", "#9a9a9a", "dot"),
    "legal_only": ("legal-only", CATEGORIES[0], "dot"),
    "automaton": ("true automaton", CATEGORIES[2], "dot"),
}
_CELL_INK = "#101418"
_CONDITIONS = {
    "swap": ("donor: the other state", _MODEL, "solid"),
    "random_state": ("control: a third state", _CONTROL, "dash"),
    "same_state": ("control: the same state (any change)", _DAMAGE, "dash"),
}
_PANELS = 4
_Interval = tuple[list[float], list[float], list[float]]


def by_layer_figure(data: xr.Dataset, kind: str, name: str) -> go.Figure:
    """Draw each metric against the layer, its noise-matched control and known predictors.

    Args:
        data: Data of a ``WorldByLayer``.
        kind: ``"layers"``.
        name: Of the model.

    Returns:
        A figure with a transparent background, a panel for each metric.

    Raises:
        ValueError: An unknown kind.
    """
    require_kind(kind, ("layers",), "metrics by layer")
    metrics = [str(m) for m in data["metric"].values.tolist()]
    layers = data["layer"].values.tolist()
    figure = make_subplots(
        1,
        len(metrics),
        subplot_titles=[m.replace("_", " ") for m in metrics],
        shared_yaxes=True,
        horizontal_spacing=0.03,
    )
    for column, metric in enumerate(metrics, 1):
        at = {"row": 1, "col": column}
        for i, reference in enumerate(data["reference"].values.tolist()):
            called, color, dash = _REFERENCES[str(reference)]
            value = float(data[f"reference_{metric}"].values[i])
            figure.add_scatter(**_level(value, len(layers), called, color, dash, column), **at)
        for prefix, called, color, dash in (
            ("control_", "automaton with the layer's own error rates", _CONTROL, "dash"),
            ("", "layer", _MODEL, "solid"),
        ):
            if not prefix:
                add_band(figure, data, metric, color, at)
            values = _values(data, f"{prefix}{metric}")
            line = _line(values, _names(layers), called, color, dash)
            figure.add_scatter(**line, showlegend=column == 1, **at)
    settings = (
        f"{data['world'].item()}; mode {data['mode'].item()}, {data['acceptance'].item()}, "
        f"M = {int(data['suffixes'])}, k = {int(data['k'])}; bars: {POINTWISE}, over states"
    )
    add_key(figure, _MODEL, {"row": 1, "col": 1})
    title = f"{titled(name)}where does the world become coherent?"
    styled(figure, title, markup(settings), height=448)
    _panels(figure, len(metrics), layers)
    return figure


def patching_figure(data: xr.Dataset, kind: str, name: str) -> go.Figure:
    """Draw how much of the language is swapped (lesser of gained and lost), and its two controls.

    Args:
        data: Data of a ``StatePatching``.
        kind: ``"layers"`` or ``"grid"``.
        name: Of the model.

    Returns:
        A figure with a transparent background.

    Raises:
        ValueError: An unknown kind.
    """
    require_kind(kind, ("layers", "grid"), "state patching")
    if kind == "layers":
        figure, height = _patching_lines(data)
    else:
        figure, height = _patching_grid(data), 190 + 36 * data.sizes["layer"]
    settings = (
        f"{data['world'].item()}; {int(data['n_kept'])} pairs of states, "
        f"{int(data['n_followed'])} strings of at most {int(data['k'])} words; "
        f"{data['acceptance'].item()}"
    )
    title = f"{titled(name)}what a patched state swaps"
    styled(figure, title, markup(settings), height=height)
    if kind == "layers":
        _panels(figure, min(_PANELS, data.sizes["position"]), data["layer"].values.tolist())
    else:
        _grid_axes(figure, data)
    return figure


def _patching_lines(data: xr.Dataset) -> tuple[go.Figure, int]:
    positions, layers = data["position"].values.tolist(), data["layer"].values.tolist()
    columns = min(_PANELS, len(positions))
    rows = -(-len(positions) // columns)
    figure = make_subplots(
        rows,
        columns,
        subplot_titles=_position_names(data),
        shared_yaxes=True,
        horizontal_spacing=0.03,
        vertical_spacing=0.3 / rows,
    )
    for i in range(len(positions)):
        at = {"row": i // columns + 1, "col": i % columns + 1}
        add_band(figure, data.isel(position=i), "swap", _MODEL, at)
        for variable, (called, color, dash) in reversed(_CONDITIONS.items()):
            values = _values(data.isel(position=i), variable)
            line = _line(values, _names(layers), called, color, dash)
            figure.add_scatter(**line, showlegend=i == 0, **at)
    add_key(figure, _MODEL, {"row": 1, "col": 1})
    figure.update_yaxes(title_text="swapped: lesser of gained and lost", col=1)
    return figure, 204 + 280 * rows


def _patching_grid(data: xr.Dataset) -> go.Figure:
    figure = make_subplots(
        1,
        len(_CONDITIONS),
        subplot_titles=[c[0].replace(" (", "<br>(") for c in _CONDITIONS.values()],
        shared_yaxes=True,
        horizontal_spacing=0.03,
    )
    for column, (variable, (called, *_)) in enumerate(_CONDITIONS.items(), 1):
        values = data[variable].transpose("layer", "position").values
        known = [[None if np.isnan(v) else v for v in row] for row in values.tolist()]
        figure.add_heatmap(
            z=known,
            x=list(range(values.shape[1])),
            y=list(range(values.shape[0])),
            text=[["" if v is None else f"{v:.2f}" for v in row] for row in known],
            texttemplate="%{text}",
            textfont={"size": 12, "family": MONO, "color": _CELL_INK},
            hovertext=_grid_hover(data, variable, called),
            hovertemplate="%{hovertext}<extra></extra>",
            coloraxis="coloraxis",
            xgap=2,
            ygap=2,
            row=1,
            col=column,
        )
    return figure


def _grid_hover(data: xr.Dataset, variable: str, called: str) -> list[list[str]]:
    data = data.transpose("layer", "position", ...)
    layers = _names(data["layer"].values.tolist())
    return [
        [
            f"<b>{called}</b>, {layers[i]}, {where}<br>{both_bounds(data, variable, (i, j))}"
            for j, where in enumerate(_position_names(data))
        ]
        for i in range(len(layers))
    ]


def _grid_axes(figure: go.Figure, data: xr.Dataset) -> None:
    layers, positions = data["layer"].values.tolist(), data["position"].values.tolist()
    figure.update_layout(
        width=max(640, 140 + 3 * 64 * len(positions)),
        margin={"l": 84, "r": 24, "t": 100, "b": 56},
        coloraxis={
            "colorscale": list(SCALE),
            "cmin": 0,
            "cmax": 1,
            "colorbar": {
                "title": {"text": "swapped<br>&nbsp;"},
                "thickness": 14,
                "outlinewidth": 0,
                "ticks": "",
            },
        },
    )
    figure.update_annotations(font={"size": 13})
    axis = {"type": "linear", "showgrid": False, "ticks": "", "showline": False}
    where = "tail from word" if data["extent"].item() == "tail" else "word, from the end"
    figure.update_xaxes(
        title_text=where,
        tickvals=list(range(len(positions))),
        tickangle=0,
        ticktext=[str(p) for p in positions],
        title_standoff=6,
        **axis,
    )
    figure.update_yaxes(tickvals=list(range(len(layers))), ticktext=_ticks(layers), **axis)
    figure.update_yaxes(title_text="after block", title_standoff=6, col=1)


def _panels(figure: go.Figure, columns: int, layers: list[int]) -> None:
    figure.update_layout(
        width=max(560, 120 + 195 * columns),
        # In a narrow figure every entry of the legend has a line of its own.
        margin={"l": 64, "r": 24, "t": 100, "b": 132 if columns > 2 else 168},
        legend={
            "orientation": "h",
            "x": 0,
            "y": 0,
            "yref": "container",
            "yanchor": "bottom",
            "font": {"size": 11},
            "traceorder": "reversed",
        },
    )
    figure.update_annotations(font={"size": 13})
    # So many ticks that their text does not meet.
    step = max(1, -(-len(layers) // 7))
    places = list(range(0, len(layers), step))
    figure.update_xaxes(
        title_text="after block",
        title_standoff=6,
        type="linear",
        tickangle=0,
        tickvals=places,
        ticktext=[_ticks(layers)[i] for i in places],
        showgrid=False,
        range=[-0.3, len(layers) - 0.7],
    )
    figure.update_yaxes(range=[-0.03, 1.04], gridcolor=GRID)


def _line(values: _Interval, layers: list[str], called: str, color: str, dash: str) -> dict[str, object]:
    """Return a line with the intervals of its points; NaN are gaps."""
    value, low, high = (np.array(v) for v in values)
    hover = [
        f"<b>{markup(called)}</b>, {layer}<br>{v:.3f} [{a:.3f}, {b:.3f}]"
        for layer, v, a, b in zip(layers, *values, strict=True)
    ]
    return {
        "x": list(range(len(value))),
        "y": [None if np.isnan(v) else v for v in value.tolist()],
        "name": markup(called),
        "legendgroup": called,
        "mode": "lines+markers",
        "line": {"color": color, "width": 2, "dash": dash},
        "marker": {"size": 6},
        "error_y": {
            "array": np.nan_to_num(high - value).tolist(),
            "arrayminus": np.nan_to_num(value - low).tolist(),
            "thickness": 1.2,
            "width": 3,
        },
        "hovertext": hover,
        "hovertemplate": "%{hovertext}<extra></extra>",
    }


def _level(value: float, n: int, called: str, color: str, dash: str, column: int) -> dict[str, object]:
    """Return a horizontal line across a panel; one that is not known shows in the legend only."""
    known = None if np.isnan(value) else value
    return {
        "x": [-0.3, n - 0.7],
        "y": [known, known],
        "name": called,
        "legendgroup": called,
        "showlegend": column == 1,
        "mode": "lines",
        "line": {"color": color, "width": 1.5, "dash": dash},
        "hovertemplate": f"<b>{called}</b> {value:.3f}<extra></extra>",
    }


def _values(data: xr.Dataset, name: str) -> _Interval:
    value, low, high = (data[f"{name}{e}"].values.tolist() for e in ("", "_low", "_high"))
    return value, low, high


def _names(layers: list[int]) -> list[str]:
    return ["embedding" if layer < 0 else f"after block {layer}" for layer in layers]


def _ticks(layers: list[int]) -> list[str]:
    return ["emb." if layer < 0 else str(layer) for layer in layers]


def _position_names(data: xr.Dataset) -> list[str]:
    positions = data["position"].values.tolist()
    if data["extent"].item() == "tail":
        return ["last word" if p == -1 else f"last {-p} words" for p in positions]
    return ["last word" if p == -1 else f"word {p} from the end" for p in positions]
