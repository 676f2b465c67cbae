"""Ablation and steering against edits made by hand."""

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch

from tests.test_heads_scores import (
    choice,
    logic,
    one_thread,  # noqa: F401 (a fixture)
    places_of,
)

Margins = npt.NDArray[np.float64]
HEADS = [(0, 3), (2, 1)]


def ablate(model: Any, task: Any, heads: Any = HEADS, **options: Any) -> Any:
    from mechprobe.heads import ablate_heads

    return ablate_heads(model, task, heads, progress=False, **options).data


def by_hand(model: Any, task: Any, spelling: str, edit: Callable[[int], Any]) -> Margins:
    """Run prompts one by one with hooks of our own; right logit less the best other."""
    out = []
    for i, example in enumerate(task):
        ids = model.to_tokens(example.prompt)
        answers = [model.to_tokens(example.prompt + spelling + c)[0, -1].item() for c in example.candidates]
        logits = model.run_with_hooks(ids, fwd_hooks=edit(i))[0, -1].detach().double()[answers]
        others = [float(z) for c, z in enumerate(logits) if c != example.answer]
        out.append(float(logits[example.answer]) - max(others))
    return np.array(out)


def replace_heads(heads: Any, values: Callable[[int, int, torch.Tensor], Any]) -> Any:
    """Return hooks that put ``values(layer, head, z)`` in the place of each head's output."""

    def hook(layer: int, own: list[int]) -> Any:
        def change(z: torch.Tensor, hook: Any) -> torch.Tensor:  # noqa: ARG001
            z = z.clone()
            for h in own:
                z[0, :, h] = values(layer, h, z)
            return z

        return f"blocks.{layer}.attn.hook_z", change

    layers = sorted({layer for layer, _ in heads})
    return [hook(layer, [h for x, h in heads if x == layer]) for layer in layers]


def outputs(model: Any, task: Any) -> list[Any]:
    names = [f"blocks.{x}.attn.hook_z" for x in range(model.cfg.n_layers)]
    return [model.run_with_cache(model.to_tokens(e.prompt), names_filter=names)[1] for e in task]


def assert_margins(found: Any, intact: Margins, ablated: Margins) -> None:
    """Compare means, and that the ablation did something."""
    assert np.abs(ablated - intact).max() > 1e-3
    for condition, margins in (("intact", intact), ("ablated", ablated)):
        row = found.sel(condition=condition)
        assert float(row.accuracy) == pytest.approx(float((margins > 0).mean()))
        assert float(row.logit_difference) == pytest.approx(margins.mean(), abs=1e-4)
    row = found.sel(condition="ablated")
    assert float(row.logit_difference_change) == pytest.approx((ablated - intact).mean(), abs=1e-4)


def spelled(model: Any, task: Any) -> str:
    """Return the spelling that ``ablate_heads`` reads: the one the intact model is likelier to use."""
    mass = {" ": 0.0, "": 0.0}
    for e in task:
        said = model(model.to_tokens(e.prompt))[0, -1].detach().double().softmax(-1)
        for lead in mass:
            ids = [model.to_tokens(e.prompt + lead + c)[0, -1].item() for c in e.candidates]
            mass[lead] += float(said[ids].sum())
    return " " if mass[" "] >= mass[""] else ""


@pytest.mark.parametrize("name", ["llama", "gpt2", "gemma2", "falcon", "bloom", "opt", "gptj"])
def test_zero_equals_hooks_made_by_hand(tiny: Callable[..., Any], name: str) -> None:
    model, task = tiny(name, tasks=True), logic()
    spelling = spelled(model, task)
    intact = by_hand(model, task, spelling, lambda _: [])
    ablated = by_hand(model, task, spelling, lambda _: replace_heads(HEADS, lambda *_: torch.zeros(())))
    for batch_size in (None, 1):
        assert_margins(ablate(model, task, how="zero", controls=0, batch_size=batch_size), intact, ablated)


def test_zero_equals_output_weights_of_zero(tmp_path: Any) -> None:
    """No hook at all: the head's columns of ``o_proj`` are taken out of the checkpoint."""
    from mechprobe.models import load_model
    from tests.tiny import save_tiny

    model: Any = load_model(save_tiny(tmp_path, tasks=True), device="cpu")
    task = logic()
    spelling = spelled(model, task)
    found = ablate(model, task, how="zero", controls=0)
    intact = by_hand(model, task, spelling, lambda _: [])
    with torch.no_grad():
        for layer, head in HEADS:
            o = model.original_model.model.layers[layer].self_attn.o_proj
            getattr(o, "original_component", o).weight[:, head * 8 : head * 8 + 8] = 0.0
    assert_margins(found, intact, by_hand(model, task, spelling, lambda _: []))


def test_mean_is_the_mean_over_all_tokens(task_model: Any) -> None:
    task, spelling = logic(), spelled(task_model, logic())
    z = outputs(task_model, task)
    mean = {
        (x, h): torch.cat([c[f"blocks.{x}.attn.hook_z"][0, :, h] for c in z]).double().mean(0)
        for x, h in HEADS
    }
    ablated = by_hand(task_model, task, spelling, lambda _: replace_heads(HEADS, lambda x, h, _: mean[x, h]))
    intact = by_hand(task_model, task, spelling, lambda _: [])
    for batch_size in (None, 2):
        found = ablate(task_model, task, how="mean", controls=0, batch_size=batch_size)
        assert_margins(found, intact, ablated)


@pytest.mark.parametrize("seed", [0, 1])
def test_resample_is_another_example_aligned_from_the_end(task_model: Any, seed: int) -> None:
    from mechprobe.heads.ablate import _Replacement
    from mechprobe.models import looking_at

    task, spelling = logic(), spelled(task_model, logic())
    ids = [task_model.to_tokens(e.prompt)[0].tolist() for e in task]
    with looking_at(task_model) as session:
        donor = _Replacement(session, ids, "resample", seed)._donor
    assert sorted(donor.values()) == [0, 1, 2, 3, 4]
    assert all(i != d for i, d in donor.items())
    z = outputs(task_model, task)

    def taken(i: int) -> Any:
        def values(layer: int, head: int, own: torch.Tensor) -> torch.Tensor:
            theirs = z[donor[i]][f"blocks.{layer}.attn.hook_z"][0, :, head]
            n, n_theirs = own.shape[1], len(theirs)
            rows = [theirs[max(0, n_theirs - n + p)] for p in range(n)]
            return torch.stack(rows)

        return replace_heads(HEADS, values)

    intact = by_hand(task_model, task, spelling, lambda _: [])
    for batch_size in (None, 1):
        found = ablate(task_model, task, how="resample", controls=0, seed=seed, batch_size=batch_size)
        assert_margins(found, intact, by_hand(task_model, task, spelling, taken))


def test_controls_match_layers_and_share_no_head(task_model: Any) -> None:
    chosen = {(0, 3), (0, 1), (2, 1)}
    found = ablate(task_model, logic(2), sorted(chosen), controls=4, how="zero", seed=3)
    assert found.heads.values[:2].tolist() == ["", "L0H1 L0H3 L2H1"]
    # One pair of other heads in layer 0, times three in layer 2: all of them, each once.
    assert float(found.n_control_sets) == 3
    assert len(set(found.heads.values[2:].tolist())) == len(found.heads.values[2:]) == 3
    for text in found.heads.values[2:]:
        drawn = {(int(name[1]), int(name[3])) for name in text.split()}
        assert sorted(layer for layer, _ in drawn) == [0, 0, 2]
        assert not drawn & chosen
    some = [ablate(task_model, logic(2), [(0, 3), (2, 1)], controls=5, how="zero", seed=s) for s in (3, 4)]
    assert float(some[0].n_control_sets) == 9
    assert len(set(some[0].heads.values[2:].tolist())) == 5
    assert some[0].heads.values.tolist() != some[1].heads.values.tolist()


@pytest.mark.parametrize("how", ["zero", "mean", "resample"])
def test_one_seed_one_result(task_model: Any, how: str) -> None:
    first, again = (ablate(task_model, logic(), controls=2, how=how, seed=5) for _ in range(2))
    assert first.equals(again)


def steered_log_probs(model: Any, task: Any, heads: Any, strength: float, key: str) -> Any:
    """Log-probabilities of the candidates as ``steer_heads`` reads them, and the targets."""
    from mechprobe.heads.answers import AnswerReader
    from mechprobe.heads.places import Place
    from mechprobe.heads.steer import _edits
    from mechprobe.models import looking_at

    found = places_of(model, task, "last", key)
    target = [(e.answer + 1) % len(e.candidates) for e in task]
    steered = [Place(p.ids, p.answers, [p.keys[t]]) for p, t in zip(found, target, strict=True)]
    with looking_at(model) as session:
        own = AnswerReader(session, found).read(_edits(steered, heads, strength))
    return found, target, own[..., 0]


@pytest.mark.parametrize("name", ["llama", "gpt2", "gemma2", "gpt_neox"])
@pytest.mark.parametrize(("strength", "key"), [(3.0, "end_of_line"), (200.0, "content_mean")])
def test_steering_adds_to_attention_scores(
    tiny: Callable[..., Any], name: str, strength: float, key: str
) -> None:
    """The pattern becomes softmax(scores + strength at the option's tokens), nothing else."""
    model, task, heads = tiny(name, tasks=True), choice(3), [(1, 0), (1, 2)]
    found, target, ours = steered_log_probs(model, task, heads, strength, key)
    for i, example in enumerate(task):
        ids = torch.tensor([found[i].ids])
        scores = model.run_with_cache(ids)[1]["blocks.1.attn.hook_attn_scores"][0, :, -1].clone()
        scores[:, found[i].keys[target[i]]] += strength
        wanted = scores.softmax(-1)

        def change(pattern: torch.Tensor, hook: Any, wanted: Any = wanted) -> torch.Tensor:  # noqa: ARG001
            pattern = pattern.clone()
            for _, h in heads:
                pattern[0, h, -1] = wanted[h]
            return pattern

        edited = model.run_with_hooks(ids, fwd_hooks=[("blocks.1.attn.hook_pattern", change)])
        theirs = edited[0, -1].detach().double().log_softmax(-1)
        for c in range(len(example.candidates)):
            assert ours[i, c] == pytest.approx(float(theirs[found[i].answers[c]["space"]]), abs=5e-5)
    plain = steered_log_probs(model, task, heads, 0.0, key)[2]
    assert np.nanmax(np.abs(plain - ours)) > 1e-3


def test_strength_zero_is_the_model_as_it_is(task_model: Any) -> None:
    from mechprobe.heads import qk_scores, steer_heads
    from mechprobe.heads.answers import choices, likelier_spelling
    from mechprobe.heads.steer import _targets

    task = choice()
    both = qk_scores(task_model, task, progress=False).data.model_log_prob.values
    intact = both[..., 0]
    edited = steered_log_probs(task_model, task, [(1, 0)], 0.0, "end_of_line")[2]
    np.testing.assert_allclose(edited, intact, rtol=0, atol=1e-5)
    right = np.array([e.answer for e in task])
    target = _targets([len(e.candidates) for e in task], right, 7)
    assert all(t != a for t, a in zip(target, right, strict=True))
    found = steer_heads(task_model, task, [(1, 0)], strengths=[0.0, 4.0], controls=2, seed=7,
                        progress=False).data  # fmt: skip
    said = choices(both[..., likelier_spelling(both)])
    follows = float((said == target).mean())
    assert found.followed.sel(strength=0.0).values.tolist() == [follows] * 3
    assert float(found.chance) == pytest.approx((1 / 2 + 1 / 3 + 1 / 4 + 1 / 2 + 1 / 3) / 5)


def test_the_spelling_is_the_likelier_one_whatever_is_right() -> None:
    """Bare, "false" is no token here: a spelling that cannot answer is not read, however likely."""
    from mechprobe.heads.answers import likelier_spelling, margins

    spaced, bare = np.array([[-2.0, -1.5]] * 3), np.array([[-0.1, np.nan]] * 3)
    answers = np.stack([spaced, bare], axis=-1)
    assert likelier_spelling(answers) == 0
    assert margins(answers[..., 0], np.array([0, 0, 0])).tolist() == [-0.5] * 3
    assert likelier_spelling(np.stack([spaced, spaced[:, ::-1]], axis=-1)) == 0
    assert likelier_spelling(np.stack([spaced, spaced + 0.5], axis=-1)) == 1
    missing = np.array([[-1.0, -2.0, np.nan]] * 3)  # an example with fewer candidates
    assert likelier_spelling(np.stack([missing, missing + 0.1], axis=-1)) == 1
