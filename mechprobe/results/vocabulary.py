"""What questions about the unembedding's geometry return."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from mechprobe.results.base import Result

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go


@dataclass(frozen=True, repr=False, eq=False)
class VocabularyNeighbors(Result):
    """Unembedding rows nearest to a vector.

    ``data`` holds ``token``, ``text``, ``score``, ``is_input`` (k), and, for a mixture of tokens,
    ``weight`` and ``n_tokens`` (term): a term of several tokens stands for the mean of their rows.
    """

    kind: ClassVar[str] = "vocabulary"

    def plot(self, kind: str = "score") -> "go.Figure":
        """Draw the scores as bars, tokens of the query set apart.

        Raises:
            ValueError: An unknown kind; the only one is ``"score"``.
        """
        from mechprobe.plots import vocabulary as plots

        return plots.neighbors_figure(self.data, kind)

    def summary(self) -> "pd.DataFrame":
        """Return the neighbours, nearest first."""
        return self.data[["token", "text", "score", "is_input"]].to_dataframe()

    def to_dataframe(self) -> "pd.DataFrame":
        """Return one row per neighbour."""
        return self.summary().reset_index()


@dataclass(frozen=True, repr=False, eq=False)
class Expressibility(Result):
    """Whether one token means a text, and what comes nearest.

    ``data`` holds the tokens of the text, ``token`` and ``text`` (piece); ``one_token``; ``own``,
    the score of the best token that is part of the text; ``other``, ``other_token`` and
    ``other_text``, the nearest token that is not; and ``margin`` = own - other. A negative margin
    says that a stranger wins.
    """

    kind: ClassVar[str] = "expressible"

    def plot(self, kind: str = "score") -> "go.Figure":
        """Draw own and other score side by side.

        Raises:
            ValueError: An unknown kind; the only one is ``"score"``.
        """
        from mechprobe.plots import vocabulary as plots

        return plots.expressible_figure(self.data, kind)

    def summary(self) -> "pd.DataFrame":
        """Return one row: the pieces, whether they are one, scores and margin."""
        import pandas as pd

        d = self.data
        row = {
            "asked": str(d["asked"].item()),
            "pieces": " + ".join(repr(t) for t in d["text"].values.tolist()),
            "one_token": bool(d["one_token"]),
            "own": float(d["own"]),
            "other": float(d["other"]),
            "other_text": repr(d["other_text"].item()),
            "margin": float(d["margin"]),
        }
        return pd.DataFrame([row])

    def to_dataframe(self) -> "pd.DataFrame":
        """Return the row of ``summary``."""
        return self.summary()
