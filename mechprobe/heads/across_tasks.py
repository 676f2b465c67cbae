"""Whether heads chosen on one task work on another."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import xarray as xr

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
    shortcut_accuracy,
)
from mechprobe.provenance import Call
from mechprobe.results.base import Result
from mechprobe.stats import (
    Calibration,
    Method,
    accuracy_interval,
    fixed_rule_p,
    holm,
    permutation_scheme,
    rank_correlation,
)

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go


@dataclass(frozen=True, repr=False, eq=False)
class Transfer(Result):
    """Heads chosen on one task, tested on another.

    ``data`` holds ``accuracy``, ``accuracy_low``, ``accuracy_high`` (selected_on, tested_on), on
    the held-out part of the tested task; ``p_value``: share of permutations of its held-out labels
    with which the chosen heads agree as often, one-sided, and ``p_adjusted``, corrected for all
    cells of the matrix (Holm); ``rank_correlation`` with ``_low`` and ``_high``: Spearman
    correlation of the heads' accuracies on the calibration part of the one and the held-out part
    of the other; ``chosen`` (selected_on); ``model`` and ``shortcut`` with their ends, the names
    ``model_spelling`` and ``shortcut_name``, and ``n_test`` (tested_on).
    """

    kind: ClassVar[str] = "head_transfer"
    version: ClassVar[int] = 2
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
        """Return accuracies by task of selection and of test, their p-values, and the baselines."""
        import pandas as pd

        d = self.data
        tasks = [str(t) for t in d["tested_on"].values.tolist()]
        columns = pd.Index(tasks, name="tested on")
        index = [
            f"{task} ({heads})"
            for task, heads in zip(d["selected_on"].values.tolist(), d["chosen"].values.tolist(), strict=True)
        ]
        table = pd.DataFrame(d["accuracy"].values, index=index, columns=columns)
        for task, p in zip(d["selected_on"].values.tolist(), d["p_adjusted"].values, strict=True):
            table.loc[f"{task}: p, adjusted for {d['p_adjusted'].size} cells"] = p
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
    n_permutations: int = 1000,
) -> Transfer:
    """Choose heads on every task and test them on every task.

    Each task is split once: heads are chosen on its calibration part and all tests on it, the
    diagonal included, are on the rest. Centring and z-scores, which see no label, always come from
    the calibration part of the task that is tested.

    No cell's labels have chosen its heads, so that permuting them (as the task allows) tests the
    heads against chance; against the model and the shortcut hold the intervals. The correlations
    come with the jackknife over groups of questions; see ``mechprobe.stats.rank_correlation``.

    Args:
        scores: Scores by name of the task, over the same layers and heads.
        calibration: As for ``HeadScores.select``; one for all tasks or one for each.
        method: As for ``HeadScores.select``.
        k: Heads of a vote or sum.
        flip: Heads that are wrong more often than right may be inverted.
        centre: Take away each head's calibration median of each candidate.
        seed: Of the splits and permutations.
        n_permutations: Permutations behind each p-value, at least 1.

    Returns:
        Accuracies with intervals and p-values, rank correlations with intervals, and each task's
        own baselines.

    Raises:
        ValueError: Fewer than two tasks, tasks of different heads, no calibration for a task, the
            same questions on both sides of a cell, a count below 1, or anything
            ``HeadScores.select`` refuses; the message names the task.
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
    _check_held_out(parts, {name: one.provenance.data_digest for name, one in scores.items()})
    data = _transfer_data(parts, method, n_permutations, seed)
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


def _check_held_out(parts: dict[str, Part], digests: dict[str, str]) -> None:
    """Refuse where scores of the same questions are split in different places."""
    for name, part in parts.items():
        for other, column in parts.items():
            same = digests[name] == digests[other]
            if same and np.intersect1d(part.heads.split.calibration, column.heads.split.test).size:
                msg = (
                    f"tasks {name!r} and {other!r} ask the same questions, and some that choose the heads "
                    "of the one test them on the other; give both the same calibration."
                )
                raise ValueError(msg)


def _transfer_data(parts: dict[str, Part], method: Method, n_permutations: int, seed: int) -> xr.Dataset:
    both, shape = ("selected_on", "tested_on"), (len(parts), len(parts))
    names = [f"{what}{end}" for what in ("accuracy", "rank_correlation") for end in ENDS]
    cells = {name: np.full(shape, np.nan) for name in [*names, "p_value"]}
    for i, row in enumerate(parts.values()):
        for j, column in enumerate(parts.values()):
            found = _cell(row, column, method, n_permutations, seed)
            for name, value in found.items():
                cells[name][i, j] = value
    cells["p_adjusted"] = holm(cells["p_value"].ravel()).reshape(shape)
    labels = np.array(list(parts), dtype=object)
    data = xr.Dataset(
        {
            **{name: (both, values) for name, values in cells.items()},
            "chosen": ("selected_on", np.array([p.names for p in parts.values()], dtype=object)),
            "n_test": ("tested_on", np.array([len(p.heads.split.test) for p in parts.values()])),
        },
        coords={"selected_on": labels, "tested_on": labels},
    )
    return data.merge(_baselines(parts))


def _cell(row: Part, column: Part, method: Method, n_permutations: int, seed: int) -> dict[str, float]:
    """Return how the heads of ``row`` do on the held-out part of ``column``."""
    calibration, test = row.heads.split.calibration, column.heads.split.test
    answer, group, block = column.source.answer, column.heads.group, column.source.block
    decided = column.decided(row.chosen, method)
    found = {
        "accuracy": accuracy_interval(decided == answer[test], group[test]),
        "rank_correlation": rank_correlation(
            row.all_right(calibration), row.heads.group[calibration], column.all_right(test), group[test]
        ),
    }
    cell = {f"{n}{end}": v for n, x in found.items() for end, v in zip(ENDS, x, strict=True)}
    cell["p_value"] = fixed_rule_p(
        decided,
        answer[test],
        group[test],
        column.heads.n_candidates[test],
        permutation_scheme(answer, group, block),
        block=block[test],
        n_permutations=n_permutations,
        seed=seed,
    )
    return cell


def _baselines(parts: dict[str, Part]) -> xr.Dataset:
    columns: dict[str, list[float | str]] = {}
    for part in parts.values():
        calibration, test = part.heads.split
        choice = better(model_choices(part.data, calibration), calibration, calibrated=False)
        rule = best_shortcut(part.data, calibration)
        found = {
            "model": accuracy_of(choice, test, part.data),
            "shortcut": shortcut_accuracy(part.data, rule, test),
        }
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
