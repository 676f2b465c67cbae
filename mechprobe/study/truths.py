"""Estimators that must not flatter, and oracles that must err as they were asked to."""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import numpy as np
from jaxtyping import Float

from mechprobe import worlds
from mechprobe.stats import best_by_permutation, select_heads
from mechprobe.stats.decisions import decisions
from mechprobe.study.levels import NULLS, Null
from mechprobe.study.row import Promise, Row

RUNS = 400
# What is left of chance: the means of so many runs are this close to the truth.
_NEAR = Promise(-0.01, 0.01)
_WITHIN_TENTH = Promise(0.9, 1.1)
WORLDS: dict[str, Callable[[], worlds.World]] = {
    "streets": lambda: worlds.StreetMap.grid(4, seed=1, max_length=30),
    "Dyck": lambda: worlds.Dyck(2, 3, end="end", max_length=24),
    "Seating": lambda: worlds.Seating(3),
    "Othello": lambda: worlds.Othello(6),
}

Rng = np.random.Generator


def rows() -> Iterator[Row]:
    """Return all lines of the parts "bias" and "oracles"."""
    for name in ("2 options", "71 % yes", "24 options", "twin theories"):
        null = NULLS[name]
        promise = {"held-out less expected": _NEAR}
        yield Row("bias", f"accuracy of the chosen head, {name}", partial(_held_out, null), promise, RUNS)
        promise = {"ceiling less best": _NEAR}
        yield Row("bias", f"best by chance, {name}", partial(_ceiling, null), promise, RUNS)
    for name, make in WORLDS.items():
        for refused, accepted in ((0.02, 0.0025), (0.2, 0.1)):
            promise = {f"{kind} realised / asked": _WITHIN_TENTH for kind in ("refused", "accepted")}
            what = f"{name}, refused {refused:g}, accepted {accepted:g}"
            yield Row("oracles", what, partial(_rates, make, refused, accepted), promise, 6)


def _held_out(null: Null, rng: Rng) -> dict[str, float]:
    """The head that is best on one half, on the other: right as often as permuted labels make it."""
    drawn, seed = null.draw(rng), int(rng.integers(2**31))
    found = select_heads(**drawn, seed=seed, n_permutations=99, n_bootstrap=1)
    return {"held-out less expected": float(found.right.mean() - found.null_accuracy.mean())}


def _ceiling(null: Null, rng: Rng) -> dict[str, float]:
    drawn = null.draw(rng)
    decided, n_candidates = decisions(drawn["score"]), np.full(len(drawn["answer"]), null.n_candidates)
    best = float((decided == drawn["answer"][:, None]).mean(0).max())
    ceiling = best_by_permutation(
        decided, drawn["answer"], drawn["group"], n_candidates, block=drawn["block"], n_permutations=50
    )
    return {"ceiling less best": ceiling - best}


def _rates(make: Callable[[], worlds.World], refused: float, accepted: float, rng: Rng) -> dict[str, float]:
    """A model that knows the world and errs in single words, against its own matched oracle."""
    world = make()
    model = worlds.callable_model(partial(_planted, world, refused, accepted, rng.uniform(1, 50, 99)), world)
    seed = int(rng.integers(2**31))
    asked: dict[str, Any] = {"seed": seed, "progress": False}
    if world.name.startswith("othello"):
        # Pairs of Othello's boards, drawn from the world, take minutes.
        asked["prefixes"] = world.random_walks(150, rng)
    found = worlds.evaluate_world_model(model, world, 300, 5, 2, **asked)
    data, mean = found.data, found.matched().mean()
    out = {
        f"{kind} realised / asked": float(mean[f"{kind} realised"] / mean[f"{kind} asked"])
        for kind in ("refused", "accepted")
    }
    gaps = [float(data[m].values[0] - data[m].sel(model="noisy_oracle")) for m in data["metric"].values[:3]]
    return {**out, "largest gap to the oracle": float(np.nanmax(np.abs(gaps)))}


def _planted(
    world: worlds.World, refused: float, accepted: float, key: Float[np.ndarray, " key"], ids: np.ndarray
) -> Float[np.ndarray, "row token"]:
    """Return log-probabilities that err by prefix and word, the same whenever they are asked for."""
    legal = world.legal(world.run(world.initial(len(ids)), ids))
    mixed = (ids + 1) @ key[: ids.shape[1], None] + np.arange(1, legal.shape[1] + 1) * key[-1]
    u = np.abs(np.sin(mixed) * 43758.5453) % 1
    weight = (legal ^ (u < np.where(legal, refused, accepted))).astype(float)
    weight /= np.maximum(weight.sum(axis=1, keepdims=True), 1)
    with np.errstate(divide="ignore"):
        return np.log(weight)
