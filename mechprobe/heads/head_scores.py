"""What the heads probe returns first: the score of every head for every candidate."""

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import xarray as xr

from mechprobe.heads.selection import HeadSelection, selection_data
from mechprobe.heads.source import (
    accuracy_of,
    best_shortcut,
    better,
    chance_ceiling,
    chance_level,
    checked,
    derived,
    head_name,
    model_choices,
    source,
)
from mechprobe.provenance import Call
from mechprobe.results.base import Result
from mechprobe.stats import Calibration, Method, accuracy, decisions, select_heads

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

    from mechprobe.results.html import Section

KINDS = ("accuracy", "distribution")
_TOP = 5
NOT_HELD_OUT = "best of {n} heads, over all examples: not held out"


@dataclass(frozen=True, repr=False, eq=False)
class HeadScores(Result):
    """How strongly each head points at each candidate answer.

    ``data`` holds, over ``example``, ``candidate``, ``layer`` and ``head``:

    - ``score`` (example, candidate, layer, head); NaN where an example has fewer candidates;
    - ``answer``: index of the right candidate; ``group``, ``block``: the task's design as numbers
      (see ``tasks.Design``); ``steps``, ``distractors``: -1 where unknown (example);
      ``candidate_text`` (example, candidate), "" where there is none;
    - ``model_log_prob`` (example, candidate, spelling): the model's own log-probability of the
      answer's token, with a space before it or bare; NaN where that is no single token;
    - ``shortcut_accuracy``, ``shortcut_low``, ``shortcut_high``, ``chance`` (shortcut): what rules
      that do not reason score on the same task, their intervals 95 % together; ``shortcut_right``
      (shortcut, example): how right each is on each question, 0 to 1, fitted on the half of the
      questions (``shortcut_half``, -1: no audit) that it is not in.
    """

    version: ClassVar[int] = 2
    kind: ClassVar[str] = "head_scores"
    papers: ClassVar[tuple[str, ...]] = ("tulchinskii2025logical", "tulchinskii2024listening")

    def select(
        self,
        calibration: Calibration = 0.5,
        method: Method = "best",
        *,
        k: int = 5,
        flip: bool = False,
        centre: bool = False,
        seed: int = 0,
        n_permutations: int = 1000,
        n_bootstrap: int = 1000,
    ) -> HeadSelection:
        r"""Choose heads on one part of the examples and test them on the rest.

        .. math:: h^* = \arg\max_h \mathrm{acc}_{\mathrm{cal}}(h), \quad
                  A = \mathrm{acc}_{\mathrm{test}}(h^*), \quad
                  p = \frac{1 + \#\{b : A_b \ge A\}}{1 + B}

        where every :math:`A_b` repeats the whole selection on permuted labels.

        Args:
            calibration: Number of examples, share of them in (0, 1), or their indices; groups are
                never cut.
            method: ``"best"``, ``"top_k_vote"``, ``"zscore_sum"`` or ``"unsupervised"``; see
                ``mechprobe.stats.select_heads``.
            k: Heads of a vote or sum.
            flip: Heads that are wrong more often than right may be inverted.
            centre: Take away each head's calibration median of each candidate.
            seed: Of split, permutations and resamples.
            n_permutations: B, at least 1.
            n_bootstrap: Resampled calibration parts behind ``stability``, at least 1.

        Returns:
            Heads, held-out accuracy with interval, p-value, and next to it the model's own
            accuracy and the best shortcut's on the same questions.

        Raises:
            ValueError: Scores that cannot be compared, an unknown method, ``flip`` with
                ``"unsupervised"``, a calibration set that is too large, cuts a group or has one
                answer only, or a count below 1.

        Example:
            >>> scores.select(calibration=300, seed=0).heads  # doctest: +SKIP
            [(12, 3)]

        References:
            Tulchinskii et al., Quantifying Logical Consistency in Transformers via Query-Key
            Alignment (2025), https://arxiv.org/abs/2502.17017.
        """
        call = Call("HeadScores.select", locals())
        found = checked(source(self.data))
        selected = select_heads(
            found.score,
            found.answer,
            found.group,
            block=found.block,
            calibration=calibration,
            method=method,
            k=k,
            flip=flip,
            centre=centre,
            is_attention=self.provenance.arguments.get("score") == "attention",
            exists=found.exists,
            seed=seed,
            n_permutations=n_permutations,
            n_bootstrap=n_bootstrap,
        )
        data = selection_data(self.data, selected)
        record = derived(call, {"": self.provenance}, seed)
        return HeadSelection(data, record)

    def accuracy_map(self) -> xr.DataArray:
        """Return every head's accuracy over all examples, (layer, head): not held out.

        Raises:
            ValueError: Scores that cannot be compared.
        """
        found = checked(source(self.data))
        share = accuracy(decisions(found.score), found.answer)
        shape = (self.data.sizes["layer"], self.data.sizes["head"])
        coords = {name: self.data[name].values for name in ("layer", "head")}
        return xr.DataArray(share.reshape(shape), dims=("layer", "head"), coords=coords)

    def baseline(self) -> "pd.DataFrame":
        """Return what the model's own logits score, in each spelling, plain and calibrated.

        Calibrated: each candidate's median log-probability over all examples is taken away.

        Returns:
            One row per reading: ``spelling``, ``calibrated``, ``accuracy``, ``low``, ``high``,
            ``n`` (examples whose candidates are single tokens so spelled) and ``better`` (the
            better spelling of its kind on these same examples, which flatters it; ``select``
            takes the one that is better on the calibration examples).
        """
        import pandas as pd

        everything = np.arange(self.data.sizes["example"])
        choices = model_choices(self.data, everything)
        best = [better(choices, everything, calibrated=flag).name for flag in (False, True)]
        rows = []
        for choice in choices:
            value, low, high = accuracy_of(choice, everything, self.data)
            rows.append(
                {
                    "spelling": choice.spelling,
                    "calibrated": choice.calibrated,
                    "accuracy": value,
                    "low": low,
                    "high": high,
                    "n": int((~np.isnan(choice.right)).sum()),
                    "better": choice.name in best,
                }
            )
        columns = ["spelling", "calibrated", "accuracy", "low", "high", "n", "better"]
        return pd.DataFrame(rows, columns=columns)

    def summary(self) -> "pd.DataFrame":
        """Return the best heads over all examples, not held out, next to chance and baselines."""
        import pandas as pd

        share = self.accuracy_map()
        flat = share.values.ravel()
        n_heads = len(flat)
        found = source(self.data)
        note = NOT_HELD_OUT.format(n=n_heads)
        rows = [
            (name, flat[i], note)
            for name, i in ((self._name(int(i)), i) for i in np.argsort(-flat, kind="stable")[:_TOP])
        ]
        ceiling = chance_ceiling(found)
        expected = f"expected of {n_heads}, answers permuted"
        note = "not known: these groups leave nothing to permute" if np.isnan(ceiling) else expected
        rows.append(("best by chance", ceiling, note))
        rows.append(("chance", chance_level(found.exists), "one over the number of candidates"))
        for choice in model_choices(self.data, np.arange(self.data.sizes["example"])):
            known = choice.right[~np.isnan(choice.right)]
            # Every spelling, since the better one of these examples would be flattered.
            value = float(known.mean()) if len(known) else float("nan")
            note = "the model's own logits" if len(known) else "no single token"
            rows.append((choice.name, value, note))
        shortcut = best_shortcut(self.data, np.arange(self.data.sizes["example"]))
        rows.append((f"shortcut: {shortcut.name}", float(shortcut.right.mean()), "best of the audit"))
        return pd.DataFrame(rows, columns=["who", "accuracy", "note"]).set_index("who")

    def _name(self, flat: int) -> str:
        layer, head = divmod(flat, self.data.sizes["head"])
        return head_name(int(self.data["layer"].values[layer]), int(self.data["head"].values[head]))

    def plot(self, kind: str = "accuracy", *, head: tuple[int, int] | None = None) -> "go.Figure":
        """Draw accuracies of all heads, or the scores of one.

        Args:
            kind: ``"accuracy"`` (layer by head, over all examples: not held out) or
                ``"distribution"`` (scores of one head, by answer).
            head: (layer, head) for ``"distribution"``; the most accurate one by default.

        Raises:
            ValueError: An unknown kind, or no such head.
        """
        if kind == "accuracy":
            return self._accuracy_figure()
        if kind == "distribution":
            return self._distribution_figure(head)
        msg = f"head scores have no figure {kind!r}; the kinds are {', '.join(KINDS)}."
        raise ValueError(msg)

    def _accuracy_figure(self) -> "go.Figure":
        from mechprobe.plots import heads as plots

        share = self.accuracy_map()
        found = source(self.data)
        data = share.to_dataset(name="accuracy")
        data["chance"] = chance_level(found.exists)
        data["ceiling"] = chance_ceiling(found)
        shortcut = best_shortcut(self.data, np.arange(len(found.exists)))
        subtitle = (
            f"{self._task()}, all {len(found.exists)} examples, not held out; best shortcut "
            f"({shortcut.name}) {shortcut.right.mean():.2f}"
        )
        return plots.accuracy_map_figure(data, "Accuracy of every head", subtitle)

    def _distribution_figure(self, head: tuple[int, int] | None) -> "go.Figure":
        from mechprobe.plots import heads_distribution as plots

        share = self.accuracy_map()
        if head is None:
            layer, number = divmod(int(share.values.argmax()), share.sizes["head"])
            head = int(share["layer"].values[layer]), int(share["head"].values[number])
        layers, heads = share["layer"].values.tolist(), share["head"].values.tolist()
        if head[0] not in layers or head[1] not in heads:
            msg = (
                f"there is no head {head}; layers are {layers[0]} to {layers[-1]}, heads "
                f"{heads[0]} to {heads[-1]}."
            )
            raise ValueError(msg)
        one = self.data.sel(layer=head[0], head=head[1])
        right = float(share.sel(layer=head[0], head=head[1]))
        shortcut = best_shortcut(self.data, np.arange(self.data.sizes["example"]))
        subtitle = (
            f"{self._task()}; right on {right:.2f} of all examples, not held out; best shortcut "
            f"({shortcut.name}) {shortcut.right.mean():.2f}"
        )
        return plots.distribution_figure(
            one[["score", "answer", "candidate_text"]], head_name(*head), subtitle
        )

    def _task(self) -> str:
        return str(self.provenance.arguments.get("task", "task"))

    def section(self) -> "Section":
        """Return the map and the best head's scores; a note says what is not held out."""
        note = (
            "Accuracies here are over all examples, and the best of many heads looks good by "
            "chance: select() tests a chosen head on examples it was not chosen on."
        )
        figures = [self.plot(kind) for kind in KINDS]
        return replace(super().section(), figures=figures, note=note)

    def to_dataframe(self) -> "pd.DataFrame":
        """Return one row per (example, candidate, layer, head), missing candidates left out."""
        names = ["score", "answer", "group", "candidate_text"]
        frame = self.data[names].to_dataframe()
        return frame[frame["candidate_text"] != ""].reset_index()
