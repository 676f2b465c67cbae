"""What the metrics give: of whole models, and of every layer."""

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar

from mechprobe.results.base import Result

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go
    import xarray as xr

    from mechprobe.results.html import Section


KINDS = ("metrics", "suffixes", "sensitivity")
RATES = {"refused_legal": "refused", "accepted_illegal": "accepted"}


@dataclass(frozen=True, repr=False, eq=False)
class WorldModelResult(Result):
    """Whether a predictor holds a world, beside predictors of which it is known.

    ``data`` holds, over ``model`` (given, uniform, legal_only, automaton, noisy_oracle) and
    ``metric``:

    - ``compression_precision``, ``distinction_precision``, ``distinction_recall`` (means over
      states), ``next_token_validity`` (mean over positions), each with ``_low`` and ``_high``
      (model): 95 % intervals over states, or over sequences; NaN where no pair was left;
    - ``suffix_error`` with bounds (model): of the suffixes drawn after one prefix of a state, the
      share that is refused after the other, whatever their number; ``compression_curve`` with
      bounds (model, m): what compression would be with fewer suffixes, at the last m as it is;
      neither in mode ``"exact"``, where nothing is drawn;
    - ``refused_legal``, ``accepted_illegal`` (model, metric): shares of the legal words that are
      refused and of the illegal ones that are accepted, wherever the test looks; those of the
      model are what its ``noisy_oracle`` was asked for, in each test by itself;
    - ``n_drawn``, ``n_redrawn`` (metric), ``n_kept`` (model, metric), ``dropped`` (model, metric,
      reason): what became of the pairs that were drawn; positions for ``next_token_validity``;
    - ``score`` (model, test, pair) and ``pair_suffix_error`` (model, pair; of compression), NaN
      where dropped, ``state`` (test, pair), the state that a pair belongs to, -1 where there is
      none, and ``states_sampled`` (test): the share of all states that were drawn, 0 where they
      are beyond count;
    - where asked for, ``sensitivity`` with ``_low`` and ``_high`` (setting, metric), of the given
      model, with ``knob`` (epsilon, suffixes, k) and ``at`` (setting);
    - ``model_name`` (model), ``world``, ``mode``, ``acceptance``, ``suffixes``, ``k``,
      ``max_tokens``.
    """

    kind: ClassVar[str] = "world_model"
    version: ClassVar[int] = 2
    papers: ClassVar[tuple[str, ...]] = ("vafa2024worldmodel",)

    def plot(self, kind: str = "metrics") -> "go.Figure":
        """Draw the metrics.

        Args:
            kind: ``"metrics"`` (bars of every model with intervals), ``"suffixes"`` (compression
                against their number M, on the suffixes that were drawn) or ``"sensitivity"``
                (curves over epsilon, suffixes and k, where they were asked for).

        Raises:
            ValueError: An unknown kind, no curves, or no suffixes (mode ``"exact"``).
        """
        from mechprobe.plots import worlds as plots

        if kind == "metrics":
            return plots.metrics_figure(self.data)
        if kind == "suffixes":
            if "compression_curve" not in self.data:
                msg = "mode 'exact' draws no suffixes, so that there is no curve over their number."
                raise ValueError(msg)
            return plots.suffixes_figure(self.data)
        if kind == "sensitivity":
            if "sensitivity" not in self.data:
                msg = "this result has no curves; evaluate with sensitivity=True."
                raise ValueError(msg)
            return plots.sensitivity_figure(self.data)
        msg = f"a world model has no figure {kind!r}; the kinds are {', '.join(KINDS)}."
        raise ValueError(msg)

    def summary(self) -> "pd.DataFrame":
        """Return metrics with intervals, the given model above its baselines.

        Suffix error leads: unlike compression it does not depend on M. The last two columns are
        ``matched`` in short, a number for each of the first three metrics.
        """
        import pandas as pd

        rows = {
            str(model): _row(self.data.isel(model=i))
            for i, model in enumerate(self.data["model"].values.tolist())
        }
        return pd.DataFrame.from_dict(rows, orient="index").rename_axis("model")

    def matched(self) -> "pd.DataFrame":
        """Return by metric which errors the noise-matched oracle was asked for, and which it made.

        Raises:
            ValueError: The result has no baselines.
        """
        if "noisy_oracle" not in self.data["model"].values:
            msg = "this result has no noise-matched oracle; evaluate with baselines=True."
            raise ValueError(msg)
        rates = self.data[list(RATES)]
        return _matched(rates.sel(model="given"), rates.sel(model="noisy_oracle"))

    def dropped(self) -> "pd.DataFrame":
        """Return how many pairs were dropped, by model, metric and reason."""
        frame = self.data["dropped"].to_dataframe().reset_index()
        return frame[frame["dropped"] > 0].reset_index(drop=True)

    def to_dataframe(self) -> "pd.DataFrame":
        """Return one row per model and metric: value, interval, drawn and kept."""
        import pandas as pd

        data = self.data
        rows = [
            {
                "model": model,
                "metric": metric,
                **{
                    name: float(data[f"{metric}{end}"].values[i])
                    for name, end in (("value", ""), ("low", "_low"), ("high", "_high"))
                },
                "n_drawn": int(data["n_drawn"].values[j]),
                "n_kept": int(data["n_kept"].values[i, j]),
            }
            for i, model in enumerate(data["model"].values.tolist())
            for j, metric in enumerate(data["metric"].values.tolist())
        ]
        return pd.DataFrame(rows)

    def section(self) -> "Section":
        """Return all figures, and what was dropped."""
        without = {"suffixes": "compression_curve", "sensitivity": "sensitivity"}
        kinds = [kind for kind in KINDS if without.get(kind, "score") in self.data]
        return replace(super().section(), figures=[self.plot(kind) for kind in kinds], note=self.note())

    def note(self) -> str:
        """Return settings and drops of the given model in one sentence."""
        data = self.data
        settings = (
            f"{data['world'].item()}, mode {data['mode'].item()}, {data['acceptance'].item()}, "
            f"M = {int(data['suffixes'])}, k = {int(data['k'])}"
        )
        first = data["dropped"].isel(model=0)
        drops = [
            f"{int(first.values[i, j])} of {int(data['n_drawn'].values[i])} pairs of "
            f"{str(metric).replace('_', ' ')} dropped: {reason}"
            for i, metric in enumerate(data["metric"].values.tolist())
            for j, reason in enumerate(data["reason"].values.tolist())
            if first.values[i, j]
        ]
        return "; ".join([settings, *drops])


@dataclass(frozen=True, repr=False, eq=False)
class WorldByLayer(Result):
    """Where a model becomes coherent: the metrics of a world at every layer.

    ``data`` holds, over ``layer`` (-1 the embedding, l after block l):

    - ``compression_precision``, ``distinction_precision``, ``distinction_recall`` (means over
      states) and ``next_token_validity`` (mean over positions), each with ``_low`` and ``_high``:
      95 % intervals over states, or over sequences; NaN where no pair was left; and with
      ``_band_low`` and ``_band_high``, which hold all layers together in 95 %;
    - ``suffix_error`` and ``compression_curve`` (layer, m) with bounds, ``refused_legal``,
      ``accepted_illegal`` (layer, metric): as in ``WorldModelResult``;
    - the same with ``control_``: the true automaton that refuses and accepts as wrongly as the
      layer does, on the same pairs;
    - ``above_control`` with bounds (layer, test): layer minus control on the pairs that both kept;
    - ``n_kept`` (layer, metric), ``dropped`` (layer, metric, reason), ``score`` (layer, test,
      pair) and ``pair_suffix_error`` (layer, pair), NaN where dropped, and these with
      ``control_``; ``n_drawn``, ``n_redrawn`` (metric), ``state`` (test, pair),
      ``states_sampled`` (test).

    The same with ``reference_`` over ``reference`` (uniform, legal_only, automaton), and ``world``,
    ``mode``, ``acceptance``, ``suffixes``, ``k``, ``max_tokens``.
    """

    kind: ClassVar[str] = "world_by_layer"
    version: ClassVar[int] = 2
    papers: ClassVar[tuple[str, ...]] = ("vafa2024worldmodel", "nostalgebraist2020logitlens")

    def plot(self, kind: str = "layers") -> "go.Figure":
        """Draw each metric against the layer, with control and references.

        Raises:
            ValueError: An unknown kind; the only one is ``"layers"``.
        """
        from mechprobe.plots import world_layers as plots

        return plots.by_layer_figure(self.data, kind, str(self.provenance.model.get("name", "")))

    def summary(self) -> "pd.DataFrame":
        """Return one row per layer: suffix error, metrics and errors, each beside its control."""
        import pandas as pd

        rows: dict[str, dict[str, str]] = {}
        for i, layer in enumerate(self.data["layer"].values.tolist()):
            data = self.data.isel(layer=i)
            own, control = _row(data), _row(data, "control_")
            both = [((name, own[name]), (f"control {name}", control[name])) for name in own]
            rows[layer_name(layer)] = dict(cell for cells in both for cell in cells)
        return pd.DataFrame.from_dict(rows, orient="index").rename_axis("layer")

    def matched(self) -> "pd.DataFrame":
        """Return by layer and metric which errors its control was asked for, and which it made."""
        controls = self.data[[f"control_{rate}" for rate in RATES]]
        return _matched(self.data[list(RATES)], controls.rename({f"control_{r}": r for r in RATES}))

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


def _row(data: "xr.Dataset", prefix: str = "") -> dict[str, str]:
    """Return what a table says of one model: suffix error, metrics, and errors by test."""
    names = ["suffix_error"] if f"{prefix}suffix_error" in data else []
    names += [str(metric) for metric in data["metric"].values.tolist()]
    row = {name.replace("_", " "): with_interval(data, f"{prefix}{name}") for name in names}
    for rate, called in (("refused_legal", "legal refused"), ("accepted_illegal", "illegal accepted")):
        shares = data[f"{prefix}{rate}"].values[: data.sizes["test"]].tolist()
        row[called] = " / ".join("-" if share != share else f"{share:.2g}" for share in shares)
    return row


def _matched(asked: "xr.Dataset", realised: "xr.Dataset") -> "pd.DataFrame":
    import pandas as pd

    columns = {
        f"{called} {which}": rates[rate].to_series()
        for rate, called in RATES.items()
        for which, rates in (("asked", asked), ("realised", realised))
    }
    return pd.DataFrame(columns)


def layer_name(layer: int) -> str:
    """Return what a row calls a layer."""
    return "embedding" if layer < 0 else str(layer)


def _span(counts: list[int]) -> str:
    low, high = min(counts), max(counts)
    return str(low) if low == high else f"{low} to {high}"


def with_interval(data: "xr.Dataset", name: str) -> str:
    """Return a value and its interval, or that there is none."""
    value, low, high = (float(data[f"{name}{e}"]) for e in ("", "_low", "_high"))
    return "no pair left" if value != value else f"{value:.3f} [{low:.3f}, {high:.3f}]"
