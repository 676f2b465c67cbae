"""Rank or probability of tokens over layers."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import plotly.graph_objects as go
import xarray as xr
from plotly.colors import sample_colorscale

from mechprobe.plots.style import CATEGORIES, styled
from mechprobe.plots.text import label, layer_label, probability

# Below the reciprocal of any vocabulary; a logarithmic axis down to 1e-60 would show nothing else.
FLOOR = 1e-8
_HEIGHT = 460


@dataclass(frozen=True, slots=True)
class _Line:
    """One token at one position.

    Attributes:
        token: The token followed, ready to be shown.
        read: The token read at the position, ready to be shown.
        position: Position in the prompt.
        values: Rank or log-probability per layer; NaN where it is not known.
        group: Which target.
    """

    token: str
    read: str
    position: int
    values: npt.NDArray[np.float64]
    group: int


def trajectory_figure(data: xr.Dataset, kind: str, subtitle: str) -> go.Figure:
    """Draw a line over layers for every target at every position.

    Args:
        data: One prompt of a lens, valid positions only, dims ``pos``, ``layer`` first.
        kind: ``"rank"`` (1 is best, on top) or ``"prob"``; both axes are logarithmic.
        subtitle: Second line of the title, escaped already.

    Returns:
        The figure.

    Raises:
        ValueError: ``"rank"`` without targets.
    """
    has_targets = "target_rank" in data
    if kind == "rank" and not has_targets:
        msg = (
            "there are no targets in this result, and ranks are kept for targets only; ask the "
            "lens with targets=[...], or draw 'prob', which follows the model's own first choice."
        )
        raise ValueError(msg)
    lines = _target_lines(data, kind) if has_targets else _own_lines(data)
    layers = data["layer"].values.tolist()
    what = "Targets" if has_targets else "The model's own first choice"
    noun = "Rank" if kind == "rank" else "Probability"
    figure = go.Figure(_traces(lines, layers, kind))
    styled(figure, f"{noun} over layers: {what[0].lower()}{what[1:]}", subtitle, height=_HEIGHT)
    figure.update_layout(
        margin={"l": 84, "r": 24, "t": 72, "b": 56},
        showlegend=True,
        legend={"groupclick": "toggleitem", "title": {"text": "token at position"}},
        hovermode="closest",
    )
    step = max(1, -(-len(layers) // 16))
    ticks = layers[(len(layers) - 1) % step :: step]
    figure.update_xaxes(
        title="layer", type="linear", tickvals=ticks, ticktext=[layer_label(v) for v in ticks]
    )
    figure.update_yaxes(type="log", **_powers(kind))
    if kind == "rank":
        figure.update_yaxes(title="rank (1 = best), log scale", autorange="reversed")
    else:
        figure.update_yaxes(title=f"probability, log scale (▽: below {_power(-8)})")
        figure.update_yaxes(range=[np.log10(_lowest(lines)) - 0.3, 0.15])
    return figure


def _powers(kind: str) -> dict[str, list[float] | list[str]]:
    exponents = range(7) if kind == "rank" else range(-8, 1)
    return {"tickvals": [10.0**e for e in exponents], "ticktext": [_power(e) for e in exponents]}


def _power(exponent: int) -> str:
    return f"{10.0**exponent:,g}" if -4 < exponent < 6 else f"1e{exponent}"


def _target_lines(data: xr.Dataset, kind: str) -> list[_Line]:
    name = "target_rank" if kind == "rank" else "target_log_prob"
    values = data[name].transpose("pos", "layer", "target").values.astype(np.float64)
    labels = [str(v) for v in data["target"].values.tolist()]
    return [
        _line(data, pos, name, values[pos, :, group], group)
        for group, name in enumerate(labels)
        for pos in range(data.sizes["pos"])
    ]


def _own_lines(data: xr.Dataset) -> list[_Line]:
    token, text = data["model_token"].values[:, 0], data["model_text"].values[:, 0]
    found = data["top_token"].values == token[:, None, None]
    # A token stands at most once among the top k of a cell.
    log_prob = np.where(found, data["top_log_prob"].values, -np.inf).max(-1).astype(np.float64)
    log_prob[~found.any(-1)] = np.nan
    return [_line(data, pos, str(text[pos]), log_prob[pos], 0) for pos in range(len(token))]


def _line(data: xr.Dataset, pos: int, token: str, values: npt.NDArray[np.float64], group: int) -> _Line:
    read, position = str(data["token_text"].values[pos]), int(data["position"].values[pos])
    return _Line(label(token, 16), label(read, 12), position, values, group)


def _traces(lines: list[_Line], layers: list[int], kind: str) -> list[go.Scatter]:
    n_groups = 1 + max(line.group for line in lines)
    n_pos = len(lines) // n_groups
    colors = _colors(n_groups if n_groups > 1 else n_pos)
    traces = []
    for i, line in enumerate(lines):
        pos = i % n_pos
        y, low = _heights(line.values, kind)
        color = colors[line.group if n_groups > 1 else pos]
        # Positions of one target share its colour; the last is the one most often asked about.
        faint = n_groups > 1 and pos < n_pos - 1
        traces.append(
            go.Scatter(
                x=layers,
                y=y,
                name=f"{line.token} at {line.position} (read {line.read})",
                legendgroup=str(line.group),
                mode="lines+markers",
                connectgaps=False,
                opacity=0.3 + 0.3 * pos / max(n_pos - 1, 1) if faint else 1,
                line={"color": color, "width": 1.2 if faint else 2},
                marker={
                    "size": [7 if is_low else 6 for is_low in low],
                    "line": {"width": [1 if is_low else 0 for is_low in low]},
                    "symbol": ["triangle-down-open" if is_low else "circle" for is_low in low],
                },
                hovertext=_hover(line, layers, kind),
                hovertemplate="%{hovertext}<extra></extra>",
            )
        )
    return traces


def _heights(values: npt.NDArray[np.float64], kind: str) -> tuple[list[float | None], list[bool]]:
    """Return where the points stand (None is a gap), and which stand for something lower."""
    if kind == "rank":
        return (values + 1).tolist(), [False] * len(values)
    p = np.exp(values)
    low = p < FLOOR
    y = [None if np.isnan(v) else float(v) for v in np.maximum(p, FLOOR)]
    return y, low.tolist()


def _lowest(lines: list[_Line]) -> float:
    p = np.exp(np.concatenate([line.values for line in lines]))
    return max(FLOOR, float(np.nanmin(p))) if np.isfinite(p).any() else FLOOR


def _hover(line: _Line, layers: list[int], kind: str) -> list[str]:
    head = f"<b>{line.token}</b> at position {line.position}, read {line.read}"

    def value(v: float) -> str:
        if kind == "rank":
            return f"rank {v + 1:.0f}"
        return f"probability {probability(v)}, log-probability {v:.3f} nats"

    return [
        f"{head}<br>layer {layer_label(layer)}<br>{value(v)}"
        for layer, v in zip(layers, line.values.tolist(), strict=True)
    ]


def _colors(n: int) -> list[str]:
    if n <= len(CATEGORIES):
        return list(CATEGORIES[:n])
    # The ends of the scale vanish on a dark and on a light page.
    found: list[str] = sample_colorscale("Viridis", np.linspace(0.2, 0.9, n).tolist())
    return found
