"""What the lens gives: readings of every layer, and neighbours in the vocabulary."""

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from mechprobe.results.base import Result

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

    from mechprobe.results.html import Section

# Layers shown where all would not fit a screen; the last is always among them.
_SUMMARY_ROWS = 16
# Prompts of one lens drawn on a page; hundreds of heat maps open in no browser.
_PROMPTS_SHOWN = 4


@dataclass(frozen=True, repr=False, eq=False)
class LensResult(Result):
    """What a model would say after every layer.

    ``data`` holds, over ``prompt``, ``pos``, ``layer``, ``k`` and ``target``:

    - ``top_token``, ``top_text``, ``top_log_prob`` (prompt, pos, layer, k): the most likely tokens;
    - ``entropy``, ``kl_to_final`` = KL(final | layer), nats (prompt, pos, layer);
    - ``target_token`` (prompt, pos, target), ``target_log_prob``, ``target_rank`` (0 is best) over
      (prompt, pos, layer, target), where targets were asked for;
    - ``model_token``, ``model_text``, ``model_log_prob`` (prompt, pos, k): the model's own output;
    - ``token``, ``token_text``, ``position``, ``valid``, ``generated`` (prompt, pos): the token
      that was read there; ``next_token`` is the one that was generated (or given) after it, and
      ``merged_text`` (prompt, layer) joins the layer's best tokens of the generated steps.

    Coordinate ``layer``: -1 is the embedding, l is after block l. Where prompts differ in length,
    cells beyond a prompt's end hold -1, NaN and "", and ``valid`` is False.
    """

    kind: ClassVar[str] = "lens"
    papers: ClassVar[tuple[str, ...]] = ("nostalgebraist2020logitlens",)

    @property
    def statistics(self) -> list[str]:
        """Names of the variables that give one number for each prompt, position and layer."""
        return [str(name) for name, v in self.data.items() if v.dims == ("prompt", "pos", "layer")]

    def plot(self, kind: str = "tokens", *, prompt: int = 0) -> "go.Figure":
        """Draw one prompt.

        Args:
            kind: ``"tokens"`` (layer by position, the best token in each cell), one of
                ``statistics`` (the same cells coloured by it; ``"kl"`` is short for
                ``"kl_to_final"``), ``"rank"`` or ``"prob"`` (targets over layers; without targets,
                the model's own first choice where it is among the top k).
            prompt: Which prompt.

        Raises:
            ValueError: An unknown kind, or ``"rank"`` without targets.
            IndexError: No such prompt.
        """
        from mechprobe.plots import lens as plots

        if not 0 <= prompt < self.data.sizes["prompt"]:
            msg = f"there is no prompt {prompt}; this result has {self.data.sizes['prompt']}."
            raise IndexError(msg)
        return plots.lens_figure(self.data.isel(prompt=prompt), kind)

    def table(self, *, prompt: int = 0) -> "pd.DataFrame":
        """Return the layer by position table of one prompt: best token and its probability.

        For a generation the last column, ``merged``, joins each layer's best tokens over the
        generated steps, bytes put together into characters.
        """
        import pandas as pd

        from mechprobe.plots.text import visible

        data = self.data.isel(prompt=prompt)
        shown = np.flatnonzero(data["valid"].values)
        text = data["top_text"].values[..., 0].tolist()
        p = np.exp(data["top_log_prob"].values[..., 0])
        read = data["token_text"].values.tolist()
        labels = [f"{int(data['position'][i])} {visible(read[i])}" for i in shown]
        columns = {
            label: [f"{visible(text[i][layer])} {p[i, layer]:.2f}" for layer in range(p.shape[1])]
            for label, i in zip(labels, shown, strict=True)
        }
        if "merged_text" in data:
            columns["merged"] = [visible(t) for t in data["merged_text"].values.tolist()]
        index = pd.Index([layer_name(v) for v in data["layer"].values.tolist()], name="layer")
        return pd.DataFrame(columns, index=index)

    def summary(self) -> "pd.DataFrame":
        """Return the table of the last positions of the first prompt, thinned to a screen."""
        table = self.table()
        merged = table.columns[-1:] if "merged" in table else table.columns[:0]
        plain = table.columns.drop(merged)
        kept = [*plain[-5:], *merged]
        step = -(-len(table) // _SUMMARY_ROWS)
        rows = range((len(table) - 1) % step, len(table), step)
        return table.iloc[list(rows)][kept]

    def section(self) -> "Section":
        """Return every figure of the first prompts, and the whole table of the first."""
        n_prompts = self.data.sizes["prompt"]
        shown = range(min(n_prompts, _PROMPTS_SHOWN))
        kinds = ["tokens", *self.statistics]
        kinds += ["rank", "prob"] if "target_rank" in self.data else []
        note = f"Figures of prompts 1 to {len(shown)} of {n_prompts}; the table is of prompt 1."
        return replace(
            super().section(),
            figures=[self.plot(kind, prompt=prompt) for prompt in shown for kind in kinds],
            table=self.table(),
            note=note if n_prompts > 1 else "",
        )

    def to_dataframe(self) -> "pd.DataFrame":
        """Return one row per (prompt, position, layer, k), cells beyond a prompt's end left out."""
        data = self.data
        names = ["top_token", "top_text", "top_log_prob", *self.statistics]
        frame = data[[*names, "token", "token_text", "position", "valid"]].to_dataframe()
        return frame[frame["valid"]].drop(columns="valid").reset_index()


def layer_name(layer: int) -> str:
    """Return how a layer is called in tables and figures: ``embed``, ``0``, ``1``, ..."""
    return "embed" if layer == -1 else str(layer)


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
