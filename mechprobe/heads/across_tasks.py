"""Whether heads chosen on one task work on another."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import xarray as xr
from jaxtyping import Float

from mechprobe.heads.head_scores import HeadScores
from mechprobe.heads.part import Part
from mechprobe.heads.source import (
    ENDS,
    accuracy_of,
    best_shortcut,
    better,
    derived,
    model_choices,
    require_kind,
)
from mechprobe.provenance import Call
from mechprobe.results.base import Result
from mechprobe.stats import Calibration, Method, accuracy_interval

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go


@dataclass(frozen=True, repr=False, eq=False)
class Transfer(Result):
    """Heads chosen on one task, tested on another.

    ``data`` holds ``accuracy``, ``accuracy_low``, ``accuracy_high`` (selected_on, tested_on), on
    the held-out part of the tested task; ``rank_correlation`` (selected_on, tested_on): Spearman
    correlation of the heads' accuracies on the calibration part of the one and the held-out part
    of the other; ``chosen`` (selected_on); ``model`` and ``shortcut`` with their ends, the names
    ``model_spelling`` and ``shortcut_name``, and ``n_test`` (tested_on).
    """

    kind: ClassVar[str] = "head_transfer"
    papers: ClassVar[tuple[str, ...]] = ("tulchinskii2025logical", "tulchinskii2024listening")

    def plot(self, kind: str = "accuracy") -> "go.Figure":
        """Draw the matrix.

        Raises:
            ValueError: An unknown kind; the only one is ``"accuracy"``.
        """
        from mechprobe.plots import heads_grids as plots

        require_kind(kind, "accuracy", "a transfer")
        return plots.transfer_figure(self.data)

    def summary(self) -> "pd.DataFrame":
        """Return one row per task of selection, one column per task of test, and the baselines."""
        import pandas as pd

        d = self.data
        tasks = [str(t) for t in d["tested_on"].values.tolist()]
        columns = pd.Index(tasks, name="tested on")
        index = [
            f"{task} ({heads})"
            for task, heads in zip(d["selected_on"].values.tolist(), d["chosen"].values.tolist(), strict=True)
        ]
        table = pd.DataFrame(d["accuracy"].values, index=index, columns=columns)
        table.loc["model"] = d["model"].values
        table.loc["best shortcut"] = d["shortcut"].values
        table.index.name = "selected on"
        return table


def transfer(
    scores: Mapping[str, HeadScores],
    *,
    calibration: Calibration | Mapping[str, Calibration] = 0.5,
    method: Method = "best",
    k: int = 5,
    flip: bool = False,
    centre: bool = False,
    seed: int = 0,
) -> Transfer:
    """Choose heads on every task and test them on every task.

    Each task is split once: heads are chosen on its calibration part and all tests on it, the
    diagonal included, are on the rest. Centring and z-scores, which see no label, always come from
    the calibration part of the task that is tested.

    Args:
        scores: Scores by name of the task, over the same layers and heads.
        calibration: As for ``HeadScores.select``; one for all tasks or one for each.
        method: As for ``HeadScores.select``.
        k: Heads of a vote or sum.
        flip: Heads that are wrong more often than right may be inverted.
        centre: Take away each head's calibration median of each candidate.
        seed: Of the splits.

    Returns:
        Accuracies with intervals, rank correlations, and each task's own baselines.

    Raises:
        ValueError: Fewer than two tasks, tasks of different heads, no calibration for a task, or
            anything ``HeadScores.select`` refuses; the message names the task.
    """
    call = Call("transfer", locals())
    _check_tasks(scores)
    parts = {}
    for name, one in scores.items():
        size = _calibration_of(calibration, name)
        try:
            parts[name] = Part.of(
                one.data, one.provenance.arguments.get("score"), size, method, k, flip, centre, seed
            )
        except ValueError as error:
            msg = f"task {name!r}: {error}"
            raise ValueError(msg) from error
    data = _transfer_data(parts, method)
    records = {name: one.provenance for name, one in scores.items()}
    return Transfer(data, derived(call, records, seed))


def _check_tasks(scores: Mapping[str, HeadScores]) -> None:
    if len(scores) < 2:
        msg = f"a transfer needs the scores of two tasks or more; got {list(scores)}."
        raise ValueError(msg)
    first, *others = scores
    for name in others:
        for axis in ("layer", "head"):
            one, other = (scores[task].data[axis].values for task in (first, name))
            if not np.array_equal(one, other):
                msg = (
                    f"{first!r} has {axis}s {one.tolist()}, {name!r} has {other.tolist()}; a head "
                    "transfers only between tasks that were scored with the same heads."
                )
                raise ValueError(msg)


def _calibration_of(calibration: Calibration | Mapping[str, Calibration], name: str) -> Calibration:
    if not isinstance(calibration, Mapping):
        return calibration
    if name not in calibration:
        msg = f"there is no calibration for task {name!r}, only for {sorted(calibration)}."
        raise ValueError(msg)
    return calibration[name]


def _transfer_data(parts: dict[str, Part], method: Method) -> xr.Dataset:
    names = list(parts)
    matrix, rank = np.full((3, len(names), len(names)), np.nan), np.full((len(names),) * 2, np.nan)
    for i, row in enumerate(parts.values()):
        on_calibration = row.accuracies(row.heads.split.calibration)
        for j, column in enumerate(parts.values()):
            test = column.heads.split.test
            right = column.right(row.chosen, method)
            matrix[:, i, j] = accuracy_interval(right, column.heads.group[test])
            rank[i, j] = rank_correlation(on_calibration, column.accuracies(test))
    both = ("selected_on", "tested_on")
    labels = np.array(names, dtype=object)
    data = xr.Dataset(
        {
            **{f"accuracy{end}": (both, matrix[n]) for n, end in enumerate(ENDS)},
            "rank_correlation": (both, rank),
            "chosen": ("selected_on", np.array([p.names for p in parts.values()], dtype=object)),
            "n_test": ("tested_on", np.array([len(p.heads.split.test) for p in parts.values()])),
        },
        coords={"selected_on": labels, "tested_on": labels},
    )
    return data.merge(_baselines(parts))


def _baselines(parts: dict[str, Part]) -> xr.Dataset:
    columns: dict[str, list[float | str]] = {}
    for part in parts.values():
        calibration, test = part.heads.split
        choice = better(model_choices(part.data, calibration), calibration, calibrated=False)
        rule = best_shortcut(part.data)
        found = {"model": accuracy_of(choice, test, part.data), "shortcut": rule.accuracy}
        named = {"model_spelling": choice.spelling, "shortcut_name": rule.name}
        numbers = {
            f"{who}{end}": value
            for who, interval in found.items()
            for end, value in zip(ENDS, interval, strict=True)
        }
        for key, value in {**numbers, **named}.items():
            columns.setdefault(key, []).append(value)
    kinds = {key: object if isinstance(values[0], str) else float for key, values in columns.items()}
    return xr.Dataset({k: ("tested_on", np.array(v, dtype=kinds[k])) for k, v in columns.items()})


def rank_correlation(a: Float[np.ndarray, " head"], b: Float[np.ndarray, " head"]) -> float:
    """Return Spearman's correlation; NaN where one side is constant.

    Example:
        >>> rank_correlation(np.array([0.1, 0.2, 0.9]), np.array([1.0, 2.0, 3.0]))
        1.0
    """
    from scipy.stats import rankdata

    x, y = (rankdata(v) - (len(v) + 1) / 2 for v in (a, b))
    size = float(np.sqrt((x @ x) * (y @ y)))
    return float(x @ y) / size if size > 0 else float("nan")
