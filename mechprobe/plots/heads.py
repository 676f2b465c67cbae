"""Maps over layers and heads: accuracies, and traits side by side."""

import numpy as np
import numpy.typing as npt
import plotly.graph_objects as go
import xarray as xr
from plotly.colors import sample_colorscale
from plotly.subplots import make_subplots

from mechprobe.plots.style import INK, styled
from mechprobe.plots.text import markup

# Grey in the middle and colours at both ends: read on a light and on a dark page alike.
DIVERGING = ("#2b6cb0", "#7fa6cf", "#9a9a9a", "#e0a458", "#e2711d")
_FRAME, _FRAME_EDGE = "#101418", "#ffffff"
_LEFT, _RIGHT, _TOP, _BOTTOM = 56, 190, 92, 48
_ACROSS, _UP = 640, 560
# Height of a label of the colour bar, in pixels.
_LABEL = 18


def around(low: float, middle: float, high: float) -> list[list[float | str]]:
    """Return a diverging scale from ``low`` to ``high`` that is grey at ``middle``.

    Equal distances from the middle have equally strong colours on both sides.

    Args:
        low: Lower end of the values.
        middle: Value of the grey, between the ends.
        high: Upper end.

    Returns:
        A plotly colour scale.
    """
    reach = max(high - middle, middle - low, 1e-9)
    at = np.linspace(0, 1, 21)
    values = low + at * (high - low)
    colors = sample_colorscale(list(DIVERGING), ((values - middle) / reach / 2 + 0.5).tolist())
    return [[float(a), str(c)] for a, c in zip(at, colors, strict=True)]


def accuracy_map_figure(data: xr.Dataset, title: str, subtitle: str) -> go.Figure:
    """Draw the accuracy of every head; chance and the best by chance stand in the colour bar.

    Args:
        data: ``accuracy`` (layer, head), ``chance`` and ``ceiling`` (what the best of these heads
            is expected to score by chance; NaN if not known); where known ``selected`` (these are outlined),
            ``accuracy_test`` and ``picked`` (shown on hover), all (layer, head).
        title: Plain words.
        subtitle: A second line, plain text; ``<br>`` breaks it.

    Returns:
        A figure with a transparent background.
    """
    data = data.transpose("layer", "head", ...)
    share = data["accuracy"].values.astype(np.float64)
    chance, ceiling = float(data["chance"]), float(data["ceiling"])
    low = min(float(np.nanmin(share)), chance)
    high = max(float(np.nanmax(share)), chance if np.isnan(ceiling) else ceiling)
    width, height = _size(*share.shape)
    room = _LABEL / (height - _TOP - _BOTTOM - 3 * _LABEL) * (high - low)
    values, labels = _bar_ticks(low, chance, ceiling, high, room)
    heat = go.Heatmap(
        z=share.tolist(),
        x=list(range(share.shape[1])),
        y=list(range(share.shape[0])),
        zmin=low,
        zmax=high,
        colorscale=around(low, chance, high),
        hovertext=_hover(data),
        hovertemplate="%{hovertext}<extra></extra>",
        colorbar=_bar(values, labels),
        xgap=1,
        ygap=1,
    )
    figure = go.Figure(heat)
    escaped = "<br>".join(markup(line) for line in subtitle.split("<br>"))
    styled(figure, title, escaped, height=height)
    margin = {"l": _LEFT, "r": _RIGHT, "t": _TOP, "b": _BOTTOM}
    figure.update_layout(width=width, margin=margin)
    _name_axes(figure, data)
    if "selected" in data:
        _outline(figure, np.argwhere(data["selected"].values))
    return figure


def _bar(values: list[float], labels: list[str]) -> dict[str, object]:
    return {
        "title": {"text": "accuracy<br>&nbsp;"},
        "thickness": 14,
        "outlinewidth": 0,
        "ypad": 0,
        "tickvals": values,
        "ticktext": labels,
        "ticks": "outside",
        "tickcolor": INK,
        "x": 1,
        "xpad": 14,
    }


def _size(n_layers: int, n_heads: int) -> tuple[int, int]:
    cell = float(np.clip(_ACROSS / n_heads, 11, 48))
    row = float(np.clip(_UP / n_layers, 9, 24))
    # A colour bar of four labels needs some height.
    up = max(round(row * n_layers), 170)
    return max(round(cell * n_heads) + _LEFT + _RIGHT, 760), up + _TOP + _BOTTOM


def _bar_ticks(
    low: float, chance: float, ceiling: float, high: float, room: float
) -> tuple[list[float], list[str]]:
    named = [(chance, f"{chance:.2f} chance"), (ceiling, f"{ceiling:.2f} best by chance")]
    if np.isnan(ceiling):
        named = named[:1]
    elif ceiling - chance < room:
        named = [(ceiling, f"{ceiling:.2f} best by chance<br>{chance:.2f} chance")]
        room *= 2
    ends = [(v, f"{v:.2f}") for v in (low, high) if all(abs(v - at) >= room for at, _ in named)]
    ticks = sorted(named + ends)
    return [v for v, _ in ticks], [text for _, text in ticks]


def _hover(data: xr.Dataset) -> list[list[str]]:
    share = data["accuracy"].values.astype(np.float64)
    place = np.empty(share.size, int)
    place[np.argsort(-share.ravel(), kind="stable")] = np.arange(1, share.size + 1)
    rank = place.reshape(share.shape)
    layers, heads = data["layer"].values.tolist(), data["head"].values.tolist()

    def cell(i: int, j: int) -> str:
        lines = [
            f"<b>L{layers[i]}H{heads[j]}</b> layer {layers[i]}, head {heads[j]}",
            f"accuracy {share[i, j]:.3f}, rank {rank[i, j]} of {share.size}",
        ]
        if "accuracy_test" in data:
            lines.append(f"held out {float(data['accuracy_test'].values[i, j]):.3f}")
        if "picked" in data:
            picked = float(data["picked"].values[i, j])
            lines.append(f"chosen in {picked:.0%} of resampled calibration sets")
        return "<br>".join(lines)

    return [[cell(i, j) for j in range(share.shape[1])] for i in range(share.shape[0])]


def _name_axes(figure: go.Figure, data: xr.Dataset) -> None:
    axis = {"type": "linear", "showgrid": False, "ticks": "", "showline": False}
    for update, name, most in ((figure.update_xaxes, "head", 32), (figure.update_yaxes, "layer", 24)):
        at, text = thinned(data[name].values.tolist(), most)
        n = data.sizes[name]
        update(
            title=name,
            tickvals=at,
            ticktext=text,
            range=[-0.5, n - 0.5],
            tickangle=0,
            title_standoff=6,
            **axis,
        )


def thinned(labels: list[int], most: int) -> tuple[list[int], list[str]]:
    """Return positions and texts of at most ``most`` evenly spaced labels."""
    step = -(-len(labels) // most)
    at = list(range(0, len(labels), step))
    return at, [str(labels[i]) for i in at]


def _outline(figure: go.Figure, cells: npt.NDArray[np.intp]) -> None:
    for layer, head in cells.tolist():
        # Two lines, so that one of them stands out from any cell and any page.
        for color, width in ((_FRAME_EDGE, 5), (_FRAME, 2)):
            figure.add_shape(
                type="rect",
                x0=head - 0.5,
                x1=head + 0.5,
                y0=layer - 0.5,
                y1=layer + 0.5,
                line={"color": color, "width": width},
            )


def traits_figure(data: xr.Dataset, titles: dict[str, str], subtitle: str) -> go.Figure:
    """Draw one small map over layers and heads for every trait.

    Args:
        data: One variable (layer, head) per trait; those that are all NaN are left out.
        titles: What each variable is called, in the order they are drawn.
        subtitle: A second line, plain text.

    Returns:
        A figure with a transparent background.

    Raises:
        ValueError: No trait was measured.
    """
    data = data.transpose("layer", "head", ...)
    names = [n for n in titles if n in data and not np.isnan(data[n].values).all()]
    if not names:
        msg = "no trait of these heads was measured, so there is nothing to draw."
        raise ValueError(msg)
    n_columns = min(3, len(names))
    n_rows = -(-len(names) // n_columns)
    figure = make_subplots(
        n_rows,
        n_columns,
        subplot_titles=[titles[n] for n in names],
        horizontal_spacing=0.1,
        vertical_spacing=0.16 if n_rows > 1 else 0,
    )
    for i, name in enumerate(names):
        row, column = divmod(i, n_columns)
        figure.add_trace(_trait(data, name, figure, row + 1, column + 1), row + 1, column + 1)
    styled(figure, "What the heads do", markup(subtitle), height=n_rows * 300 + 90)
    figure.update_layout(width=n_columns * 330 + 60, margin={"l": 56, "r": 40, "t": 108, "b": 48})
    _name_axes(figure, data)
    return figure


def _trait(data: xr.Dataset, name: str, figure: go.Figure, row: int, column: int) -> go.Heatmap:
    values = data[name].values.astype(np.float64)
    most = max(float(np.nanmax(np.abs(values))), 1e-9)
    low = -most if (values < 0).any() else 0.0
    subplot = figure.get_subplot(row, column)
    across, up = subplot.xaxis.domain, subplot.yaxis.domain
    layers, heads = data["layer"].values.tolist(), data["head"].values.tolist()
    return go.Heatmap(
        z=[[None if np.isnan(v) else v for v in line] for line in values.tolist()],
        x=list(range(values.shape[1])),
        y=list(range(values.shape[0])),
        zmin=low,
        zmax=most,
        colorscale=around(low, 0.0, most),
        hovertext=[[f"<b>L{layer}H{head}</b>" for head in heads] for layer in layers],
        hovertemplate="%{hovertext}<br>%{z:.3f}<extra></extra>",
        colorbar={
            "x": across[1],
            "xpad": 6,
            "y": (up[0] + up[1]) / 2,
            "len": up[1] - up[0],
            "thickness": 8,
            "outlinewidth": 0,
            "nticks": 4,
            "tickfont": {"size": 10},
        },
        xgap=1,
        ygap=1,
    )
