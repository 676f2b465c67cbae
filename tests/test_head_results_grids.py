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
    cell = found.data["rank_correlation"].sel(selected_on="a", tested_on="b")
    assert float(cell) == pytest.approx(expected)


def test_rank_correlation_of_heads_that_are_all_alike_is_unknown() -> None:
    from mechprobe.heads.across_tasks import rank_correlation

    assert np.isnan(rank_correlation(np.ones(4), np.arange(4.0)))


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
    assert found.data["shortcut_scope"].item() == "pooled"
    assert (found.data["shortcut_accuracy"] == 0.75).all()


def test_difficulty_gives_shortcuts_cell_by_cell_where_they_are_known() -> None:
    from mechprobe.heads.by_difficulty import difficulty_of

    data = scores_data()
    right = np.full((240, 2), np.nan)
    right[:, 1] = data["steps"].values == 1
    data["shortcut_right"] = (("example", "shortcut"), right)
    found = difficulty_of(scores_of(data))
    assert found.data["shortcut_scope"].item() == "cell"
    assert found.data["shortcut_accuracy"].mean("distractors").values.tolist() == [1, 0, 0]
    assert "(whole task)" not in str(found.plot().to_dict())


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


def test_bad_requests_of_interventions() -> None:
    from mechprobe.heads.results import ablation_of, steering_of

    right, gap, group = np.ones((2, 4), bool), np.ones((2, 4)), np.arange(4)
    with pytest.raises(ValueError, match=r"1 conditions \(intact\) for 2 rows of answers"):
        ablation_of(right, gap, group, {"intact": []}, record())
    with pytest.raises(ValueError, match="the first condition must be 'intact'"):
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
