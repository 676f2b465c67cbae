"""What seating puzzles return."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import xarray as xr

from mechprobe.provenance import Provenance
from mechprobe.results.base import Result
from mechprobe.stats import accuracy_interval

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

METRICS = ("task_accuracy", "answer_accuracy", "compression", "distinction_recall")


@dataclass(slots=True)
class Asked:
    """What one judge answered.

    Attributes:
        tasks: 1 for a puzzle solved.
        answers: 1 for a right yes or no.
        compression: Of each pair.
        recall: Of each pair.
        unread: Answers that could not be read.
        dropped: Pairs without an answer to go by, or with nothing to ask, by metric.
    """

    tasks: list[float] = field(default_factory=list)
    answers: list[float] = field(default_factory=list)
    compression: list[float] = field(default_factory=list)
    recall: list[float] = field(default_factory=list)
    unread: int = 0
    dropped: Counter[str] = field(default_factory=Counter)


@dataclass(frozen=True, repr=False, eq=False)
class SeatingPuzzles(Result):
    """Whether a chat model that solves seating puzzles keeps track of what is known.

    ``data`` holds over ``judge`` (the model, and one who errs at random as often):
    ``task_accuracy``, ``answer_accuracy`` (of yes and no), ``compression`` and
    ``distinction_recall``, each with ``_low`` and ``_high``; ``n_unread``: answers that could not
    be read; ``n_kept``, ``n_dropped`` (judge, metric).
    """

    kind: ClassVar[str] = "seating_puzzles"
    papers: ClassVar[tuple[str, ...]] = ("vafa2024worldmodel",)

    def plot(self, kind: str = "bars") -> "go.Figure":
        """Draw the metrics of the model and of the judge that errs at random.

        Raises:
            ValueError: An unknown kind; the only one is ``"bars"``.
        """
        from mechprobe.plots import world_curves as plots

        world = str(self.provenance.model.get("world", ""))
        return plots.puzzles_figure(self.data, kind, world)

    def summary(self) -> "pd.DataFrame":
        """Return one row per judge."""
        return self.data[[*METRICS, "n_unread"]].to_dataframe()


def puzzles_of(asked: Mapping[str, Asked], provenance: Provenance) -> SeatingPuzzles:
    """Put answers together.

    Args:
        asked: Of every judge, the model first.
        provenance: What made them.
    """
    data = xr.Dataset(coords={"judge": np.array(list(asked), dtype=object)})
    for name, values in (
        ("task_accuracy", [a.tasks for a in asked.values()]),
        ("answer_accuracy", [a.answers for a in asked.values()]),
        ("compression", [a.compression for a in asked.values()]),
        ("distinction_recall", [a.recall for a in asked.values()]),
    ):
        # Nothing asked, nothing known: one missing value.
        found = [accuracy_interval(np.array(v or [np.nan]), np.arange(max(1, len(v)))) for v in values]
        for i, end in enumerate(("", "_low", "_high")):
            data[f"{name}{end}"] = ("judge", np.array([interval[i] for interval in found]))
    metrics = ("compression", "distinction_recall")
    data["n_unread"] = ("judge", np.array([a.unread for a in asked.values()]))
    kept = [[len(a.compression), len(a.recall)] for a in asked.values()]
    dropped = [[a.dropped[m] for m in metrics] for a in asked.values()]
    data["n_kept"] = (("judge", "metric"), np.array(kept))
    data["n_dropped"] = (("judge", "metric"), np.array(dropped))
    data = data.assign_coords(metric=np.array(metrics, dtype=object))
    return SeatingPuzzles(data, provenance)
