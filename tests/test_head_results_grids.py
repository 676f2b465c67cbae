"""Transfer, difficulty, interventions and traits of heads: the right number in the right cell."""

from typing import Any

import numpy as np
import pytest
import xarray as xr

from tests.test_head_results import all_results, record, scores_data, scores_of


@pytest.fixture(scope="module")
def results() -> dict[str, Any]:
    """One result of every kind, made once."""
    return all_results()


def test_transfer_tests_on_examples_that_chose_nothing() -> None:
    from mechprobe.heads.across_tasks import transfer

    here = scores_of(scores_data(200, planted=(2, 1)))
    there = scores_of(scores_data(160, planted=(1, 0), seed=1), task="there")
    found = transfer({"here": here, "there": there})
    assert found.data["chosen"].values.tolist() == ["L2H1", "L1H0"]
    alone = here.select(n_permutations=1, n_bootstrap=50)
    accuracy = found.data["accuracy"]
    assert float(accuracy.sel(selected_on="here", tested_on="here")) == alone.accuracy
    assert float(found.data["model"].sel(tested_on="here")) == alone.model_accuracy
    held_out = there.select(n_permutations=1, n_bootstrap=50).data
    expected = float(held_out["accuracy_test"].sel(layer=2, head=1))
    assert float(accuracy.sel(selected_on="here", tested_on="there")) == expected
    assert accuracy.sel(selected_on="here", tested_on="there") < 0.65
    assert found.data["n_test"].values.tolist() == [100, 80]
    assert (found.data["accuracy_low"] <= accuracy).all()
    assert "best shortcut" in found.summary().index


def test_rank_correlations_are_spearmans_between_disjoint_halves() -> None:
    from scipy.stats import spearmanr

    from mechprobe.heads.across_tasks import transfer

    here, there = scores_of(scores_data(200)), scores_of(scores_data(160, seed=1))
    found = transfer({"a": here, "b": there})
    maps = [s.select(n_permutations=1, n_bootstrap=5).data for s in (here, there)]
    expected = spearmanr(
        maps[0]["accuracy_calibration"].values.ravel(), maps[1]["accuracy_test"].values.ravel()
    ).statistic
    cell = found.data.sel(selected_on="a", tested_on="b")
    assert float(cell["rank_correlation"]) == pytest.approx(expected)
    assert cell["rank_correlation_low"] < expected < cell["rank_correlation_high"]


def test_a_head_that_transfers_beats_permuted_labels_and_another_does_not() -> None:
    from mechprobe.heads.across_tasks import transfer
    from mechprobe.stats import holm

    same = [scores_of(scores_data(160, seed=s), task=str(s)) for s in (0, 1)]
    other = scores_of(scores_data(160, planted=(1, 0), seed=2), task="other")
    found = transfer({"a": same[0], "b": same[1], "c": other}, n_permutations=199).data
    p = found["p_value"]
    for on, at in (("a", "a"), ("a", "b"), ("b", "a"), ("c", "c")):
        assert float(p.sel(selected_on=on, tested_on=at)) == 1 / 200
    for on, at in (("a", "c"), ("b", "c"), ("c", "a"), ("c", "b")):
        assert p.sel(selected_on=on, tested_on=at) > 0.05
    expected = holm(p.values.ravel()).reshape(3, 3)
    np.testing.assert_array_equal(found["p_adjusted"].values, expected)
    assert found["p_adjusted"].sel(selected_on="a", tested_on="b") == 9 / 200


def test_the_same_questions_split_in_two_places_are_refused() -> None:
    from mechprobe.heads.across_tasks import transfer

    data = scores_data(160)
    raw, rotated = scores_of(data), scores_of(data, score="rotated")
    with pytest.raises(ValueError, match="'raw' and 'rotated' ask the same questions, and some that choose"):
        transfer({"raw": raw, "rotated": rotated}, calibration={"raw": 100, "rotated": 40})
    transfer({"raw": raw, "rotated": rotated}, n_permutations=1)


def test_bad_requests_of_a_transfer() -> None:
    from mechprobe.heads.across_tasks import transfer

    scores = scores_of(scores_data())
    with pytest.raises(ValueError, match=r"needs the scores of two tasks or more; got \['a'\]"):
        transfer({"a": scores})
    other = scores_of(scores_data(n_heads=2, planted=None))
    with pytest.raises(ValueError, match=r"'a' has heads \[0, 1, 2\], 'b' has \[0, 1\]"):
        transfer({"a": scores, "b": other})
    with pytest.raises(ValueError, match=r"task 'a': calibration=240 of 240 examples"):
        transfer({"a": scores, "b": scores}, calibration=240)
    with pytest.raises(ValueError, match=r"no calibration for task 'b', only for \['a'\]"):
        transfer({"a": scores, "b": scores}, calibration={"a": 100})


def test_difficulty_splits_held_out_examples_into_cells() -> None:
    from mechprobe.heads.by_difficulty import difficulty_of

    data = scores_data()
    scores = scores_of(data)
    found = difficulty_of(scores)
    alone = scores.select(n_permutations=1, n_bootstrap=50)
    assert found.data["chosen"].item() == "L2H1"
    assert int(found.data["n"].sum()) == alone.data.sizes["held_out"]
    pooled = float((found.data["head_accuracy"] * found.data["n"]).sum() / found.data["n"].sum())
    assert pooled == pytest.approx(alone.accuracy)
    test = alone.data["held_out"].values
    cell = (data["steps"].values[test] == 2) & (data["distractors"].values[test] == 0)
    expected = alone.data["right"].values[cell].mean()
    assert float(found.data["head_accuracy"].sel(steps=2, distractors=0)) == expected
    assert found.data["shortcut_name"].item() == "polarity"
    rule = data["shortcut_right"].sel(shortcut="polarity").values[test]
    assert float(found.data["shortcut_accuracy"].sel(steps=2, distractors=0)) == rule[cell].mean()


def test_difficulty_gives_shortcuts_cell_by_cell() -> None:
    from mechprobe.heads.by_difficulty import difficulty_of

    data = scores_data()
    data["shortcut_right"][0] = 0.0
    data["shortcut_right"][1] = data["steps"] == 1
    found = difficulty_of(scores_of(data))
    assert found.data["shortcut_accuracy"].mean("distractors").values.tolist() == [1, 0, 0]


def test_the_shortcut_by_cell_is_chosen_where_the_head_is() -> None:
    from mechprobe.heads.by_difficulty import difficulty_of

    data = scores_data()
    test = scores_of(data).select(n_permutations=1, n_bootstrap=5).data["held_out"].values
    # Best on the held-out examples, and useless on those that choose.
    lucky = np.isin(np.arange(240), test)
    data["shortcut_right"] = (("example", "shortcut"), np.stack([~lucky, lucky], axis=1).astype(float))
    found = difficulty_of(scores_of(data)).data
    assert found["shortcut_name"].item() == "length"
    assert (found["shortcut_accuracy"] == 0).all()


def test_an_empty_cell_is_unknown() -> None:
    from mechprobe.heads.by_difficulty import difficulty_of

    data = scores_data()
    hard = (data["steps"].values == 3) & (data["distractors"].values == 2)
    data = data.isel(example=np.flatnonzero(~hard))
    found = difficulty_of(scores_of(data))
    cell = found.data.sel(steps=3, distractors=2)
    assert int(cell["n"]) == 0
    assert np.isnan(float(cell["head_accuracy"]))
    assert np.isnan(float(cell["shortcut_accuracy"]))
    assert len(found.summary()) == 5


@pytest.mark.parametrize("axis", ["steps", "distractors"])
def test_difficulty_needs_steps_and_distractors(axis: str) -> None:
    from mechprobe.heads.by_difficulty import difficulty_of

    data = scores_data()
    data[axis][:4] = -1
    with pytest.raises(ValueError, match=f"4 of 240 examples do not say their {axis}"):
        difficulty_of(scores_of(data))


def test_an_ablation_compares_in_pairs(results: dict[str, Any]) -> None:
    data = results["ablation"].data
    assert data["heads"].values.tolist() == ["", "L2H1", "L2H0", "L2H2"]
    change = data["accuracy"] - data["accuracy"].sel(condition="intact")
    np.testing.assert_allclose(data["accuracy_change"], change, atol=1e-12)
    change = data["logit_difference"] - data["logit_difference"].sel(condition="intact")
    np.testing.assert_allclose(data["logit_difference_change"], change, atol=1e-12)
    assert data["accuracy_change_high"].sel(condition="ablated") < 0
    for name in ("accuracy", "logit_difference", "accuracy_change"):
        assert (data[f"{name}_low"] <= data[name]).all()
        assert (data[name] <= data[f"{name}_high"]).all()


def test_ablated_less_controls_is_paired_on_the_same_questions() -> None:
    from mechprobe.heads.interventions import ablation_of
    from mechprobe.stats import above_controls

    rng = np.random.default_rng(0)
    right, gap, group = rng.random((8, 90)) < 0.5, rng.normal(size=(8, 90)), np.arange(90) // 3
    heads = {"intact": [], "ablated": [(2, 1)], **{f"control {i}": [(2, 0)] for i in range(6)}}
    found = ablation_of(right, gap, group, heads, record())
    for name, x in (("accuracy", right.astype(float)), ("logit_difference", gap)):
        value = found.data[f"{name}_above_controls"].item()
        assert value == pytest.approx(x[1].mean() - x[2:].mean())
        spread = found.data[f"{name}_above_controls_sd"].item()
        assert spread == pytest.approx(x[2:].mean(1).std(ddof=1))
    expected = above_controls(gap[1], gap[2:], group)
    ends = [found.data[f"logit_difference_above_controls{e}"].item() for e in ("_low", "_high", "_p")]
    assert ends == [expected.low, expected.high, expected.p_value]
    row = found.summary().loc["ablated minus controls"]
    assert row["accuracy_change"] == found.data["accuracy_above_controls"].item()
    assert row["logit_difference_p"] == expected.p_value


def test_pushed_heads_less_controls_at_every_strength() -> None:
    from mechprobe.heads.interventions import steering_of
    from mechprobe.stats import holm

    rng = np.random.default_rng(0)
    same = rng.random((1, 1, 80)) < 0.3
    pushed = rng.random((6, 2, 80)) < np.array([0.6, *[0.3] * 5])[:, None, None]
    followed = np.concatenate([np.repeat(same, 6, axis=0), pushed], axis=1)
    heads = {"heads": [(2, 1)], **{f"control {i}": [(2, 0)] for i in range(5)}}
    strength = np.array([0.0, 2.0, 4.0])
    found = steering_of(followed, np.arange(80), strength, heads, record(), chance=0.3)
    name = "followed_above_controls"
    gaps = followed[0].mean(1) - followed[1:].mean((0, 2))
    np.testing.assert_allclose(found.data[name], gaps, atol=1e-12)
    assert found.data[f"{name}_high"][0] == 0
    assert (found.data[f"{name}_low"][1:] > 0.05).all()
    p = found.data[f"{name}_p"].values
    assert np.isnan(p).tolist() == [True, False, False]
    assert found.data[f"{name}_p_adjusted"].values[1:].tolist() == holm(p[1:]).tolist()
    assert found.summary().T["heads minus controls"].tolist() == pytest.approx(gaps.tolist())


def test_bad_requests_of_interventions() -> None:
    from mechprobe.heads.interventions import ablation_of, steering_of

    right, gap, group = np.ones((2, 4), bool), np.ones((2, 4)), np.arange(4)
    with pytest.raises(ValueError, match=r"1 conditions \(intact\) for 2 rows of answers"):
        ablation_of(right, gap, group, {"intact": []}, record())
    with pytest.raises(ValueError, match=r"first conditions must be \['intact', 'ablated'\]"):
        ablation_of(right, gap, group, {"ablated": [(0, 0)], "intact": []}, record())
    with pytest.raises(ValueError, match=r"strengths must ascend; got \[1.0, 0.0\]"):
        steering_of(
            np.ones((1, 2, 4), bool), group, np.array([1.0, 0.0]), {"heads": []}, record(),
            chance=0.5,
        )  # fmt: skip


def test_traits_of_chosen_heads(results: dict[str, Any]) -> None:
    traits = results["traits"]
    grid = traits.data["induction"].values
    frame = traits.of([(0, 0), (3, 2)])
    assert frame.index.tolist() == ["L0H0", "L3H2"]
    assert frame.loc["L3H2", "induction"] == grid[3, 2]
    assert frame.loc["L3H2", "induction_rank"] == (grid > grid[3, 2]).sum()
    assert "direct_logit" not in frame
    assert traits.summary()["induction"].iloc[0].endswith(f"{grid.max():.2f}")


def test_traits_of_which_none_was_measured() -> None:
    from mechprobe.heads.results import HeadTraits

    empty = xr.Dataset(
        {"induction": (("layer", "head"), np.full((2, 2), np.nan))}, coords={"layer": [0, 1], "head": [0, 1]}
    )
    with pytest.raises(ValueError, match="no trait of these heads was measured"):
        HeadTraits(empty, record()).plot()
