"""Heads chosen elsewhere: level and exactness of their p, coverage of a correlation of maps."""

from itertools import permutations
from typing import Any

import numpy as np
import pytest
from scipy import stats as scipy_stats


def test_p_is_the_share_of_all_permutations() -> None:
    from mechprobe.stats import fixed_rule_p

    rng = np.random.default_rng(0)
    answer, decided = np.array([0, 0, 0, 1, 1, 1, 1]), np.array([0, 0, 1, 1, 1, 1, 0])
    every = [(np.array(a) == decided).sum() for a in permutations(answer.tolist())]
    exact = np.mean(np.array(every) >= (answer == decided).sum())
    found = fixed_rule_p(decided, answer, np.arange(7), np.full(7, 2), "examples", n_permutations=20_000)
    assert found == pytest.approx(exact, abs=0.015)
    with pytest.raises(ValueError, match="n_permutations must be at least 1; got 0"):
        fixed_rule_p(rng.permutation(7), answer, np.arange(7), np.full(7, 2), "examples", n_permutations=0)


@pytest.mark.parametrize("size", [1, 10])
def test_p_keeps_its_level_where_groups_share_their_answer(size: int) -> None:
    """A head that answers a context as a whole is right by whole contexts, by chance."""
    from mechprobe.stats import fixed_rule_p, permutation_scheme

    rng = np.random.default_rng(1)
    group = np.repeat(np.arange(16), size)
    small = []
    for seed in range(400):
        answer, decided = (rng.permutation(np.arange(16) % 2)[group] for _ in range(2))
        scheme = permutation_scheme(answer, group)
        found = fixed_rule_p(
            decided, answer, group, np.full(len(group), 2), scheme, n_permutations=99, seed=seed
        )
        small.append(found <= 0.05)
    # Binomial(400, 0.05) exceeds 0.08 with probability 0.005.
    assert np.mean(small) <= 0.08


def task(rng: Any, skill: Any, bias: Any, sizes: Any) -> Any:
    """Return on which questions heads are right that share tastes and differ in skill."""
    group = np.repeat(np.arange(len(sizes)), sizes)
    taste = rng.normal(size=(len(sizes), bias.shape[1]))[group] @ bias.T / bias.shape[1] ** 0.5
    own = rng.normal(size=(len(group), len(skill)))
    return skill + 0.8 * taste + 0.6 * own > 0, group


def spearman(one: Any, other: Any) -> float:
    return float(scipy_stats.spearmanr(one.mean(0), other.mean(0)).statistic)


@pytest.mark.parametrize("spread", [0.0, 0.15, 0.5])
@pytest.mark.parametrize("sizes", [([1] * 60, [1] * 30), ([5] * 15, [2, 3, 4, 5, 6, 7, 8, 9] * 2)])
def test_an_interval_covers_what_as_many_questions_give_on_average(spread: float, sizes: Any) -> None:
    from mechprobe.stats import rank_correlation

    rng = np.random.default_rng(3)
    skill = spread * rng.normal(size=60)
    bias = rng.normal(size=(2, 60, 4))
    draws = [[task(rng, skill, b, s) for b, s in zip(bias, sizes, strict=True)] for _ in range(300)]
    truth = np.mean([spearman(a[0], b[0]) for a, b in draws])
    found = [rank_correlation(*a, *b) for a, b in draws[:150]]
    assert [x.value for x in found[:5]] == pytest.approx([spearman(a[0], b[0]) for a, b in draws[:5]])
    covered = np.mean([x.low <= truth <= x.high for x in found])
    # Conservative: 0.95 to 0.99; Binomial(150, 0.95) is below 0.9 with probability 0.005.
    assert covered >= 0.9
    # Yet no empty statement: an interval that holds everything covers too.
    assert np.median([x.high - x.low for x in found]) < 7 * np.std([x.value for x in found])


def test_heads_that_resemble_each_other_make_fishers_z_too_narrow() -> None:
    """Sixty heads without skill, whose one common taste makes two maps agree or disagree by luck."""
    from mechprobe.stats import rank_correlation

    rng = np.random.default_rng(4)
    bias = rng.normal(size=(60, 1))
    ours = fishers = 0
    for _ in range(150):
        (a, ga), (b, gb) = (task(rng, np.zeros(60), bias, [1] * 60) for _ in range(2))
        found = rank_correlation(a, ga, b, gb)
        ours += found.low <= 0 <= found.high
        fishers += abs(np.arctanh(found.value)) <= 1.96 / np.sqrt(57)
    assert ours >= 135
    assert fishers < 120


def test_what_cannot_be_known_is_not_told() -> None:
    from mechprobe.stats import rank_correlation

    rng = np.random.default_rng(0)
    right, group = rng.random((20, 6)) < 0.5, np.arange(20)
    alike = rank_correlation(np.ones((20, 6), bool), group, right, group)
    assert np.isnan(alike).all()
    one_group = rank_correlation(right, np.zeros(20, np.int64), right, group)
    assert one_group.value == pytest.approx(1.0)
    assert np.isnan(one_group[1:]).all()
