"""Selection: the right heads, on the right examples, with p-values that keep their promise."""

from typing import Any

import numpy as np
import pytest

METHODS = ("best", "top_k_vote", "zscore_sum", "unsupervised")


def random_task(seed: int, n: int = 120, n_heads: int = 30, *, pairs: bool = True) -> tuple[Any, Any, Any]:
    """Return scores that know nothing, balanced answers, and groups of two (or of one)."""
    rng = np.random.default_rng(seed)
    answer = np.tile([0, 1], n // 2) if pairs else rng.permutation(np.arange(n) % 2)
    group = np.repeat(np.arange(n // 2), 2) if pairs else np.arange(n)
    return rng.normal(size=(n, 2, n_heads)), answer, group


def as_scores(decided: Any, n_candidates: int = 2) -> Any:
    """Return scores (example, candidate, head) that decide as told (example, head)."""
    return np.moveaxis(np.eye(n_candidates)[np.asarray(decided)], -1, 1)


@pytest.mark.parametrize("method", ["best", "top_k_vote", "zscore_sum"])
@pytest.mark.parametrize("pairs", [True, False])
def test_a_head_that_knows_is_found_first(method: Any, pairs: bool) -> None:
    from mechprobe.stats import discoveries, select_heads

    score, answer, group = random_task(0, 200, 60, pairs=pairs)
    score[np.arange(200), answer, 41] += 2.5
    found = select_heads(score, answer, group, calibration=100, method=method, k=3)
    assert found.chosen.head[0, 0] == 41
    assert found.p_value < 0.01
    # Alone it is right on 0.96; guessing heads beside it cost a vote more than a sum.
    assert found.right.mean() > {"best": 0.9, "top_k_vote": 0.6, "zscore_sum": 0.7}[method]
    assert found.picked[41] == 1
    assert np.flatnonzero(discoveries(found.by_head.p)).tolist() == [41]
    assert found.scheme == ("within groups" if pairs else "examples")


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("centre", [False, True])
def test_p_values_of_guessing_heads_are_uniform(method: Any, centre: bool) -> None:
    from mechprobe.stats import select_heads

    flip = method == "best" and centre
    p = [
        select_heads(
            *random_task(seed), method=method, centre=centre, flip=flip, seed=seed,
            n_permutations=99, n_bootstrap=1,
        ).p_value
        for seed in range(200)
    ]  # fmt: skip
    assert np.mean(np.array(p) < 0.05) <= 0.08
    assert 0.4 < np.mean(p) < 0.65


def test_copied_heads_keep_the_p_value_and_lower_the_chance_maximum() -> None:
    from mechprobe.stats import expected_best_by_chance, select_heads

    p: list[float] = []
    best: list[float] = []
    for seed in range(200):
        score, answer, group = random_task(seed, n_heads=3)
        copies = np.repeat(score, 10, axis=2)
        found = select_heads(copies, answer, group, seed=seed, n_permutations=99, n_bootstrap=1)
        p.append(found.p_value)
        best.append(found.null_best.mean())
    assert np.mean(np.array(p) < 0.05) <= 0.08
    assert 0.4 < np.mean(p) < 0.65
    assert np.mean(best) == pytest.approx(expected_best_by_chance(3, 60), abs=0.005)
    assert np.mean(best) < expected_best_by_chance(30, 60) - 0.03


def test_examples_that_answer_alike_in_a_group_do_not_fake_significance() -> None:
    from mechprobe.stats import select_heads

    p = []
    for seed in range(200):
        rng = np.random.default_rng(seed)
        group = np.repeat(np.arange(24), 5)
        answer = rng.permutation(np.arange(24) % 2)[group]
        score = rng.normal(size=(24, 2, 20))[group]
        found = select_heads(score, answer, group, seed=seed, n_permutations=99, n_bootstrap=1)
        assert found.scheme == "whole groups"
        p.append(found.p_value)
    assert np.mean(np.array(p) < 0.05) <= 0.08


def test_lists_of_heads_that_guess_are_mostly_empty() -> None:
    from mechprobe.stats import discoveries, select_heads

    for flip in (False, True):
        found = [
            discoveries(
                select_heads(
                    *random_task(seed, 100, 40), flip=flip, seed=seed, n_permutations=200,
                    n_bootstrap=1,
                ).by_head.p
            ).any()
            for seed in range(100)
        ]  # fmt: skip
        # 0.05 expected; three standard errors of 100 draws are 0.065.
        assert np.mean(found) <= 0.115


def test_a_head_that_always_says_the_same_is_no_discovery() -> None:
    from mechprobe.stats import select_heads

    score, answer, group = random_task(0, 100, 5, pairs=False)
    score[:, :, 2] = [1.0, 0.0]
    found = select_heads(score, answer, group)
    assert found.by_head.p[2] == 1


@pytest.mark.parametrize("scheme", ["examples", "within groups", "whole groups"])
def test_permutations_keep_what_they_promise(scheme: Any) -> None:
    from mechprobe.stats.permutation import exchange

    rng = np.random.default_rng(0)
    group = np.repeat(np.arange(20), 6)
    n_candidates = np.where(np.arange(120) % 6 > 2, 4, 2)
    answer = rng.integers(0, n_candidates)
    labels = exchange(answer, group, n_candidates, scheme).permuted(50, rng)
    assert (labels < n_candidates).all()
    assert len(np.unique(labels, axis=0)) > 40
    for row in labels:
        assert sorted(row) == sorted(answer)
        if scheme == "within groups":
            for g in range(20):
                assert sorted(row[group == g]) == sorted(answer[group == g])
        if scheme == "whole groups":
            whole = sorted(answer.reshape(20, 6).tolist())
            assert sorted(row.reshape(20, 6).tolist()) == whole


def test_schemes_follow_the_groups() -> None:
    from mechprobe.stats.permutation import permutation_scheme

    assert permutation_scheme(np.array([0, 1, 0]), np.arange(3)) == "examples"
    assert permutation_scheme(np.array([0, 1, 0, 0]), np.array([0, 0, 1, 1])) == "within groups"
    assert permutation_scheme(np.array([0, 0, 1, 1]), np.array([0, 0, 1, 1])) == "whole groups"


def test_best_takes_the_lowest_of_equal_heads_and_inverts_only_if_allowed() -> None:
    from mechprobe.stats import select_heads

    answer = np.tile([0, 1], 10)
    half = np.where(np.arange(20) % 4 < 2, answer, 1 - answer)
    decided = np.stack([half, 1 - answer, answer, answer], axis=1)
    score = as_scores(decided)
    plain = select_heads(score, answer, np.arange(20), calibration=10)
    assert plain.chosen.head.tolist() == [[2]]
    flipped = select_heads(score, answer, np.arange(20), calibration=10, flip=True)
    assert flipped.chosen.head.tolist() == [[1]]
    assert flipped.chosen.inverted.tolist() == [[True]]
    assert flipped.right.all()
    assert flipped.turned.tolist()[1:] == [True, False, False]
    assert flipped.accuracy_test.tolist()[1:] == [1, 1, 1]
    assert plain.accuracy_test.tolist()[1:] == [0, 1, 1]


def test_inverting_raises_what_chance_reaches() -> None:
    from mechprobe.stats import select_heads

    score, answer, group = random_task(3)
    plain, flipped = (select_heads(score, answer, group, flip=f) for f in (False, True))
    assert flipped.null_best.mean() > plain.null_best.mean() + 0.01


def test_centring_finds_a_head_behind_its_taste() -> None:
    from mechprobe.stats import select_heads

    score, answer, group = random_task(1, 200, 20)
    score[np.arange(200), answer, 7] += 2.5
    score[:, 0, 7] += 50.0
    plain, centred = (select_heads(score, answer, group, calibration=100, centre=c) for c in (False, True))
    assert plain.accuracy_test[7] == 0.5
    assert plain.chosen.head[0, 0] != 7
    assert centred.chosen.head[0, 0] == 7
    assert centred.p_value < 0.01


def test_a_vote_follows_the_majority_and_the_best_head_where_it_is_tied() -> None:
    from mechprobe.stats import Split, predict, readings
    from mechprobe.stats.choice import Chosen

    decided = np.array([[0, 1, 1, 2], [2, 1, 1, 2], [2, 0, 1, 1]])
    split = Split(np.arange(3), np.arange(3))
    heads = readings(as_scores(decided, 3), np.arange(3), split)

    def vote(*order: int) -> list[int]:
        rule = Chosen(np.array([order]), np.zeros((1, len(order)), bool))
        return predict(heads, np.arange(3), rule, "top_k_vote")[0].tolist()

    assert vote(0, 1, 2) == [1, 1, 2]
    assert vote(0, 1, 2, 3) == [1, 2, 1]
    assert vote(1, 0, 2, 3) == [1, 1, 1]
    assert vote(3, 0) == [2, 2, 1]


def test_a_sum_weighs_heads_in_their_own_standard_deviations() -> None:
    from mechprobe.stats import Split, predict, readings
    from mechprobe.stats.choice import Chosen

    # Head 1 has a hundred times the scale of head 0, and the weaker opinion on example 2.
    gaps = np.array([[1.0, 100.0], [-1.0, -100.0], [-1.5, 100.0]])
    score = np.stack([gaps / 2, -gaps / 2], axis=1)
    heads = readings(score, np.arange(3), Split(np.arange(2), np.arange(2, 3)))
    rule = Chosen(np.array([[0, 1], [0, 1]]), np.array([[False, False], [False, True]]))
    assert predict(heads, np.array([2]), rule, "zscore_sum").tolist() == [[1], [1]]
    weak = Chosen(np.array([[1]]), np.array([[False]]))
    assert predict(heads, np.array([2]), weak, "zscore_sum").tolist() == [[0]]


@pytest.mark.parametrize("is_attention", [False, True])
def test_without_labels_a_head_must_look_at_options_and_at_changing_ones(is_attention: bool) -> None:
    from mechprobe.stats import select_heads

    rng = np.random.default_rng(0)
    answer = rng.integers(0, 3, 90)
    faint = rng.random((90, 3, 4)) * 0.02
    score = 0.1 + faint
    score[np.arange(90), answer, 2] += 0.5
    score[:, 1, 3] += 0.7
    found = select_heads(score, answer, np.arange(90), method="unsupervised", is_attention=is_attention)
    # Head 3 looks hardest, but always at the same option.
    assert found.chosen.head.tolist() == [[2]]
    assert found.right.all()
    assert found.p_value < 0.01


def test_without_labels_permuted_labels_choose_the_same_head() -> None:
    from mechprobe.stats import select_heads

    score, answer, group = random_task(0)
    one = select_heads(score, answer, group, method="unsupervised")
    other = select_heads(score, 1 - answer, group, method="unsupervised")
    assert one.chosen.head.tolist() == other.chosen.head.tolist()


def test_stability_says_how_often_a_head_wins() -> None:
    from mechprobe.stats import select_heads

    score, answer, group = random_task(0)
    found = select_heads(score, answer, group, n_bootstrap=400)
    assert found.picked.sum() == pytest.approx(1)
    assert 0 < found.picked[found.chosen.head[0, 0]] < 1
    three = select_heads(score, answer, group, method="top_k_vote", k=3, n_bootstrap=400)
    assert three.picked.sum() == pytest.approx(3)


def test_the_same_seed_selects_the_same() -> None:
    from mechprobe.stats import select_heads

    score, answer, group = random_task(0)
    one, same, other = (select_heads(score, answer, group, seed=s) for s in (3, 3, 4))
    np.testing.assert_array_equal(one.null_accuracy, same.null_accuracy)
    assert one.heads.split.test.tolist() == same.heads.split.test.tolist()
    assert one.heads.split.test.tolist() != other.heads.split.test.tolist()


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        ({"calibration": 120}, r"calibration=120 of 120 examples leaves none .* less than 120"),
        ({"calibration": 500}, r"calibration=500 of 120 examples leaves none"),
        ({"calibration": 0}, r"a calibration set of 0 examples chooses no head"),
        ({"calibration": 1.5}, r"calibration=1.5 is no share"),
        ({"calibration": 1}, r"no group fits .* of 1 examples: the smallest of the 60 groups has 2"),
        ({"calibration": []}, r"the calibration set is empty"),
        ({"calibration": [0, 1, 120]}, r"calibration holds example 120; there are 120"),
        ({"calibration": [0, 1, 1]}, r"names 1 examples twice"),
        ({"calibration": [0, 1, 2]}, r"cuts 1 groups \(group 1 first\)"),
        ({"calibration": list(range(120))}, r"all 120 examples are in the calibration set"),
        ({"method": "worst"}, r"no selection method 'worst'; the methods are best, top_k_vote"),
        ({"method": "unsupervised", "flip": True}, r"without labels nobody can tell .*flip=True"),
        ({"k": 0}, r"k must be at least 1; got 0"),
        ({"n_permutations": 0}, r"n_permutations must be at least 1; got 0"),
        ({"n_bootstrap": 0}, r"n_bootstrap must be at least 1; got 0"),
    ],
)
@pytest.mark.usefixtures("as_users_run_it")
def test_bad_requests_of_selection(request_: dict[str, Any], message: str) -> None:
    from mechprobe.stats import select_heads

    score, answer, group = random_task(0)
    with pytest.raises(ValueError, match=message):
        select_heads(score, answer, group, **request_)


def test_a_calibration_set_of_one_class() -> None:
    from mechprobe.stats import select_heads

    score, answer, _ = random_task(0)
    always = np.flatnonzero(answer == 1)[:20].tolist()
    with pytest.raises(ValueError, match=r"all 20 calibration examples have the answer 1.*seed"):
        select_heads(score, answer, np.arange(120), calibration=always)
    found = select_heads(score, answer, np.arange(120), calibration=always, method="unsupervised")
    assert len(found.right) == 100


def test_a_vote_of_more_heads_than_there_are_takes_all() -> None:
    from mechprobe.stats import select_heads

    score, answer, group = random_task(0, n_heads=4)
    found = select_heads(score, answer, group, method="top_k_vote", k=50)
    assert sorted(found.chosen.head[0].tolist()) == [0, 1, 2, 3]


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_scores_that_cannot_be_compared(value: float) -> None:
    from mechprobe.stats import select_heads

    score, answer, group = random_task(0)
    score[5, 1, 3] = value
    message = r"1 scores cannot be compared; the first \(example 5, candidate 1, head 3\) is"
    with pytest.raises(ValueError, match=message):
        select_heads(score, answer, group)


def test_candidates_that_do_not_exist() -> None:
    from mechprobe.stats import select_heads

    score, answer, group = random_task(0)
    exists = np.ones((120, 2), bool)
    exists[3, 1] = False
    with pytest.raises(ValueError, match=r"example 3, .* stands where there is no candidate"):
        select_heads(score, answer, group, exists=exists)
    score[3, 1] = np.nan
    with pytest.raises(ValueError, match="example 3 has fewer than two candidates"):
        select_heads(score, answer, group)
    with pytest.raises(ValueError, match=r"example 0 has the answer 2, which is none"):
        select_heads(np.ones((4, 2, 1)), np.array([2, 0, 1, 1]), np.arange(4))
    with pytest.raises(ValueError, match="nothing to decide: 4 examples, 0 heads"):
        select_heads(np.ones((4, 2, 0)), np.array([0, 0, 1, 1]), np.arange(4))
