"""What p-values promise under the null, and what they can say of a head that knows."""

from typing import Any

import numpy as np
import pytest


def known_to_none(
    seed: int, *, n: int = 100, n_candidates: int = 2, n_heads: int = 40, taste: float = 0.5, **how: Any
) -> tuple[Any, Any, Any]:
    """Return scores of heads that know nothing, answers and groups.

    ``share``: of the answers; ``alike``: heads resemble each other; ``coarse``: many ties;
    ``groups``: so many groups of 2 to 13 examples, of one answer each.
    """
    rng = np.random.default_rng(seed)
    group = np.arange(n)
    if "groups" in how:
        group = np.repeat(np.arange(how["groups"]), rng.integers(2, 14, how["groups"]))
    n_groups = group[-1] + 1
    answer = rng.choice(n_candidates, n_groups, p=how.get("share"))[group]
    score = rng.normal(size=(len(group), n_candidates, n_heads))
    if how.get("alike"):
        score = 0.3 * score + rng.normal(size=(len(group), n_candidates, 1))
    if "groups" in how:
        score += rng.normal(size=(n_groups, n_candidates, n_heads))[group]
    score += taste * rng.normal(size=(1, n_candidates, n_heads))
    return (np.round(score) if how.get("coarse") else score), answer, group


@pytest.mark.parametrize(
    ("how", "flip"),
    [
        ({"n_candidates": 24, "n_heads": 200}, False),
        ({"n_candidates": 24, "alike": True}, False),
        ({"n_candidates": 24, "coarse": True}, True),
        ({"n_candidates": 4, "share": [0.6, 0.2, 0.1, 0.1], "taste": 1.0}, True),
        ({"share": [0.71, 0.29], "taste": 1.0}, True),
        ({"groups": 14}, False),
    ],
)
def test_single_heads_keep_their_level_and_their_list_is_empty(how: dict[str, Any], flip: bool) -> None:
    from mechprobe.stats import discoveries, head_p_values
    from mechprobe.stats.decisions import decisions
    from mechprobe.stats.permutation import exchange, permutation_scheme

    p: list[Any] = []
    mid: list[Any] = []
    any_found: list[bool] = []
    for seed in range(50):
        score, answer, group = known_to_none(seed, n=60, **how)
        swap = exchange(answer, group, np.full(len(group), score.shape[1]), permutation_scheme(answer, group))
        directions = [decisions(score), decisions(-score)] if flip else [decisions(score)]
        found = head_p_values(directions, answer, [(np.arange(len(group)), swap)], answer[None])
        assert found.exact
        p.append(found.p)
        mid.append(found.mid)
        any_found.append(bool(discoveries(found.p).any()))
    # Three standard errors of 50 lists. Heads that are alike are as good as few.
    assert np.mean(any_found) <= 0.05 + 0.093
    room = 0.05 if how.get("alike") else 0.01
    for level in (0.05, 0.01, 0.001):
        assert np.mean(np.array(p) <= level) <= level + min(room, level)
    assert np.mean(np.array(mid) <= 0.05) <= 0.06 + room


def test_a_perfect_head_of_unequal_groups_is_found() -> None:
    from mechprobe.stats import discoveries, select_heads

    group = np.repeat(np.arange(12), np.arange(2, 14))
    answer = (np.arange(12) // 2 % 2)[group]
    score = np.random.default_rng(0).normal(size=(len(group), 2, 20))
    score[np.arange(len(group)), answer, 7] += 20
    found = select_heads(score, answer, group, calibration=0.5, n_permutations=999, n_bootstrap=1)
    assert found.scheme == "whole groups"
    assert found.chosen.head.tolist() == [[7]]
    assert found.p_value <= 0.05
    assert found.p_value >= found.p_least > 0.001
    assert found.by_head.exact
    assert found.by_head.p[7] == pytest.approx(10 ** -found.log10_relabellings[0])
    assert found.by_head.p.argmin() == 7
    assert discoveries(found.by_head.p)[7] == (found.by_head.p[7] < 0.05 / 20)


def test_too_few_labellings_are_said_aloud() -> None:
    from mechprobe.stats import select_heads

    group = np.repeat(np.arange(5), [3, 2, 4, 2, 3])
    answer = np.array([0, 1, 1, 0, 1])[group]
    score = np.random.default_rng(0).normal(size=(len(group), 2, 3))
    part = np.flatnonzero(group < 3).tolist()
    with pytest.warns(
        UserWarning, match=r"\(whole groups\) gives few labellings: 6\. .* below 0\.17.*groups"
    ):
        found = select_heads(score, answer, group, calibration=part, n_permutations=99, n_bootstrap=1)
    assert found.p_least == pytest.approx(1 / 6)
    np.testing.assert_allclose(10 ** np.array(found.log10_relabellings), [6, 2])
    # A choice without labels is the same under all labels of the calibration part.
    with pytest.warns(UserWarning, match="gives few labellings: 2"):
        blind = select_heads(
            score, answer, group, calibration=part, method="unsupervised", n_permutations=99, n_bootstrap=1
        )
    assert blind.p_least == pytest.approx(1 / 2)
    plenty = select_heads(*known_to_none(0), n_permutations=99, n_bootstrap=1)
    assert plenty.p_least == 0.01


def test_mid_p_is_nearer_to_its_level_than_p() -> None:
    from mechprobe.stats import select_heads

    runs = [
        select_heads(*known_to_none(seed, n=40, n_heads=5), seed=seed, n_permutations=49, n_bootstrap=1)
        for seed in range(150)
    ]
    p, mid = np.array([run.p_value for run in runs]), np.array([run.p_mid for run in runs])
    assert (mid < p).all()
    # Three standard errors of 150 runs are 0.07, and 0.053 at 0.05.
    assert np.mean(p) > 0.5
    assert np.mean(mid) == pytest.approx(0.5, abs=0.07)
    assert np.mean(p <= 0.05) <= np.mean(mid <= 0.05) <= 0.103


def test_a_head_may_be_found_in_either_direction() -> None:
    from mechprobe.stats import select_heads

    score, answer, group = known_to_none(1, n_candidates=4)
    score[np.arange(100), answer, 3] -= 4
    plain, flipped = (
        select_heads(score, answer, group, flip=f, n_permutations=9, n_bootstrap=1).by_head
        for f in (False, True)
    )
    assert plain.p[3] > 0.9
    assert flipped.p[3] < 1e-10
    np.testing.assert_array_equal(flipped.p <= np.minimum(1, 2 * plain.p), True)


@pytest.mark.parametrize("alike", [False, True])
def test_the_best_by_chance_of_unbalanced_answers(alike: bool) -> None:
    from mechprobe.stats import best_by_permutation, expected_best_by_chance
    from mechprobe.stats.decisions import accuracy, decisions

    best: list[float] = []
    expected: list[float] = []
    for seed in range(100):
        score, answer, group = known_to_none(seed, n_heads=60, share=[0.71, 0.29], alike=alike, taste=1.5)
        decided = decisions(score)
        best.append(accuracy(decided, answer).max())
        expected.append(
            best_by_permutation(decided, answer, group, np.full(100, 2), n_permutations=50, seed=seed)
        )
    assert np.mean(best) == pytest.approx(np.mean(expected), abs=0.01)
    assert np.mean(best) > expected_best_by_chance(60, 100) + 0.03


def test_the_best_by_chance_does_not_rise_with_a_head_that_knows() -> None:
    from mechprobe.stats import best_by_permutation, expected_best_by_chance

    rng = np.random.default_rng(0)
    answer = rng.permutation(np.arange(200) % 2)
    decided = rng.integers(0, 2, (200, 50))
    decided[:, 0] = answer
    found = best_by_permutation(decided, answer, np.arange(200), np.full(200, 2))
    assert found == pytest.approx(expected_best_by_chance(50, 200), abs=0.01)


def test_nothing_to_permute_is_not_known() -> None:
    from mechprobe.stats import best_by_permutation

    group = np.array([0, 0, 1, 1, 1])
    decided = np.zeros((5, 3), int)
    assert np.isnan(
        best_by_permutation(
            decided, np.array([0, 1, 1, 0, 1])[[0, 0, 2, 2, 2]], group, np.array([2, 2, 3, 3, 3])
        )
    )
    with pytest.raises(ValueError, match="n_permutations must be at least 1; got 0"):
        best_by_permutation(decided, group, group, np.full(5, 2), n_permutations=0)


def of_forms(seed: int, n_pairs: int = 50, n_heads: int = 60) -> tuple[Any, Any, Any, Any]:
    """Return heads that read a pair's form and the polarity asked for; twins differ in truth only."""
    rng = np.random.default_rng(seed)
    pair = np.repeat(np.arange(n_pairs), 4)
    theory = np.repeat(np.arange(2 * n_pairs), 2)
    answer = np.tile([0, 1, 1, 0], n_pairs)
    by_form = rng.normal(size=(n_pairs, 1, 2, 1, n_heads)) + rng.normal(size=(n_pairs, 1, 1, 2, n_heads))
    score = np.broadcast_to(by_form, (n_pairs, 2, 2, 2, n_heads)).reshape(4 * n_pairs, 2, n_heads)
    return score + 0.1 * rng.normal(size=score.shape), answer, pair, theory


def test_twins_change_their_truth_together() -> None:
    from mechprobe.stats.permutation import exchange, permutation_scheme

    _, answer, pair, theory = of_forms(0, n_pairs=3)
    scheme = permutation_scheme(answer, pair, theory)
    assert scheme == "blocks within groups"
    swap = exchange(answer, pair, np.full(12, 2), scheme, theory)
    assert round(10**swap.log10_relabellings) == 2**3
    rows = np.unique(swap.permuted(200, np.random.default_rng(0)), axis=0)
    assert len(rows) == 2**3
    for row in rows.reshape(-1, 3, 4).tolist():
        assert all(four in ([0, 1, 1, 0], [1, 0, 0, 1]) for four in row)


def test_heads_of_form_are_no_finding() -> None:
    """With the theory for a group, P(p >= 0.95) was 0.90 and held-out means were 0.405."""
    from mechprobe.stats import select_heads

    found = []
    for seed in range(60):
        score, answer, pair, theory = of_forms(seed)
        found.append(
            select_heads(score, answer, pair, block=theory, seed=seed, n_permutations=99, n_bootstrap=1)
        )
    p = np.array([x.p_value for x in found])
    # Three standard errors of 60 draws.
    assert np.mean(p <= 0.05) <= 0.05 + 0.085
    # Twins say nearly the same, so that many counts are equal: only mid-p is even on both sides.
    assert np.mean([x.p_mid >= 0.95 for x in found]) <= 0.05 + 0.085
    assert np.mean([x.right.mean() for x in found]) == pytest.approx(0.5, abs=0.03)
    heads = np.array([x.by_head.p for x in found])
    assert np.mean(heads <= 0.05) <= 0.06


def test_a_head_that_knows_is_found_among_twins() -> None:
    from mechprobe.stats import select_heads

    score, answer, pair, theory = of_forms(1)
    score = score.copy()
    score[np.arange(200), answer, 9] += 3
    found = select_heads(score, answer, pair, block=theory, n_permutations=999, n_bootstrap=1)
    assert found.chosen.head.tolist() == [[9]]
    assert found.p_value == 0.001
