"""What is asked of chosen heads is asked on questions that did not choose them."""

from typing import Any

import numpy as np
import pytest

from tests.test_heads_scores import one_thread  # noqa: F401 (a fixture)

QUIET: dict[str, Any] = {"progress": False}


def chosen(model: Any, n: int = 24, **options: Any) -> tuple[Any, Any]:
    """Return a task, and heads selected on half of it."""
    import mechprobe as mp

    task = mp.tasks.select_and_copy(n, options=3, seed=0)
    scores = mp.qk_scores(model, task, **QUIET)
    return task, scores.select(n_permutations=2, n_bootstrap=10, **options)


def test_a_selection_is_ablated_on_the_questions_that_it_held_out(task_model: Any) -> None:
    import mechprobe as mp

    task, found = chosen(task_model)
    rest = found.held_out(task)
    assert len(rest) == 12
    index = found.data["held_out"].values.tolist()
    assert rest.examples == tuple(task.examples[i] for i in index)
    ablated = mp.ablate_heads(task_model, task, found, controls=5, how="zero", **QUIET)
    intact = ablated.data.sel(condition="intact")
    # The model that is taken apart is the one that the selection compares heads with.
    assert float(intact.accuracy) == found.model_accuracy
    assert ablated.provenance.arguments["heads"] == [list(found.heads[0])]
    assert ablated.provenance.arguments["spelling"] == found.data["model_spelling"].item()
    assert ablated.provenance.arguments["task_notes"] == [*task.notes, "held out by the selection"]
    by_hand = mp.ablate_heads(task_model, rest, found.heads, controls=5, how="zero", **QUIET)
    # Here the likelier spelling is also the one that is right more often.
    assert by_hand.provenance.arguments["spelling"] == ablated.provenance.arguments["spelling"]
    assert ablated.data.equals(by_hand.data)
    assert np.isfinite(float(ablated.data["accuracy_above_controls_low"]))


def test_steering_and_robustness_too(task_model: Any) -> None:
    import mechprobe as mp

    task, found = chosen(task_model)
    found.data["model_spelling"] = ((), np.array("bare", dtype=object))
    rest = found.held_out(task)
    steered = mp.steer_heads(task_model, task, found, strengths=[4.0], controls=1, **QUIET)
    assert steered.provenance.data_digest == rest.digest()
    assert steered.provenance.arguments["spelling"] == "bare"
    robust = mp.option_robustness(task_model, task, head=found, prior_share=0.2, **QUIET)
    assert robust.provenance.data_digest == rest.digest()
    layer, head = found.heads[0]
    right = float(robust.data["accuracy"].sel(reader=f"L{layer}H{head}"))
    assert right == pytest.approx(found.accuracy)


def test_questions_that_may_have_chosen_the_heads_are_refused(task_model: Any) -> None:
    import mechprobe as mp

    task, found = chosen(task_model)
    other = mp.tasks.select_and_copy(24, options=3, seed=1)
    for some in (task[:10], other):
        for analysis in (mp.ablate_heads, mp.steer_heads):
            with pytest.raises(ValueError, match=r"not the questions that the heads were chosen with"):
                analysis(task_model, some, found, **QUIET)
        with pytest.raises(ValueError, match=r"Give that task, whole"):
            mp.option_robustness(task_model, some, head=found, **QUIET)


@pytest.mark.parametrize("options", [{"method": "top_k_vote", "k": 2}, {"centre": True}])
def test_robustness_reads_one_head_as_it_was_chosen(task_model: Any, options: dict[str, Any]) -> None:
    import mechprobe as mp

    task, found = chosen(task_model, **options)
    with pytest.raises(ValueError, match="several heads, inverted or centred; here one head is read"):
        mp.option_robustness(task_model, task, head=found, **QUIET)


def test_a_selection_that_was_saved_knows_its_questions(task_model: Any, tmp_path: Any) -> None:
    from mechprobe.saved import load_result

    task, found = chosen(task_model)
    again: Any = load_result(found.save(tmp_path / "a.nc"))
    assert again.held_out(task).digest() == found.held_out(task).digest()
