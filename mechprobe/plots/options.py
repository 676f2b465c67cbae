"""Figure of multiple-choice robustness."""

import plotly.graph_objects as go
import xarray as xr

from mechprobe.plots.style import CATEGORIES, INK, styled


def letters_figure(data: xr.Dataset) -> go.Figure:
    """Draw the share of answers with each letter: right ones, and those of every reader.

    Args:
        data: Data of an ``OptionRobustness``.

    Returns:
        A figure with a transparent background.
    """
    letters = [str(x) for x in data["letter"].values.tolist()]
    bars = {"right answers": (data["answer_share"].values.tolist(), INK)}
    for i, reader in enumerate(data["reader"].values.tolist()):
        bars[str(reader)] = (data["predicted"].sel(reader=reader).values.tolist(), CATEGORIES[i])
    figure = go.Figure()
    for name, (shares, color) in bars.items():
        figure.add_bar(
            x=letters,
            y=shares,
            name=name,
            marker={"color": color},
            hovertemplate=f"{name}: %{{x}} %{{y:.1%}}<extra></extra>",
        )
    styled(figure, "Letters answered", "a reader without letter bias follows the grey bars", height=360)
    figure.update_layout(
        barmode="group",
        margin={"l": 64, "r": 24, "t": 96, "b": 48},
        legend={"orientation": "h", "x": 0, "y": 1, "yanchor": "bottom", "font": {"size": 11}},
    )
    figure.update_xaxes(title="letter", type="category")
    figure.update_yaxes(title="share of questions", tickformat=".0%", rangemode="tozero")
    return figure
