"""Pictures of benchmarks: who took how many times as long, and how cost grows with size."""

from collections.abc import Sequence
from math import log10
from typing import NamedTuple

import plotly.graph_objects as go
from plotly.subplots import make_subplots

from mechprobe.plots.style import CATEGORIES, INK, styled
from mechprobe.plots.text import markup

_ROW, _PANEL = 30, 430
_GROWTH_ROW, _HEAD = 270, 140
_MEASURED, _THEORY = (
    "measured: median, least to most (hollow: not fitted)",
    "theory, through the largest size",
)


class Panel(NamedTuple):
    """One cost along one axis.

    Attributes:
        title: Plain words.
        counts: What sizes count.
        unit: Of the cost.
        points: (size, median, least, most), all positive, sizes rising.
        exponent: Theory's power of the size.
        fitted_from: The smallest size for which theory is meant to hold.
    """

    title: str
    counts: str
    unit: str
    points: Sequence[tuple[int, float, float, float]]
    exponent: float
    fitted_from: int = 0


def bench_figure(
    workloads: Sequence[str],
    contenders: Sequence[str],
    ratios: Sequence[float],
    title: str,
    subtitle: str,
) -> go.Figure:
    """Draw times as bars, in units of mechprobe's; contenders without a time are left out.

    Args:
        workloads: Of each row; one panel for each.
        contenders: Of each row.
        ratios: Its time over mechprobe's; NaN where it did not run.
        title: Plain words.
        subtitle: Machine and date.

    Returns:
        A figure with a transparent background.
    """
    panels = list(dict.fromkeys(workloads))
    figure = make_subplots(1, len(panels), subplot_titles=[markup(p) for p in panels],
                           horizontal_spacing=0.26 / len(panels) + 0.06)  # fmt: skip
    most = 0
    for column, panel in enumerate(panels, 1):
        rows = [
            (name, ratio)
            for work, name, ratio in zip(workloads, contenders, ratios, strict=True)
            if work == panel and ratio == ratio
        ][::-1]
        most = max(most, len(rows))
        _bars(figure, rows, column)
    styled(figure, markup(title), markup(subtitle), height=150 + _ROW * most)
    figure.update_layout(
        width=120 + _PANEL * len(panels), margin={"l": 160, "r": 30, "t": 96, "b": 44},
        showlegend=False, bargap=0.3,
    )  # fmt: skip
    figure.update_xaxes(title="times mechprobe's time")
    figure.update_annotations(font={"size": 13})
    return figure


def _bars(figure: go.Figure, rows: Sequence[tuple[str, float]], column: int) -> None:
    figure.add_bar(
        x=[ratio for _, ratio in rows],
        y=[markup(name) for name, _ in rows],
        orientation="h",
        marker={"color": [CATEGORIES[1] if n.startswith("mechprobe") else INK for n, _ in rows]},
        text=[f"{ratio:.2f}x" for _, ratio in rows],
        textposition="outside",
        cliponaxis=False,
        hovertemplate="%{y}: %{x:.2f}x<extra></extra>",
        row=1,
        col=column,
    )
    largest = max((ratio for _, ratio in rows), default=1.0)
    figure.update_xaxes(range=[0, 1.2 * largest], row=1, col=column)


def growth_figure(panels: Sequence[Panel], title: str, subtitle: str) -> go.Figure:
    """Draw costs against sizes on logarithmic scales, two panels to a row.

    Args:
        panels: From left to right, row after row.
        title: Plain words.
        subtitle: Machine and date.

    Returns:
        A figure with a transparent background.
    """
    n_rows = -(-len(panels) // 2)
    height = _HEAD + 50 + _GROWTH_ROW * n_rows
    figure = make_subplots(
        n_rows, 2, subplot_titles=[markup(panel.title) for panel in panels],
        horizontal_spacing=0.1, vertical_spacing=0.4 / n_rows,
    )  # fmt: skip
    for i, panel in enumerate(panels):
        _draw(figure, panel, i // 2 + 1, i % 2 + 1)
    styled(figure, markup(title), markup(subtitle), height=height)
    figure.update_layout(
        width=1000, margin={"l": 70, "r": 30, "t": _HEAD, "b": 50},
        legend={"orientation": "h", "x": 0, "y": 1 - 62 / height, "yref": "container",
                "yanchor": "top"},
    )  # fmt: skip
    figure.update_annotations(font={"size": 13})
    return figure


def _draw(figure: go.Figure, panel: Panel, row: int, column: int) -> None:
    if not panel.points:
        return
    place = {"row": row, "col": column, "showlegend": not figure.data}
    size, value, low, high = (list(x) for x in zip(*panel.points, strict=True))
    theory = [value[-1] * (n / size[-1]) ** panel.exponent for n in size]
    figure.add_scatter(
        x=size, y=theory, name=_THEORY, mode="lines", hoverinfo="skip",
        line={"color": INK, "dash": "dash", "width": 1.5}, **place,
    )  # fmt: skip
    figure.add_scatter(
        x=size, y=value, name=_MEASURED, mode="markers",
        marker={
            "color": CATEGORIES[0], "size": 8,
            "symbol": ["circle" if n >= panel.fitted_from else "circle-open" for n in size],
        },
        error_y={
            "array": [top - y for top, y in zip(high, value, strict=True)],
            "arrayminus": [y - bottom for bottom, y in zip(low, value, strict=True)],
            "thickness": 1.4, "width": 4,
        },
        hovertemplate=f"%{{x}}: %{{y:.4g}} {markup(panel.unit)}<extra></extra>",
        **place,
    )  # fmt: skip
    figure.update_xaxes(
        type="log", title_text=markup(panel.counts), tickvals=size,
        ticktext=[f"{n:,}" for n in size], row=row, col=column,
    )  # fmt: skip
    figure.update_yaxes(
        type="log", title_text=markup(panel.unit), range=_decades([*theory, *low, *high]),
        dtick="D2", row=row, col=column,
    )  # fmt: skip


def _decades(values: Sequence[float]) -> list[float]:
    """Return a logarithmic range of more than a decade: what is flat must look flat."""
    low, high = log10(min(values)), log10(max(values))
    room = max(0.1, (1.5 - (high - low)) / 2)
    return [low - room, high + room]
