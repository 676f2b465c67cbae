"""Whether chosen heads matter to the answer: taken out, or pushed towards an option."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import xarray as xr
from jaxtyping import Bool, Float, Int

from mechprobe.provenance import Provenance
from mechprobe.results.base import Result
from mechprobe.results.heads_source import ENDS, head_name, require_kind
from mechprobe.stats import Interval, accuracy_interval, difference_interval, grouped_bootstrap

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

INTACT = "intact"


@dataclass(frozen=True, repr=False, eq=False)
class HeadAblation(Result):
    """The model's answers with heads taken out, against random heads of the same layers.

    ``data`` holds over ``condition`` (``"intact"``, ``"ablated"``, ``"control 1"``, ...):
    ``accuracy``, ``logit_difference`` (right answer minus the best wrong one) and their paired
    changes against intact, ``accuracy_change`` and ``logit_difference_change``, each with ``_low``
    and ``_high``; ``heads``: which were taken out.
    """

    kind: ClassVar[str] = "head_ablation"
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
        """Return one row per condition."""
        names = [
            "accuracy", "accuracy_low", "accuracy_high", "accuracy_change", "accuracy_change_low",
            "accuracy_change_high", "logit_difference", "logit_difference_change", "heads",
        ]  # fmt: skip
        return self.data[names].to_dataframe()


def ablation_of(
    right: Bool[np.ndarray, "condition example"],
    logit_difference: Float[np.ndarray, "condition example"],
    group: Int[np.ndarray, " example"],
    heads: Mapping[str, Sequence[tuple[int, int]]],
    provenance: Provenance,
    *,
    n_bootstrap: int = 1000,
    seed: int = 0,
) -> HeadAblation:
    """Put answers with and without heads together.

    Args:
        right: Whether the model's answer is right, one row per condition.
        logit_difference: Logit of the right answer minus that of the best wrong one.
        group: Which group an example belongs to.
        heads: Heads taken out in every condition, in the order of the rows; ``"intact"`` first,
            with none.
        provenance: What made them; its arguments say ``how``.
        n_bootstrap: Resamples behind the intervals.
        seed: Of the resampling.

    Returns:
        The result.

    Raises:
        ValueError: Conditions do not fit the rows, or the first is not ``"intact"``.
    """
    _check_conditions(list(heads), len(right), INTACT)
    drawn: dict[str, Any] = {"n_bootstrap": n_bootstrap, "seed": seed}
    gap = logit_difference
    # Intact against itself is no estimate.
    none, others = [Interval(0.0, 0.0, 0.0)], range(1, len(right))
    rows = {
        "accuracy": [accuracy_interval(x, group, **drawn) for x in right],
        "logit_difference": [grouped_bootstrap(x, group, **drawn) for x in gap],
        "accuracy_change": none
        + [difference_interval(right[i], right[0], group, **drawn) for i in others],
        "logit_difference_change": none
        + [grouped_bootstrap(gap[i] - gap[0], group, **drawn) for i in others],
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
    return HeadAblation(data, provenance)


def _check_conditions(names: list[str], n_rows: int, first: str | None) -> None:
    if len(names) != n_rows:
        msg = f"{len(names)} conditions ({', '.join(names)}) for {n_rows} rows of answers."
        raise ValueError(msg)
    if first is not None and names[:1] != [first]:
        msg = f"the first condition must be {first!r}, which others are compared with; got {names}."
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
    """

    kind: ClassVar[str] = "head_steering"
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
        """Return the share that follows, one row per condition and one column per strength."""
        import pandas as pd

        followed = self.data["followed"].transpose("condition", "strength")
        strengths = pd.Index(followed["strength"].values, name="strength")
        names = pd.Index(followed["condition"].values, name="condition")
        return pd.DataFrame(followed.values, index=names, columns=strengths)


def steering_of(
    followed: Bool[np.ndarray, "condition strength example"],
    group: Int[np.ndarray, " example"],
    strength: Float[np.ndarray, " strength"],
    heads: Mapping[str, Sequence[tuple[int, int]]],
    provenance: Provenance,
    *,
    chance: float,
    n_bootstrap: int = 1000,
    seed: int = 0,
) -> HeadSteering:
    """Put answers under growing pressure on heads together.

    Args:
        followed: Whether the model took the steered option.
        group: Which group an example belongs to.
        strength: What was added to the attention scores, ascending.
        heads: Heads pushed in every condition, in the order of the rows; the chosen ones first.
        provenance: What made them.
        chance: How often guessing takes the steered option.
        n_bootstrap: Resamples behind the intervals.
        seed: Of the resampling.

    Returns:
        The result.

    Raises:
        ValueError: Conditions do not fit the rows, or strengths do not ascend.
    """
    _check_conditions(list(heads), len(followed), None)
    if (np.diff(strength) <= 0).any():
        msg = f"strengths must ascend; got {strength.tolist()}."
        raise ValueError(msg)
    cells = np.full((3, *followed.shape[:2]), np.nan)
    for i, j in np.ndindex(*followed.shape[:2]):
        cells[:, i, j] = accuracy_interval(
            followed[i, j], group, n_bootstrap=n_bootstrap, seed=seed
        )
    data = xr.Dataset(
        {f"followed{end}": (("condition", "strength"), cells[n]) for n, end in enumerate(ENDS)},
        coords={
            "condition": np.array(list(heads), dtype=object),
            "strength": strength.astype(np.float64),
        },
    )
    data["heads"] = ("condition", _texts(heads))
    data["chance"] = chance
    return HeadSteering(data, provenance)
