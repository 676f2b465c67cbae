"""How often intervals and bands hold the truth: few groups, differences, means, states, controls."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from statistics import NormalDist

import numpy as np
from jaxtyping import Float, Int

from mechprobe.stats import (
    Interval,
    above_controls,
    accuracy_interval,
    crossed_interval,
    curve,
    difference_interval,
    influence_of_groups,
    mean_interval,
    unit_difference_interval,
    unit_interval,
)
from mechprobe.study.row import Promise, Row

SIZES: dict[str, Sequence[int]] = {
    **{f"{n} single": [1] * n for n in (20, 50, 100, 400)},
    **{f"{k} of 2": [2] * k for k in (5, 10, 40)},
    **{f"{k} of 10": [10] * k for k in (1, 2, 3, 5, 6, 10, 20, 40)},
    "12 of 2 to 13": list(range(2, 14)),
    "20 of 1 to 12": [1, 2, 5, 12] * 5,
    "40 of 1 to 12": [1, 2, 5, 12] * 10,
}
SHARES, ICCS = (0.02, 0.2, 0.5, 0.9), (0.1, 0.5, 1.0)
# Shares of examples that only the first, and only the second, gets right.
CHANGES = ((0.05, 0.0), (0.03, 0.02), (0.05, 0.05), (0.15, 0.05), (0.3, 0.1))
COVERAGE = Promise(0.93, 0.97, 1.0)
RUNS = 2000

Rng = np.random.Generator
Shares = Float[np.ndarray, " group"]


def rows() -> Iterator[Row]:
    """Return all lines of the parts "intervals" and "bands"."""

    def interval(setting: str, one: Callable[[Rng], Mapping[str, float]]) -> Row:
        return Row("intervals", setting, one, {"covered": COVERAGE}, RUNS)

    for name, sizes in SIZES.items():
        group = np.repeat(np.arange(len(sizes)), sizes)
        own = ICCS if max(sizes) > 1 else (0.0,)
        for icc in own:
            for p in SHARES:
                yield interval(f"share, {name}, p {p:g}, ICC {icc:g}", partial(_share, group, p, icc))
        for icc in own:
            for gained, lost in CHANGES:
                what = f"difference, {name}, +{gained:g} -{lost:g}, ICC {icc:g}"
                yield interval(what, partial(_difference, group, gained, lost, icc))
        for icc in own if len(sizes) > 1 else ():
            yield interval(f"mean, {name}, ICC {icc:g}", partial(_mean, group, icc))
    for n_states in (2, 3, 6, 20, 100, 400):
        for n_pairs in (20, 100, 400):
            for p, spread in ((p, s) for s in (0.1, 0.5) for p in (0.02, 0.5, 0.9)):
                what = f"states, {n_pairs} pairs of {n_states}, p {p:g}, spread {spread:g}"
                yield interval(what, partial(_share_of_states, n_states, n_pairs, p, spread))
                what = f"difference over {what}"
                yield interval(what, partial(_difference_of_states, n_states, n_pairs, p, spread))
    for n_values in (2, 8, 32):
        what = f"table of {n_values} values tried on the other half, 100 examples"
        yield interval(what, partial(_halves, n_values))
    for n_controls, between in ((k, b) for k in (5, 19) for b in (0.0, 0.3)):
        what = f"treatment less {n_controls} controls of spread {between:g}, 40 groups of 2"
        yield interval(what, partial(_controls, n_controls, between))
    for name in ("100 single", "40 of 2", "10 of 10"):
        group = np.repeat(np.arange(len(SIZES[name])), SIZES[name])
        for alike in (0.0, 0.9):
            what = f"12 layers, alike {alike:g}, {name}"
            promises = {"all covered": Promise(0.93, 0.97, 1.0)}
            yield Row("bands", what, partial(_layers, group, alike), promises, RUNS // 4)


def _held(interval: Interval, truth: float) -> dict[str, float]:
    # A mean of equal numbers is off by its rounding.
    held = interval.low - 1e-12 <= truth <= interval.high + 1e-12
    return {"covered": float(held), "width": interval.high - interval.low}


def _share(group: Int[np.ndarray, " n"], p: float, icc: float, rng: Rng) -> dict[str, float]:
    """Groups' shares are beta distributed about p."""
    own = _shares(np.full(int(group[-1]) + 1, p), icc, rng)[group]
    return _held(accuracy_interval(rng.random(len(group)) < own, group), p)


def _difference(
    group: Int[np.ndarray, " n"], gained: float, lost: float, icc: float, rng: Rng
) -> dict[str, float]:
    """Groups' shares of gained, lost, both right and both wrong are Dirichlet distributed."""
    kinds = np.array([gained, lost, 0.7 * (1 - gained - lost), 0.3 * (1 - gained - lost)])
    first, second = np.array([1, 0, 1, 0]), np.array([0, 1, 1, 0])
    own = _mixtures(kinds, icc, int(group[-1]) + 1, rng).cumsum(axis=1)[group]
    kind = np.minimum((rng.random((len(group), 1)) > own).sum(axis=1), 3)
    return _held(difference_interval(first[kind], second[kind], group), gained - lost)


def _mean(group: Int[np.ndarray, " n"], icc: float, rng: Rng) -> dict[str, float]:
    own = rng.normal(size=int(group[-1]) + 1)[group]
    return _held(mean_interval(icc**0.5 * own + (1 - icc) ** 0.5 * rng.normal(size=len(group)), group), 0.0)


def _states(
    n_states: int, n_pairs: int, p: float, spread: float, rng: Rng
) -> tuple[Shares, Int[np.ndarray, " n"], Float[np.ndarray, " n"], float]:
    """Draw pairs as the metrics do: a state at random, then a pair that is right as its state is."""
    own = _shares(np.full(n_states, p), spread, rng)
    state = rng.integers(n_states, size=n_pairs)
    right = (rng.random(n_pairs) < own[state]).astype(np.float64)
    return own, state, right, len(np.unique(state)) / n_states


def _share_of_states(n_states: int, n_pairs: int, p: float, spread: float, rng: Rng) -> dict[str, float]:
    own, state, right, sampled = _states(n_states, n_pairs, p, spread, rng)
    return _held(unit_interval(right, state, sampled=sampled), float(own.mean()))


def _difference_of_states(n_states: int, n_pairs: int, p: float, spread: float, rng: Rng) -> dict[str, float]:
    """The second model is right in 0.8 of the pairs of every state."""
    own, state, right, sampled = _states(n_states, n_pairs, p, spread, rng)
    other = (rng.random(n_pairs) < 0.8).astype(np.float64)
    found = unit_difference_interval(right, other, state, sampled=sampled)
    return _held(found, float(own.mean()) - 0.8)


def _halves(n_values: int, rng: Rng) -> dict[str, float]:
    """A table of random answers, learnt on one half, is right half the time on the other."""
    n = 100
    value, answer = rng.integers(0, n_values, n), rng.integers(0, 2, n)
    half, right = rng.permutation(np.arange(n) % 2), np.empty(n)
    for tried in (0, 1):
        learnt = np.bincount(value[half != tried], 2 * answer[half != tried] - 1.0, n_values)
        guess = np.where(learnt == 0, 0.5, learnt > 0)[value[half == tried]]
        right[half == tried] = np.where(guess == 0.5, 0.5, guess == answer[half == tried])
    return _held(crossed_interval(right, np.arange(n), half), 0.5)


def _controls(n_controls: int, between: float, rng: Rng) -> dict[str, float]:
    group = np.repeat(np.arange(40), 2)
    shared = rng.normal(size=40)[group]
    noise = rng.normal(size=(n_controls + 1, 80)) + rng.normal(size=(n_controls + 1, 40))[:, group]
    controls = shared + between * rng.normal(size=(n_controls, 1)) + 0.5 * noise[1:]
    found = above_controls(shared + 0.5 * noise[0], controls, group)
    return _held(Interval(*found[:3]), 0.0)


def _layers(group: Int[np.ndarray, " n"], alike: float, rng: Rng) -> dict[str, float]:
    """Accuracies of 12 layers that agree on questions as they do in a residual stream."""
    n, truth = len(group), np.linspace(0.3, 0.9, 12)
    hard = rng.normal(size=n) + rng.normal(size=int(group[-1]) + 1)[group]
    z = alike**0.5 * hard + (2 * (1 - alike)) ** 0.5 * rng.normal(size=(12, n))
    cut = np.array([NormalDist(0, 2**0.5).inv_cdf(p) for p in truth])
    right = (z < cut[:, None]).astype(np.float64)

    def interval(i: int, level: float) -> Interval:
        return accuracy_interval(right[i], group, level=level)

    found = curve(interval, influence_of_groups(right, group), seed=int(rng.integers(2**31)))
    inside = (found.band_low <= truth) & (truth <= found.band_high)
    pointwise = (found.low <= truth) & (truth <= found.high)
    return {"all covered": float(inside.all()), "all covered by pointwise": float(pointwise.all())}


def _shares(p: Shares, icc: float, rng: Rng) -> Shares:
    if icc == 0:
        return p
    if icc == 1:
        return (rng.random(len(p)) < p).astype(np.float64)
    a = (1 - icc) / icc
    return rng.beta(p * a, (1 - p) * a)


def _mixtures(
    kinds: Float[np.ndarray, " kind"], icc: float, n: int, rng: Rng
) -> Float[np.ndarray, "group kind"]:
    if icc == 0:
        return np.tile(kinds, (n, 1))
    if icc == 1:
        return rng.multinomial(1, kinds, n).astype(np.float64)
    # The least positive number: a kind that is not there draws 0, all of them would give 0 / 0.
    drawn = rng.standard_gamma(kinds * (1 - icc) / icc, (n, len(kinds))) + np.finfo(float).tiny
    return drawn / drawn.sum(axis=1, keepdims=True)
