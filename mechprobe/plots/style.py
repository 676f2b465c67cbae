"""How all figures look: no background of their own, ink that reads on light and on dark pages."""

import plotly.graph_objects as go

# Grey halfway between black and white: contrast about 4:1 on a white and on a black page alike.
INK = "#7d7d7d"
GRID = "rgba(128,128,128,0.25)"
CLEAR = "rgba(0,0,0,0)"
SANS = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', Arial, sans-serif"
MONO = "ui-monospace, SFMono-Regular, Menlo, Consolas, 'DejaVu Sans Mono', monospace"
# D3's ten categories, less its grey, which is the ink here.
CATEGORIES = (
    "#1f77b4",
    "#ff7f0e",
    "#2ca02c",
    "#d62728",
    "#9467bd",
    "#8c564b",
    "#e377c2",
    "#bcbd22",
    "#17becf",
)


def styled(figure: go.Figure, title: str, subtitle: str = "", *, height: int) -> go.Figure:
    """Give a figure the common look.

    Args:
        figure: The figure, changed in place.
        title: Plain words.
        subtitle: A second, smaller line, escaped already.
        height: In pixels.

    Returns:
        The same figure.
    """
    figure.update_layout(
        template="none",
        title={
            "text": title,
            "subtitle": {"text": subtitle, "font": {"size": 12}},
            "font": {"size": 16},
            "x": 0,
            "xref": "container",
            "xanchor": "left",
            "pad": {"l": 12, "t": 12},
            "y": 1,
            "yref": "container",
            "yanchor": "top",
        },
        font={"family": SANS, "size": 12, "color": INK},
        paper_bgcolor=CLEAR,
        plot_bgcolor=CLEAR,
        height=height,
        hoverlabel={
            "bgcolor": "#222222",
            "bordercolor": "#888888",
            "font": {"family": MONO, "size": 12, "color": "#f2f2f2"},
            "align": "left",
            "namelength": -1,
        },
    )
    axis = {"gridcolor": GRID, "zeroline": False, "linecolor": GRID, "tickcolor": GRID}
    figure.update_xaxes(**axis)
    figure.update_yaxes(**axis)
    return figure
