"""What state probes return."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, NamedTuple

import numpy as np
import xarray as xr
from jaxtyping import Float, Int

from mechprobe.provenance import Provenance
from mechprobe.results.base import Result
from mechprobe.stats import Interval, accuracy_interval, difference_interval

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go


class Read(NamedTuple):
    """How rightly a layer was read at every test place.

    Attributes:
        state: By the probe.
        control: By the probe that learned random labels.
    """

    state: Float[np.ndarray, " tested"]
    control: Float[np.ndarray, " tested"]


@dataclass(frozen=True, repr=False, eq=False)
class StateProbes(Result):
    """How well a linear probe reads the state of the world, layer by layer.

    ``data`` holds over ``layer`` (-1 is the embedding, l the residual stream after block l):
    ``accuracy``, ``control_accuracy`` and ``selectivity`` (their difference), each with ``_low``
    and ``_high``, sequences resampled; ``above_embedding`` (accuracy minus that of the embedding,
    paired; NaN where the embedding was not probed) with bounds; ``majority``: the accuracy of
    always saying the commonest label; ``n_train``, ``n_test``: places; ``n_test_sequences``.
    """

    kind: ClassVar[str] = "state_probes"
    papers: ClassVar[tuple[str, ...]] = ("vafa2024worldmodel",)

    def plot(self, kind: str = "layers") -> "go.Figure":
        """Draw accuracy and control accuracy against the layer.

        Raises:
            ValueError: An unknown kind; the only one is ``"layers"``.
        """
        from mechprobe.plots import world_curves as plots

        name = str(self.provenance.model.get("name", ""))
        return plots.probes_figure(
            self.data, kind, name, str(self.provenance.arguments.get("label", ""))
        )

    def summary(self) -> "pd.DataFrame":
        """Return one row per layer."""
        names = ["accuracy", "accuracy_low", "accuracy_high", "control_accuracy", "selectivity",
                 "selectivity_low", "selectivity_high"]  # fmt: skip
        return self.data[names].to_dataframe()


def probes_of(
    reads: Sequence[Read],
    layers: Sequence[int],
    group: Int[np.ndarray, " tested"],
    majority: float,
    provenance: Provenance,
    *,
    n_train: int,
) -> StateProbes:
    """Put probes together.

    Args:
        reads: Of every layer.
        layers: Ascending.
        group: Sequence of each test place.
        majority: Accuracy of always saying the commonest label.
        provenance: What made them.
        n_train: Places that were learned from.
    """
    unknown = Interval(*[float("nan")] * 3)
    rows: dict[str, list[Interval]] = {}
    for layer, read in zip(layers, reads, strict=True):
        base = reads[0].state if layers[0] == -1 and layer != -1 else None
        found = {
            "accuracy": accuracy_interval(read.state, group),
            "control_accuracy": accuracy_interval(read.control, group),
            "selectivity": difference_interval(read.state, read.control, group),
            "above_embedding": unknown
            if base is None
            else difference_interval(read.state, base, group),
        }
        for name, interval in found.items():
            rows.setdefault(name, []).append(interval)
    data = xr.Dataset(
        {
            f"{name}{end}": ("layer", np.array([v[i] for v in values]))
            for name, values in rows.items()
            for i, end in enumerate(("", "_low", "_high"))
        }
        | {
            "majority": majority,
            "n_train": n_train,
            "n_test": len(group),
            "n_test_sequences": len(np.unique(group)),
        },
        coords={"layer": np.array(layers, dtype=np.int64)},
    )
    return StateProbes(data, provenance)
