"""One line of the study: something whose truth is known, simulated many times, and what is promised."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from math import inf, isnan, nan, sqrt
from typing import Literal, NamedTuple, get_args

import numpy as np

from mechprobe.stats import share_interval

Part = Literal["intervals", "bands", "p-values", "discoveries", "bias", "oracles"]
PARTS: tuple[Part, ...] = get_args(Part)
# A verdict is wrong once in a hundred lines that keep their promise exactly.
_MONTE_CARLO = 0.98


class Promise(NamedTuple):
    """What the mean of an outcome must be.

    Attributes:
        low: At least.
        high: At most.
        ceiling: Above ``high`` and up to this it is conservative, which is said and no failure.
    """

    low: float = -inf
    high: float = inf
    ceiling: float = -inf


class Outcome(NamedTuple):
    """What an outcome came to.

    Attributes:
        mean: Over runs that know it.
        low: The mean that is meant is hardly lower.
        high: Nor higher.
        runs: That know it.
    """

    mean: float
    low: float
    high: float
    runs: int

    def verdict(self, promise: Promise) -> str:
        """Return ``"holds"``, ``"conservative"``, ``"FAILS"``, or ``"-"`` where nothing is promised."""
        if promise == Promise() or isnan(self.mean):
            return "-"
        if self.low > max(promise.high, promise.ceiling) or self.high < promise.low:
            return "FAILS"
        return "conservative" if self.low > promise.high else "holds"


@dataclass(frozen=True, slots=True)
class Row:
    """One line.

    Attributes:
        part: Part of the study.
        setting: What is simulated.
        simulate: Returns outcomes of one run: 0 or 1, or numbers; NaN where there is none.
        promises: By outcome; others are shown only.
        runs: How often by default.
    """

    part: Part
    setting: str
    simulate: Callable[[np.random.Generator], Mapping[str, float]]
    promises: Mapping[str, Promise]
    runs: int

    def run(self, runs: int, seed: int) -> dict[str, Outcome]:
        """Return what outcomes come to; every run has a seed of its own."""
        found: dict[str, list[float]] = {}
        for child in np.random.SeedSequence(seed).spawn(runs):
            for name, value in self.simulate(np.random.default_rng(child)).items():
                found.setdefault(name, []).append(float(value))
        return {name: summed(values) for name, values in found.items()}

    def judged(self, outcomes: Mapping[str, Outcome]) -> Iterator[tuple[str, Outcome, str]]:
        """Return outcomes with their verdicts."""
        for name, outcome in outcomes.items():
            yield name, outcome, outcome.verdict(self.promises.get(name, Promise()))


def summed(values: list[float]) -> Outcome:
    """Return the mean of what runs found, and how sure it is.

    >>> summed([1.0, 1.0, 0.0, float("nan")])[0::3]
    (0.6666666666666666, 3)
    """
    known = np.array([v for v in values if not isnan(v)])
    n = len(known)
    if n == 0:
        return Outcome(nan, nan, nan, 0)
    mean = float(known.mean())
    if np.isin(known, (0, 1)).all():
        return Outcome(*share_interval(int(known.sum()), n, level=_MONTE_CARLO), n)
    # 0.98 of a normal mean; of fewer than two runs nothing is known.
    half = 2.33 * float(known.std(ddof=1)) / sqrt(n) if n > 1 else inf
    return Outcome(mean, mean - half, mean + half, n)
