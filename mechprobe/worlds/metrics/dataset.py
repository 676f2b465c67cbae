"""Scores of all models as one labelled dataset, with intervals over states."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import xarray as xr

from mechprobe.stats import (
    Curve,
    Interval,
    accuracy_interval,
    curve,
    influence_of_units,
    unit_difference_interval,
    unit_interval,
)
from mechprobe.worlds.automata.arrays import Ids
from mechprobe.worlds.automata.base import World
from mechprobe.worlds.metrics.next_word import Validity
from mechprobe.worlds.metrics.pairs import Pairs
from mechprobe.worlds.metrics.request import Request
from mechprobe.worlds.metrics.scores import TESTS, Gathered, Scores, Test

NEXT_TOKEN = "next_token_validity"
METRICS = (*TESTS, NEXT_TOKEN)
ENDS = ("", "_low", "_high")
# Where compression is given for fewer suffixes than were drawn.
CURVE = (1, 2, 5, 10, 20, 30, 50, 100, 200, 500)


@dataclass(frozen=True, slots=True)
class Outcome:
    """What one model scored.

    Attributes:
        name: Its name.
        validity: The next-token test.
        scores: For each test, the scores of all pairs.
    """

    name: str
    validity: Validity
    scores: dict[Test, Gathered]


def over_positions(values: Scores, other: Scores | None, clusters: Ids, sampled: float, seed: int) -> Curve:
    """Return means over states at many layers or places, each with its interval, and a band.

    Args:
        values: Score of every pair at every position, ``[position, pair]``; NaN: dropped.
        other: What is taken away from them, on the pairs that both kept; None for nothing.
        clusters: State that each pair belongs to.
        sampled: Share of all states that are in the sample.
        seed: Of the band.
    """

    def interval(i: int, level: float) -> Interval:
        if other is None:
            return unit_interval(values[i], clusters, sampled=sampled, level=level)
        return unit_difference_interval(values[i], other[i], clusters, sampled=sampled, level=level)

    moved = values if other is None else values - other
    return curve(interval, influence_of_units(moved, clusters, sampled), seed=seed)


def world_dataset(
    world: World, request: Request, same: Pairs, different: Pairs, outcomes: Mapping[str, Outcome]
) -> xr.Dataset:
    """Return the data of a ``WorldModelResult``.

    Args:
        world: What was tested for.
        request: Settings.
        same: Pairs of one state.
        different: Pairs of two.
        outcomes: Of each model.
    """
    pairs = {test: same if test == TESTS[0] else different for test in TESTS}
    clusters = {test: p.clusters(request.published) for test, p in pairs.items()}
    sampled = {test: p.sampled(request.published) for test, p in pairs.items()}
    data = xr.Dataset(coords={"model": list(outcomes), "metric": list(METRICS)})
    for test in TESTS:
        each = (o.scores[test].values for o in outcomes.values())
        found = [unit_interval(scores, clusters[test], sampled=sampled[test]) for scores in each]
        data = data.assign(_intervals(test, found))
    valid = [accuracy_interval(o.validity.right, o.validity.sequence) for o in outcomes.values()]
    data = data.assign(_intervals(NEXT_TOKEN, valid))
    data["model_name"] = ("model", np.array([o.name for o in outcomes.values()], dtype=object))
    data = data.assign(_counts(pairs, outcomes)).assign(_each(pairs, clusters, outcomes))
    data = data.assign(_errors(outcomes))
    if request.mode != "exact":
        errors = [o.scores[TESTS[0]].suffix_error for o in outcomes.values()]
        states = clusters[TESTS[0]], sampled[TESTS[0]]
        found = [unit_interval(e, states[0], sampled=states[1]) for e in errors]
        data = data.assign(_intervals("suffix_error", found))
        data = data.assign(_over_suffixes(request.suffixes, errors, *states))
    data["states_sampled"] = ("test", np.array(list(sampled.values())))
    facts: dict[str, str | int] = {
        "world": world.name,
        "mode": request.mode,
        "acceptance": request.acceptance.label,
        "suffixes": request.suffixes,
        "k": request.k,
        "max_tokens": request.max_tokens,
    }
    texts = {k: np.array(v, dtype=object) if isinstance(v, str) else v for k, v in facts.items()}
    return data.assign({name: ((), value) for name, value in texts.items()})


def add_sensitivity(
    data: xr.Dataset, curves: Mapping[tuple[str, float], Mapping[str, Interval]]
) -> xr.Dataset:
    """Return the data with curves of the given model's metrics over epsilon, M and k.

    Args:
        data: Data of a ``WorldModelResult``.
        curves: For each (knob, value), the means of the tests that it moves.
    """
    grids = np.full((len(ENDS), len(curves), len(METRICS)), np.nan)
    for row, tests in enumerate(curves.values()):
        for column, metric in enumerate(METRICS):
            if metric in tests:
                grids[:, row, column] = tests[metric]
    dims = ("setting", "metric")
    found = {f"sensitivity{e}": (dims, grid) for e, grid in zip(ENDS, grids, strict=True)}
    knobs = np.array([knob for knob, _ in curves], dtype=object)
    values = np.array([value for _, value in curves])
    return data.assign(found).assign(knob=("setting", knobs), at=("setting", values))


def _errors(outcomes: Mapping[str, Outcome]) -> dict[str, tuple[tuple[str, str], np.ndarray]]:
    """Return how often legal words are refused and illegal ones accepted, in each test."""
    rates = np.array(
        [
            [judged.rates for judged in (*(o.scores[t].judged for t in TESTS), o.validity.judged)]
            for o in outcomes.values()
        ]
    )
    dims = ("model", "metric")
    return {"refused_legal": (dims, rates[:, :, 0]), "accepted_illegal": (dims, rates[:, :, 1])}


def _over_suffixes(
    n_samples: int, errors: Sequence[Scores], cluster: Ids, sampled: float
) -> dict[str, tuple[tuple[str, ...], np.ndarray]]:
    """Return compression at every M up to that of the samples, with intervals."""
    at = np.array(sorted({*(m for m in CURVE if m < n_samples), n_samples}))

    def interval(errors: Scores, m: int) -> Interval:
        return unit_interval(none_refused(errors, n_samples, m), cluster, sampled=sampled)

    bounds = np.array([[interval(e, m) for m in at.tolist()] for e in errors])
    found = {f"compression_curve{end}": (("model", "m"), bounds[:, :, i]) for i, end in enumerate(ENDS)}
    return {**found, "m": (("m",), at)}


def none_refused(suffix_error: Scores, n_samples: int, m: int) -> Scores:
    r"""Return the chance that none of m of a pair's samples is refused, exactly.

    .. math:: \binom{M - x}{m} \Big/ \binom{M}{m}

    Args:
        suffix_error: Share x / M of the samples that are refused.
        n_samples: M.
        m: Between 1 and M.
    """
    left = np.round((1 - suffix_error) * n_samples)
    return np.prod([np.maximum(left - i, 0) / (n_samples - i) for i in range(m)], axis=0)


def _intervals(name: str, found: list[Interval]) -> dict[str, tuple[str, list[float]]]:
    columns = zip(ENDS, zip(*found, strict=True), strict=True)
    return {f"{name}{end}": ("model", list(column)) for end, column in columns}


def _counts(pairs: Mapping[Test, Pairs], outcomes: Mapping[str, Outcome]) -> dict[str, xr.DataArray]:
    """Return what was drawn, drawn again, kept and dropped."""
    models = list(outcomes)
    positions = [len(o.validity.right) for o in outcomes.values()]
    found = {
        (model, test): Counter(pairs[test].dropped)
        + Counter(reason for reason in outcome.scores[test].reasons if reason)
        for model, outcome in outcomes.items()
        for test in TESTS
    }
    reasons = sorted(set().union(*found.values())) or ["nothing"]
    dropped = np.zeros((len(models), len(METRICS), len(reasons)), dtype=np.int64)
    for (model, test), counts in found.items():
        row = dropped[models.index(model), METRICS.index(test)]
        for reason, count in counts.items():
            row[reasons.index(reason)] = count
    drawn = np.array([*[pairs[test].n_drawn for test in TESTS], positions[0]])
    kept = drawn - dropped.sum(axis=2)
    kept[:, -1] = positions
    coords = {"model": models, "metric": list(METRICS), "reason": reasons}
    redrawn = [*[pairs[test].redrawn for test in TESTS], 0]
    parts = {
        "n_drawn": (("metric",), drawn),
        "n_redrawn": (("metric",), np.array(redrawn)),
        "n_kept": (("model", "metric"), kept),
        "dropped": (("model", "metric", "reason"), dropped),
    }
    return {
        name: xr.DataArray(values, dims=dims, coords={d: coords[d] for d in dims})
        for name, (dims, values) in parts.items()
    }


def _each(
    pairs: Mapping[Test, Pairs], clusters: Mapping[Test, Ids], outcomes: Mapping[str, Outcome]
) -> dict[str, tuple[tuple[str, ...], np.ndarray]]:
    """Return scores and errors of every pair, and the state that it belongs to; -1 and NaN fill up."""
    most = max(len(p) for p in pairs.values())
    score = np.full((len(outcomes), len(TESTS), most), np.nan)
    errors = np.full((len(outcomes), most), np.nan)
    errors[:, : len(pairs[TESTS[0]])] = [o.scores[TESTS[0]].suffix_error for o in outcomes.values()]
    state = np.full((len(TESTS), most), -1, dtype=np.int64)
    for column, test in enumerate(TESTS):
        n = len(pairs[test])
        state[column, :n] = clusters[test]
        for row, outcome in enumerate(outcomes.values()):
            score[row, column, :n] = outcome.scores[test].values
    return {
        "score": (("model", "test", "pair"), score),
        "pair_suffix_error": (("model", "pair"), errors),
        "state": (("test", "pair"), state),
        "test": (("test",), np.array(TESTS, dtype=object)),
    }
