"""What a selection of heads returns: held-out accuracy next to everything it must beat."""

from dataclasses import dataclass, replace
from html import escape
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import xarray as xr

from mechprobe.heads.source import (
    ENDS,
    accuracy_of,
    best_shortcut,
    better,
    beyond_shortcuts,
    chance_level,
    head_name,
    model_choices,
    shortcut_accuracy,
    source,
)
from mechprobe.provenance import digest_json
from mechprobe.results.base import Result
from mechprobe.stats import Interval, Selected, accuracy_interval, difference_interval, discoveries
from mechprobe.stats.intervals import UNKNOWN

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

    from mechprobe.results.html import Section
    from mechprobe.tasks import Task

KINDS = ("map", "null")
FALSE_DISCOVERY_RATE = 0.05
# A least attainable p from here on is said.
_NOTABLE = 0.01


@dataclass(frozen=True, repr=False, eq=False)
class HeadSelection(Result):
    """Heads chosen on calibration examples, tested on the others.

    ``data`` holds

    - over (layer, head): ``accuracy_calibration``, ``accuracy_test`` (in the direction that the
      calibration set prefers), ``inverted``, ``selected``, ``picked`` (share of resampled
      calibration sets that choose the head), ``head_p`` (each head's own p-value over all
      examples), ``head_p_mid`` (its mid-p) and ``discovered`` (Benjamini-Hochberg at 0.05 over
      ``head_p``);
    - over ``rank``: ``chosen_layer``, ``chosen_head``, ``chosen_inverted``, best first;
    - over ``permutation``: ``null_accuracy`` (held-out accuracy of the whole selection on permuted
      labels), ``null_best`` (highest calibration accuracy of any head on them);
    - over ``rule``, the audited shortcuts: ``beyond_shortcut`` (head minus each shortcut on
      the same held-out examples, paired), with ``_low`` and ``_high`` that hold for all shortcuts
      together with 95 %;
    - over ``held_out`` (indices of examples): ``right``, ``model_right`` (NaN: not known);
    - numbers: ``accuracy``, ``model``, ``model_calibrated``, ``shortcut``, ``gain`` (head minus
      model, paired), each with ``_low`` and ``_high``; ``p_value``, ``p_mid``, ``p_least`` (no
      labels of these groups and no more permutations could give less),
      ``log10_relabellings`` (of all examples, each part by itself) and ``log10_relabellings_test``,
      ``null_max``, ``chance``, ``n_calibration``; texts ``model_spelling``,
      ``model_calibrated_spelling``, ``shortcut_name``, ``permuted`` (what was exchanged),
      ``head_p_from`` ("exact law" or the number of permutations).
    """

    kind: ClassVar[str] = "head_selection"
    version: ClassVar[int] = 2
    papers: ClassVar[tuple[str, ...]] = ("tulchinskii2025logical", "tulchinskii2024listening")

    @property
    def heads(self) -> list[tuple[int, int]]:
        """The chosen heads as (layer, head), best first."""
        layers, heads = self.data["chosen_layer"].values, self.data["chosen_head"].values
        return list(zip(layers.tolist(), heads.tolist(), strict=True))

    def held_out(self, task: "Task") -> "Task":
        """Return the questions that did not choose the heads, for whatever is asked of these next.

        Args:
            task: The questions that were scored, all of them.

        Raises:
            ValueError: Other questions, of which nobody here knows whether they chose the heads.
        """
        if digest_json({"": task.digest()}) != self.provenance.data_digest:
            msg = (
                f"these are not the questions that the heads were chosen with: {task.name!r} differs "
                f"from the {self.provenance.arguments.get('task')!r} that was scored. Give that task, "
                "whole; where no question of another one chose the heads, give selection.heads."
            )
            raise ValueError(msg)
        return task.take(self.data["held_out"].values.tolist(), "held out by the selection")

    @property
    def accuracy(self) -> float:
        """Accuracy of the chosen heads on held-out examples."""
        return float(self.data["accuracy"])

    @property
    def ci_low(self) -> float:
        """Lower end of its 95 % interval."""
        return float(self.data["accuracy_low"])

    @property
    def ci_high(self) -> float:
        """Upper end of its 95 % interval."""
        return float(self.data["accuracy_high"])

    @property
    def p_value(self) -> float:
        """Share of permuted labellings on which the whole selection does as well."""
        return float(self.data["p_value"])

    @property
    def p_mid(self) -> float:
        """Its mid-p: half weight to those that do equally well; nearer to nominal for few examples."""
        return float(self.data["p_mid"])

    @property
    def p_least(self) -> float:
        """The least p-value that any head could have had here."""
        return float(self.data["p_least"])

    @property
    def null_max(self) -> float:
        """Expected calibration accuracy of the best head under permuted labels."""
        return float(self.data["null_max"])

    @property
    def model_accuracy(self) -> float:
        """The model's own accuracy on the same held-out examples, spelled as suits it on the others."""
        return float(self.data["model"])

    @property
    def model_calibrated_accuracy(self) -> float:
        """The same after each candidate's calibration median is taken away."""
        return float(self.data["model_calibrated"])

    @property
    def shortcut_accuracy(self) -> float:
        """Accuracy of the best audited shortcut on the same held-out examples."""
        return float(self.data["shortcut"])

    @property
    def shortcut_name(self) -> str:
        """Name of that shortcut."""
        return str(self.data["shortcut_name"].item())

    @property
    def fdr_heads(self) -> list[tuple[int, int]]:
        """Heads better than chance over all examples, false discovery rate 0.05, surest first."""
        found = np.argwhere(self.data["discovered"].values)
        p = self.data["head_p"].values[tuple(found.T)]
        return [self._at(*found[i].tolist()) for i in np.argsort(p, kind="stable")]

    @property
    def stability(self) -> float:
        """Share of resampled calibration sets that choose the first head again."""
        layer, head = self.heads[0]
        return float(self.data["picked"].sel(layer=layer, head=head))

    def _at(self, layer: int, head: int) -> tuple[int, int]:
        return int(self.data["layer"].values[layer]), int(self.data["head"].values[head])

    def headline(self) -> str:
        """Return the finding in a sentence that hides nothing."""
        d = self.data
        n_heads = d.sizes["layer"] * d.sizes["head"]
        n, n_calibration = d.sizes["held_out"], int(d["n_calibration"])
        return (
            f"{self._names()}: {_shown(self._interval('accuracy'))} on {n} held-out examples, "
            f"p = {self.p_value:.2g} (mid-p {self.p_mid:.2g}{self._least()}); "
            f"best of {n_heads} heads by chance {self.null_max:.2f} "
            f"(on {n_calibration} calibration examples); model {self.model_accuracy:.2f}, "
            f"calibrated {self.model_calibrated_accuracy:.2f}; best shortcut "
            f"{self.shortcut_accuracy:.2f} ({self.shortcut_name})"
        )

    def _least(self) -> str:
        # Below that it would change no one's mind.
        return f", least possible p {self.p_least:.2g}" if self.p_least > _NOTABLE else ""

    def _names(self) -> str:
        turned = self.data["chosen_inverted"].values.tolist()
        names = [
            head_name(*head) + (" inverted" if flag else "")
            for head, flag in zip(self.heads, turned, strict=True)
        ]
        return " + ".join(names)

    def _beyond(self) -> Interval:
        gap = self.data["beyond_shortcut"].values
        if gap.size == 0:
            return UNKNOWN
        return Interval(*(float(self.data[f"beyond_shortcut{end}"].values[gap.argmin()]) for end in ENDS))

    def _interval(self, name: str) -> Interval:
        return Interval(*(float(self.data[f"{name}{end}"]) for end in ENDS))

    def summary(self) -> "pd.DataFrame":
        """Return the heads next to the model, the best shortcut and chance."""
        import pandas as pd

        d = self.data
        n = d.sizes["held_out"]
        unknown = float("nan")
        rows = [
            (self._names(), *self._interval("accuracy"), f"{n} held-out examples{self._least()}"),
            (f"model, {d['model_spelling'].item()}", *self._interval("model"), "the same examples"),
            (
                f"model, {d['model_calibrated_spelling'].item()}, calibrated",
                *self._interval("model_calibrated"),
                "the same examples",
            ),
            ("head minus model", *self._interval("gain"), "paired"),
            (f"shortcut: {self.shortcut_name}", *self._interval("shortcut"), "the same examples"),
            ("head minus best shortcut", *self._beyond(), "paired, all shortcuts together"),
            ("best by chance", self.null_max, unknown, unknown, "on the calibration examples"),
            ("chance", float(d["chance"]), unknown, unknown, ""),
        ]
        columns = ["who", "accuracy", "low", "high", "note"]
        return pd.DataFrame(rows, columns=columns).set_index("who")

    def plot(self, kind: str = "map") -> "go.Figure":
        """Draw the selection.

        Args:
            kind: ``"map"`` (calibration accuracy of every head, the chosen ones outlined, chance
                and the best by chance in the colour bar) or ``"null"`` (held-out accuracy against
                that of the selection repeated on permuted labels).

        Raises:
            ValueError: An unknown kind.
        """
        from mechprobe.plots import heads as maps
        from mechprobe.plots import heads_distribution as distributions

        if kind == "map":
            data = self.data[["accuracy_test", "picked", "selected", "chance"]]
            data = data.assign(accuracy=self.data["accuracy_calibration"], ceiling=self.data["null_max"])
            lines = self.headline().split("; ")
            subtitle = "<br>".join([*lines[:2], "; ".join(lines[2:])])
            return maps.accuracy_map_figure(data, "Calibration accuracy, chosen heads outlined", subtitle)
        if kind == "null":
            names = ["null_accuracy", "accuracy", "p_value", "chance", "model", "shortcut"]
            return distributions.null_figure(self.data[names], self._names())
        msg = f"a selection has no figure {kind!r}; the kinds are {', '.join(KINDS)}."
        raise ValueError(msg)

    def section(self) -> "Section":
        """Return map and null distribution under the finding in one sentence."""
        figures = [self.plot(kind) for kind in KINDS]
        return replace(super().section(), figures=figures, note=self.headline())

    def to_dataframe(self) -> "pd.DataFrame":
        """Return one row per head."""
        names = [str(n) for n, v in self.data.items() if set(v.dims) == {"layer", "head"}]
        return self.data[names].to_dataframe().reset_index()

    def __repr__(self) -> str:
        model = self.provenance.model.get("name", "?")
        return f"HeadSelection({model}) {self.headline()}\n{self.summary().to_string()}"

    def _repr_html_(self) -> str:
        model = escape(str(self.provenance.model.get("name", "?")))
        head = f"<b>HeadSelection</b> {model}<p>{escape(self.headline())}</p>"
        return f"<div>{head}{self.summary().to_html(escape=True)}</div>"


def _shown(interval: Interval) -> str:
    return f"{interval.value:.2f} [{interval.low:.2f}, {interval.high:.2f}]"


def selection_data(scores: xr.Dataset, selected: Selected) -> xr.Dataset:
    """Return the data of a ``HeadSelection``.

    Args:
        scores: Data of the ``HeadScores``.
        selected: What the statistics found.

    Returns:
        The data set.
    """
    calibration, test = selected.heads.split
    group = selected.heads.group[test]
    choices = model_choices(scores, calibration)
    model = better(choices, calibration, calibrated=False)
    adjusted = better(choices, calibration, calibrated=True)
    shortcut = best_shortcut(scores, calibration)
    model_right = model.right[test]
    intervals = {
        "accuracy": accuracy_interval(selected.right, group),
        "model": accuracy_of(model, test, scores),
        "model_calibrated": accuracy_of(adjusted, test, scores),
        "gain": difference_interval(selected.right, model_right, group),
        "shortcut": shortcut_accuracy(scores, shortcut, test),
    }
    values: dict[str, object] = {
        "p_value": selected.p_value,
        "p_mid": selected.p_mid,
        "p_least": selected.p_least,
        "log10_relabellings": selected.log10_relabellings[0],
        "log10_relabellings_test": selected.log10_relabellings[1],
        "null_max": float(selected.null_best.mean()),
        "chance": chance_level(source(scores).exists[test]),
        "n_calibration": len(calibration),
        "model_spelling": np.array(model.spelling, dtype=object),
        "model_calibrated_spelling": np.array(adjusted.spelling, dtype=object),
        "shortcut_name": np.array(shortcut.name, dtype=object),
        "permuted": np.array(selected.scheme, dtype=object),
        "head_p_from": np.array(
            "exact law" if selected.by_head.exact else f"{len(selected.null_best)} permutations", dtype=object
        ),
    }
    for name, interval in intervals.items():
        values |= {f"{name}{end}": v for end, v in zip(ENDS, interval, strict=True)}
    data = _maps(scores, selected).assign_coords(held_out=test)
    data["right"] = ("held_out", selected.right)
    data["model_right"] = ("held_out", model_right)
    data = data.assign_coords(rule=scores["shortcut"].values)
    for name, gaps in beyond_shortcuts(scores, selected.right, test).items():
        data[name] = ("rule", gaps)
    return data.assign({name: ((), value) for name, value in values.items()})


def _maps(scores: xr.Dataset, selected: Selected) -> xr.Dataset:
    shape = (scores.sizes["layer"], scores.sizes["head"])
    head, inverted = selected.chosen.head[0], selected.chosen.inverted[0]
    is_chosen = np.zeros(shape, bool)
    is_chosen.ravel()[head] = True
    layers, heads = scores["layer"].values, scores["head"].values
    found = discoveries(selected.by_head.p, FALSE_DISCOVERY_RATE)
    grids = {
        "accuracy_calibration": selected.accuracy_calibration,
        "accuracy_test": selected.accuracy_test,
        "inverted": selected.turned,
        "picked": selected.picked,
        "head_p": selected.by_head.p,
        "head_p_mid": selected.by_head.mid,
        "discovered": found,
        "selected": is_chosen,
    }
    return xr.Dataset(
        {
            **{name: (("layer", "head"), grid.reshape(shape)) for name, grid in grids.items()},
            "chosen_layer": ("rank", layers[head // shape[1]]),
            "chosen_head": ("rank", heads[head % shape[1]]),
            "chosen_inverted": ("rank", inverted),
            "null_accuracy": ("permutation", selected.null_accuracy),
            "null_best": ("permutation", selected.null_best),
        },
        coords={"layer": layers, "head": heads},
    )
