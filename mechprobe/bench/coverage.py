"""How often intervals of few groups, differences and states hold the truth: simulated, seeded.

``python -m mechprobe.bench.coverage`` prints the tables of the guide page on statistics.
"""

import sys
from collections.abc import Callable, Sequence

import numpy as np
from jaxtyping import Float

from mechprobe.stats import (
    Interval,
    accuracy_interval,
    difference_interval,
    mean_interval,
    unit_difference_interval,
    unit_interval,
)

SIZES: dict[str, Sequence[int]] = {
    **{f"{n} single": [1] * n for n in (20, 50, 100, 400)},
    **{f"{k} of 2": [2] * k for k in (5, 10, 40)},
    **{f"{k} of 10": [10] * k for k in (1, 2, 3, 5, 6, 10, 20, 40)},
    "12 of 2 to 13": list(range(2, 14)),
    "20 of 1 to 12": [1, 2, 5, 12] * 5,
    "40 of 1 to 12": [1, 2, 5, 12] * 10,
}
RUNS = 2000


def share_coverage(sizes: Sequence[int], p: float, icc: float, *, runs: int = RUNS, seed: int = 0) -> float:
    """Return how often ``accuracy_interval`` holds p, where groups' shares are beta distributed.

    Args:
        sizes: Examples of each group.
        p: The true share, in (0, 1).
        icc: Correlation of two examples of a group, in [0, 1].
        runs: Simulated data sets.
        seed: Of them.

    Returns:
        Share of the intervals that hold p.
    """
    rng, group = np.random.default_rng(seed), np.repeat(np.arange(len(sizes)), sizes)

    def once() -> tuple[Interval, float]:
        own = _shares(np.full(len(sizes), p), icc, rng)[group]
        return accuracy_interval(rng.random(len(group)) < own, group), p

    return _held(once, runs)


def difference_coverage(
    sizes: Sequence[int], gained: float, lost: float, icc: float, *, runs: int = RUNS, seed: int = 0
) -> float:
    """Return how often ``difference_interval`` holds ``gained - lost``.

    Args:
        sizes: Examples of each group.
        gained: Share of examples that only the first gets right.
        lost: That only the second does.
        icc: How alike examples of a group are, in [0, 1]: groups are Dirichlet distributed.
        runs: Simulated data sets.
        seed: Of them.

    Returns:
        Share of the intervals that hold the difference.
    """
    rng, group = np.random.default_rng(seed), np.repeat(np.arange(len(sizes)), sizes)
    kinds = np.array([gained, lost, 0.7 * (1 - gained - lost), 0.3 * (1 - gained - lost)])
    first, second = np.array([1, 0, 1, 0]), np.array([0, 1, 1, 0])

    def once() -> tuple[Interval, float]:
        own = _mixtures(kinds, icc, len(sizes), rng).cumsum(axis=1)[group]
        kind = np.minimum((rng.random((len(group), 1)) > own).sum(axis=1), 3)
        return difference_interval(first[kind], second[kind], group), gained - lost

    return _held(once, runs)


def mean_coverage(sizes: Sequence[int], icc: float, *, runs: int = RUNS, seed: int = 0) -> float:
    """Return how often ``mean_interval`` holds the mean of normal numbers in groups."""
    rng, group = np.random.default_rng(seed), np.repeat(np.arange(len(sizes)), sizes)

    def once() -> tuple[Interval, float]:
        own = rng.normal(size=len(sizes))[group]
        return mean_interval(icc**0.5 * own + (1 - icc) ** 0.5 * rng.normal(size=len(group)), group), 0.0

    return _held(once, runs)


def state_coverage(
    n_states: int, n_pairs: int, p: float, spread: float, *, runs: int = RUNS, seed: int = 0
) -> tuple[float, float]:
    """Return how often intervals over states hold the mean over all states of a world.

    Pairs are drawn as the metrics draw them: a state at random, then a pair of it, right with the
    probability of the state. The states' probabilities are drawn once for each run.

    Args:
        n_states: That there are.
        n_pairs: That are drawn.
        p: About the mean of the states' probabilities.
        spread: How far states differ: their variance over the largest possible, in [0, 1].
        runs: Simulated worlds.
        seed: Of them.

    Returns:
        Share of the ``unit_interval`` that hold the mean, and of the ``unit_difference_interval``
        that hold the difference to a second model, right in 0.8 of the pairs of every state.
    """
    rng = np.random.default_rng(seed)
    found = np.zeros(2)
    for _ in range(runs):
        own = _shares(np.full(n_states, p), spread, rng)
        state = rng.integers(n_states, size=n_pairs)
        right = (rng.random(n_pairs) < own[state]).astype(np.float64)
        other = (rng.random(n_pairs) < 0.8).astype(np.float64)
        sampled = len(np.unique(state)) / n_states
        for i, (interval, truth) in enumerate(
            (
                (unit_interval(right, state, sampled=sampled), own.mean()),
                (unit_difference_interval(right, other, state, sampled=sampled), own.mean() - 0.8),
            )
        ):
            found[i] += _holds(interval, float(truth))
    return float(found[0] / runs), float(found[1] / runs)


def _held(once: Callable[[], tuple[Interval, float]], runs: int) -> float:
    return sum(_holds(*once()) for _ in range(runs)) / runs


def _holds(interval: Interval, truth: float) -> bool:
    # A mean of equal numbers is off by its rounding.
    return interval.low - 1e-12 <= truth <= interval.high + 1e-12


def _shares(
    p: Float[np.ndarray, " group"], icc: float, rng: np.random.Generator
) -> Float[np.ndarray, " group"]:
    if icc == 0:
        return p
    if icc == 1:
        return (rng.random(len(p)) < p).astype(np.float64)
    a = (1 - icc) / icc
    return rng.beta(p * a, (1 - p) * a)


def _mixtures(
    kinds: Float[np.ndarray, " kind"], icc: float, n: int, rng: np.random.Generator
) -> Float[np.ndarray, "group kind"]:
    if icc == 0:
        return np.tile(kinds, (n, 1))
    if icc == 1:
        return rng.multinomial(1, kinds, n).astype(np.float64)
    # The least positive number: a kind that is not there draws 0, all of them would give 0 / 0.
    drawn = rng.standard_gamma(kinds * (1 - icc) / icc, (n, len(kinds))) + np.finfo(float).tiny
    return drawn / drawn.sum(axis=1, keepdims=True)


def tables(runs: int = RUNS) -> str:
    """Return all coverages as Markdown tables.

    Args:
        runs: Simulated data sets of each cell.
    """
    shares, iccs = (0.02, 0.2, 0.5, 0.9), (0.1, 0.5, 1.0)
    changes = ((0.05, 0.0), (0.03, 0.02), (0.05, 0.05), (0.15, 0.05), (0.3, 0.1))
    out = [_head("share: groups", [f"p {p:g}, ICC {i:g}" for i in iccs for p in shares])]
    for name, sizes in SIZES.items():
        own = iccs if max(sizes) > 1 else iccs[:1]
        out.append(_row(name, [share_coverage(sizes, p, i, runs=runs) for i in own for p in shares]))
    out.append(_head("difference: groups", [f"+{a:g} -{b:g}, ICC {i:g}" for i in iccs for a, b in changes]))
    for name, sizes in SIZES.items():
        own = iccs if max(sizes) > 1 else iccs[2:]
        cells = [difference_coverage(sizes, a, b, i, runs=runs) for i in own for a, b in changes]
        out.append(_row(name, cells))
    out.append(_head("mean: groups", [f"ICC {i:g}" for i in (0.0, *iccs)]))
    for name, sizes in SIZES.items():
        if len(sizes) > 1:
            out.append(_row(name, [mean_coverage(sizes, i, runs=runs) for i in (0.0, *iccs)]))
    cases = [(p, s) for s in (0.1, 0.5) for p in (0.02, 0.5, 0.9)]
    names = [f"p {p:g}, spread {s:g}{what}" for p, s in cases for what in ("", ", difference")]
    out.append(_head("states, pairs", names))
    for states in (2, 3, 6, 20, 100, 400):
        for pairs in (20, 100, 400):
            found = [x for p, s in cases for x in state_coverage(states, pairs, p, s, runs=runs)]
            out.append(_row(f"{states}, {pairs}", found))
    return "\n".join(out)


def _head(what: str, columns: Sequence[str]) -> str:
    return f"\n| {what} | {' | '.join(columns)} |\n|{' --- |' * (len(columns) + 1)}"


def _row(name: str, cells: Sequence[float]) -> str:
    return f"| {name} | {' | '.join(f'{x:.3f}' for x in cells)} |"


if __name__ == "__main__":
    sys.stdout.write(tables() + "\n")
