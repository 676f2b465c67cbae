"""What multiple-choice robustness returns."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from mechprobe.results.base import Result

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go


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
