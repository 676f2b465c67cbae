"""What detours return."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import xarray as xr
from jaxtyping import Float, Int

from mechprobe.provenance import Provenance
from mechprobe.results.base import Result
from mechprobe.stats import wilson_interval

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go


@dataclass(frozen=True, repr=False, eq=False)
class Detours(Result):
    """How often a model still arrives when it is pushed off its way.

    ``data`` holds over ``p``: ``success`` with ``_low`` and ``_high`` (Wilson, trips independent),
    ``navigator`` (the share that a driver who knows the map reaches with the same detours; also
    with bounds), ``n_detours`` (per trip); ``outcome_share`` (p, outcome); ``n_trips``.
    """

    kind: ClassVar[str] = "detours"
    papers: ClassVar[tuple[str, ...]] = ("vafa2024worldmodel",)

    def plot(self, kind: str = "curve") -> "go.Figure":
        """Draw the share of trips that arrive against p (``"curve"``) or why not (``"outcomes"``).

        Raises:
            ValueError: An unknown kind.
        """
        from mechprobe.plots import world_curves as plots

        name = str(self.provenance.model.get("name", ""))
        forced = str(self.provenance.arguments.get("kind", ""))
        return plots.detours_figure(self.data, kind, name, forced)

    def summary(self) -> "pd.DataFrame":
        """Return one row per p."""
        names = ["success", "success_low", "success_high", "navigator", "n_detours"]
        return self.data[names].to_dataframe()


def detours_of(
    model: tuple[Int[np.ndarray, "p trip"], Int[np.ndarray, "p trip"]],
    navigator: tuple[Int[np.ndarray, "p trip"], Int[np.ndarray, "p trip"]],
    p: Float[np.ndarray, " p"],
    outcomes: Sequence[str],
    provenance: Provenance,
) -> Detours:
    """Put trips together.

    Args:
        model: Outcome of every trip, the first of ``outcomes`` being success, and its detours.
        navigator: The same for a driver who knows the map.
        p: Probabilities of a detour.
        outcomes: Names of the outcomes.
        provenance: What made them.
    """
    n_trips = model[0].shape[1]
    data = xr.Dataset(
        {"n_detours": ("p", model[1].mean(axis=1)), "n_trips": n_trips},
        coords={"p": p, "outcome": np.array(outcomes, dtype=object)},
    )
    for name, (outcome, _) in (("success", model), ("navigator", navigator)):
        arrived = (outcome == 0).sum(axis=1).tolist()
        bounds = np.array([wilson_interval(k, n_trips) for k in arrived])
        for i, end in enumerate(("", "_low", "_high")):
            data[f"{name}{end}"] = ("p", bounds[:, i])
    shares = [(model[0] == i).mean(axis=1) for i in range(len(outcomes))]
    data["outcome_share"] = (("p", "outcome"), np.stack(shares, axis=1))
    return Detours(data, provenance)
