"""Figures of the unembedding's geometry."""

import numpy as np
import plotly.graph_objects as go
import xarray as xr

from mechprobe.plots.style import CATEGORIES, styled
from mechprobe.plots.text import label, markup, visible

_OWN, _OTHER = CATEGORIES[1], CATEGORIES[0]
_ROW = 24


def neighbors_figure(data: xr.Dataset, kind: str) -> go.Figure:
    """Draw the nearest tokens as bars, nearest on top, tokens of the query set apart.

    Args:
        data: Data of a ``VocabularyNeighbors``.
        kind: ``"score"``.

    Returns:
        A figure with a transparent background.

    Raises:
        ValueError: An unknown kind.
    """
    _check_kind(kind)
    texts, ids = data["text"].values.tolist(), data["token"].values.tolist()
    score, own = data["score"].values, data["is_input"].values.astype(bool)
    hover = [
        f"<b>{markup(visible(t))}</b> (id {i})<br>{_metric(data)} {s:.4g}"
        for t, i, s in zip(texts, ids, score.tolist(), strict=True)
    ]
    figure = go.Figure()
    for chosen, name, color in ((own, "part of the query", _OWN), (~own, "other token", _OTHER)):
        rows = np.flatnonzero(chosen).tolist()
        if rows:
            figure.add_bar(
                x=score[rows].tolist(),
                y=rows,
                orientation="h",
                name=name,
                marker={"color": color},
                text=[f"{score[i]:.3g}" for i in rows],
                hovertext=[hover[i] for i in rows],
                hovertemplate="%{hovertext}<extra></extra>",
            )
    styled(figure, "Nearest tokens of the vocabulary", _query(data), height=_ROW * len(ids) + 148)
    _finish(figure, [label(t, 18) for t in texts], _metric(data))
    return figure


def expressible_figure(data: xr.Dataset, kind: str) -> go.Figure:
    """Draw the score of a text's own tokens against that of the nearest other token.

    Args:
        data: Data of an ``Expressibility``.
        kind: ``"score"``.

    Returns:
        A figure with a transparent background.

    Raises:
        ValueError: An unknown kind.
    """
    _check_kind(kind)
    pieces = " + ".join(label(t) for t in data["text"].values.tolist())
    scores = [float(data["own"]), float(data["other"])]
    margin = float(data["margin"])
    names = ["own best token", f"nearest other token {label(str(data['other_text'].item()), 18)}"]
    figure = go.Figure()
    for i, color in enumerate((_OWN, _OTHER)):
        figure.add_bar(
            x=[scores[i]],
            y=[i],
            orientation="h",
            name=names[i],
            width=0.6,
            marker={"color": color},
            text=[f"{scores[i]:.3g}"],
            hovertext=[f"{names[i]}<br>{_metric(data)} {scores[i]:.4g}"],
            hovertemplate="%{hovertext}<extra></extra>",
        )
    verdict = "its own token is nearest" if margin >= 0 else "another token wins"
    figure.add_annotation(
        text=f"margin {margin:+.3g}: {verdict}",
        x=1,
        xref="paper",
        xanchor="right",
        y=1,
        yref="paper",
        yanchor="bottom",
        yshift=4,
        showarrow=False,
    )
    one = "one token" if bool(data["one_token"]) else f"{data.sizes['piece']} tokens"
    asked = label(str(data["asked"].item()), 24)
    styled(figure, "Can one token say it?", f"{asked} is {one}: {pieces}", height=250)
    _finish(figure, ["own", "other"], _metric(data))
    return figure


def _check_kind(kind: str) -> None:
    if kind != "score":
        msg = f"there is no figure {kind!r} of the vocabulary; the only kind is 'score'."
        raise ValueError(msg)


def _metric(data: xr.Dataset) -> str:
    """Return the name of the score, which the variable carries."""
    name = "score" if "score" in data else "own"
    return str({"dot": "dot product", "cosine": "cosine"}.get(data[name].attrs.get("long_name", ""), "score"))


def _query(data: xr.Dataset) -> str:
    if "term" not in data.coords:
        return ""
    terms = zip(data["weight"].values.tolist(), data["term"].values.tolist(), strict=True)
    return "query: " + " + ".join(f"{weight:g} · {label(str(t), 24)}" for weight, t in terms)


def _finish(figure: go.Figure, names: list[str], metric: str) -> None:
    figure.update_traces(textposition="outside", cliponaxis=False)
    figure.update_layout(
        margin={"l": 24, "r": 56, "t": 72, "b": 48},
        bargap=0.25,
        barmode="overlay",
        showlegend=True,
        legend={"orientation": "h", "x": 0, "y": 1, "yanchor": "bottom", "font": {"size": 11}},
    )
    figure.update_xaxes(title=f"score: {metric}" if metric != "score" else metric)
    figure.update_yaxes(
        type="linear",
        tickvals=list(range(len(names))),
        ticktext=names,
        range=[len(names) - 0.5, -0.5],
        automargin=True,
        showgrid=False,
    )
