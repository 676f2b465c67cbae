"""Small models of worlds: how they learned, how they take detours, what probes read in them."""

import numpy as np
import plotly.graph_objects as go
import xarray as xr
from plotly.subplots import make_subplots

from mechprobe.plots.bands import add_band, add_key
from mechprobe.plots.style import CATEGORIES, INK, styled
from mechprobe.plots.text import label, markup, require_kind, titled

_MODEL, _OTHER, _THIRD = CATEGORIES[0], CATEGORIES[1], CATEGORIES[2]
_OUTCOMES = (CATEGORIES[2], CATEGORIES[3], CATEGORIES[1], "#8a8a8a")
_SMOOTHED = 50


def training_figure(data: xr.Dataset, kind: str, name: str = "") -> go.Figure:
    """Draw the loss of the batches, held-out loss and next-token validity against the step.

    Args:
        data: Data of a ``SequenceTraining``.
        kind: ``"curve"``.
        name: Of the model.

    Returns:
        A figure with a transparent background.

    Raises:
        ValueError: An unknown kind.
    """
    require_kind(kind, ("curve",), "a training")
    step, loss = data["step"].values, data["loss"].values
    width = max(1, min(_SMOOTHED, len(loss) // 10))
    smooth = np.convolve(loss, np.full(width, 1 / width), mode="valid")
    titles = ["loss, nats per word", "next-token validity, held out"]
    figure = make_subplots(1, 2, subplot_titles=titles, horizontal_spacing=0.1)
    figure.add_scatter(
        x=step[width - 1 :].tolist(),
        y=smooth.tolist(),
        name="batches",
        mode="lines",
        line={"color": "#8a8a8a", "width": 1.2},
        row=1,
        col=1,
        hovertemplate="step %{x}: %{y:.3f}<extra>batches</extra>",
    )
    at = data["evaluated"].values.tolist()
    figure.add_scatter(
        x=at,
        y=data["held_out_loss"].values.tolist(),
        name="held out",
        mode="lines+markers",
        line={"color": _OTHER},
        row=1,
        col=1,
        hovertemplate="step %{x}: %{y:.4f}<extra>held out</extra>",
    )
    figure.add_scatter(**_curve(data, "next_token_validity", at, "validity", _MODEL), row=1, col=2)
    best = float(data["next_token_validity"].values[-1])
    subtitle = f"{titled(name)}at the end {best:.4f} of held-out words are legal"
    styled(figure, "How the model learned", subtitle, height=380)
    figure.update_layout(
        width=900,
        margin={"l": 56, "r": 24, "t": 104, "b": 52},
        showlegend=True,
        legend={"x": 0.42, "xanchor": "right", "y": 0.98},
    )
    figure.update_traces(showlegend=False, col=2)
    figure.update_annotations(font={"size": 13})
    figure.update_xaxes(title_text="step", rangemode="tozero")
    figure.update_yaxes(tickformat=".2~f", col=2)
    return figure


def detours_figure(data: xr.Dataset, kind: str, name: str, forced: str) -> go.Figure:
    """Draw the share of trips that arrive, or what becomes of all, against the share of detours.

    Args:
        data: Data of ``Detours``.
        kind: ``"curve"`` or ``"outcomes"``.
        name: Of the model.
        forced: Which turns were forced.

    Returns:
        A figure with a transparent background.

    Raises:
        ValueError: An unknown kind.
    """
    require_kind(kind, ("curve", "outcomes"), "detours")
    what = markup(forced.replace("_", " "))
    subtitle = f"{titled(name)}{int(data['n_trips'])} trips; forced turn: {what}"
    figure = go.Figure()
    p = data["p"].values.tolist()
    # Even steps: most of the story is below 0.1.
    places = list(range(len(p)))
    if kind == "curve":
        for variable, called, color in (
            ("navigator", "knows the map", "#8a8a8a"),
            ("success", "model", _MODEL),
        ):
            figure.add_scatter(**_curve(data, variable, places, called, color))
        styled(figure, "Does the model arrive after detours?", subtitle, height=400)
    else:
        shares = data["outcome_share"].transpose("outcome", "p").values
        for i, outcome in enumerate(data["outcome"].values.tolist()):
            figure.add_bar(
                x=places,
                y=shares[i].tolist(),
                name=markup(str(outcome)),
                marker={"color": _OUTCOMES[i], "opacity": 0.75},
                hovertemplate=f"{markup(str(outcome))}: %{{y:.3f}}<extra></extra>",
            )
        styled(figure, "What becomes of the trips", subtitle, height=400)
        figure.update_layout(barmode="stack", bargap=0.35)
    figure.update_layout(width=760, margin={"l": 64, "r": 24, "t": 76, "b": 56}, showlegend=True)
    figure.update_xaxes(
        title_text="probability of a detour at each word",
        tickvals=places,
        ticktext=[f"{v:g}" for v in p],
        type="linear",
    )
    figure.update_yaxes(title_text="share of trips", range=[-0.02, 1.03])
    return figure


def probes_figure(data: xr.Dataset, kind: str, name: str, what: str) -> go.Figure:
    """Draw accuracy, control accuracy and selectivity of the probes against the layer.

    Args:
        data: Data of ``StateProbes``.
        kind: ``"layers"``.
        name: Of the model.
        what: The label that was read.

    Returns:
        A figure with a transparent background.

    Raises:
        ValueError: An unknown kind.
    """
    require_kind(kind, ("layers",), "state probes")
    layers = data["layer"].values.tolist()
    places = list(range(len(layers)))
    figure = go.Figure()
    for variable, called, color in (
        ("accuracy", "state", _MODEL),
        ("control_accuracy", "control: random labels", "#8a8a8a"),
        ("selectivity", "selectivity", _THIRD),
    ):
        if variable != "control_accuracy":
            add_band(figure, data, variable, color)
        figure.add_scatter(**_curve(data, variable, places, called, color))
    add_key(figure, _MODEL)
    majority = float(data["majority"])
    figure.add_scatter(
        x=[places[0], places[-1]],
        y=[majority, majority],
        mode="lines",
        hoverinfo="skip",
        name=f"commonest label {majority:.2f}",
        line={"color": INK, "dash": "dot", "width": 1.5},
    )
    counts = f"{int(data['n_test'])} places of {int(data['n_test_sequences'])} unseen sequences"
    subtitle = f"{titled(name)}label: {label(what, 30)}; {counts}"
    styled(figure, "Can the state be read off the residual stream?", subtitle, height=400)
    figure.update_layout(width=820, margin={"l": 64, "r": 24, "t": 76, "b": 56}, showlegend=True)
    names = ["embedding" if layer < 0 else str(layer) for layer in layers]
    figure.update_xaxes(title_text="after block", tickvals=places, ticktext=names, type="linear")
    low = min(0.0, float(np.nanmin(data["selectivity_band_low"].values)))
    figure.update_yaxes(
        title_text="accuracy on unseen sequences",
        range=[low - 0.02, 1.03],
        zeroline=True,
        zerolinecolor=INK,
        zerolinewidth=1,
    )
    return figure


def _curve(data: xr.Dataset, variable: str, x: list[int], name: str, color: str) -> dict[str, object]:
    """Return a line with the intervals of its points."""
    value, low, high = (data[f"{variable}{end}"].values for end in ("", "_low", "_high"))
    hover = [
        f"<b>{name}</b> {v:.3f} [{a:.3f}, {b:.3f}]"
        for v, a, b in zip(value.tolist(), low.tolist(), high.tolist(), strict=True)
    ]
    return {
        "x": x,
        "y": value.tolist(),
        "name": name,
        "mode": "lines+markers",
        "line": {"color": color, "width": 2},
        "marker": {"size": 6},
        "error_y": {
            "array": (high - value).tolist(),
            "arrayminus": (value - low).tolist(),
            "thickness": 1.2,
            "width": 3,
        },
        "hovertext": hover,
        "hovertemplate": "%{hovertext}<extra></extra>",
    }


def puzzles_figure(data: xr.Dataset, kind: str, world: str) -> go.Figure:
    """Draw the metrics of a chat model beside those of a judge that errs at random as often.

    Args:
        data: Data of ``SeatingPuzzles``; the model comes first.
        kind: ``"bars"``.
        world: Which puzzles.

    Returns:
        A figure with a transparent background.

    Raises:
        ValueError: An unknown kind.
    """
    require_kind(kind, ("bars",), "seating puzzles")
    names = ("task_accuracy", "answer_accuracy", "compression", "distinction_recall")
    figure = go.Figure()
    for i, judge in enumerate(data["judge"].values.tolist()):
        rows = [[float(data[f"{n}{e}"].values[i]) for n in names] for e in ("", "_low", "_high")]
        value, low, high = (np.array(row) for row in rows)
        color = (_MODEL, "#8a8a8a")[min(i, 1)]
        spread = {"array": (high - value).tolist(), "arrayminus": (value - low).tolist()}
        figure.add_bar(
            x=list(range(len(names))),
            y=value.tolist(),
            name=label(str(judge), 30),
            marker={"color": color, "opacity": 0.6},
            error_y={**spread, "color": color, "thickness": 2, "width": 6},
            hovertemplate="%{y:.3f}<extra></extra>",
        )
    subtitle = f"{markup(world)}; grey: knows the truth, errs at random as often as the model"
    styled(figure, "Does the model keep track of what is known?", subtitle, height=400)
    figure.update_layout(
        width=820, barmode="group", bargap=0.35, showlegend=True, margin={"l": 64, "r": 24, "t": 76, "b": 56}
    )
    figure.update_xaxes(
        tickvals=list(range(len(names))),
        type="linear",
        showgrid=False,
        ticktext=[n.replace("_", " ") for n in names],
    )
    figure.update_yaxes(range=[0, 1.05])
    return figure
