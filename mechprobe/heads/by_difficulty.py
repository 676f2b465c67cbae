"""Whether heads keep their answer where questions get harder and the model loses it."""

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import xarray as xr
from jaxtyping import Bool, Float, Int

from mechprobe.heads.head_scores import HeadScores
from mechprobe.heads.part import Part
from mechprobe.heads.source import best_shortcut, better, derived, model_choices, require_kind
from mechprobe.provenance import Call
from mechprobe.results.base import Result
from mechprobe.stats import (
    BAND_ENDS,
    Calibration,
    Interval,
    Method,
    accuracy_interval,
    curve,
    influence_of_groups,
)

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

    from mechprobe.results.html import Section

WHO = ("model", "head", "shortcut")


@dataclass(frozen=True, repr=False, eq=False)
class Difficulty(Result):
    """Head, model and best shortcut over numbers of steps and distractors.

    ``data`` holds ``head_accuracy``, ``model_accuracy`` and ``shortcut_accuracy``, each with
    ``_low`` and ``_high`` (95 % of each cell by itself) and ``_band_low`` and ``_band_high`` (95 % of
    all cells together), and ``n`` (steps, distractors), over held-out examples only; ``chosen``,
    ``model_spelling``, ``shortcut_name``: the one that is best on the calibration examples.
    """

    kind: ClassVar[str] = "head_difficulty"
    version: ClassVar[int] = 2
    papers: ClassVar[tuple[str, ...]] = ("tulchinskii2025logical",)

    def plot(self, kind: str = "grids") -> "go.Figure":
        """Draw the three grids side by side.

        Raises:
            ValueError: An unknown kind; the only one is ``"grids"``.
        """
        from mechprobe.plots import heads_grids as plots

        require_kind(kind, "grids", "a difficulty grid")
        return plots.difficulty_figure(self.data)

    def summary(self) -> "pd.DataFrame":
        """Return the cells: how many examples, and who is right how often."""
        names = ["n", "head_accuracy", "model_accuracy", "shortcut_accuracy"]
        frame = self.data[names].to_dataframe()
        return frame[frame["n"] > 0]

    def section(self) -> "Section":
        """Return grids and table; a note names head, spelling and shortcut."""
        d = self.data
        note = (
            f"Head {d['chosen'].item()}, chosen on {int(d['n_calibration'])} examples of all cells;"
            f" model spelling: {d['model_spelling'].item()}; shortcut: "
            f"{d['shortcut_name'].item()}."
        )
        return replace(super().section(), note=note)


def difficulty_of(
    scores: HeadScores,
    *,
    calibration: Calibration = 0.5,
    method: Method = "best",
    k: int = 5,
    flip: bool = False,
    centre: bool = False,
    seed: int = 0,
    call: Call | None = None,
) -> Difficulty:
    """Choose heads on examples of all difficulties; test them on the others, cell by cell.

    The shortcut that is best on the calibration examples is given cell by cell beside it.

    Args:
        scores: Scores whose examples know ``steps`` and ``distractors``.
        calibration: As for ``HeadScores.select``.
        method: As for ``HeadScores.select``.
        k: Heads of a vote or sum.
        flip: Heads that are wrong more often than right may be inverted.
        centre: Take away each head's calibration median of each candidate.
        seed: Of the split, and of the multipliers behind the bands.
        call: What is recorded; this call by default.

    Returns:
        Accuracies per cell with intervals.

    Raises:
        ValueError: Examples whose steps or distractors are unknown, or anything
            ``HeadScores.select`` refuses.
    """
    call = call or Call("difficulty", locals())
    _check_difficulty(scores.data)
    part = Part.of(
        scores.data, scores.provenance.arguments.get("score"), calibration, method, k, flip, centre, seed
    )
    right = part.decided(part.chosen, method) == part.source.answer[part.heads.split.test]
    data = _difficulty_data(part, right, seed)
    record = derived(call, {"": scores.provenance}, seed)
    return Difficulty(data, record)


def _check_difficulty(data: xr.Dataset) -> None:
    for axis in ("steps", "distractors"):
        unknown = int((data[axis].values < 0).sum())
        if unknown:
            msg = (
                f"{unknown} of {data.sizes['example']} examples do not say their {axis}; a grid of "
                "difficulty needs them, as tasks.ontology gives them."
            )
            raise ValueError(msg)


def _difficulty_data(part: Part, right: Bool[np.ndarray, " test"], seed: int) -> xr.Dataset:
    calibration, test = part.heads.split
    choice = better(model_choices(part.data, calibration), calibration, calibrated=False)
    # Chosen as the head is: the best one of the held-out examples would be flattered.
    shortcut = best_shortcut(part.data, calibration)
    answers = {
        "head": right.astype(np.float64),
        "model": choice.right[test],
        "shortcut": shortcut.right[test],
    }
    levels = {a: np.unique(part.data[a].values) for a in ("steps", "distractors")}
    shape = tuple(len(v) for v in levels.values())
    inside = np.stack([_inside(part.data, levels, cell)[test] for cell in np.ndindex(shape)])
    grids: dict[str, np.ndarray] = {"n": inside.sum(axis=1)}
    for who in WHO:
        bounds = _cells(np.where(inside, answers[who], np.nan), part.heads.group[test], seed)
        grids |= {f"{who}_accuracy{end}": v for end, v in zip(BAND_ENDS, bounds, strict=True)}
    cells = {name: (tuple(levels), values.reshape(shape)) for name, values in grids.items()}
    data = xr.Dataset(cells, coords=levels)
    texts = {"chosen": part.names, "model_spelling": choice.spelling, "shortcut_name": shortcut.name}
    data["n_calibration"] = len(calibration)
    return data.assign({k: ((), np.array(v, dtype=object)) for k, v in texts.items()})


def _inside(data: xr.Dataset, levels: dict[str, np.ndarray], cell: tuple[int, ...]) -> np.ndarray:
    here = [data[a].values == v[i] for (a, v), i in zip(levels.items(), cell, strict=True)]
    return np.logical_and(*here)


def _cells(
    right: Float[np.ndarray, "cell test"], group: Int[np.ndarray, " test"], seed: int
) -> list[np.ndarray]:
    """Return accuracy and bounds of every cell; NaN where an example is not in a cell."""

    def interval(cell: int, level: float) -> Interval:
        return accuracy_interval(right[cell], group, level=level)

    return list(curve(interval, influence_of_groups(right, group), seed=seed))
