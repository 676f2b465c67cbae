"""What training a sequence model returns."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import xarray as xr

from mechprobe.provenance import Provenance
from mechprobe.results.base import Result

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go


@dataclass(frozen=True, repr=False, eq=False)
class SequenceTraining(Result):
    """How a small model learned a world's sequences.

    ``data`` holds ``loss`` (step): of the batch of each update; and at every evaluation
    ``held_out_loss``, ``next_token_validity`` with ``_low`` and ``_high`` (evaluated): the share of
    held-out places where the most likely word is legal, with 95 % intervals over sequences. The
    record's ``threads`` are the numbers of threads that trained it.
    """

    kind: ClassVar[str] = "sequence_training"
    papers: ClassVar[tuple[str, ...]] = ("vafa2024worldmodel",)

    def plot(self, kind: str = "curve") -> "go.Figure":
        """Draw losses and next-token validity against the step.

        Raises:
            ValueError: An unknown kind; the only one is ``"curve"``.
        """
        from mechprobe.plots import world_curves as plots

        return plots.training_figure(self.data, kind)

    def summary(self) -> "pd.DataFrame":
        """Return one row per evaluation."""
        names = [
            "held_out_loss",
            "next_token_validity",
            "next_token_validity_low",
            "next_token_validity_high",
        ]
        return self.data[names].to_dataframe()

    def to_dataframe(self) -> "pd.DataFrame":
        """Return one row per step; held-out figures where there was an evaluation."""
        loss = self.data["loss"].to_dataframe()
        return loss.join(self.summary().rename_axis("step")).reset_index()


def training_of(
    losses: Sequence[float], evaluations: Sequence[Sequence[float]], provenance: Provenance
) -> SequenceTraining:
    """Put the record of a training together.

    Args:
        losses: Of every update.
        evaluations: Step, held-out loss, next-token validity and its bounds.
        provenance: What made them.
    """
    table = np.array(evaluations, dtype=np.float64).reshape(-1, 5)
    names = ("held_out_loss", "next_token_validity", "next_token_validity_low", "next_token_validity_high")
    data = xr.Dataset(
        {"loss": ("step", np.array(losses, dtype=np.float64))}
        | {name: ("evaluated", table[:, i]) for i, name in enumerate(names, 1)},
        coords={"step": np.arange(1, len(losses) + 1), "evaluated": table[:, 0].astype(np.int64)},
    )
    return SequenceTraining(data, provenance)
