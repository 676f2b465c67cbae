"""A picture of a benchmark: who took how many times as long."""

from collections.abc import Sequence

import plotly.graph_objects as go
from plotly.subplots import make_subplots

from mechprobe.plots.style import CATEGORIES, INK, styled
from mechprobe.plots.text import markup

_ROW, _PANEL = 30, 430


def bench_figure(
    workloads: Sequence[str], contenders: Sequence[str], ratios: Sequence[float], title: str, subtitle: str
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
    figure = make_subplots(
        1,
        len(panels),
        subplot_titles=[markup(p) for p in panels],
        horizontal_spacing=0.26 / len(panels) + 0.06,
    )
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
        width=120 + _PANEL * len(panels),
        margin={"l": 160, "r": 30, "t": 96, "b": 44},
        showlegend=False,
        bargap=0.3,
    )
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
