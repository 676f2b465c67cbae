"""The lens on the packaged SmolLM2: against Hugging Face and against TransformerLens' own lens."""

from typing import Any

import numpy as np
import pytest
import torch
import transformers as tf

pytestmark = pytest.mark.model

PROMPTS = [
    "The capital of France is",
    "def fibonacci(n):\n    if n < 2:\n        return",
    "In 1969, humans first walked on the",
    "Water boils at 100 degrees",
    "\u00dcber allen Gipfeln ist",
    "The seahorse is a small marine fish that lives in shallow tropical and temperate waters; its",
    "1, 1, 2, 3, 5, 8, 13,",
    "Once upon a time there was a little girl who lived near the forest with her grandmother, and "
    "every morning she would walk to the river to fetch",
]


def _next_tokens(ids: list[int]) -> list[int]:
    """The token that follows each position; " Paris" after the last."""
    return [*ids[1:], 7042]


@pytest.fixture(scope="module")
def batched(smollm2: Any) -> Any:
    import mechprobe as mp
    from mechprobe.models import token_ids

    ids = token_ids(smollm2, PROMPTS)
    targets = np.full((len(ids), max(map(len, ids))), -1)
    for i, row in enumerate(ids):
        targets[i, : len(row)] = _next_tokens(row)
    return mp.logit_lens(smollm2, PROMPTS, positions=None, targets=targets, progress=False)


def test_last_row_equals_hugging_face(smollm2: Any) -> None:
    import mechprobe as mp
    from mechprobe.models import token_ids
    from mechprobe.models.identity import source_of

    source = source_of(smollm2)
    assert source is not None
    assert source.folder is not None
    hf = tf.AutoModelForCausalLM.from_pretrained(source.folder, attn_implementation="eager").eval()
    every = torch.arange(49152)
    for ids in token_ids(smollm2, PROMPTS):
        with torch.no_grad():
            theirs = hf(input_ids=torch.tensor([ids])).logits[0, -1].log_softmax(-1)
        ours = mp.logit_lens(smollm2, [ids], layers=[29], top_k=49152, progress=False).data
        order = torch.from_numpy(ours["top_token"].values[0, 0, 0]).long()
        assert torch.equal(order.sort().values, every)
        log_probs = torch.empty(49152)
        log_probs[order] = torch.from_numpy(ours["top_log_prob"].values[0, 0, 0])
        assert float((log_probs - theirs).abs().max()) <= 1e-4


@pytest.mark.parametrize("one_by_one", [False, True])
def test_every_layer_equals_transformer_lens(smollm2: Any, batched: Any, one_by_one: bool) -> None:
    """Top-10 ids, entropies and target ranks, prompt by prompt, per DESIGN's rule of equality."""
    analysis = pytest.importorskip(
        "transformer_lens.tools.analysis", reason="TransformerLens without tools.analysis"
    )
    if not hasattr(analysis, "logit_lens"):
        pytest.skip("TransformerLens 3.9 has no logit_lens; the comparison runs on 4.x")
    import mechprobe as mp
    from mechprobe.models import token_ids

    counted = differing_ids = differing_ranks = 0
    for i, ids in enumerate(token_ids(smollm2, PROMPTS)):
        tokens, targets = torch.tensor([ids]), torch.tensor([_next_tokens(ids)])
        data = batched.data.isel(prompt=i, pos=slice(0, len(ids)))
        if one_by_one:
            options = {"positions": None, "targets": targets, "progress": False}
            data = mp.logit_lens(smollm2, tokens, **options).data.isel(prompt=0)
        top = analysis.logit_lens(smollm2, tokens, positions=None, top_k=10).readout
        ranks = analysis.logit_lens(smollm2, tokens, positions=None, targets=targets).readout
        entropy = data["entropy"].transpose("layer", "pos").values
        np.testing.assert_allclose(entropy, top.entropy[:, 0].numpy(), atol=2e-4)
        ours = data["top_token"].transpose("layer", "pos", "k").values
        rank = data["target_rank"].transpose("layer", "pos", "target").values[..., 0]
        z = _exact_logits(smollm2, tokens)
        theirs, their_rank = top.top_ids[:, 0].numpy(), ranks.target_ranks[:, 0, :, 0].numpy()
        differing_ids += _only_near_ties(z, ours, theirs)
        differing_ranks += _only_near_ranks(z, targets[0], rank, their_rank)
        counted += rank.size
    assert differing_ids <= 0.005 * counted
    assert differing_ranks <= 0.005 * counted


@torch.no_grad()
def _exact_logits(model: Any, tokens: torch.Tensor) -> torch.Tensor:
    """Float64 products of the float32 normed residuals, [layer, pos, d_vocab]."""
    names = ["blocks.0.hook_resid_pre", *(f"blocks.{x}.hook_resid_post" for x in range(30))]
    _, cache = model.run_with_cache(tokens, names_filter=names)
    normed = torch.stack([model.ln_final(cache[n])[0] for n in names])
    return normed.double() @ model.W_U.detach().double()


def _only_near_ties(z: torch.Tensor, ours: Any, theirs: Any) -> int:
    """Count cells whose top ids differ; each must be a near-tie of the exact logits."""
    off = (ours != theirs).any(-1)
    for layer, pos in np.argwhere(off).tolist():
        a, b = z[layer, pos, ours[layer, pos]], z[layer, pos, theirs[layer, pos]]
        assert float((a - b).abs().max()) < 1e-4
    return int(off.sum())


def _only_near_ranks(z: torch.Tensor, targets: torch.Tensor, ours: Any, theirs: Any) -> int:
    """Count cells whose rank differs; each by no more than the ids within 1e-4 of the target."""
    off = ours != theirs
    for layer, pos in np.argwhere(off).tolist():
        near = int(((z[layer, pos] - z[layer, pos, targets[pos]]).abs() < 1e-4).sum()) - 1
        assert abs(int(ours[layer, pos]) - int(theirs[layer, pos])) <= near
    return int(off.sum())


def test_the_seahorse_answer_is_one_emoji_in_three_tokens(smollm2: Any) -> None:
    import mechprobe as mp

    prompt = mp.chat_prompt(
        smollm2, "Is there a seahorse emoji?", answer_start="Yes, there is a seahorse emoji:"
    )
    said = mp.generate_with_lens(smollm2, prompt, max_new_tokens=4, progress=False)
    data = said.data.isel(prompt=0)
    assert data["merged_text"].values[-1] == " \U0001f429\u27e8f0 9f\u27e9"
    assert data["next_text"].values.tolist() == [
        " \u27e8f0 9f\u27e9", "\u27e890\u27e9", "\u27e8a9\u27e9", "\u27e8f0 9f\u27e9",
    ]  # fmt: skip
    assert data["generated"].values.tolist() == [False, True, True, True]


def test_generation_is_the_models_own(smollm2: Any) -> None:
    import mechprobe as mp
    from mechprobe.models import token_ids

    prompt = "The three primary colours are"
    said = mp.generate_with_lens(smollm2, prompt, max_new_tokens=12, progress=False)
    ids = torch.tensor(token_ids(smollm2, prompt))
    theirs = smollm2.original_model.generate(ids, max_new_tokens=12, do_sample=False)
    n = said.data.sizes["pos"]
    assert said.data["next_token"].values[0].tolist() == theirs[0, ids.shape[1] :].tolist()[:n]
    forced = mp.generate_with_lens(
        smollm2, prompt, continuation=said.data["next_token"].values[0].tolist(), progress=False
    )
    np.testing.assert_array_equal(forced.data["top_token"], said.data["top_token"])
    np.testing.assert_allclose(forced.data["entropy"], said.data["entropy"], atol=2e-4)


def test_leaving_the_norm_out_changes_nearly_everything(smollm2: Any) -> None:
    import mechprobe as mp

    normed = mp.logit_lens(smollm2, PROMPTS, positions=None, top_k=1, progress=False).data
    raw = mp.logit_lens(smollm2, PROMPTS, positions=None, top_k=1, norm="none", progress=False).data
    same = (normed["top_token"] == raw["top_token"]).where(normed["valid"]).mean(("prompt", "pos"))
    assert float(same.sel(layer=slice(4, 28)).max()) < 0.35


def test_vocabulary_of_the_seahorse(smollm2: Any) -> None:
    import mechprobe as mp

    one, several = mp.expressible(smollm2, " horse").data, mp.expressible(smollm2, " seahorse").data
    assert bool(one["one_token"])
    assert float(one["own"]) == pytest.approx(1.0, abs=1e-5)
    assert float(one["margin"]) > 0
    assert several["text"].values.tolist() == [" se", "ah", "orse"]
    assert not bool(several["one_token"])
    near = mp.vocabulary_neighbors(smollm2, {" sea": 1.0, " horse": 1.0}, metric="cosine", k=4)
    assert set(near.data["text"].values[:2].tolist()) == {" sea", " horse"}
    assert near.data["is_input"].values[:2].all()


def test_check_model_passes(smollm2: Any) -> None:
    import mechprobe as mp

    found = mp.check_model(smollm2, strict=True)
    assert found.passed
    assert [line.status for line in found.lines] == ["ok"] * 6
