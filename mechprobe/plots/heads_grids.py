"""Matrices: heads on other tasks, and head, model and shortcut as questions get harder."""

import numpy as np
import numpy.typing as npt
import plotly.graph_objects as go
import xarray as xr
from plotly.subplots import make_subplots

from mechprobe.plots.bands import both_bounds
from mechprobe.plots.style import MONO, styled
from mechprobe.plots.text import label, markup

# Middle tones end to end: dark text reads on every cell (contrast 5:1 at least), on any page.
SCALE = ("#8ea6c8", "#b9c7dd", "#e9e9e4", "#f6cf9d", "#f2a45c")
_CELL_INK = "#101418"
_BAR = {"thickness": 14, "outlinewidth": 0, "ticks": "", "x": 1, "xpad": 14, "ypad": 0}
_COLORS = {
    "colorscale": list(SCALE),
    "cmin": 0,
    "cmax": 1,
    "colorbar": {"title": {"text": "accuracy<br>&nbsp;"}, **_BAR},
}
_NAME = 20
_LEVEL = 0.05


def transfer_figure(data: xr.Dataset) -> go.Figure:
    """Draw the accuracy of heads chosen on each row's task and tested on each column's.

    Below the matrix stand the column's own baselines: model and best shortcut.

    Args:
        data: Data of a ``Transfer``.

    Returns:
        A figure with a transparent background.
    """
    rows = data["selected_on"].values.tolist()
    columns = data["tested_on"].values.tolist()
    matrix = data["accuracy"].transpose("selected_on", "tested_on").values
    baselines = np.stack([data["model"].values, data["shortcut"].values])
    chosen = data["chosen"].values.tolist()
    names = [f"{label(str(r), _NAME)}<br>{label(str(c), _NAME)}" for r, c in zip(rows, chosen, strict=True)]
    hover = _transfer_hover(data)
    heat = _cells(matrix.astype(np.float64), hover[: len(rows)])
    p = data["p_adjusted"].transpose("selected_on", "tested_on").values
    heat.text = [
        [text + "*" * bool(value <= _LEVEL) for text, value in zip(*pair, strict=True)]
        for pair in zip(heat.text, p.tolist(), strict=True)
    ]
    below = _cells(baselines.astype(np.float64), hover[len(rows) :])
    # Half a row sets the baselines apart.
    below.y = [len(rows) + 0.5, len(rows) + 1.5]
    heat.coloraxis = below.coloraxis = "coloraxis"
    figure = go.Figure([heat, below])
    subtitle = (
        "row: where the heads were chosen; column: where they were tested, held out<br>* above chance, "
        f"p at most {_LEVEL} corrected for all {p.size} cells"
    )
    styled(figure, "Do heads transfer?", subtitle, height=48 * (len(rows) + 2) + 216)
    width = max(640, 160 * len(columns) + 330)
    figure.update_layout(width=width, margin={"l": 24, "r": 120, "t": 100, "b": 24}, coloraxis=_COLORS)
    _integer_axes(figure)
    figure.update_xaxes(
        title_text="tested on",
        tickvals=list(range(len(columns))),
        ticktext=[label(str(c), _NAME) for c in columns],
        automargin=True,
    )
    figure.update_yaxes(
        title_text="chosen on",
        tickvals=[*range(len(rows)), *below.y],
        ticktext=[*names, "model", "best shortcut"],
        range=[len(rows) + 2, -0.5],
        automargin=True,
    )
    return figure


def _transfer_hover(data: xr.Dataset) -> list[list[str]]:
    ends = ("accuracy_low", "accuracy_high", "p_value", "p_adjusted", "rank_correlation",
            "rank_correlation_low", "rank_correlation_high")  # fmt: skip
    low, high, p, adjusted, rank, rank_low, rank_high = (
        data[n].transpose("selected_on", "tested_on").values for n in ends
    )
    rows, columns = data["selected_on"].values.tolist(), data["tested_on"].values.tolist()

    def cell(i: int, j: int) -> str:
        return (
            f"heads of <b>{markup(str(rows[i]))}</b> ({markup(str(data['chosen'].values[i]))})<br>"
            f"on {int(data['n_test'].values[j])} held-out examples of "
            f"<b>{markup(str(columns[j]))}</b><br>"
            f"accuracy {float(data['accuracy'].values[i, j]):.3f} "
            f"[{low[i, j]:.3f}, {high[i, j]:.3f}]<br>"
            f"p against chance {p[i, j]:.2g}, corrected {adjusted[i, j]:.2g}<br>"
            f"rank correlation of all heads {rank[i, j]:.2f} "
            f"[{rank_low[i, j]:.2f}, {rank_high[i, j]:.2f}]"
        )

    cells = [[cell(i, j) for j in range(len(columns))] for i in range(len(rows))]
    for who, named in (("model", "model_spelling"), ("shortcut", "shortcut_name")):
        cells.append(
            [
                f"{who} ({markup(str(data[named].values[j]))})<br>on "
                f"<b>{markup(str(columns[j]))}</b><br>accuracy {float(data[who].values[j]):.3f} "
                f"[{float(data[f'{who}_low'].values[j]):.3f}, "
                f"{float(data[f'{who}_high'].values[j]):.3f}]"
                for j in range(len(columns))
            ]
        )
    return cells


def difficulty_figure(data: xr.Dataset) -> go.Figure:
    """Draw model, head and best shortcut over steps and distractors, in one colour scale.

    Args:
        data: Data of a ``Difficulty``.

    Returns:
        A figure with a transparent background.
    """
    data = data.transpose("steps", "distractors", ...)
    steps, distractors = data["steps"].values.tolist(), data["distractors"].values.tolist()
    titles = {
        "model": f"model, {markup(str(data['model_spelling'].item()))}",
        "head": f"head {label(str(data['chosen'].item()), 20)}",
        "shortcut": f"shortcut: {label(str(data['shortcut_name'].item()), 24)}",
    }
    figure = make_subplots(
        1, 3, subplot_titles=list(titles.values()), shared_yaxes=True, horizontal_spacing=0.04
    )
    for column, who in enumerate(titles, 1):
        values = data[f"{who}_accuracy"].values.astype(np.float64)
        heat = _cells(values, _difficulty_hover(data, who))
        heat.coloraxis = "coloraxis"
        figure.add_trace(heat, 1, column)
    # A column must hold its title and every cell its two digits.
    width = 3 * max(46 * len(distractors), 230) + 220
    height = max(38 * len(steps), 150) + 200
    subtitle = "accuracy on held-out examples, bounds of a cell when pointed at; heads chosen on others"
    styled(figure, "As questions get harder", subtitle, height=height)
    figure.update_layout(width=width, margin={"l": 60, "r": 110, "t": 116, "b": 52}, coloraxis=_COLORS)
    figure.update_annotations(font={"size": 13})
    _integer_axes(figure)
    ticks = {"tickvals": list(range(len(distractors))), "ticktext": [str(v) for v in distractors]}
    figure.update_xaxes(title_text="distractors", **ticks)
    figure.update_yaxes(
        tickvals=list(range(len(steps))), ticktext=[str(v) for v in steps], range=[-0.5, len(steps) - 0.5]
    )
    figure.update_yaxes(title_text="steps", col=1)
    return figure


def _difficulty_hover(data: xr.Dataset, who: str) -> list[list[str]]:
    steps, distractors = data["steps"].values.tolist(), data["distractors"].values.tolist()
    n = data["n"].values

    def cell(i: int, j: int) -> str:
        return (
            f"{who}: {steps[i]} steps, {distractors[j]} distractors, {n[i, j]} examples<br>accuracy "
            f"{both_bounds(data, f'{who}_accuracy', (i, j))}"
        )

    return [[cell(i, j) for j in range(len(distractors))] for i in range(len(steps))]


def _cells(values: npt.NDArray[np.float64], hover: list[list[str]]) -> go.Heatmap:
    shown = [["" if np.isnan(v) else f"{v:.2f}" for v in row] for row in values.tolist()]
    return go.Heatmap(
        z=[[None if np.isnan(v) else v for v in row] for row in values.tolist()],
        x=list(range(values.shape[1])),
        y=list(range(values.shape[0])),
        text=shown,
        texttemplate="%{text}",
        textfont={"size": 12, "family": MONO, "color": _CELL_INK},
        hovertext=hover,
        hovertemplate="%{hovertext}<extra></extra>",
        xgap=2,
        ygap=2,
    )


def _integer_axes(figure: go.Figure) -> None:
    axis = {"type": "linear", "showgrid": False, "ticks": "", "showline": False}
    figure.update_xaxes(tickangle=0, title_standoff=6, **axis)
    figure.update_yaxes(title_standoff=6, **axis)
