"""What p-values and lists of heads promise: level, mid-p, false discoveries, power."""

import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from itertools import product
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from mechprobe.stats import (
    METHODS,
    above_controls,
    discoveries,
    fixed_rule_p,
    head_p_values,
    permutation_scheme,
    select_heads,
)
from mechprobe.stats.decisions import decisions
from mechprobe.stats.permutation import exchange
from mechprobe.study.row import Promise, Row

# mid-p is close to nominal, on both sides of it; where few labellings differ it may stay below.
LEVELS = {
    "p <= 0.05": Promise(high=0.05),
    "p <= 0.01": Promise(high=0.01),
    "mid-p <= 0.05": Promise(high=0.06),
}
RUNS = 400
N = 100

Rng = np.random.Generator


@dataclass(frozen=True, slots=True)
class Null:
    """Heads that know nothing of the answers.

    Attributes:
        n_candidates: Of each question.
        n_heads: Heads.
        n: Questions, where ``groups`` does not say.
        majority: Share of the questions whose answer is the first candidate; 0 for balanced.
        groups: "" for single questions, "passages" of 2 to 13 with one answer each, "pairs" of
            opposite answers, "twins": pairs of theories, two questions each.
        alike: Heads resemble each other.
        coarse: Scores are rounded, which makes ties.
        taste: How far heads prefer candidates, whatever is asked.
    """

    n_candidates: int = 2
    n_heads: int = 24
    n: int = N
    majority: float = 0.0
    groups: str = ""
    alike: bool = False
    coarse: bool = False
    taste: float = 0.5

    def draw(self, rng: Rng) -> dict[str, Any]:
        """Return scores, answers, groups and blocks."""
        group, block = self._groups(rng)
        answer = self._answers(group, rng)
        shape = (len(group), self.n_candidates, self.n_heads)
        score = rng.normal(size=shape)
        if self.alike:
            score = 0.3 * score + rng.normal(size=(*shape[:2], 1))
        if self.groups:
            # What a group's questions share, whichever is asked.
            score += rng.normal(size=(group[-1] + 1, *shape[1:]))[group]
        score += self.taste * rng.normal(size=(1, *shape[1:]))
        score = np.round(2 * score) if self.coarse else score
        return {"score": score, "answer": answer, "group": group, "block": block}

    def _groups(self, rng: Rng) -> tuple[Int[np.ndarray, " n"], Int[np.ndarray, " n"]]:
        sizes = {
            "": np.ones(self.n, int),
            "passages": rng.integers(2, 14, 16),
            "pairs": np.full(self.n // 2, 2),
            "twins": np.full(self.n // 4, 4),
        }[self.groups]
        group = np.repeat(np.arange(len(sizes)), sizes)
        block = np.arange(len(group)) // 2 if self.groups == "twins" else np.arange(len(group))
        return group, block

    def _answers(self, group: Int[np.ndarray, " n"], rng: Rng) -> Int[np.ndarray, " n"]:
        n_groups, c = int(group[-1]) + 1, self.n_candidates
        if self.groups == "pairs":
            return (np.arange(len(group)) + rng.integers(0, 2, n_groups)[group]) % 2
        if self.groups == "twins":
            one = np.array([0, 1, 1, 0])[np.arange(len(group)) % 4]
            return (one + rng.integers(0, 2, n_groups)[group]) % 2
        share = np.full(c, (1 - self.majority) / (c - 1)) if self.majority else np.full(c, 1 / c)
        share[0] = self.majority or share[0]
        return rng.choice(c, n_groups, p=share)[group]


NULLS: dict[str, Null] = {
    "2 options": Null(),
    "4 options": Null(4),
    "24 options": Null(24),
    "71 % yes": Null(majority=0.71, taste=1.0),
    "4 options, 60 % the first": Null(4, majority=0.6, taste=1.0),
    "ties": Null(4, coarse=True),
    "heads alike": Null(alike=True),
    "20 questions": Null(n=20),
    "passages of 2 to 13": Null(groups="passages"),
    "pairs of opposite answers": Null(groups="pairs"),
    "twin theories": Null(groups="twins"),
    "270 heads": Null(n_heads=270),
}
HOW: dict[str, dict[str, Any]] = {
    **{method: {"method": method} for method in METHODS},
    "best, flip": {"flip": True},
    "best, centre": {"centre": True},
}


def rows() -> Iterator[Row]:
    """Return all lines of the parts "p-values" and "discoveries"."""
    for (what, null), (how, options) in product(NULLS.items(), HOW.items()):
        if how != "unsupervised" or null.n_candidates > 1:
            yield Row("p-values", f"select {how}, {what}", partial(_selected, null, options), LEVELS, RUNS)
    many = Null(n_heads=5120)
    yield Row("p-values", "select best, 5120 heads", partial(_selected, many, {}), LEVELS, RUNS // 4)
    for what in ("4 options", "71 % yes", "passages of 2 to 13", "twin theories"):
        one = partial(_transferred, NULLS[what])
        promises = {name: promise for name, promise in LEVELS.items() if "mid" not in name}
        yield Row("p-values", f"transfer, {what}", one, promises, RUNS * 2)
    for n_controls in (5, 19):
        promises = {"p <= 0.05": Promise(high=0.05, ceiling=0.06), "rank p <= 0.05": Promise(high=0.05)}
        what = f"heads less {n_controls} random controls"
        yield Row("p-values", what, partial(_less_controls, n_controls), promises, RUNS * 2)
    for c, alike, n_knowing in product((2, 4, 6, 24), (False, True), (0, 6)):
        what = f"{c} options, {n_knowing} of 60 heads know, {'alike' if alike else 'independent'}"
        null = Null(c, n_heads=60, alike=alike)
        promise = {"false share": Promise(high=0.05)}
        yield Row("discoveries", what, partial(_discovered, null, n_knowing), promise, RUNS)
    for what in ("71 % yes", "passages of 2 to 13", "twin theories", "ties"):
        one = partial(_discovered, NULLS[what], 0)
        yield Row("discoveries", f"{what}, none knows", one, {"false share": Promise(high=0.05)}, RUNS)


def _selected(null: Null, options: dict[str, Any], rng: Rng) -> dict[str, float]:
    drawn = null.draw(rng)
    asked: dict[str, Any] = {"seed": int(rng.integers(2**31)), "n_permutations": 199, "n_bootstrap": 1}
    # One head that knows a little, for the power.
    knowing = _with_knowledge(drawn, 1, rng)
    with warnings.catch_warnings():
        # Of few passages with hardly another answer no p can be small, which is what is said.
        warnings.filterwarnings("ignore", "permuting labels .* gives few labellings")
        try:
            found, again = (select_heads(**d, **asked, **options) for d in (drawn, knowing))
        except ValueError:
            # Ten calibration questions may all have one answer; then there is nothing to choose by.
            return {**dict.fromkeys((*LEVELS, "power"), float("nan")), "refused": 1.0}
    return {
        "p <= 0.05": float(found.p_value <= 0.05),
        "p <= 0.01": float(found.p_value <= 0.01),
        "mid-p <= 0.05": float(found.p_mid <= 0.05),
        "power": float(again.p_value <= 0.05),
        "refused": 0.0,
    }


def _with_knowledge(drawn: dict[str, Any], n_knowing: int, rng: Rng) -> dict[str, Any]:
    """Let some heads know seven questions in ten."""
    score, answer = drawn["score"].copy(), drawn["answer"]
    knows = rng.random((len(answer), n_knowing)) < 0.7
    score[np.arange(len(answer)), answer, :n_knowing] += 6.0 * knows
    return {**drawn, "score": score}


def _transferred(null: Null, rng: Rng) -> dict[str, float]:
    drawn = null.draw(rng)
    answer, group, block = (drawn[name] for name in ("answer", "group", "block"))
    p = fixed_rule_p(
        decisions(drawn["score"])[:, 0],
        answer,
        group,
        np.full(len(answer), null.n_candidates),
        permutation_scheme(answer, group, block),
        block=block,
        n_permutations=199,
        seed=int(rng.integers(2**31)),
    )
    return {"p <= 0.05": float(p <= 0.05), "p <= 0.01": float(p <= 0.01)}


def _less_controls(n_controls: int, rng: Rng) -> dict[str, float]:
    """The treatment is one more random set of heads."""
    group = np.repeat(np.arange(40), 2)
    effect: Float[np.ndarray, "condition 1"] = 0.3 * rng.normal(size=(n_controls + 1, 1))
    y = effect + rng.normal(size=40)[group] + rng.normal(size=(n_controls + 1, 80))
    # Compared with the mean of all that there are, 0, it has no effect of its own.
    found = above_controls(y[0] - effect[0], y[1:], group)
    one_more = above_controls(y[0], y[1:], group)
    return {"p <= 0.05": float(found.p_value <= 0.05), "rank p <= 0.05": float(one_more.rank_p <= 0.05)}


def _discovered(null: Null, n_knowing: int, rng: Rng) -> dict[str, float]:
    drawn = _with_knowledge(null.draw(rng), n_knowing, rng)
    answer, group, block = (drawn[name] for name in ("answer", "group", "block"))
    scheme = permutation_scheme(answer, group, block)
    swap = exchange(answer, group, np.full(len(answer), null.n_candidates), scheme, block)
    labels = swap.permuted(999, rng)
    found = head_p_values([decisions(drawn["score"])], answer, [(np.arange(len(answer)), swap)], labels)
    listed: Any = discoveries(found.p, 0.05)
    false = float(listed[n_knowing:].sum()) / max(1, int(listed.sum()))
    power = {"power": float(listed[:n_knowing].mean())} if n_knowing else {}
    return {"false share": false, **power}
