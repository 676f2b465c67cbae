"""Results of the heads probe: they say what was found, and save and load unchanged."""

import re
from collections import defaultdict
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr

EVIL = "<script>alert(1)</script>"


def scores_data(
    n: int = 240,
    n_layers: int = 4,
    n_heads: int = 3,
    *,
    planted: tuple[int, int] | None = (2, 1),
    strength: float = 1.5,
    n_candidates: int = 2,
    seed: int = 0,
) -> xr.Dataset:
    """Return random scores in groups of two with both answers; ``planted`` knows the answer."""
    rng = np.random.default_rng(seed)
    group = np.repeat(np.arange(n // 2), 2)
    first = rng.integers(0, n_candidates, n // 2)
    answer = np.stack([first, (first + 1) % n_candidates], axis=1).ravel()
    score = rng.normal(size=(n, n_candidates, n_layers, n_heads)).astype(np.float32)
    if planted is not None:
        score[np.arange(n), answer, planted[0], planted[1]] += strength
    log_prob = rng.normal(-3, 1, (n, n_candidates, 2))
    log_prob[np.arange(n), answer, 0] += 0.5
    log_prob[:, 0, 0] += 4
    log_prob[:, :, 1] = np.nan
    names = ["true", "false"] if n_candidates == 2 else list("ABCDEFGH"[:n_candidates])
    return xr.Dataset(
        {
            "score": (("example", "candidate", "layer", "head"), score),
            "answer": ("example", answer),
            "group": ("example", group),
            "block": ("example", np.arange(n)),
            "steps": ("example", np.tile(np.repeat([1, 2, 3], 2), n)[:n]),
            "distractors": ("example", np.tile(np.repeat([0, 2], 6), n)[:n]),
            "candidate_text": (("example", "candidate"), np.array([names] * n, dtype=object)),
            "model_log_prob": (("example", "candidate", "spelling"), log_prob),
            "shortcut_accuracy": ("shortcut", [0.5, 0.75]),
            "shortcut_low": ("shortcut", [0.44, 0.69]),
            "shortcut_high": ("shortcut", [0.56, 0.8]),
            "chance": ("shortcut", [1 / n_candidates] * 2),
            # Of four examples in two groups, "length" is right on two, "polarity" on three.
            "shortcut_right": (("shortcut", "example"), np.tile([[1.0, 0, 1, 0], [1, 0, 1, 1]], n)[:, :n]),
            "shortcut_half": ("example", np.arange(n) // 4 % 2),
        },
        coords={
            "layer": np.arange(n_layers),
            "head": np.arange(n_heads),
            "spelling": np.array(["space", "bare"], dtype=object),
            "shortcut": np.array(["length", "polarity"], dtype=object),
        },
    )


def record(data: Any = "ids", **arguments: Any) -> Any:
    """Return a provenance record of scores of some questions."""
    from mechprobe.provenance import Call

    told = {"task": "nonce logic", "score": "qk", "query": "answer", "key": "statement"}
    return Call("qk_scores", told | arguments).record({"name": "toy"}, data)


def scores_of(data: xr.Dataset, **arguments: Any) -> Any:
    """Return ``HeadScores`` of the data."""
    from mechprobe.heads.head_scores import HeadScores

    return HeadScores(data, record(data["answer"].values.tolist(), **arguments))


def all_results() -> dict[str, Any]:
    """Return one result of every kind."""
    from mechprobe.heads.across_tasks import transfer
    from mechprobe.heads.by_difficulty import difficulty_of
    from mechprobe.heads.interventions import ablation_of, steering_of
    from mechprobe.heads.results import HeadTraits

    scores = scores_of(scores_data())
    other = scores_of(scores_data(seed=1, n=120), task="other")
    rng = np.random.default_rng(0)
    group = np.repeat(np.arange(60), 2)
    ablated = {"intact": [], "ablated": [(2, 1)], "control 1": [(2, 0)], "control 2": [(2, 2)]}
    right = rng.random((4, 120)) < np.array([0.8, 0.55, 0.78, 0.8])[:, None]
    gap = rng.normal(size=(4, 120)) + np.array([2.0, 0.4, 1.9, 2.0])[:, None]
    strength = np.array([0.0, 1.0, 2.0, 4.0])
    pull = np.array([[0.5, 0.6, 0.8, 0.95], [0.5, 0.52, 0.5, 0.55]])
    followed = rng.random((2, 4, 120)) < pull[:, :, None]
    pushed = {"heads": [(2, 1)], "control 1": [(2, 0)]}
    traits = {
        name: (("layer", "head"), rng.random((4, 3)) * 0.6)
        for name in ("induction", "previous_token", "duplicate_token", "retrieval")
    }
    traits["ov_copying"] = (("layer", "head"), rng.uniform(-1, 1, (4, 3)))
    traits["direct_logit"] = (("layer", "head"), np.full((4, 3), np.nan))
    coords = {"layer": np.arange(4), "head": np.arange(3)}
    return {
        "scores": scores,
        "selection": scores.select(calibration=120, n_permutations=200, n_bootstrap=100),
        "transfer": transfer({"nonce logic": scores, "other": other}),
        "difficulty": difficulty_of(scores),
        "ablation": ablation_of(right, gap, group, ablated, record(how="zero")),
        "steering": steering_of(followed, group, strength, pushed, record(how="steer"), chance=0.5),
        "traits": HeadTraits(xr.Dataset(traits, coords=coords), record()),
    }


@pytest.fixture(scope="module")
def results() -> dict[str, Any]:
    """One result of every kind, made once."""
    return all_results()


KINDS = ("scores", "selection", "transfer", "difficulty", "ablation", "steering", "traits")


@pytest.mark.parametrize("kind", KINDS)
def test_saved_and_loaded_is_identical(results: dict[str, Any], kind: str, tmp_path: Path) -> None:
    from mechprobe.saved import load_result

    result = results[kind]
    back = load_result(result.save(tmp_path / "a.nc"))
    assert type(back) is type(result)
    xr.testing.assert_identical(back.data, result.data)
    assert back.provenance == result.provenance
    assert repr(back) == repr(result)


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_shows_itself(results: dict[str, Any], kind: str) -> None:
    result = results[kind]
    assert type(result).__name__ in repr(result)
    assert len(result.summary()) > 0
    assert len(result.to_dataframe()) > 0
    assert "<table" in result._repr_html_()
    assert result.schema() in result.to_json()
    assert result.plot().data
    with pytest.raises(ValueError, match=r"no figure 'pie'; the (only kind is|kinds are)"):
        result.plot("pie")


def test_all_schemas_differ(results: dict[str, Any]) -> None:
    assert len({r.schema() for r in results.values()}) == len(KINDS)


def test_a_selection_says_everything_it_must(results: dict[str, Any]) -> None:
    found = results["selection"]
    assert found.heads == [(2, 1)]
    assert found.ci_low < found.accuracy < found.ci_high
    assert found.accuracy == found.data["right"].values.mean() > 0.75
    assert found.p_value == pytest.approx(1 / 201)
    assert found.null_max == pytest.approx(float(found.data["null_best"].mean()))
    assert found.shortcut_name == "polarity"
    held_out = scores_data().isel(example=found.data["held_out"].values)
    by_rule = held_out["shortcut_right"].mean("example").values
    assert found.shortcut_accuracy == by_rule[1] == pytest.approx(0.75, abs=0.05)
    gap = found.data["beyond_shortcut"].values
    np.testing.assert_allclose(gap, found.accuracy - by_rule)
    assert (found.data["beyond_shortcut_low"] < gap).all()
    assert (found.data["beyond_shortcut_high"] > gap).all()
    assert found.summary().loc["head minus best shortcut", "accuracy"] == pytest.approx(gap[1])
    p = found.data["head_p"]
    listed = [float(p.sel(layer=layer, head=head)) for layer, head in found.fdr_heads]
    assert found.fdr_heads[0] == (2, 1)
    assert listed == sorted(listed)
    # Benjamini and Hochberg: the last one listed keeps its threshold, the next would not.
    assert listed[-1] <= 0.05 * len(listed) / 12
    assert int((p <= listed[-1]).sum()) == len(listed)
    assert found.stability == float(found.data["picked"].max()) > 0.9
    said = (
        r"L2H1: 0\.\d\d \[0\.\d\d, 0\.\d\d\] on 120 held-out examples, p = 0\.005 \(mid-p 0\.0025\); "
        r"best of 12 heads by chance 0\.5\d \(on 120 calibration examples\); model 0\.50, "
        r"calibrated 0\.\d\d; "
        r"best shortcut 0\.7\d \(polarity\)"
    )
    assert re.search(said, repr(found))
    assert re.search(said, found._repr_html_())
    assert "paired, all shortcuts together" in found.summary()["note"].tolist()


def test_sections_say_what_their_figures_do_not(
    results: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    # Sections cite papers; the entries themselves are another test's matter.
    monkeypatch.setattr("mechprobe.results.base.bibliography", partial(defaultdict, str))
    assert results["selection"].section().note == results["selection"].headline()
    assert len(results["selection"].section().figures) == 2
    assert "the best of many heads looks good by chance" in results["scores"].section().note
    assert "Head L2H1, chosen on 120 examples of all cells" in results["difficulty"].section().note


def test_held_out_examples_are_those_not_calibrated_on(results: dict[str, Any]) -> None:
    scores, found = results["scores"], results["selection"]
    test = found.data["held_out"].values
    rest = np.setdiff1d(np.arange(240), test)
    assert len(test) + int(found.data["n_calibration"]) == 240
    group = scores.data["group"].values
    assert not set(group[test]) & set(group[rest])
    decided = scores.data["score"].sel(layer=2, head=1).argmax("candidate").values
    right = decided == scores.data["answer"].values
    np.testing.assert_array_equal(found.data["right"].values, right[test])
    assert float(found.data["accuracy_calibration"].sel(layer=2, head=1)) == right[rest].mean()


def test_the_model_is_judged_on_the_same_examples(results: dict[str, Any]) -> None:
    scores, found = results["scores"], results["selection"]
    test = found.data["held_out"].values
    said = scores.data["model_log_prob"].values[test, :, 0]
    answer = scores.data["answer"].values
    assert found.model_accuracy == (said.argmax(1) == answer[test]).mean() == 0.5
    rest = np.setdiff1d(np.arange(240), test)
    moved = said - np.median(scores.data["model_log_prob"].values[rest, :, 0], axis=0)
    calibrated = (moved.argmax(1) == answer[test]).mean()
    assert found.model_calibrated_accuracy == calibrated > 0.55
    assert found.data["model_spelling"].item() == "space"
    gain = found.accuracy - found.model_accuracy
    assert float(found.data["gain"]) == pytest.approx(gain)


def test_the_better_spelling_is_named() -> None:
    data = scores_data()
    data["model_log_prob"][:, :, 1] = data["model_log_prob"][:, :, 0]
    right = np.arange(2) == data["answer"].values[:, None]
    data["model_log_prob"][:, :, 1] += np.where(right, 20.0, 0.0)
    data["model_log_prob"][:10, 0, 1] = np.nan
    scores = scores_of(data)
    found = scores.select(n_permutations=10, n_bootstrap=10)
    assert found.data["model_spelling"].item() == "bare"
    assert found.model_accuracy == 1
    frame = scores.baseline().set_index(["spelling", "calibrated"])
    assert frame.loc[("bare", False), "n"] == 230
    assert frame["better"].to_dict() == {
        ("space", False): False,
        ("space", True): False,
        ("bare", False): True,
        ("bare", True): True,
    }


def test_a_model_that_no_spelling_reaches() -> None:
    data = scores_data()
    data["model_log_prob"][:] = np.nan
    found = scores_of(data).select(n_permutations=10, n_bootstrap=10)
    assert np.isnan(found.model_accuracy)
    assert found.data["model_spelling"].item() == "no single token"
    assert "no single token" in repr(found)
    assert found.plot("null").data


def test_a_task_without_audit_says_so() -> None:
    data = scores_data().isel(shortcut=slice(0, 0))
    found = scores_of(data).select(n_permutations=10, n_bootstrap=10)
    assert found.shortcut_name == "none audited"
    assert np.isnan(found.shortcut_accuracy)
    assert np.isnan(found.summary().loc["head minus best shortcut", "accuracy"])
    assert "(none audited)" in repr(found)


def test_scores_flag_what_is_not_held_out(results: dict[str, Any]) -> None:
    scores = results["scores"]
    table = scores.summary()
    assert table.index[0] == "L2H1"
    assert table["note"].iloc[0] == "best of 12 heads, over all examples: not held out"
    assert {"chance", "best by chance", "shortcut: polarity", "model, space"} <= set(table.index)
    assert "not held out" in scores.plot().layout.title.subtitle.text
    assert "not held out" in scores.plot("distribution").layout.title.subtitle.text
    assert "polarity" in scores.plot().layout.title.subtitle.text
    share = scores.accuracy_map()
    assert share.dims == ("layer", "head")
    assert table["accuracy"].iloc[0] == float(share.max()) == float(share.sel(layer=2, head=1))


def test_best_by_chance_follows_the_answers() -> None:
    rng = np.random.default_rng(0)
    data = scores_data(planted=None, n_layers=10, n_heads=10)
    yes = rng.permutation(240) < 170
    data["answer"][:] = np.where(yes, 0, 1)
    data["group"][:] = np.arange(240)
    # How often a head says yes has nothing to do with the question.
    data["score"][:, 0] += rng.normal(0, 2, (10, 10)).astype(np.float32)
    scores = scores_of(data)
    table = scores.summary()
    assert table["accuracy"].iloc[0] == pytest.approx(table.loc["best by chance", "accuracy"], abs=0.02)
    assert table.loc["best by chance", "accuracy"] > 0.69
    assert table.loc["best by chance", "note"] == "expected of 100, answers permuted"
    value = table.loc["best by chance", "accuracy"]
    ticks = "".join(map(str, scores.plot().data[0].colorbar.ticktext))
    assert f"{value:.2f} best by chance" in ticks


def test_best_by_chance_of_one_group_is_not_known() -> None:
    data = scores_data(n_candidates=3)
    half = np.repeat([0, 1], 120)
    data["answer"][:] = data["group"][:] = half
    # A group of two candidates and one of three exchange nothing.
    data["score"][:120, 2] = np.nan
    data["candidate_text"][:120, 2] = ""
    scores = scores_of(data)
    row = scores.summary().loc["best by chance"]
    assert np.isnan(row["accuracy"])
    assert row["note"] == "not known: these groups leave nothing to permute"
    assert "best by chance" not in "".join(map(str, scores.plot().data[0].colorbar.ticktext))


def test_a_selection_says_what_p_was_possible(results: dict[str, Any]) -> None:
    found = results["selection"]
    assert found.p_least == found.p_value == pytest.approx(1 / 201)
    assert found.p_mid < found.p_value
    assert "least possible" not in found.headline()
    assert (found.data["head_p_mid"] < found.data["head_p"]).all()
    assert found.data["head_p_from"].item() == "exact law"
    # 60 theories with both answers in either part.
    assert float(found.data["log10_relabellings_test"]) == pytest.approx(60 * np.log10(2))
    assert float(found.data["log10_relabellings"]) == pytest.approx(120 * np.log10(2))
    data = scores_data(n=60)
    data["group"][:] = np.repeat(np.arange(6), 10)
    data["answer"][:] = np.repeat([0, 1] * 3, 10)
    with pytest.warns(UserWarning, match="gives few labellings: 9"):
        few = scores_of(data).select(calibration=30, seed=2, n_permutations=99, n_bootstrap=9)
    assert few.p_least == pytest.approx(1 / 9)
    assert re.search(r"\(mid-p 0\.\d+, least possible p 0\.11\)", few.headline())
    assert few.summary()["note"].iloc[0] == "30 held-out examples, least possible p 0.11"


def test_flip_and_centre_reach_the_statistics() -> None:
    data = scores_data()
    data["score"][:, :, 2, 1] *= -1
    scores = scores_of(data)
    plain = scores.select(n_permutations=50, n_bootstrap=10)
    flipped = scores.select(flip=True, n_permutations=50, n_bootstrap=10)
    assert plain.heads != [(2, 1)]
    assert flipped.heads == [(2, 1)]
    assert "L2H1 inverted" in repr(flipped)
    data["score"][:, 0, 2, 1] += 100
    centred = scores_of(data).select(flip=True, centre=True, n_permutations=50, n_bootstrap=10)
    assert centred.heads == [(2, 1)]
    assert centred.provenance.arguments["centre"] is True


def test_provenance_of_a_selection_names_task_and_request(results: dict[str, Any]) -> None:
    record_ = results["selection"].provenance
    assert record_.function == "mechprobe.HeadScores.select"
    assert record_.arguments["task"] == "nonce logic"
    assert record_.arguments["calibration"] == 120
    assert record_.model == {"name": "toy"}
    assert record_.seed == 0


def test_layers_that_do_not_start_at_zero_keep_their_numbers() -> None:
    data = scores_data().assign_coords(layer=[4, 5, 6, 7], head=[0, 2, 4])
    found = scores_of(data).select(n_permutations=50, n_bootstrap=20)
    assert found.heads == [(6, 2)]
    assert found.fdr_heads[0] == (6, 2)
    assert "L6H2" in repr(found)


def test_examples_with_fewer_candidates() -> None:
    data = scores_data(n_candidates=4)
    data["score"][::3, 3] = np.nan
    data["candidate_text"][::3, 3] = ""
    data["answer"][::3] = data["answer"][::3] % 3
    found = scores_of(data).select(n_permutations=50, n_bootstrap=20)
    assert 0.25 < float(found.data["chance"]) < 0.34
    assert len(scores_of(data).to_dataframe()) == (240 * 4 - 80) * 12


def test_a_candidate_whose_score_is_missing_is_refused() -> None:
    data = scores_data()
    data["score"][7, 1] = np.nan
    with pytest.raises(ValueError, match=r"first \(example 7, candidate 1, head 0\) is nan"):
        scores_of(data).select()
    with pytest.raises(ValueError, match=r"first \(example 7, candidate 1, head 0\) is nan"):
        scores_of(data).summary()


def test_attention_without_labels_asks_for_mass() -> None:
    data = scores_data(planted=None)
    rng = np.random.default_rng(0)
    data["score"][:] = rng.random(data["score"].shape) * 0.01
    data["score"][:, :, 3, 0] += 0.4
    found = scores_of(data, score="attention").select(
        method="unsupervised", n_permutations=20, n_bootstrap=20
    )
    assert found.heads == [(3, 0)]


def test_there_is_no_such_head(results: dict[str, Any]) -> None:
    message = r"there is no head \(9, 0\); layers are 0 to 3, heads 0 to 2"
    with pytest.raises(ValueError, match=message):
        results["scores"].plot("distribution", head=(9, 0))
    with pytest.raises(ValueError, match=message):
        results["traits"].of([(9, 0)])


def test_names_are_never_markup() -> None:
    from mechprobe.heads.across_tasks import transfer
    from mechprobe.heads.by_difficulty import difficulty_of

    data = scores_data().assign_coords(shortcut=np.array(["length", EVIL], dtype=object))
    data["candidate_text"][:] = np.array([EVIL, "false"], dtype=object)
    scores = scores_of(data, task=EVIL)
    made: list[Callable[[], Any]] = [
        lambda: scores,
        lambda: scores.select(n_permutations=10, n_bootstrap=10),
        lambda: transfer({EVIL: scores, "b": scores}),
        lambda: difficulty_of(scores),
    ]
    for make in made:
        result = make()
        assert "<script>" not in result._repr_html_()
        kinds = {"head_scores": ("accuracy", "distribution"), "head_selection": ("map", "null")}
        for kind in kinds.get(result.kind, (None,)):
            figure = result.plot(kind) if kind else result.plot()
            assert "<script>" not in str(figure.to_dict())
