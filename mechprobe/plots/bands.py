"""Bands behind curves, and what tells them from the bars of single points."""

from typing import Any

import numpy as np
import plotly.graph_objects as go
import xarray as xr

POINTWISE = "pointwise 95 %"
SIMULTANEOUS = "simultaneous 95 %"
_OPACITY = 0.16


def add_band(
    figure: go.Figure, data: xr.Dataset, variable: str, color: str, at: dict[str, int] | None = None
) -> None:
    """Draw the band that holds a whole curve, lightly; add it before the curve.

    Args:
        figure: Changed in place.
        data: Holds ``<variable>_band_low`` and ``<variable>_band_high``.
        variable: What the curve shows, along one dimension; NaN are left out.
        color: Of the curve, ``#rrggbb``.
        at: ``row`` and ``col`` of the panel, in a figure of several.
    """
    low, high = (data[f"{variable}_band_{end}"].values for end in ("low", "high"))
    x = np.flatnonzero(~np.isnan(low))
    rgb = ", ".join(str(int(color[i : i + 2], 16)) for i in (1, 3, 5))
    figure.add_scatter(
        x=[*x.tolist(), *x[::-1].tolist()],
        y=[*high[x].tolist(), *low[x][::-1].tolist()],
        fill="toself",
        fillcolor=f"rgba({rgb}, {_OPACITY})",
        mode="lines",
        line={"width": 0},
        hoverinfo="skip",
        showlegend=False,
        **(at or {}),
    )


def add_key(figure: go.Figure, color: str, at: dict[str, int] | None = None) -> None:
    """Name bars and bands in the legend."""
    bar: dict[str, Any] = {"symbol": "line-ns", "size": 10, "line": {"width": 1.5, "color": color}}
    area: dict[str, Any] = {"symbol": "square", "size": 12, "color": color, "opacity": _OPACITY * 2}
    for name, marker in ((POINTWISE, bar), (SIMULTANEOUS, area)):
        look: dict[str, Any] = {"name": name, "mode": "markers", "marker": marker, "showlegend": True}
        figure.add_scatter(x=[None], y=[None], **look, **(at or {}))


def both_bounds(data: xr.Dataset, variable: str, cell: tuple[int, ...]) -> str:
    """Return value and both pairs of bounds of a cell, for a hover text."""
    value, *bounds = (
        float(data[f"{variable}{end}"].values[cell])
        for end in ("", "_low", "_high", "_band_low", "_band_high")
    )
    low, high, band_low, band_high = bounds
    return (
        f"{value:.3f} [{low:.3f}, {high:.3f}] {POINTWISE}<br>"
        f"[{band_low:.3f}, {band_high:.3f}] {SIMULTANEOUS}, all cells"
    )
