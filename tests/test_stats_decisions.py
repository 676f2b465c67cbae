"""What goes before a selection: groups split whole, decisions, centring."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st


@given(
    st.lists(st.integers(0, 8), min_size=6, max_size=60).filter(lambda g: len(set(g)) > 2),
    st.floats(0.3, 0.8),
    st.integers(0, 5),
)
def test_no_group_is_on_both_sides(group: list[int], share: float, seed: int) -> None:
    from mechprobe.stats import split_groups

    groups = np.array(group)
    if max(np.bincount(groups)) > int(len(group) * share):
        return
    split = split_groups(groups, share, seed=seed)
    assert not set(groups[split.calibration]) & set(groups[split.test])
    assert sorted([*split.calibration, *split.test]) == list(range(len(group)))
    assert len(split.calibration) <= len(group) * share


def test_calibration_by_number_share_and_index() -> None:
    from mechprobe.stats import split_groups

    group = np.repeat(np.arange(50), 2)
    assert len(split_groups(group, 30).calibration) == 30
    assert len(split_groups(group, 31).calibration) == 30
    assert len(split_groups(group, 0.25).calibration) == 24
    assert split_groups(group, [3, 2, 9, 8]).calibration.tolist() == [2, 3, 8, 9]
    one, same, other = (split_groups(group, 30, seed=s).calibration for s in (1, 1, 2))
    assert one.tolist() == same.tolist() != other.tolist()


def test_ties_go_to_the_first_candidate_whichever_is_right() -> None:
    from mechprobe.stats import accuracy, decisions

    score = np.zeros((4, 3, 1))
    score[:, 2] = np.nan
    assert decisions(score).ravel().tolist() == [0, 0, 0, 0]
    assert accuracy(decisions(score), np.array([0, 1, 1, 1])).tolist() == [0.25]


def test_padding_is_never_chosen() -> None:
    from mechprobe.stats import decisions

    score = np.array([[[-5.0], [-4.0], [np.nan]], [[-3.0], [-9.0], [-1.0]]])
    assert decisions(score).ravel().tolist() == [1, 2]


def test_centring_takes_each_candidates_calibration_median_away() -> None:
    from mechprobe.stats import centred

    rng = np.random.default_rng(0)
    score = rng.normal(size=(9, 3, 4))
    score[:, 2] = np.nan
    score[8, 2] = 7.0
    found = centred(score, np.arange(5))
    np.testing.assert_allclose(np.median(found[:5, :2], axis=0), 0, atol=1e-12)
    np.testing.assert_allclose(found[7, 0], score[7, 0] - np.median(score[:5, 0], axis=0))
    # No calibration example has candidate 2, so the median over the others serves.
    pooled = np.median(score[:5, :2].reshape(-1, 4), axis=0)
    np.testing.assert_allclose(found[8, 2], 7.0 - pooled)
