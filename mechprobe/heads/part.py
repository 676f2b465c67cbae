"""One task of a comparison: split, and with heads chosen on its calibration part."""

from dataclasses import dataclass

import numpy as np
import xarray as xr
from jaxtyping import Bool, Int

from mechprobe.heads.source import Source, checked, head_name, source
from mechprobe.stats import Calibration, Method, choose_heads, predict, readings, split_groups
from mechprobe.stats.choice import Chosen
from mechprobe.stats.decisions import Readings


@dataclass(frozen=True, slots=True)
class Part:
    """One task, split, with the heads that its calibration part chooses.

    Attributes:
        data: Data of its ``HeadScores``.
        source: The same as arrays.
        heads: Decisions and the split.
        chosen: The heads.
        names: What tables call them.
    """

    data: xr.Dataset
    source: Source
    heads: Readings
    chosen: Chosen
    names: str

    @classmethod
    def of(
        cls,
        data: xr.Dataset,
        score: object,
        calibration: Calibration,
        method: Method,
        k: int,
        flip: bool,
        centre: bool,
        seed: int,
    ) -> "Part":
        """Split a task and choose heads on its calibration part; ``score`` names the score."""
        found = checked(source(data))
        split = split_groups(found.group, calibration, seed=seed)
        heads = readings(found.score, found.group, split, centre=centre)
        chosen = choose_heads(
            heads, found.answer, method=method, k=k, flip=flip, is_attention=score == "attention"
        )
        return cls(data, found, heads, chosen, _names(data, chosen))

    def decided(self, chosen: Chosen, method: Method) -> Int[np.ndarray, " test"]:
        """Return what the heads of ``chosen`` decide on the held-out examples."""
        return predict(self.heads, self.heads.split.test, chosen, method)[0]

    def all_right(self, part: Int[np.ndarray, " chosen"]) -> Bool[np.ndarray, "chosen head"]:
        """Return on which of some examples each head is right."""
        return self.heads.upright[part] == self.source.answer[part, None]


def _names(data: xr.Dataset, chosen: Chosen) -> str:
    layers, heads = data["layer"].values.tolist(), data["head"].values.tolist()
    places = [divmod(h, len(heads)) for h in chosen.head[0].tolist()]
    turned = chosen.inverted[0].tolist()
    return " + ".join(
        head_name(layers[i], heads[j]) + (" inverted" if flag else "")
        for (i, j), flag in zip(places, turned, strict=True)
    )
