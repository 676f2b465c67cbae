"""What mechprobe knows of TransformerLens' models, entry by entry, on the real objects.

An upgrade that renames or moves something fails here, in the test of that entry.
"""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.test_lens import _plain as plain
from tests.tiny import ARCHITECTURES, save_tiny

IDS = torch.tensor([[5, 9, 17, 120, 33, 8], [7, 7, 200, 3, 41, 19]])
KINDS = ("llama", "gpt2", "gemma2", "gpt_neox", "opt", "bloom")


@pytest.fixture(autouse=True)
def _no_grad() -> Any:
    with torch.no_grad():
        yield


def cached(model: Any) -> Any:
    """Return every activation, as TransformerLens itself names them."""
    return model.run_with_cache(IDS)[1]


def loaded(folder: Path, name: str) -> Any:
    """Return a model that nobody else has."""
    from mechprobe.models import load_model

    return load_model(save_tiny(folder / name, name), device="cpu")


@pytest.mark.parametrize("name", KINDS)
def test_stream_name_and_last_stream(tiny: Callable[..., Any], name: str) -> None:
    """Against the hidden states of transformers' own model."""
    from mechprobe.models.internals import EMBEDDING, last_stream, stream_name

    model = tiny(name)
    n_layers, cache = model.cfg.n_layers, cached(model)
    states = plain(model)(IDS, output_hidden_states=True).hidden_states
    # The last one of transformers is behind the final norm.
    for layer in range(EMBEDDING, n_layers - 1):
        torch.testing.assert_close(cache[stream_name(layer)], states[layer + 1])
    assert last_stream(model) == stream_name(n_layers - 1)
    normed = model.ln_final(cache[last_stream(model)])
    torch.testing.assert_close(normed, states[-1], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", KINDS)
def test_stream_names(tiny: Callable[..., Any], name: str) -> None:
    from mechprobe.models.internals import stream_name, stream_names

    model = tiny(name)
    for stream in ("resid_post", "attn_out", "mlp_out"):
        names = stream_names(model, [0, 1], stream)
        assert names == [stream_name(0, stream), stream_name(1, stream)]
        assert set(names) <= set(cached(model))
    assert stream_names(model, []) == []
    with pytest.raises(NotImplementedError, match="its blocks are built differently"):
        stream_names(model, [0], "nothing")
    if name in ("gpt_neox",):
        with pytest.raises(NotImplementedError, match=r"resid_mid: its attention and MLP read"):
            stream_names(model, [0], "resid_mid")
    elif name != "gemma2":  # which norms what a part adds before it adds it
        cache, (mid,) = cached(model), stream_names(model, [1], "resid_mid")
        added = cache[stream_name(0)] + cache[stream_name(1, "attn_out")]
        torch.testing.assert_close(cache[mid], added, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", KINDS)
def test_attention_name_and_attention_hooks(tiny: Callable[..., Any], name: str) -> None:
    from mechprobe.models import internals

    model = tiny(name)
    shown = internals.attention_hooks(model)
    told = {internals.QUERY, internals.KEY, internals.HEAD_OUTPUT, internals.PATTERN,
            internals.SCORES}  # fmt: skip
    assert told <= shown
    assert set(internals.ROTATED) <= shown or name not in ("llama", "gemma2")
    for hook in shown:
        assert internals.attention_name(0, hook) in model.hook_dict
    for layer in range(model.cfg.n_layers):
        assert {internals.attention_name(layer, hook) for hook in told} <= set(cached(model))


@pytest.mark.parametrize("name", ["llama", "gpt2", "gemma2", "gpt_neox", "opt", "qwen3"])
def test_head_output(tiny: Callable[..., Any], name: str) -> None:
    """What the output matrix turns into what attention adds."""
    from mechprobe.models.internals import HEAD_OUTPUT, attention_name

    model, layer = tiny(name), 1
    cache, W_O = cached(model), model.W_O[1]
    z = cache[attention_name(layer, HEAD_OUTPUT)]
    assert z.shape == (2, 6, model.cfg.n_heads, model.cfg.d_head)
    out = cache[attention_name(layer, "hook_out")]
    made = (z[..., None] * W_O).sum((2, 3))
    bias = out[0, 0] - made[0, 0]
    torch.testing.assert_close(made + bias, out, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", KINDS)
def test_pattern(tiny: Callable[..., Any], name: str) -> None:
    from mechprobe.models.internals import PATTERN, attention_name

    model = tiny(name)
    pattern = cached(model)[attention_name(1, PATTERN)]
    assert pattern.shape == (2, model.cfg.n_heads, 6, 6)
    torch.testing.assert_close(pattern.sum(-1), torch.ones(2, model.cfg.n_heads, 6))
    assert pattern.triu(1).abs().max() == 0
    assert bool((pattern.tril() > 0).any(-1).all())


@pytest.mark.parametrize("name", ["llama", "gemma2", "gpt2"])
def test_query_key_and_scores(tiny: Callable[..., Any], name: str) -> None:
    """Of Llama and Gemma 2 as their projections give them; scores become the pattern."""
    from mechprobe.models.internals import KEY, PATTERN, QUERY, SCORES, attention_name

    model = tiny(name)
    cache = cached(model)
    scores, pattern = (cache[attention_name(1, hook)] for hook in (SCORES, PATTERN))
    torch.testing.assert_close(scores.softmax(-1), pattern)
    q, k = (cache[attention_name(1, hook)] for hook in (QUERY, KEY))
    n_kv = getattr(model.cfg, "n_key_value_heads", None) or model.cfg.n_heads
    assert q.shape == (2, 6, model.cfg.n_heads, model.cfg.d_head)
    assert k.shape == (2, 6, n_kv, model.cfg.d_head)
    attn = model.original_model.base_model.layers[1].self_attn if name != "gpt2" else None
    if attn is not None:
        normed = cache["blocks.1.ln1.hook_out"]
        torch.testing.assert_close(q.flatten(2), normed @ weight(attn.q_proj).T)
        torch.testing.assert_close(k.flatten(2), normed @ weight(attn.k_proj).T)
        return
    # Positions are in the stream: the product of the two is what the softmax gets.
    seen = torch.ones(6, 6).tril() > 0
    product = (q.transpose(1, 2) @ k.permute(0, 2, 3, 1)) * model.cfg.d_head**-0.5
    torch.testing.assert_close(product[..., seen], scores[..., seen], rtol=1e-4, atol=1e-4)


def weight(module: Any) -> Tensor:
    return getattr(module, "original_component", module).weight


@pytest.mark.parametrize("name", ["llama", "qwen2", "olmo2"])
def test_rotated(tiny: Callable[..., Any], name: str) -> None:
    """Their product is what the softmax gets."""
    from mechprobe.models.internals import ROTATED, SCORES, attention_name

    model = tiny(name)
    cache = cached(model)
    q, k = (cache[attention_name(1, hook)] for hook in ROTATED)
    k = k.repeat_interleave(model.cfg.n_heads // k.shape[2], 2)
    product = (q.transpose(1, 2) @ k.permute(0, 2, 3, 1)) * model.cfg.d_head**-0.5
    seen = torch.ones(6, 6).tril() > 0
    scores = cache[attention_name(1, SCORES)]
    torch.testing.assert_close(product[..., seen], scores[..., seen], rtol=1e-4, atol=1e-4)


def test_normed(tiny: Callable[..., Any]) -> None:
    """Head first; what the model's own norm makes of the projected vectors."""
    from mechprobe.models.internals import KEY, NORMED, QUERY, attention_name

    model = tiny("qwen3")
    cache, attn = cached(model), model.original_model.model.layers[1].self_attn
    for raw, normed, part in zip((QUERY, KEY), NORMED, ("q_norm", "k_norm"), strict=True):
        x = cache[attention_name(1, raw)]
        x = x * (x.pow(2).mean(-1, keepdim=True) + model.cfg.eps).rsqrt()
        own = x * weight(getattr(attn, part))
        torch.testing.assert_close(cache[attention_name(1, normed)].transpose(1, 2), own)


@pytest.mark.parametrize("name", KINDS)
def test_hugging_face_and_roots(tiny: Callable[..., Any], name: str) -> None:
    import transformers as tf

    from mechprobe.models.internals import hugging_face, roots

    model = tiny(name)
    hf = hugging_face(model)
    assert isinstance(hf, tf.PreTrainedModel)
    assert hf.config.model_type
    assert isinstance(hf.base_model, nn.Module)
    assert roots(model) == [model, hf]
    torch.testing.assert_close(hf(IDS).logits, model(IDS), rtol=1e-4, atol=1e-4)
    reached = {id(p) for root in roots(model) for p in root.parameters()}
    assert {id(p) for p in hf.parameters()} <= reached
    plain = nn.Linear(2, 2)  # as a HookedTransformer, which wraps nothing
    assert hugging_face(plain) is None
    assert roots(plain) == [plain]


@pytest.mark.parametrize("name", KINDS)
def test_blocks_attention_and_first_norm(tiny: Callable[..., Any], name: str) -> None:
    """In the order in which a pass comes by, each with its attention, its norm before that."""
    from mechprobe.models.internals import attention, blocks, first_norm

    model, order = tiny(name), list[tuple[str, int]]()

    def noted(what: str, layer: int, *_: Any) -> None:
        order.append((what, layer))

    found = blocks(model)
    assert len(found) == model.cfg.n_layers
    hooks: list[Any] = []
    for layer, block in enumerate(found):
        parts = (("block", block), ("norm", first_norm(block)), ("attention", attention(model, layer)))
        for what, part in parts:
            assert isinstance(part, nn.Module), what
            hooks.append(part.register_forward_pre_hook(partial(noted, what, layer)))
    model(IDS)
    for hook in hooks:
        hook.remove()
    each = ("block", "norm", "attention")
    assert order == [(what, layer) for layer in range(len(found)) for what in each]
    assert blocks(nn.Linear(2, 2)) == []
    assert first_norm(nn.Linear(2, 2)) is None


@pytest.mark.parametrize("name", KINDS)
def test_final_norm(tiny: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    from mechprobe.models.internals import final_norm, last_stream

    model = tiny(name)
    norm = final_norm(model)
    assert norm is not None
    z = norm(cached(model)[last_stream(model)]) @ model.W_U + model.b_U
    if name == "gemma2":
        z = 0.5 * torch.tanh(z / 0.5)
    torch.testing.assert_close(z, model(IDS), rtol=1e-4, atol=1e-4)
    monkeypatch.setattr(model.cfg, "normalization_type", None)
    assert final_norm(model) is None


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_original(tiny: Callable[..., Any], name: str) -> None:
    """Under every component of a bridge there is a module of transformers or torch."""
    from mechprobe.models.internals import original

    found = 0
    for module in tiny(name).modules():
        if hasattr(module, "original_component") and module.original_component is not None:
            inner, found = original(module), found + 1
            assert type(inner).__module__.split(".")[0] in ("torch", "transformers")
            assert original(inner) is inner
    assert found > 3 * 2


@pytest.mark.parametrize("name", ["gpt2", "opt", "gpt_neo", "llama"])
def test_expand_positions(tiny: Callable[..., Any], name: str) -> None:
    """A bridge embeds learned positions for as many rows as it last was told of."""
    from mechprobe.models.internals import expand_positions

    model = tiny(name)
    right = model(IDS)
    model(IDS[:1])
    expand_positions(model, 2)
    torch.testing.assert_close(model.original_model(IDS).logits, right)
    expand_positions(model, 1)
    torch.testing.assert_close(model.original_model(IDS[:1]).logits, right[:1])


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_of_library(tiny: Callable[..., Any], name: str) -> None:
    """All of a fresh model is the libraries'."""
    from mechprobe.models.internals import of_library, roots

    for root in roots(tiny(name)):
        for module in root.modules():
            assert of_library(type(module)), type(module)
            assert of_library(module.forward), type(module)


def test_what_is_not_of_a_library() -> None:
    from mechprobe.models.internals import of_library

    class Own(nn.Linear):
        def forward(self, input: Tensor) -> Tensor:
            return super().forward(input)

    assert of_library(nn.functional.relu)
    assert of_library(nn.Linear(2, 2).forward)
    assert of_library(partial(partial(nn.functional.softmax, dim=1)))
    assert not of_library(Own)
    assert not of_library(Own(2, 2).forward)
    assert not of_library(partial(weight))
    assert not of_library(test_what_is_not_of_a_library)


def handed_on(activation: Tensor, hook: Any) -> Tensor:  # noqa: ARG001
    return activation


def hooks_of(model: Any) -> list[Any]:
    from mechprobe.models.internals import roots

    modules = {id(m): m for root in roots(model) for m in root.modules()}.values()
    return [h for m in modules for k in (m._forward_hooks, m._forward_pre_hooks)
            for h in k.values()]  # fmt: skip


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_only_listens(tiny: Callable[..., Any], name: str) -> None:
    """True of whatever the libraries hang into a model themselves, and of nothing else."""
    from mechprobe.models.internals import only_listens

    model = tiny(name)
    model.run_with_cache(IDS)
    model.original_model(IDS, output_hidden_states=True)
    own = hooks_of(model)
    assert own or name == "bloom"
    assert [hook for hook in own if not only_listens(hook)] == []
    linear = next(m for m in model.original_model.modules() if isinstance(m, nn.Linear))

    def somebodys(*_: Any, **__: Any) -> None:
        return None

    handle = linear.register_forward_hook(somebodys)
    with model.hooks(fwd_hooks=[("blocks.0.hook_mlp_out", somebodys)]):
        others = [hook for hook in hooks_of(model) if not only_listens(hook)]
    handle.remove()
    assert len(others) == 2
    assert somebodys in others
    assert len(hooks_of(model)) == len(own)


def test_notes(tmp_path: Path) -> None:
    """Each is written by some pass of some model."""
    from mechprobe.models.internals import NOTES, roots

    written: set[str] = set()
    for name in ("llama", "gpt2"):
        model = loaded(tmp_path, name)
        model._capture_hf_cache = True
        model(IDS)
        model.run_with_cache(IDS)
        model.original_model(IDS, output_hidden_states=True)
        for module in (m for root in roots(model) for m in root.modules()):
            written.update(vars(module))
            # What turns an activation into the shape that its hook shows keeps notes too.
            parts = (x for x in vars(module).values() if hasattr(x, "__dict__"))
            written.update(key for part in parts for key in vars(part))
        model.generate(IDS[:1], max_new_tokens=1, verbose=False)
        written.update(vars(model))
    assert NOTES - written == set()


@pytest.mark.parametrize("name", [*KINDS, "gemma3", "mixtral", "gpt_neo"])
def test_a_pass_writes_nothing_but_notes(tmp_path: Path, name: str) -> None:
    from mechprobe.models.fingerprint import fingerprint

    model = loaded(tmp_path, name)
    before = fingerprint(model)
    assert before.is_calm
    model(IDS)
    model.run_with_cache(IDS)
    model.original_model(IDS, output_hidden_states=True)
    model.generate(IDS[:1], max_new_tokens=2, verbose=False)
    with model.hooks(fwd_hooks=[("blocks.0.hook_mlp_out", handed_on)]):
        model(IDS[:1])
    assert fingerprint(model) == before


def test_recipes(tmp_path: Path) -> None:
    """Each is found in a bridge or its settings; some in a ``HookedTransformer`` only."""
    from mechprobe.models.internals import RECIPES, roots

    model = loaded(tmp_path, "llama")
    model.generate(IDS[:1], max_new_tokens=1, verbose=False)
    found = {key for root in roots(model) for module in root.modules() for key in vars(module)}
    found |= {key for config in (model.cfg, model.original_model.config) for key in vars(config)}
    hooked = {"tokenizer", "mod_dict", "hook_dict"}
    assert RECIPES - found == {*hooked, "_commit_hash"}  # the last in what a hub sent
    assert hasattr(model, "tokenizer")


@pytest.mark.parametrize("name", KINDS)
def test_is_hook_point_and_hook_points(tiny: Callable[..., Any], name: str) -> None:
    from transformer_lens.hook_points import HookPoint

    from mechprobe.models.internals import hook_points, is_hook_point, roots

    model = tiny(name)
    for root in roots(model):
        for module in root.modules():
            assert is_hook_point(module) == isinstance(module, HookPoint)
    points = list(hook_points(model))
    assert all(map(is_hook_point, points))
    assert len({id(p) for p in points}) == len(points)
    assert {id(p) for p in points} == {id(p) for p in model.hook_dict.values()}
