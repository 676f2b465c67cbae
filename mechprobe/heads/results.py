"""What reaching into heads gives: ablation, steering, traits, robustness to options."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import xarray as xr
from jaxtyping import Bool, Float, Int

from mechprobe.heads.source import ENDS, head_name, require_kind
from mechprobe.provenance import Provenance
from mechprobe.results.base import Result
from mechprobe.stats import Interval, accuracy_interval, difference_interval, mean_interval

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
            "accuracy",
            "accuracy_low",
            "accuracy_high",
            "accuracy_change",
            "accuracy_change_low",
            "accuracy_change_high",
            "logit_difference",
            "logit_difference_change",
            "heads",
        ]
        return self.data[names].to_dataframe()


def ablation_of(
    right: Bool[np.ndarray, "condition example"],
    logit_difference: Float[np.ndarray, "condition example"],
    group: Int[np.ndarray, " example"],
    heads: Mapping[str, Sequence[tuple[int, int]]],
    provenance: Provenance,
) -> HeadAblation:
    """Put answers with and without heads together.

    Args:
        right: Whether the model's answer is right, one row per condition.
        logit_difference: Logit of the right answer minus that of the best wrong one.
        group: Which group an example belongs to.
        heads: Heads taken out in every condition, in the order of the rows; ``"intact"`` first,
            with none.
        provenance: What made them; its arguments say ``how``.

    Returns:
        The result.

    Raises:
        ValueError: Conditions do not fit the rows, or the first is not ``"intact"``.
    """
    _check_conditions(list(heads), len(right), INTACT)
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
) -> HeadSteering:
    """Put answers under growing pressure on heads together.

    Args:
        followed: Whether the model took the steered option.
        group: Which group an example belongs to.
        strength: What was added to the attention scores, ascending.
        heads: Heads pushed in every condition, in the order of the rows; the chosen ones first.
        provenance: What made them.
        chance: How often guessing takes the steered option.

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
        cells[:, i, j] = accuracy_interval(followed[i, j], group)
    data = xr.Dataset(
        {f"followed{end}": (("condition", "strength"), cells[n]) for n, end in enumerate(ENDS)},
        coords={"condition": np.array(list(heads), dtype=object), "strength": strength.astype(np.float64)},
    )
    data["heads"] = ("condition", _texts(heads))
    data["chance"] = chance
    return HeadSteering(data, provenance)


TRAITS = {
    "induction": "induction",
    "previous_token": "previous token",
    "duplicate_token": "duplicate token",
    "retrieval": "retrieval",
    "ov_copying": "OV copying",
    "direct_logit": "direct logit attribution",
}
_TOP = 3


@dataclass(frozen=True, repr=False, eq=False)
class HeadTraits(Result):
    """Descriptive scores of every head.

    ``data`` holds over (layer, head), NaN where not measured: ``induction``, ``previous_token``,
    ``duplicate_token`` (mean attention paid to the token after the last occurrence, to the token
    before, to the same token), ``retrieval`` (share of copied tokens the head attends to),
    ``ov_copying`` (in [-1, 1]: 1 if the head writes what it reads) and ``direct_logit`` (logits of
    right minus wrong answer that the head writes directly).
    """

    kind: ClassVar[str] = "head_traits"
    papers: ClassVar[tuple[str, ...]] = ("olsson2022induction", "wu2024retrieval", "elhage2021framework")

    def of(self, heads: Sequence[tuple[int, int]]) -> "pd.DataFrame":
        """Return the traits of chosen heads, and how many heads rank above them.

        Args:
            heads: (layer, head) pairs.

        Returns:
            One row per head; ``<trait>_rank`` counts heads with a strictly higher score.

        Raises:
            ValueError: No such head.
        """
        import pandas as pd

        layers, numbers = (self.data[a].values.tolist() for a in ("layer", "head"))
        rows = {}
        for layer, head in heads:
            if layer not in layers or head not in numbers:
                msg = (
                    f"there is no head {(layer, head)}; layers are {layers[0]} to {layers[-1]}, "
                    f"heads {numbers[0]} to {numbers[-1]}."
                )
                raise ValueError(msg)
            row: dict[str, float | int] = {}
            for name in self._measured():
                grid = self.data[name]
                value = float(grid.sel(layer=layer, head=head))
                row |= {name: value, f"{name}_rank": int((grid > value).sum())}
            rows[head_name(layer, head)] = row
        return pd.DataFrame.from_dict(rows, orient="index")

    def _measured(self) -> list[str]:
        return [n for n in TRAITS if n in self.data and not np.isnan(self.data[n].values).all()]

    def plot(self, kind: str = "traits") -> "go.Figure":
        """Draw a small map of every trait that was measured.

        Raises:
            ValueError: An unknown kind (the only one is ``"traits"``), or nothing was measured.
        """
        from mechprobe.plots import heads as plots

        require_kind(kind, "traits", "head traits")
        model = str(self.provenance.model.get("name", ""))
        return plots.traits_figure(self.data, TRAITS, model)

    def summary(self) -> "pd.DataFrame":
        """Return the heads that have most of each trait."""
        import pandas as pd

        columns = {}
        for name in self._measured():
            grid = self.data[name].transpose("layer", "head")
            order = np.argsort(-np.nan_to_num(grid.values.ravel(), nan=-np.inf), kind="stable")
            places = [divmod(i, grid.sizes["head"]) for i in order[:_TOP].tolist()]
            columns[TRAITS[name]] = [
                f"{head_name(int(grid['layer'][i]), int(grid['head'][j]))} {grid.values[i, j]:.2f}"
                for i, j in places
            ]
        index = pd.RangeIndex(1, 1 + max((len(c) for c in columns.values()), default=0))
        return pd.DataFrame(columns, index=index)

    def to_dataframe(self) -> "pd.DataFrame":
        """Return one row per head."""
        return self.data[[n for n in TRAITS if n in self.data]].to_dataframe().reset_index()


@dataclass(frozen=True, repr=False, eq=False)
class OptionRobustness(Result):
    """Does an answer follow the option's text, or its letter?

    ``data`` holds, over ``reader`` (``model``, ``pride``, a head such as ``L14H0``) and ``letter``:

    - ``accuracy``, ``permutation_accuracy`` with ``_low`` and ``_high`` (reader): right on the
      original, and right on both the original and with the option texts reshuffled;
    - ``predicted`` (reader, letter): share of answers that are this letter; ``answer_share``
      (letter): share of right answers that are;
    - ``recall`` (reader, letter): accuracy where this letter is right; ``recall_std`` (reader):
      their standard deviation, the letter bias of PriDe, 0 for a reader without one.
    """

    kind: ClassVar[str] = "option_robustness"
    papers: ClassVar[tuple[str, ...]] = ("tulchinskii2024listening", "zheng2023pride")

    def summary(self) -> "pd.DataFrame":
        """Return one row per reader."""
        import pandas as pd

        d = self.data
        rows = {
            str(reader): {
                "accuracy": f"{float(x['accuracy']):.3f} "
                f"[{float(x['accuracy_low']):.3f}, {float(x['accuracy_high']):.3f}]",
                "permutation accuracy": f"{float(x['permutation_accuracy']):.3f} "
                f"[{float(x['permutation_accuracy_low']):.3f}, "
                f"{float(x['permutation_accuracy_high']):.3f}]",
                "std of recall by letter": f"{float(x['recall_std']):.3f}",
            }
            for reader in d["reader"].values.tolist()
            for x in [d.sel(reader=reader)]
        }
        return pd.DataFrame.from_dict(rows, orient="index")

    def plot(self, kind: str = "letters") -> "go.Figure":
        """Draw how often each reader answers with each letter, beside how often it is right.

        Args:
            kind: ``"letters"``.

        Raises:
            ValueError: An unknown kind.
        """
        from mechprobe.plots.options import letters_figure

        if kind != "letters":
            msg = f"there is no figure {kind!r} of option robustness; the only kind is 'letters'."
            raise ValueError(msg)
        return letters_figure(self.data)
