"""Strings that changed sides as one labelled dataset, with intervals over states."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import xarray as xr

from mechprobe.stats import BAND_ENDS, unit_interval
from mechprobe.worlds.automata.arrays import Ids, Mask
from mechprobe.worlds.automata.base import World
from mechprobe.worlds.inside.trials import CONDITIONS, TOO_LONG, Trials
from mechprobe.worlds.metrics.dataset import ENDS, over_positions
from mechprobe.worlds.metrics.request import Request
from mechprobe.worlds.metrics.scores import Scores

WRONG = "the model is not right about it after both prefixes"
ONE_SIDED = "of one of its two states the model is right about no string after both prefixes"

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
        ValueError: Of no pair is the model right about strings of both states.
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
    state = trials.pairs.clusters(False)[kept]
    sampled = trials.pairs.sampled(False)
    gained, lost = ([side[:, kept] for side in sides] for sides in _sides(trials, flips))
    swap, other = (np.minimum(gained[c], lost[c]) for c in (0, 2))
    score = np.stack([swap, _scores(trials, flips.flipped[1], flips.right, 1)[:, kept], other])
    for name, values, less in (
        *((name, values, None) for name, values in zip(CONDITIONS, score, strict=True)),
        ("gained", gained[0], None),
        ("lost", lost[0], None),
        ("above_random", swap, other),
    ):
        found = over_positions(values, less, state, sampled, request.seed)
        bounds = {f"{name}{e}": v.reshape(shape) for e, v in zip(BAND_ENDS, found, strict=True)}
        data = data.assign({key: (("layer", "position"), v) for key, v in bounds.items()})
    most = unit_interval(1 - _third_state(world, trials, flips)[kept], state, sampled=sampled)
    data = data.assign({f"above_random_max{end}": ((), v) for end, v in zip(ENDS, most, strict=True)})
    dims = ("condition", "layer", "position", "pair")
    data = data.assign(score=(dims, score.reshape(3, *shape, -1)), state=("pair", state))
    data["states_sampled"] = sampled
    data["n_pairs"] = ("condition", (~np.isnan(score[:, 0])).sum(axis=1))
    data = data.assign(_facts(world, request, extent))
    return data.assign(_counts(trials, flips, kept))


def _facts(world: World, request: Request, extent: str) -> dict[str, tuple[tuple[()], object]]:
    facts: dict[str, str | int] = {
        "world": world.name,
        "extent": extent,
        "acceptance": request.acceptance.label,
        "k": request.k,
        "max_tokens": request.max_tokens,
    }
    return {k: ((), np.array(v, dtype=object) if isinstance(v, str) else v) for k, v in facts.items()}


def _sides(trials: Trials, flips: Flips) -> tuple[list[Grid], list[Grid]]:
    """Return what is gained and what is lost by each kind of donor, ``[cell, pair]``."""
    of_donor = trials.strings.of_donor
    gained, lost = (
        [_scores(trials, flips.flipped[c], flips.right & side, c) for c in range(len(CONDITIONS))]
        for side in (of_donor, ~of_donor)
    )
    return gained, lost


def _third_state(world: World, trials: Trials, flips: Flips) -> Scores:
    """Return what a perfect swap of the third state would score, ``[pair]``."""
    prefixes, strings = trials.donors[CONDITIONS[2]], trials.strings
    states = world.run(world.initial(len(prefixes)), prefixes)
    allowed = world.accepts(states[strings.strings.pair], strings.strings.strings)
    agrees = (allowed == strings.of_donor)[None]
    sides = (strings.of_donor, ~strings.of_donor)
    gained, lost = (_scores(trials, agrees, flips.right & side, 2)[0] for side in sides)
    return np.minimum(gained, lost)


def _scores(trials: Trials, flipped: Mask, strings: Mask, condition: int) -> Grid:
    """Return the share of some strings of each pair that changed sides, ``[cell, pair]``."""
    n, pair = len(trials.pairs), trials.strings.strings.pair[strings]
    hits = np.stack([np.bincount(pair, row, minlength=n) for row in flipped[:, strings]])
    count = np.bincount(pair, minlength=n)
    out = np.where(count > 0, hits / np.maximum(count, 1), np.nan)
    return np.where(trials.has[condition], out, np.nan)


def _require_right(trials: Trials, flips: Flips) -> Ids:
    """Return the pairs of which strings of either state can change sides."""
    pair, of_donor = trials.strings.strings.pair, trials.strings.of_donor
    kept = np.intersect1d(pair[flips.right & of_donor], pair[flips.right & ~of_donor])
    if not len(kept):
        msg = (
            f"nothing can be swapped: of the {len(flips.right)} strings that tell the states of "
            f"{len(trials.pairs)} pairs apart, the unpatched model is right about "
            f"{int(flips.right.sum()) or 'none'} after both prefixes, and of no pair about strings "
            "of either state. Take a model that knows more of the world, or another acceptance."
        )
        raise ValueError(msg)
    return kept


def _counts(trials: Trials, flips: Flips, kept: Ids) -> dict[str, xr.DataArray]:
    lost = len(trials.pairs) - len(kept)
    pairs = trials.pairs.dropped | ({ONE_SIDED: lost} if lost else {})
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
