"""Strings that changed sides as one labelled dataset, with intervals over states."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import xarray as xr

from mechprobe.stats import Interval, difference_interval
from mechprobe.worlds.automata.arrays import Ids, Mask
from mechprobe.worlds.automata.base import World
from mechprobe.worlds.inside.trials import CONDITIONS, TOO_LONG, Trials
from mechprobe.worlds.metrics.dataset import ENDS, over_states
from mechprobe.worlds.metrics.request import Request

WRONG = "the model is not right about it after both prefixes"
NONE_RIGHT = "the model is not right about any string after both prefixes"

Grid = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Flips:
    """Which strings changed sides, filled in place.

    Attributes:
        right: Strings that can: the unpatched model is right about them after both prefixes.
        flipped: Their verdict is the donor's, ``[condition, cell, string]``.
    """

    right: Mask
    flipped: Mask

    @classmethod
    def empty(cls, n_strings: int, n_cells: int) -> "Flips":
        """Return room for all strings."""
        right = np.zeros(n_strings, dtype=np.bool_)
        return cls(right, np.zeros((len(CONDITIONS), n_cells, n_strings), dtype=np.bool_))


def patching_dataset(
    world: World,
    request: Request,
    trials: Trials,
    flips: Flips,
    layers: Sequence[int],
    positions: Sequence[int],
    extent: str,
) -> xr.Dataset:
    """Return the data of a ``StatePatching``.

    Raises:
        ValueError: The model is right about no string of any pair.
    """
    shape = (len(layers), len(positions))
    data = xr.Dataset(
        coords={
            "condition": list(CONDITIONS),
            "layer": np.array(layers, dtype=np.int64),
            "position": np.array(positions, dtype=np.int64),
        }
    )
    kept = _require_right(trials, flips)
    score = np.stack([_scores(trials, flips, c, flips.right)[:, kept] for c in range(3)])
    state = trials.pairs.clusters(False)[kept]
    sides = {"gained": trials.strings.of_donor, "lost": ~trials.strings.of_donor}
    means = dict(zip(CONDITIONS, score, strict=True)) | {
        name: _scores(trials, flips, 0, flips.right & side)[:, kept] for name, side in sides.items()
    }
    for name, values in means.items():
        data = data.assign(_intervals(name, [over_states(v, state) for v in values], shape))
    above = [_difference(a, b, state) for a, b in zip(score[0], score[2], strict=True)]
    data = data.assign(_intervals("above_random", above, shape))
    dims = ("condition", "layer", "position", "pair")
    data = data.assign(score=(dims, score.reshape(3, *shape, -1)), state=("pair", state))
    data["n_pairs"] = ("condition", (~np.isnan(score[:, 0])).sum(axis=1))
    facts: dict[str, str | int] = {
        "world": world.name,
        "extent": extent,
        "acceptance": request.acceptance.label,
        "k": request.k,
        "max_tokens": request.max_tokens,
    }
    texts = {k: np.array(v, dtype=object) if isinstance(v, str) else v for k, v in facts.items()}
    data = data.assign({name: ((), value) for name, value in texts.items()})
    return data.assign(_counts(trials, flips, kept))


def _scores(trials: Trials, flips: Flips, condition: int, strings: Mask) -> Grid:
    """Return the share of each pair's strings that changed sides, ``[cell, pair]``."""
    n, pair = len(trials.pairs), trials.strings.strings.pair[strings]
    flipped = flips.flipped[condition][:, strings]
    hits = np.stack([np.bincount(pair, row, minlength=n) for row in flipped])
    count = np.bincount(pair, minlength=n)
    out = np.where(count > 0, hits / np.maximum(count, 1), np.nan)
    return np.where(trials.has[condition], out, np.nan)


def _require_right(trials: Trials, flips: Flips) -> Ids:
    kept = np.unique(trials.strings.strings.pair[flips.right])
    if not len(kept):
        msg = (
            f"nothing can be swapped: of the {len(flips.right)} strings that tell the states of "
            f"{len(trials.pairs)} pairs apart, the unpatched model is right about none after both "
            "prefixes. Take a model that knows more of the world, or another acceptance."
        )
        raise ValueError(msg)
    return kept


def _intervals(
    name: str, found: Sequence[Interval], shape: tuple[int, int]
) -> dict[str, tuple[tuple[str, str], Grid]]:
    grids = np.array(found, dtype=np.float64).T.reshape(len(ENDS), *shape)
    return {f"{name}{e}": (("layer", "position"), g) for e, g in zip(ENDS, grids, strict=True)}


def _difference(one: Grid, other: Grid, state: Ids) -> Interval:
    """Return the mean over states of the difference, on the pairs that have both."""
    known = ~np.isnan(one) & ~np.isnan(other)
    if not known.any():
        return Interval(*[float("nan")] * 3)
    at = np.unique(state[known], return_inverse=True)[1].reshape(-1)
    means = [np.bincount(at, x[known]) / np.bincount(at) for x in (one, other)]
    return difference_interval(means[0], means[1], np.arange(len(means[0])))


def _counts(trials: Trials, flips: Flips, kept: Ids) -> dict[str, xr.DataArray]:
    lost = len(trials.pairs) - len(kept)
    pairs = trials.pairs.dropped | ({NONE_RIGHT: lost} if lost else {})
    followed = int(flips.right.sum())
    strings = {TOO_LONG: trials.too_long, WRONG: len(flips.right) - followed}
    found = {
        "n_drawn": xr.DataArray(trials.pairs.n_drawn),
        "n_kept": xr.DataArray(len(kept)),
        "n_strings": xr.DataArray(trials.n_strings),
        "n_followed": xr.DataArray(followed),
    }
    for name, dim, counts in (
        ("dropped", "reason", pairs or {"nothing": 0}),
        ("strings_dropped", "string_reason", strings),
    ):
        reasons = np.array(list(counts), dtype=object)
        found[name] = xr.DataArray(list(counts.values()), dims=dim, coords={dim: reasons})
    return found
