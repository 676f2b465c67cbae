"""What looking inside a model of a world gives: swapped states, and probes of them."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar, NamedTuple

import numpy as np
import xarray as xr
from jaxtyping import Float, Int

from mechprobe.provenance import Provenance
from mechprobe.results.base import Result
from mechprobe.stats import (
    BAND_ENDS,
    Curve,
    Interval,
    accuracy_interval,
    curve,
    difference_interval,
    influence_of_groups,
)
from mechprobe.worlds.metrics.results import layer_name, with_interval

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

    from mechprobe.results.html import Section


@dataclass(frozen=True, repr=False, eq=False)
class StatePatching(Result):
    """Whether the stream at a layer and position carries the state: what a swap of it swaps.

    ``data`` holds over ``layer`` (-1 the embedding, l after block l) and ``position`` (-1 the last
    word of the prefix), each with ``_low`` and ``_high``, 95 % intervals over recipients'
    states, and ``_band_low`` and ``_band_high``, which hold all cells together in 95 %:

    - ``gained``: share of the strings that only the donor's state allows which are accepted;
      ``lost``: of those that only the recipient's allows, which are no longer; ``swap``: the lesser
      of both for each pair; 0 the recipient's language is intact, 1 it is the donor's;
    - ``same_state``: the share of verdicts that change where the donor is another prefix of the
      recipient's own state (damage); ``random_state``: ``swap`` where a third state is put in
      (chance);
    - ``above_random``: ``swap`` minus ``random_state`` on the pairs that have both;
      ``above_random_max`` with bounds, one number: what a perfect swap of either state would give,
      1 minus what the third state's true language scores;
    - ``score`` (condition, layer, position, pair), NaN where there is none, ``state`` (pair), and
      ``states_sampled``: the share of all states that were drawn, 0 where they are beyond count.

    ``n_drawn``, ``n_kept``, ``dropped`` (reason) count pairs, ``n_pairs`` (condition) those that
    have a donor; ``n_strings``, ``n_followed``, ``strings_dropped`` (string_reason) count strings.
    ``world``, ``extent``, ``acceptance``, ``k``, ``max_tokens``: settings.
    """

    kind: ClassVar[str] = "state_patching"
    version: ClassVar[int] = 2
    papers: ClassVar[tuple[str, ...]] = ("vafa2024worldmodel", "geiger2023das")

    def plot(self, kind: str = "layers") -> "go.Figure":
        """Draw what is swapped.

        Args:
            kind: ``"layers"`` (lines with intervals, a panel for each position) or ``"grid"``
                (layer by position, the controls beside it on the same scale).

        Raises:
            ValueError: An unknown kind.
        """
        from mechprobe.plots import world_layers as plots

        return plots.patching_figure(self.data, kind, str(self.provenance.model.get("name", "")))

    def summary(self) -> "pd.DataFrame":
        """Return one row per layer and position: swap, what it is made of, controls, with intervals."""
        import pandas as pd

        rows = {
            (layer_name(layer), position): {
                name.replace("_", " "): with_interval(self.data.isel(layer=i, position=j), name)
                for name in ("swap", "gained", "lost", "same_state", "random_state", "above_random")
            }
            for i, layer in enumerate(self.data["layer"].values.tolist())
            for j, position in enumerate(self.data["position"].values.tolist())
        }
        return pd.DataFrame.from_dict(rows, orient="index").rename_axis(["layer", "position"])

    def to_dataframe(self) -> "pd.DataFrame":
        """Return one row per layer and position: every mean with its interval."""
        names = ("swap", "gained", "lost", "same_state", "random_state", "above_random")
        wanted = [f"{name}{end}" for name in names for end in ("", "_low", "_high")]
        return self.data[wanted].to_dataframe().reset_index()

    def section(self) -> "Section":
        """Return both figures, the table, and what was dropped."""
        figures = [self.plot("layers"), self.plot("grid")]
        return replace(super().section(), figures=figures, note=self.note())

    def note(self) -> str:
        """Return settings, and what became of pairs and strings, in one sentence."""
        data = self.data
        parts = [
            f"{data['world'].item()}, {data['acceptance'].item()}, k = {int(data['k'])}",
            f"{int(data['n_kept'])} of {int(data['n_drawn'])} pairs kept, "
            f"{int(data['n_followed'])} of {int(data['n_strings'])} strings followed",
            f"a perfect swap is {with_interval(data, 'above_random_max')} above a third state",
        ]
        for counts, what in (("dropped", "pairs"), ("strings_dropped", "strings")):
            reasons = data[data[counts].dims[0]].values.tolist()
            found = zip(reasons, data[counts].values.tolist(), strict=True)
            parts += [f"{count} {what} dropped: {reason}" for reason, count in found if count]
        return "; ".join(parts)


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
    and ``_high``, 95 % intervals over sequences, and ``_band_low`` and ``_band_high``, which hold all
    layers together in 95 %; ``above_embedding`` (accuracy minus that of the embedding, paired; NaN
    where the embedding was not probed) with bounds; ``majority``: the accuracy of
    always saying the commonest label; ``n_train``, ``n_test``: places; ``n_test_sequences``.
    """

    kind: ClassVar[str] = "state_probes"
    version: ClassVar[int] = 2
    papers: ClassVar[tuple[str, ...]] = ("vafa2024worldmodel",)

    def plot(self, kind: str = "layers") -> "go.Figure":
        """Draw accuracy and control accuracy against the layer.

        Raises:
            ValueError: An unknown kind; the only one is ``"layers"``.
        """
        from mechprobe.plots import world_curves as plots

        name = str(self.provenance.model.get("name", ""))
        return plots.probes_figure(self.data, kind, name, str(self.provenance.arguments.get("label", "")))

    def summary(self) -> "pd.DataFrame":
        """Return one row per layer."""
        names = [
            "accuracy",
            "accuracy_low",
            "accuracy_high",
            "control_accuracy",
            "selectivity",
            "selectivity_low",
            "selectivity_high",
        ]
        return self.data[names].to_dataframe()


def probes_of(
    reads: Sequence[Read],
    layers: Sequence[int],
    group: Int[np.ndarray, " tested"],
    majority: float,
    provenance: Provenance,
    *,
    n_train: int,
    seed: int = 0,
) -> StateProbes:
    """Put probes together.

    Args:
        reads: Of every layer.
        layers: Ascending.
        group: Sequence of each test place.
        majority: Accuracy of always saying the commonest label.
        provenance: What made them.
        n_train: Places that were learned from.
        seed: Of the bands.
    """
    state, control = (np.stack(rows) for rows in zip(*reads, strict=True))
    # The embedding against itself is no estimate.
    base = np.full_like(state, np.nan)
    if layers[0] == -1:
        base[1:] = state[0]
    curves = {
        "accuracy": _curve(state, None, group, seed),
        "control_accuracy": _curve(control, None, group, seed),
        "selectivity": _curve(state, control, group, seed),
        "above_embedding": _curve(state, base, group, seed),
    }
    data = xr.Dataset(
        {
            f"{name}{end}": ("layer", values)
            for name, found in curves.items()
            for end, values in zip(BAND_ENDS, found, strict=True)
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


def _curve(
    right: Float[np.ndarray, "layer tested"],
    other: Float[np.ndarray, "layer tested"] | None,
    group: Int[np.ndarray, " tested"],
    seed: int,
) -> Curve:
    def interval(i: int, level: float) -> Interval:
        if other is None:
            return accuracy_interval(right[i], group, level=level)
        return difference_interval(right[i], other[i], group, level=level)

    moved = right if other is None else right - other
    return curve(interval, influence_of_groups(moved, group), seed=seed)
