"""Interventions on heads: taken out, and pushed towards an option."""

import numpy as np
import plotly.graph_objects as go
import xarray as xr
from plotly.subplots import make_subplots

from mechprobe.plots.style import CATEGORIES, INK, styled
from mechprobe.plots.text import label, markup

_INTACT, _CHOSEN, _CONTROL = CATEGORIES[0], CATEGORIES[1], "#8a8a8a"
_PANELS = {"accuracy": "accuracy", "logit_difference": "logit difference (right - best wrong)"}


def ablation_figure(data: xr.Dataset, how: str) -> go.Figure:
    """Draw accuracy and logit difference: intact, ablated, and random heads of the same layers.

    Args:
        data: Data of a ``HeadAblation``.
        how: What was put in the place of the heads: zero, mean, ...

    Returns:
        A figure with a transparent background.
    """
    names = [str(c) for c in data["condition"].values.tolist()]
    colors = [_color(i, n) for i, n in enumerate(names)]
    titles = [f"{name}<br>ablated minus controls: {_beyond(data, v)}" for v, name in _PANELS.items()]
    figure = make_subplots(1, 2, subplot_titles=titles, horizontal_spacing=0.1)
    for column, variable in enumerate(_PANELS, 1):
        value, low, high = (data[f"{variable}{e}"].values for e in ("", "_low", "_high"))
        hover = _ablation_hover(data, variable)
        for i, color in enumerate(colors):
            spread = {"array": [high[i] - value[i]], "arrayminus": [value[i] - low[i]]}
            figure.add_bar(
                x=[i],
                y=[float(value[i])],
                width=0.62,
                error_y={**spread, "color": color, "thickness": 2, "width": 6},
                marker={"color": color, "opacity": 0.5},
                hovertext=[hover[i]],
                hovertemplate="%{hovertext}<extra></extra>",
                row=1,
                col=column,
            )
    taken = data["heads"].values[1] if len(names) > 1 else ""
    kind = f"{markup(how)}: " if how else ""
    subtitle = f"{kind}{label(str(taken), 60)}; controls: random heads of the same layers"
    styled(figure, "What the model answers without these heads", subtitle, height=420)
    figure.update_layout(
        showlegend=False,
        barmode="overlay",
        width=max(760, 2 * 70 * len(names) + 160),
        margin={"l": 56, "r": 24, "t": 124, "b": 70},
    )
    figure.update_annotations(font={"size": 13})
    figure.update_xaxes(
        type="linear",
        tickvals=list(range(len(names))),
        ticktext=[label(n, 16).replace(" ", "<br>") for n in names],
        tickangle=0,
        showgrid=False,
    )
    figure.update_yaxes(zeroline=True, zerolinecolor=INK, zerolinewidth=1)
    return figure


def _beyond(data: xr.Dataset, variable: str, p: str = "_p") -> str:
    """Return what heads do beyond their controls, in words; ``data`` holds one number of each."""
    name = f"{variable}_above_controls"
    value, low, high, p_value = (float(data[f"{name}{end}"]) for end in ("", "_low", "_high", p))
    if np.isnan(value):
        return "no controls"
    if np.isnan(low):
        return f"{value:+.3f}, too few controls for an interval"
    return f"{value:+.3f} [{low:+.3f}, {high:+.3f}]" + ("" if np.isnan(p_value) else f", p = {p_value:.2g}")


def _color(i: int, name: str) -> str:
    if i == 0:
        return _INTACT
    return _CONTROL if name.startswith("control") else _CHOSEN


def _ablation_hover(data: xr.Dataset, variable: str) -> list[str]:
    def interval(i: int, name: str, sign: str) -> str:
        value, low, high = (float(data[f"{name}{e}"].values[i]) for e in ("", "_low", "_high"))
        return f"{value:{sign}.3f} [{low:{sign}.3f}, {high:{sign}.3f}]"

    def bar(i: int) -> str:
        heads = label(str(data["heads"].values[i]), 60) or "no head"
        lines = [
            f"<b>{markup(str(data['condition'].values[i]))}</b>: {heads}",
            f"{_PANELS[variable]} {interval(i, variable, '')}",
        ]
        if i:
            lines.append(f"change, paired {interval(i, f'{variable}_change', '+')}")
        return "<br>".join(lines)

    return [bar(i) for i in range(data.sizes["condition"])]


def steering_figure(data: xr.Dataset) -> go.Figure:
    """Draw how often the steered option is taken, against the strength.

    Args:
        data: Data of a ``HeadSteering``; the first condition is the chosen heads.

    Returns:
        A figure with a transparent background.
    """
    data = data.transpose("condition", "strength", ...)
    strength = data["strength"].values.tolist()
    names = [str(c) for c in data["condition"].values.tolist()]
    figure = go.Figure()
    # The chosen heads come last, over the controls.
    for i in [*range(1, len(names)), 0]:
        value, low, high = (data[f"followed{e}"].values[i] for e in ("", "_low", "_high"))
        color = _CHOSEN if i == 0 else _CONTROL
        figure.add_scatter(
            x=strength,
            y=value.tolist(),
            name=f"{markup(names[i])}: {label(str(data['heads'].values[i]), 28)}",
            mode="lines+markers",
            line={"color": color, "width": 2.5 if i == 0 else 1.2},
            marker={"size": 7 if i == 0 else 4},
            error_y={
                "array": (high - value).tolist(),
                "arrayminus": (value - low).tolist(),
                "thickness": 1.2 if i == 0 else 0.6,
                "width": 3,
            },
            hovertext=_steering_hover(data) if i == 0 else [""] * len(strength),
            hovertemplate="strength %{x:g}: %{y:.3f}%{hovertext}<extra></extra>",
        )
    _chance_line(figure, float(data["chance"]), strength)
    most = data.isel(strength=-1)
    subtitle = (
        "strength: added to the heads' attention scores at the steered option<br>heads minus controls "
        f"at {strength[-1]:g}: {_beyond(most, 'followed', '_p_adjusted')}"
    )
    styled(figure, "Does the model follow these heads?", subtitle, height=436)
    figure.update_layout(
        width=900, margin={"l": 64, "r": 24, "t": 92, "b": 52}, legend={"traceorder": "reversed"}
    )
    figure.update_xaxes(title_text="strength", title_standoff=8)
    figure.update_yaxes(title_text="share that takes the steered option", range=[0, 1.02])
    return figure


def _steering_hover(data: xr.Dataset) -> list[str]:
    cells = [data.isel(strength=j) for j in range(data.sizes["strength"])]
    return [f"<br>minus controls {_beyond(x, 'followed', '_p_adjusted')}" for x in cells]


def _chance_line(figure: go.Figure, chance: float, strength: list[float]) -> None:
    if not np.isnan(chance):
        figure.add_scatter(
            x=[strength[0], strength[-1]],
            y=[chance, chance],
            name=f"chance {chance:.2f}",
            mode="lines",
            line={"color": INK, "dash": "dot", "width": 1.5},
            hoverinfo="skip",
        )
