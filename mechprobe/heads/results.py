"""What heads are like: their traits, and whether answers follow text or letter."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from mechprobe.heads.source import head_name, require_kind
from mechprobe.results.base import Result

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

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
