"""The map that walks imply, over the true one."""

import numpy as np
import plotly.graph_objects as go
import xarray as xr
from jaxtyping import Float, Int

from mechprobe.plots.style import CATEGORIES, styled
from mechprobe.plots.text import label, markup

_LAYERS = (
    ("true, not walked", "rgba(128,128,128,0.35)", 0.8),
    ("true", CATEGORIES[0], 1.0),
    ("invented", CATEGORIES[1], 1.6),
    ("invented, through other streets", CATEGORIES[3], 1.6),
)
_SIDE = 760
# Of an arc.
_POINTS = 9
# Nodes get dots only where they can be told apart.
_MOST_DOTS = 400


def map_figure(data: xr.Dataset, kind: str, name: str) -> go.Figure:
    """Draw true streets, invented ones, and those that run through true streets.

    Args:
        data: Data of a ``MapReconstruction``.
        kind: ``"map"``.
        name: Whose walks they are.

    Returns:
        A figure with a transparent background.

    Raises:
        ValueError: An unknown kind.
    """
    if kind != "map":
        msg = f"there is no figure {kind!r} of a map; the only kind is 'map'."
        raise ValueError(msg)
    places = np.column_stack([data["x"].values, data["y"].values])
    used = np.column_stack([data["source"].values, data["target"].values])
    unused = np.column_stack([data["unused_source"].values, data["unused_target"].values])
    invented = data["street_kind"].values.astype(str) == "invented"
    through = data["through"].values.astype(bool)
    parts = (unused, used[~invented], used[invented & ~through], used[invented & through])
    # Invented streets are bent: where one lies on a true one, both could not be seen.
    figure = go.Figure()
    for (called, color, width), streets in zip(_LAYERS, parts, strict=True):
        bend = 0.12 if called.startswith("invented") else 0.0
        x, y = _lines(places, streets, bend)
        figure.add_scatter(
            x=x,
            y=y,
            mode="lines",
            name=f"{called} ({len(streets)})",
            hoverinfo="skip",
            line={"color": color, "width": width},
        )
    names = [str(n) for n in data["node"].values.tolist()]
    figure.add_scatter(
        x=places[:, 0].tolist(),
        y=places[:, 1].tolist(),
        mode="markers",
        showlegend=False,
        marker={"size": 5, "color": "#8a8a8a", "opacity": 1.0 if len(names) <= _MOST_DOTS else 0.0},
        hovertext=[f"node {markup(n)}" for n in names],
        hovertemplate="%{hovertext}<extra></extra>",
    )
    styled(figure, "The map that the walks imply", _counts(data, name), height=_SIDE + 120)
    figure.update_layout(
        width=_SIDE + 40,
        margin={"l": 12, "r": 12, "t": 104, "b": 12},
        showlegend=True,
        legend={"orientation": "h", "x": 0, "y": 1, "yanchor": "bottom", "font": {"size": 11}},
    )
    figure.update_xaxes(visible=False)
    figure.update_yaxes(visible=False, scaleanchor="x", scaleratio=1)
    return figure


def _counts(data: xr.Dataset, name: str) -> str:
    share = f"precision {float(data['edge_precision']):.3f}, recall {float(data['edge_recall']):.3f}"
    walks = f"{int(data['n_valid'])} of {int(data['n_walks'])} valid, {int(data['n_failed'])} failed"
    source = str(data["x"].attrs.get("long_name", "coordinates"))
    return f"{label(name, 30)}: {walks}; {share}; drawn by {source}"


def _lines(
    places: Float[np.ndarray, "node 2"], streets: Int[np.ndarray, "street 2"], bend: float
) -> tuple[list[float | None], list[float | None]]:
    """Return streets as one broken line, each bent to its left."""
    if not len(streets):
        return [None], [None]
    a, b = places[streets[:, 0], None], places[streets[:, 1], None]
    aside = (b - a)[:, :, ::-1] * np.array([-1.0, 1.0])
    along = np.linspace(0, 1, _POINTS if bend else 2)[:, None]
    arc = a + along * (b - a) + 4 * bend * along * (1 - along) * aside
    gap = np.full_like(a, np.nan)
    points = np.concatenate([arc, gap], axis=1).reshape(-1, 2)
    x, y = ([None if np.isnan(v) else float(v) for v in column] for column in points.T)
    return x, y
