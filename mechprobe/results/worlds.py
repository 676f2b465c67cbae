"""What the world metrics return: never a number without its baselines."""

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar

from mechprobe.results.base import Result

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

    from mechprobe.results.html import Section

KINDS = ("metrics", "sensitivity")


@dataclass(frozen=True, repr=False, eq=False)
class WorldModelResult(Result):
    """Whether a predictor holds a world, beside predictors of which it is known.

    ``data`` holds, over ``model`` (given, uniform, legal_only, automaton, noisy_oracle) and
    ``metric``:

    - ``compression_precision``, ``distinction_precision``, ``distinction_recall`` (means over
      states), ``next_token_validity`` (mean over positions), each with ``_low`` and ``_high``
      (model): 95 % intervals over states, or over sequences; NaN where no pair was left;
    - ``n_drawn``, ``n_redrawn`` (metric), ``n_kept`` (model, metric), ``dropped`` (model, metric,
      reason): what became of the pairs that were drawn; positions for ``next_token_validity``;
    - ``score`` (model, test, pair), NaN where dropped, and ``state`` (test, pair), the state that
      a pair belongs to, -1 where there is none;
    - where asked for, ``sensitivity`` with ``_low`` and ``_high`` (setting, metric), of the given
      model, with ``knob`` (epsilon, suffixes, k) and ``at`` (setting);
    - ``model_name`` (model), ``world``, ``mode``, ``acceptance``, ``suffixes``, ``k``,
      ``max_tokens``.
    """

    kind: ClassVar[str] = "world_model"
    papers: ClassVar[tuple[str, ...]] = ("vafa2024worldmodel",)

    def plot(self, kind: str = "metrics") -> "go.Figure":
        """Draw the metrics.

        Args:
            kind: ``"metrics"`` (bars of every model with intervals) or ``"sensitivity"`` (curves
                over epsilon, suffixes and k, where they were asked for).

        Raises:
            ValueError: An unknown kind, or no curves.
        """
        from mechprobe.plots import worlds as plots

        if kind == "metrics":
            return plots.metrics_figure(self.data)
        if kind == "sensitivity":
            if "sensitivity" not in self.data:
                msg = "this result has no curves; evaluate with sensitivity=True."
                raise ValueError(msg)
            return plots.sensitivity_figure(self.data)
        msg = f"a world model has no figure {kind!r}; the kinds are {', '.join(KINDS)}."
        raise ValueError(msg)

    def summary(self) -> "pd.DataFrame":
        """Return metrics with intervals, and pairs kept, the given model above its baselines."""
        import pandas as pd

        metrics = [str(m) for m in self.data["metric"].values.tolist()]
        rows = {
            str(model): {m.replace("_", " "): self._cell(i, m) for m in metrics}
            for i, model in enumerate(self.data["model"].values.tolist())
        }
        return pd.DataFrame.from_dict(rows, orient="index").rename_axis("model")

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
        kinds = KINDS if "sensitivity" in self.data else KINDS[:1]
        return replace(
            super().section(), figures=[self.plot(kind) for kind in kinds], note=self.note()
        )

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

    def _cell(self, model: int, metric: str) -> str:
        value, low, high = (
            float(self.data[f"{metric}{e}"].values[model]) for e in ("", "_low", "_high")
        )
        if value != value:
            return "no pair left"
        return f"{value:.3f} [{low:.3f}, {high:.3f}]"
