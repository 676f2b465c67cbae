"""What looking inside a model of a world returns: metrics by layer, and swapped states."""

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar

from mechprobe.results.base import Result

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go
    import xarray as xr

    from mechprobe.results.html import Section


@dataclass(frozen=True, repr=False, eq=False)
class WorldByLayer(Result):
    """Where a model becomes coherent: the metrics of a world at every layer.

    ``data`` holds, over ``layer`` (-1 the embedding, l after block l):

    - ``compression_precision``, ``distinction_precision``, ``distinction_recall`` (means over
      states) and ``next_token_validity`` (mean over positions), each with ``_low`` and ``_high``:
      95 % intervals over states, or over sequences; NaN where no pair was left;
    - the same with ``control_``: the true automaton with errors at the layer's own ``error_rate``
      (1 - ``next_token_validity``), on the same pairs;
    - ``above_control`` with bounds (layer, test): layer minus control on the pairs that both kept;
    - ``n_kept`` (layer, metric), ``dropped`` (layer, metric, reason), ``score`` (layer, test,
      pair), NaN where dropped, and these with ``control_``; ``n_drawn``, ``n_redrawn`` (metric),
      ``state`` (test, pair).

    The same with ``reference_`` over ``reference`` (uniform, legal_only, automaton), and ``world``,
    ``mode``, ``acceptance``, ``suffixes``, ``k``, ``max_tokens``.
    """

    kind: ClassVar[str] = "world_by_layer"
    papers: ClassVar[tuple[str, ...]] = ("vafa2024worldmodel", "nostalgebraist2020logitlens")

    def plot(self, kind: str = "layers") -> "go.Figure":
        """Draw each metric against the layer, with control and references.

        Raises:
            ValueError: An unknown kind; the only one is ``"layers"``.
        """
        from mechprobe.plots import world_layers as plots

        return plots.by_layer_figure(self.data, kind, str(self.provenance.model.get("name", "")))

    def summary(self) -> "pd.DataFrame":
        """Return one row per layer: each metric with its interval, and its control."""
        import pandas as pd

        rows = {
            _layer(layer): {
                f"{prefix.rstrip('_')} {metric}".strip().replace("_", " "): _cell(
                    self.data.isel(layer=i), f"{prefix}{metric}"
                )
                for metric in self.data["metric"].values.tolist()
                for prefix in ("", "control_")
            }
            for i, layer in enumerate(self.data["layer"].values.tolist())
        }
        return pd.DataFrame.from_dict(rows, orient="index").rename_axis("layer")

    def to_dataframe(self) -> "pd.DataFrame":
        """Return one row per layer and metric: value, control, intervals, drawn and kept."""
        import pandas as pd

        data = self.data
        rows = [
            {
                "layer": layer,
                "metric": metric,
                **{
                    f"{prefix}{name}": float(data[f"{prefix}{metric}{end}"].values[i])
                    for prefix in ("", "control_")
                    for name, end in (("value", ""), ("low", "_low"), ("high", "_high"))
                },
                "n_drawn": int(data["n_drawn"].values[j]),
                "n_kept": int(data["n_kept"].values[i, j]),
            }
            for i, layer in enumerate(data["layer"].values.tolist())
            for j, metric in enumerate(data["metric"].values.tolist())
        ]
        return pd.DataFrame(rows)

    def dropped(self) -> "pd.DataFrame":
        """Return how many pairs were dropped, by layer, metric and reason."""
        frame = self.data["dropped"].to_dataframe().reset_index()
        return frame[frame["dropped"] > 0].reset_index(drop=True)

    def section(self) -> "Section":
        """Return the figure, the table and what was dropped."""
        return replace(super().section(), note=self.note())

    def note(self) -> str:
        """Return settings, and how many pairs the layers kept, in one sentence."""
        data = self.data
        settings = (
            f"{data['world'].item()}, mode {data['mode'].item()}, {data['acceptance'].item()}, "
            f"M = {int(data['suffixes'])}, k = {int(data['k'])}"
        )
        kept = [
            f"{_span(data['n_kept'].values[:, j].tolist())} of {int(data['n_drawn'].values[j])} "
            f"pairs of {str(metric).replace('_', ' ')} kept"
            for j, metric in enumerate(data["test"].values.tolist())
        ]
        return "; ".join([settings, *kept])


@dataclass(frozen=True, repr=False, eq=False)
class StatePatching(Result):
    """Whether the stream at a layer and position carries the state: what a swap of it swaps.

    ``data`` holds over ``layer`` (-1 the embedding, l after block l) and ``position`` (-1 the last
    word of the prefix), each with ``_low`` and ``_high``, 95 % intervals over recipients' states:

    - ``swap``: share of the strings that tell the two states apart whose verdict becomes the
      donor's; 0 the recipient's language is intact, 1 it is the donor's; ``gained`` and ``lost``:
      of the strings that only the donor's state, and only the recipient's, allows;
    - ``same_state``: the share of verdicts that change where the donor is another prefix of the
      recipient's own state (damage); ``random_state``: the share that become the pair's donor's
      where a third state is put in (chance);
    - ``above_random``: ``swap`` minus ``random_state`` on the pairs that have both;
    - ``score`` (condition, layer, position, pair), NaN where there is none, and ``state`` (pair).

    ``n_drawn``, ``n_kept``, ``dropped`` (reason) count pairs, ``n_pairs`` (condition) those that
    have a donor; ``n_strings``, ``n_followed``, ``strings_dropped`` (string_reason) count strings.
    ``world``, ``extent``, ``acceptance``, ``k``, ``max_tokens``: settings.
    """

    kind: ClassVar[str] = "state_patching"
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
        """Return one row per layer and position: the swap and its controls, with intervals."""
        import pandas as pd

        rows = {
            (_layer(layer), position): {
                name.replace("_", " "): _cell(self.data.isel(layer=i, position=j), name)
                for name in ("swap", "same_state", "random_state")
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
        ]
        for counts, what in (("dropped", "pairs"), ("strings_dropped", "strings")):
            reasons = data[data[counts].dims[0]].values.tolist()
            found = zip(reasons, data[counts].values.tolist(), strict=True)
            parts += [f"{count} {what} dropped: {reason}" for reason, count in found if count]
        return "; ".join(parts)


def _layer(layer: int) -> str:
    return "embedding" if layer < 0 else str(layer)


def _span(counts: list[int]) -> str:
    low, high = min(counts), max(counts)
    return str(low) if low == high else f"{low} to {high}"


def _cell(data: "xr.Dataset", name: str) -> str:
    value, low, high = (float(data[f"{name}{e}"]) for e in ("", "_low", "_high"))
    return "no pair left" if value != value else f"{value:.3f} [{low:.3f}, {high:.3f}]"
