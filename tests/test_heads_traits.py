"""What kind of head: each trait against a computation of its own."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from tests.test_heads_scores import (
    choice,
    logic,
    one_thread,  # noqa: F401 (a fixture)
    places_of,
)


def describe(model: Any, **options: Any) -> Any:
    from mechprobe.heads import describe_heads

    return describe_heads(model, progress=False, **options).data


@pytest.mark.parametrize("tokenizer", [True, False])
def test_attention_on_repeated_tokens(
    tiny: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, tokenizer: bool
) -> None:
    """Positions found by the tokens themselves, not by offsets."""
    from mechprobe.heads import traits

    model = tiny("gpt2", tokenizer=tokenizer)
    seen: list[list[int]] = []
    plain = traits.run

    def watched(session: Any, ids: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        seen.append(ids[0].tolist())
        return plain(session, ids, *args, **kwargs)

    monkeypatch.setattr(traits, "run", watched)
    names = ["induction", "previous_token", "duplicate_token"]
    found = describe(model, traits=names, length=10, n_sequences=3)
    assert [len(row) for row in seen] == [20 + tokenizer] * 3
    totals = {name: np.zeros((3, 4)) for name in names}
    for row in seen:
        start = int(tokenizer)
        assert row[start : start + 10] == row[start + 10 :]
        assert not tokenizer or row[0] == 1
        _, cache = model.run_with_cache(torch.tensor([row]))
        pattern = np.stack([cache[f"blocks.{x}.attn.hook_pattern"][0].numpy() for x in range(3)])
        second = range(start + 10, start + 20)
        copies = {i: i - 10 for i in second}
        assert all(row[i] == row[j] for i, j in copies.items())
        totals["duplicate_token"] += np.mean([pattern[:, :, i, j] for i, j in copies.items()], 0)
        totals["induction"] += np.mean([pattern[:, :, i, j + 1] for i, j in copies.items()], 0)
        before = range(start + 1, start + 20)
        totals["previous_token"] += np.mean([pattern[:, :, i, i - 1] for i in before], 0)
    for name in names:
        np.testing.assert_allclose(found[name].values, totals[name] / 3, atol=1e-6)
    assert np.isnan(found.ov_copying.values).all()


@pytest.mark.parametrize("name", ["llama", "gemma2"])
def test_ov_copying_from_the_checkpoint(tiny: Callable[..., Any], name: str) -> None:
    """Weights as Hugging Face names them; the kernel's own test has the full circuit."""
    model = tiny(name, tasks=True)
    body, one = model.original_model.model, 1.0 if name == "gemma2" else 0.0

    def weight(module: Any) -> torch.Tensor:
        return getattr(module, "original_component", module).weight.detach().double()

    W_E, W_U = weight(body.embed_tokens), weight(model.original_model.lm_head).T
    found = describe(model, traits=["ov_copying"]).ov_copying.values
    for x, layer in enumerate(body.layers):
        first, last = weight(layer.input_layernorm) + one, weight(body.norm) + one
        V, W_O = weight(layer.self_attn.v_proj), weight(layer.self_attn.o_proj)
        for h in range(4):
            reads = (W_E * first) @ V[8 * (h // 2) : 8 * (h // 2) + 8].T
            writes = W_O[:, 8 * h : 8 * h + 8].T @ (last[:, None] * W_U)
            values = np.linalg.eigvals((writes @ reads).numpy())
            expected = values.real.sum() / np.abs(values).sum()
            assert found[x, h] == pytest.approx(expected, abs=1e-5)


def test_ov_copying_centres_where_the_norm_does(tiny: Callable[..., Any]) -> None:
    """GPT-2: LayerNorm takes the mean away before values are read and before logits are."""
    model = tiny("gpt2", tasks=True)
    body = model.original_model.transformer
    found = describe(model, traits=["ov_copying"]).ov_copying.values
    wte = getattr(body.wte, "original_component", body.wte).weight.detach().double()
    centre = torch.eye(32, dtype=torch.float64) - 1 / 32
    last = getattr(body.ln_f, "original_component", body.ln_f).weight.detach().double()
    for x, block in enumerate(model.blocks):
        first = block.ln1.original_component.weight.detach().double()
        W_V, W_O = model.W_V[x].detach().double(), model.W_O[x].detach().double()
        for h in range(4):
            reads = (wte @ centre * first) @ W_V[h]
            writes = W_O[h] @ centre @ (last[:, None] * wte.T)
            values = np.linalg.eigvals((writes @ reads).numpy())
            expected = values.real.sum() / np.abs(values).sum()
            assert found[x, h] == pytest.approx(expected, abs=1e-5)


def test_norms_of_either_library() -> None:
    """HookedTransformer calls a norm's weight and bias ``w`` and ``b``."""
    from mechprobe.models import norm_parameter, norm_weight

    norm = torch.nn.LayerNorm(4)
    hooked = torch.nn.Module()
    with torch.no_grad():
        norm.weight.copy_(torch.arange(4.0))
        norm.bias.copy_(torch.arange(4.0) + 5)
    hooked.w, hooked.b = norm.weight, norm.bias
    like = torch.zeros(4, 9)
    for module in (norm, hooked):
        assert norm_weight(module, like).tolist() == [0.0, 1.0, 2.0, 3.0]
        bias = norm_parameter(module, ("bias", "b"))
        assert bias is not None
        assert bias.tolist() == [5.0, 6.0, 7.0, 8.0]
    assert norm_weight(torch.nn.Identity(), like).tolist() == [1.0] * 4
    assert norm_parameter(torch.nn.Identity(), ("bias", "b")) is None


def final_norm(model: Any, resid: torch.Tensor, part: torch.Tensor) -> torch.Tensor:
    """Put ``part`` through the final norm with the scale that ``resid`` has."""
    norm: Any = getattr(model.ln_final, "original_component", model.ln_final)
    weight = norm.weight.detach().double()
    if "LayerNorm" in type(norm).__name__:
        centred = resid - resid.mean()
        scale = (centred.pow(2).mean() + norm.eps).sqrt()
        return (part - part.mean()) / scale * weight
    eps = getattr(norm, "variance_epsilon", getattr(norm, "eps", 0.0))
    return part / (resid.pow(2).mean() + eps).sqrt() * weight


@pytest.mark.parametrize("name", ["llama", "qwen2", "gpt2", "gpt_neox", "phi", "falcon", "opt"])
def test_direct_logits_add_up(tiny: Callable[..., Any], name: str) -> None:
    """Heads give their layer's output; embedding, layers and bias give the logit difference."""
    model, task = tiny(name, tasks=True), logic()
    found = describe(model, traits=["direct_logit"], task=task).direct_logit.values
    per_layer = np.zeros(model.cfg.n_layers)
    for example in task:
        ids = model.to_tokens(example.prompt)
        pair, logits = pair_of(model, task, example, ids)
        _, cache = model.run_with_cache(ids)
        last = model.cfg.n_layers - 1
        resid = cache[f"blocks.{last}.hook_resid_post"][0, -1].detach().double()
        W_U = model.W_U.detach().double()
        direction = W_U[:, pair[0]] - W_U[:, pair[1]]
        for x in range(last + 1):
            out = cache[f"blocks.{x}.hook_attn_out"][0, -1].detach().double()
            bias = bias_of(model.blocks[x].attn.o)
            per_layer[x] += float(final_norm(model, resid, out - bias) @ direction)
        norm: Any = getattr(model.ln_final, "original_component", model.ln_final)
        whole = final_norm(model, resid, resid) + bias_of(norm)
        b_U = bias_of(model.unembed)
        offset = float(b_U[pair[0]] - b_U[pair[1]]) if b_U.ndim else 0.0
        difference = float(logits[pair[0]] - logits[pair[1]])
        assert float(whole @ direction) + offset == pytest.approx(difference, abs=1e-4)
    np.testing.assert_allclose(found.sum(1), per_layer / len(task), atol=2e-5)
    assert np.abs(found).max() > 1e-3


def bias_of(module: Any) -> torch.Tensor:
    module = getattr(module, "original_component", module)
    bias = getattr(module, "bias", None)
    return torch.zeros((), dtype=torch.float64) if bias is None else bias.detach().double()


def pair_of(model: Any, task: Any, example: Any, ids: torch.Tensor) -> Any:
    """Return the right answer's token and the strongest other's, in the spelling that is read."""
    from mechprobe.heads.answers import AnswerReader, likelier_spelling
    from mechprobe.models import looking_at

    found = places_of(model, task, "candidate", None)
    with looking_at(model) as session:
        own = AnswerReader(session, found).read()
    lead = " " if likelier_spelling(own) == 0 else ""
    tokens = [model.to_tokens(example.prompt + lead + c)[0, -1].item() for c in example.candidates]
    logits = model(ids)[0, -1].detach().double()
    others = [t for c, t in enumerate(tokens) if c != example.answer]
    return (tokens[example.answer], max(others, key=lambda t: float(logits[t]))), logits


def test_direct_logits_of_one_head_by_ablation(tiny: Callable[..., Any]) -> None:
    """Of the last layer of an attention-only sum: without the head, the frozen sum lacks it."""
    model, task = tiny("llama", tasks=True), choice(2)
    found = describe(model, traits=["direct_logit"], task=task).direct_logit.values
    expected = np.zeros(4)
    for example in task:
        ids = model.to_tokens(example.prompt)
        pair, _ = pair_of(model, task, example, ids)
        _, cache = model.run_with_cache(ids)
        resid = cache["blocks.2.hook_resid_post"][0, -1].detach().double()
        W_U = model.W_U.detach().double()
        W_O = model.original_model.model.layers[2].self_attn.o_proj.weight.detach().double()
        for h in range(4):
            z = cache["blocks.2.attn.hook_z"][0, -1].reshape(4, 8)[h].detach().double()
            written = W_O[:, 8 * h : 8 * h + 8] @ z
            expected[h] += float(final_norm(model, resid, written) @ (W_U[:, pair[0]] - W_U[:, pair[1]]))
    np.testing.assert_allclose(found[2], expected / len(task), atol=2e-5)


@pytest.mark.model
def test_retrieval_on_smollm2(smollm2: Any) -> None:
    """A share of the needle's tokens: in [0, 1], and some head finds them."""
    found = describe(smollm2, traits=["retrieval"], n_needles=1, seed=1).retrieval.values
    assert found.shape == (30, 9)
    assert found.min() >= 0.0
    assert 0.2 < found.max() <= 1.0
    assert (found < 0.1).mean() > 0.5  # few heads retrieve


def test_retrieval_is_unknown_where_nothing_is_found(
    tiny: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    from mechprobe.heads import retrieval

    monkeypatch.setattr(retrieval, "_N_FILLER", 2)
    found = describe(tiny("llama", tasks=True), traits=["retrieval"], n_needles=1).retrieval
    assert np.isnan(found.values).all()
