"""Branching from a shared prefix, batching and padding must not move a score."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.test_heads_scores import (
    WITHOUT_SCORES,
    Reference,
    assert_scores,
    choice,
    custom,
    logic,
    newline,
    one_thread,  # noqa: F401 (a fixture)
    places_of,
    read,
)

SCORES = ("qk", "rotated", "cosine", "attention")


def never(_: object) -> bool:
    return False


def assert_three_ways_agree(model: Any, task: Any, **options: Any) -> None:
    """Branched in a batch, branched one by one, and every whole text run for itself."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("mechprobe.heads.scores.branching", never)
        full = read(model, task, batch_size=2, **options)
    whole = full.score.values.astype(np.float64)
    for batch_size in (None, 1):
        found = read(model, task, batch_size=batch_size, **options)
        assert_scores(found.score, whole)
        own, theirs = found.model_log_prob.values, full.model_log_prob.values
        np.testing.assert_allclose(own, theirs, rtol=0, atol=2e-5)


# Rotary, learned positions, an offset of positions, ALiBi, grouped and one key head, QK-norm.
@pytest.mark.parametrize(
    "name", ["llama", "gpt2", "opt", "gpt_neo", "gptj", "gpt_neox", "qwen3", "falcon", "bloom"]
)
def test_branching_equals_full_passes(tiny: Callable[..., Any], name: str) -> None:
    model, task = tiny(name, tasks=True), logic()
    assert len({len(model.to_tokens(e.prompt)[0]) for e in task}) == len(task)
    assert_three_ways_agree(model, task)
    if name not in WITHOUT_SCORES:
        assert_three_ways_agree(model, logic(3), score="rotated")
        assert_three_ways_agree(model, logic(3), score="attention")


def test_the_prompt_is_run_once(task_model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a branching model nothing is run but the prompts and one token per candidate."""
    from mechprobe.models import cursor

    shapes: list[tuple[int, int]] = []
    plain = cursor.run

    def counted(model: Any, ids: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        shapes.append((ids.shape[0], ids.shape[1]))
        return plain(model, ids, *args, **kwargs)

    monkeypatch.setattr(cursor, "run", counted)
    task = logic()
    longest = max(len(task_model.to_tokens(e.prompt)[0]) for e in task)
    read(task_model, task)
    assert shapes == [(5, longest), (10, 1)]


@pytest.mark.parametrize("side", ["left", "right"])
def test_the_padding_side_of_the_tokenizer_does_not_matter(
    tiny: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, side: str
) -> None:
    model, task = tiny("gpt2", tasks=True), logic()
    reference = Reference(model)
    monkeypatch.setattr(model.tokenizer, "padding_side", side)
    assert_scores(read(model, task).score, reference.candidates(task, "qk"))
    assert_scores(read(model, choice(3)).score, reference.options(choice(3), "qk", newline))


SLIDING: dict[str, dict[str, Any]] = {
    "mistral": {"sliding_window": 8},
    "gemma2": {"sliding_window": 8},
    "gemma3": {
        "sliding_window": 8,
        "layer_types": ["sliding_attention", "full_attention", "sliding_attention"],
    },
}


@pytest.mark.parametrize("long", [False, True])
@pytest.mark.parametrize("name", SLIDING)
def test_a_window_that_prompts_exceed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, *, long: bool
) -> None:
    """Padding would move the window; a cache that slid has fewer columns than the text tokens."""
    if long:  # as passes do whose scores are not written down
        monkeypatch.setattr("mechprobe.models.twin._MANY_SCORES", 1)
    model, task = custom(tmp_path, name, **SLIDING[name]), logic(3)
    reference = Reference(model)
    assert min(len(reference.ids(e.prompt)) for e in task) > 8
    for score in SCORES:
        assert_scores(read(model, task, score=score).score, reference.candidates(task, score))
    assert_three_ways_agree(model, task, score="attention")
    near = read(model, task, score="attention").score.values
    assert (near > 0).all()
    # The first option's letter is out of sight of a layer that slides, as it is in full passes.
    options = {"score": "attention", "query": "candidate", "key": "label"}
    assert_three_ways_agree(model, choice(2), **options)
    far = read(model, choice(2), **options).score.values
    slides = {"mistral": [True] * 3, "gemma2": [True, False, True], "gemma3": [True, False, True]}
    for layer, hidden in enumerate(slides[name]):
        assert (far[:, 0, layer] == 0).all() == hidden


@pytest.mark.parametrize("name", ["mistral", "gpt_neo"])
def test_a_window_longer_than_some_prompts(tmp_path: Path, name: str) -> None:
    """Some prompts fit into the window and some do not; padding must not count as tokens."""
    task = logic()
    size = {"sliding_window": 20} if name == "mistral" else {"window_size": 20}
    model = custom(tmp_path, name, **size)
    lengths = [len(model.to_tokens(e.prompt)[0]) for e in task]
    assert min(lengths) < 20 < max(lengths)
    assert_three_ways_agree(model, task)
    assert_scores(read(model, task).score, Reference(model).candidates(task, "qk"))


def test_a_model_that_takes_no_positions(tiny: Callable[..., Any]) -> None:
    from mechprobe.models import looking_at, takes_positions

    model = tiny("bloom", tasks=True)
    with looking_at(model) as session:
        assert not takes_positions(session)
    with looking_at(tiny("llama", tasks=True)) as session:
        assert takes_positions(session)
    assert_scores(read(model, logic()).score, Reference(model).candidates(logic(), "qk"))


@pytest.mark.parametrize("query", ["last", "candidate"])
def test_candidates_of_different_number(tiny: Callable[..., Any], query: str) -> None:
    model, task = tiny("gpt2", tasks=True), choice()
    assert {len(e.candidates) for e in task} == {2, 3, 4}
    for score in ("qk", "attention"):
        assert_three_ways_agree(model, task, score=score, query=query, key="label")
    data = read(model, task, query=query, key="label")
    missing = data.candidate_text.values == ""
    assert missing.sum() == 6
    np.testing.assert_array_equal(np.isnan(data.score.values).all((2, 3)), missing)
    np.testing.assert_array_equal(np.isnan(data.score.values).any((2, 3)), missing)


def test_bfloat16_is_multiplied_in_float32(tiny: Callable[..., Any]) -> None:
    """The product of the model's own bfloat16 vectors, exact; nothing is rounded after it."""
    model, task = tiny("llama", tasks=True, dtype=torch.bfloat16), logic(3)
    assert next(model.parameters()).dtype == torch.bfloat16
    reference = Reference(model)
    full = tiny("llama", tasks=True)
    for score in ("qk", "cosine"):
        options = reference.options(choice(2), score, newline)
        assert_scores(read(model, choice(2), score=score, batch_size=1).score, options, 1e-6)
    for score in SCORES:
        exact = read(full, task, score=score).score.values.astype(np.float64)
        assert_scores(read(model, task, score=score).score, exact, 0.05)


def test_float64_models_are_read(tiny: Callable[..., Any]) -> None:
    model, task = tiny("gpt2", tasks=True, dtype=torch.float64), logic(3)
    assert_scores(read(model, task).score, Reference(model).candidates(task, "qk"), 1e-7)


def test_layers_are_a_part_of_all(task_model: Any) -> None:
    task = logic(3)
    every, some = read(task_model, task), read(task_model, task, layers=[2, 0])
    assert some.layer.values.tolist() == [0, 2]
    np.testing.assert_array_equal(some.score, every.score.sel(layer=[0, 2]))
    assert every.layer.values.tolist() == [0, 1, 2]


def test_what_a_result_says(task_model: Any) -> None:
    from mechprobe.heads import qk_scores

    task = choice(3)
    found = qk_scores(task_model, task, progress=False)
    data, record = found.data, found.provenance.arguments
    assert data.answer.values.tolist() == [e.answer for e in task]
    assert data.candidate_text.values[0].tolist() == ["A", "B", "", ""]
    assert data.group.values.tolist() == [0, 1, 2]
    assert data.steps.values.tolist() == [-1, -1, -1]
    assert (record["query"], record["key"]) == ("last", "end_of_line")
    assert found.accuracy_map().shape == (3, 4)
    logical = qk_scores(task_model, logic(), progress=False).provenance.arguments
    assert (logical["query"], logical["key"]) == ("candidate", "before_answer")


def test_examples_without_a_group_stand_alone(task_model: Any) -> None:
    from dataclasses import replace

    task = logic(3)
    loose = replace(task, examples=tuple(replace(e, group="") for e in task))
    assert read(task_model, loose).group.values.tolist() == [0, 1, 2]


def test_only_needed_vectors_are_kept(task_model: Any) -> None:
    """Memory held between layers: one vector per key token and head, not one per position."""
    from mechprobe.heads.capture import HeadReader, key_places
    from mechprobe.heads.lead import Lead
    from mechprobe.models import attention_path, looking_at

    task = logic()
    found = places_of(task_model, task, "candidate", "before_answer")
    with looking_at(task_model) as session:
        reader = HeadReader(attention_path(session, "qk"), [0, 1, 2], "space")
    kept: dict[int, torch.Tensor] = {}
    sink = reader._key_sink(kept, 0, key_places(found, torch.device("cpu")), Lead())
    sink(torch.randn(5, 70, 2, 8))
    assert kept[0].shape == (5, 1, 1, 2, 8)
    assert kept[0].untyped_storage().nbytes() == 5 * 2 * 8 * 4


@pytest.mark.parametrize("branches", [True, False])
def test_memory_does_not_grow_with_candidates(
    task_model: Any, monkeypatch: pytest.MonkeyPatch, branches: bool
) -> None:
    """Tokens of a pass times their candidates stay within the budget of one micro-batch."""
    import mechprobe as mp
    from mechprobe.heads import scores
    from mechprobe.models import cursor

    held: list[int] = []
    plain = cursor.run

    def counted(model: Any, ids: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        past = kwargs.get("cache")
        held.append(ids.numel() + (0 if past is None else len(ids) * past.get_seq_length()))
        return plain(model, ids, *args, **kwargs)

    monkeypatch.setattr(cursor, "run", counted)
    if not branches:
        monkeypatch.setattr(scores, "branching", never)
    task = mp.tasks.select_and_copy(8, options=8, seed=0)
    longest = max(len(task_model.to_tokens(e.prompt)[0]) for e in task) + 1
    read(task_model, task, query="candidate", key="label", layers=[0])
    assert max(held) <= max(2 * 1024, 8 * longest) * 1.1
