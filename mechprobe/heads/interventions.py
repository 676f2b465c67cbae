"""What taking heads away or pushing them gives, against random heads of the same layers."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import xarray as xr
from jaxtyping import Bool, Float, Int

from mechprobe.heads.source import ENDS, head_name, require_kind
from mechprobe.provenance import Provenance
from mechprobe.results.base import Result
from mechprobe.stats import (
    Contrast,
    Interval,
    above_controls,
    accuracy_interval,
    difference_interval,
    holm,
    mean_interval,
)

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

INTACT, ABLATED = "intact", "ablated"
_MEASURES = ("accuracy", "logit_difference")
BEYOND = "ablated minus controls"
# What the parts of a contrast are called, in their order; and that of a condition with itself.
_PARTS = ("", "_low", "_high", "_p", "_sd", "_rank_p")
_SAME = Contrast(0.0, 0.0, 0.0, float("nan"), float("nan"), float("nan"))


@dataclass(frozen=True, repr=False, eq=False)
class HeadAblation(Result):
    """The model's answers with heads taken out, against random heads of the same layers.

    ``data`` holds over ``condition`` (``"intact"``, ``"ablated"``, ``"control 1"``, ...):
    ``accuracy``, ``logit_difference`` (right answer minus the best wrong one) and their paired
    changes against intact, ``accuracy_change`` and ``logit_difference_change``, each with ``_low``
    and ``_high``; ``heads``: which were taken out. And what these heads do beyond random ones, on
    the same questions: ``accuracy_above_controls`` and ``logit_difference_above_controls``, ablated
    less the mean of the controls (negative where these heads matter more), with ``_low``, ``_high``,
    ``_p`` (of no difference; the two measures are not corrected for being two), ``_sd`` (of the
    controls, from one to the next) and ``_rank_p`` (of being one more random control). NaN with too
    few controls; see ``mechprobe.stats.above_controls``. ``n_control_sets``: how many controls there
    are to be drawn.
    """

    kind: ClassVar[str] = "head_ablation"
    version: ClassVar[int] = 2
    papers: ClassVar[tuple[str, ...]] = ("tulchinskii2024listening",)

    def plot(self, kind: str = "bars") -> "go.Figure":
        """Draw accuracy and logit difference of every condition.

        Raises:
            ValueError: An unknown kind; the only one is ``"bars"``.
        """
        from mechprobe.plots import heads_causal as plots

        require_kind(kind, "bars", "an ablation")
        return plots.ablation_figure(self.data, str(self.provenance.arguments.get("how", "")))

    def summary(self) -> "pd.DataFrame":
        """Return one row per condition, and what the heads do beyond the controls as changes."""
        changes = [f"{m}_change{end}" for m in _MEASURES for end in ENDS]
        names = [*(f"accuracy{end}" for end in ENDS), *changes[:3], "logit_difference", *changes[3:]]
        table = self.data[[*names, "heads"]].to_dataframe()
        table[["accuracy_p", "logit_difference_p"]] = np.nan
        beyond = {n: float(self.data[n.replace("_change", "_above_controls")]) for n in changes}
        beyond |= {f"{m}_p": float(self.data[f"{m}_above_controls_p"]) for m in _MEASURES}
        table.loc[BEYOND] = {**beyond, "heads": ""}
        return table


def ablation_of(
    right: Bool[np.ndarray, "condition example"],
    logit_difference: Float[np.ndarray, "condition example"],
    group: Int[np.ndarray, " example"],
    heads: Mapping[str, Sequence[tuple[int, int]]],
    provenance: Provenance,
    *,
    n_control_sets: float | int = np.inf,
) -> HeadAblation:
    """Put answers with and without heads together.

    Args:
        right: Whether the model's answer is right, one row per condition.
        logit_difference: Logit of the right answer minus that of the best wrong one.
        group: Which group an example belongs to.
        heads: Heads taken out in every condition, in the order of the rows; ``"intact"`` first,
            with none, then ``"ablated"``, then the controls.
        provenance: What made them; its arguments say ``how``.
        n_control_sets: How many sets of heads the controls were drawn from.

    Returns:
        The result.

    Raises:
        ValueError: Conditions do not fit the rows, or the first are not these two.
    """
    _check_conditions(list(heads), len(right), [INTACT, ABLATED])
    gap = logit_difference
    # Intact against itself is no estimate.
    none, others = [Interval(0.0, 0.0, 0.0)], range(1, len(right))
    rows = {
        "accuracy": [accuracy_interval(x, group) for x in right],
        "logit_difference": [mean_interval(x, group) for x in gap],
        "accuracy_change": none + [difference_interval(right[i], right[0], group) for i in others],
        "logit_difference_change": none + [mean_interval(gap[i] - gap[0], group) for i in others],
    }
    data = xr.Dataset(
        {
            f"{name}{end}": ("condition", np.array([float(v[n]) for v in values]))
            for name, values in rows.items()
            for n, end in enumerate(ENDS)
        },
        coords={"condition": np.array(list(heads), dtype=object)},
    )
    data["heads"] = ("condition", _texts(heads))
    data["n_control_sets"] = float(n_control_sets)
    sets = {"population": float(n_control_sets)}
    beyond = {
        "accuracy": above_controls(right[1], right[2:], group, **sets, bounds=(-1.0, 1.0)),
        "logit_difference": above_controls(gap[1], gap[2:], group, **sets),
    }
    for name, found in beyond.items():
        data = data.assign(_named(f"{name}_above_controls", (), found))
    return HeadAblation(data, provenance)


def _named(name: str, dims: tuple[str, ...], found: Contrast | list[Contrast]) -> dict[str, Any]:
    """Return the parts of a contrast, or of several, as variables."""
    values = np.array(found, np.float64).T
    return {f"{name}{end}": (dims, values[n]) for n, end in enumerate(_PARTS)}


def _check_conditions(names: list[str], n_rows: int, first: list[str]) -> None:
    if len(names) != n_rows:
        msg = f"{len(names)} conditions ({', '.join(names)}) for {n_rows} rows of answers."
        raise ValueError(msg)
    if names[: len(first)] != first:
        msg = f"the first conditions must be {first}, which others are compared with; got {names}."
        raise ValueError(msg)


def _texts(heads: Mapping[str, Sequence[tuple[int, int]]]) -> np.ndarray:
    texts = [" ".join(head_name(*h) for h in chosen) for chosen in heads.values()]
    return np.array(texts, dtype=object)


@dataclass(frozen=True, repr=False, eq=False)
class HeadSteering(Result):
    """How often the model takes the option that heads are pushed towards.

    ``data`` holds ``followed`` with ``_low`` and ``_high`` (condition, strength): the share of
    examples answered with the steered option; ``heads`` (condition): which were pushed, chosen
    ones first, then controls; ``chance``: the share by guessing. Strength is what is added to the
    attention scores of the steered option; 0 leaves the model as it is.
    ``followed_above_controls`` (strength) is the share of the chosen heads less the mean of the
    controls, on the same questions, with ``_low``, ``_high`` (each strength by itself), ``_p`` (of
    no difference), ``_p_adjusted`` (Holm, over the strengths above 0), ``_sd`` and ``_rank_p`` as in
    ``HeadAblation``; so is ``n_control_sets``.
    """

    kind: ClassVar[str] = "head_steering"
    version: ClassVar[int] = 2
    papers: ClassVar[tuple[str, ...]] = ("tulchinskii2024listening",)

    def plot(self, kind: str = "curve") -> "go.Figure":
        """Draw the share against the strength, chosen heads and controls.

        Raises:
            ValueError: An unknown kind; the only one is ``"curve"``.
        """
        from mechprobe.plots import heads_causal as plots

        require_kind(kind, "curve", "a steering")
        return plots.steering_figure(self.data)

    def summary(self) -> "pd.DataFrame":
        """Return the share that follows by condition and strength, and heads less controls."""
        import pandas as pd

        followed = self.data["followed"].transpose("condition", "strength")
        strengths = pd.Index(followed["strength"].values, name="strength")
        names = pd.Index(followed["condition"].values, name="condition")
        table = pd.DataFrame(followed.values, index=names, columns=strengths)
        beyond = {"heads minus controls": "", "low": "_low", "high": "_high"}
        beyond |= {"p": "_p", "p, adjusted for the strengths": "_p_adjusted"}
        for row, end in beyond.items():
            table.loc[row] = self.data[f"followed_above_controls{end}"].values
        return table


def steering_of(
    followed: Bool[np.ndarray, "condition strength example"],
    group: Int[np.ndarray, " example"],
    strength: Float[np.ndarray, " strength"],
    heads: Mapping[str, Sequence[tuple[int, int]]],
    provenance: Provenance,
    *,
    n_control_sets: float | int = np.inf,
    chance: float,
) -> HeadSteering:
    """Put answers under growing pressure on heads together.

    Args:
        followed: Whether the model took the steered option.
        group: Which group an example belongs to.
        strength: What was added to the attention scores, ascending.
        heads: Heads pushed in every condition, in the order of the rows; the chosen ones first.
        provenance: What made them.
        n_control_sets: How many sets of heads the controls were drawn from.
        chance: How often guessing takes the steered option.

    Returns:
        The result.

    Raises:
        ValueError: Conditions do not fit the rows, or strengths do not ascend.
    """
    _check_conditions(list(heads), len(followed), [])
    if (np.diff(strength) <= 0).any():
        msg = f"strengths must ascend; got {strength.tolist()}."
        raise ValueError(msg)
    cells = np.full((3, *followed.shape[:2]), np.nan)
    for i, j in np.ndindex(*followed.shape[:2]):
        cells[:, i, j] = accuracy_interval(followed[i, j], group)
    data = xr.Dataset(
        {f"followed{end}": (("condition", "strength"), cells[n]) for n, end in enumerate(ENDS)},
        coords={"condition": np.array(list(heads), dtype=object), "strength": strength.astype(np.float64)},
    )
    data["heads"] = ("condition", _texts(heads))
    data["n_control_sets"] = float(n_control_sets)
    sets: dict[str, Any] = {"population": float(n_control_sets), "bounds": (-1.0, 1.0)}
    beyond = [above_controls(x[0], x[1:], group, **sets) for x in followed.swapaxes(0, 1)]
    # At strength 0 all conditions are one: that they agree is no finding.
    if len(followed) > 1:
        beyond = [x if b else _SAME for x, b in zip(beyond, strength.tolist(), strict=True)]
    data = data.assign(_named("followed_above_controls", ("strength",), beyond))
    p = data["followed_above_controls_p"].values
    data["followed_above_controls_p_adjusted"] = ("strength", holm(p))
    data["chance"] = chance
    return HeadSteering(data, provenance)
