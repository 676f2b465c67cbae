"""The model without its hooks is the model, or it is not used."""

import gc
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.compiler import compiler_or_skip
from tests.tiny import ARCHITECTURES, save_tiny

# Models that no other test shares, and may have left a hook in.
OWN = 5.0
# An activation that only the bridge can give.
_BETWEEN = "blocks.0.hook_mlp_out"
IDS = torch.tensor([[5, 9, 17, 120, 33, 8], [7, 7, 200, 3, 41, 19]])


def off_by(model: Any, names: list[str]) -> float:
    """Return how far activations of the twin are from the bridge's, of the largest."""
    from mechprobe.models import run

    plain: dict[str, Tensor] = {}
    hooked: dict[str, Tensor] = {}

    def listen(heard: dict[str, Tensor]) -> dict[str, Callable[[Tensor], None]]:
        return {n: lambda t, n=n: heard.update({n: t.clone()}) for n in names}

    run(model, IDS, listen(plain))
    run(model, IDS, {**listen(hooked), _BETWEEN: lambda _: None})
    return max(float((plain[n] - b).abs().max() / b.abs().max()) for n, b in hooked.items())


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_it_gives_the_logits_of_the_bridge(tiny: Callable[..., Any], name: str) -> None:
    from mechprobe.models import run
    from mechprobe.models.plain import plain_model

    model = tiny(name, sharpness=OWN)
    twin = plain_model(model)
    if name == "opt":
        # Its bridge hangs hooks of its own into hook points, which look like anybody's.
        assert twin is None
        return
    assert twin is not None
    assert not any(hasattr(m, "original_component") for m in twin.body.modules())
    plain = run(model, IDS, {}, logits="all").logits
    hooked = run(model, IDS, {_BETWEEN: lambda _: None}, logits="all").logits
    assert plain is not None
    assert hooked is not None
    assert (plain - hooked).abs().max() <= 1e-5 * hooked.abs().max()


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_it_gives_the_residual_streams_of_the_bridge(tiny: Callable[..., Any], name: str) -> None:
    from mechprobe.models.plain import plain_model

    model = tiny(name, sharpness=OWN)
    layers = range(model.cfg.n_layers)
    names = ["blocks.0.hook_resid_pre", *(f"blocks.{layer}.hook_resid_post" for layer in layers)]
    if name == "opt":
        assert plain_model(model, names) is None
        return
    assert plain_model(model, names) is not None
    off = off_by(model, names)
    # Nor does a pass with hooks leave any behind that count.
    assert plain_model(model, names) is not None
    assert off <= 1e-5


@pytest.mark.parametrize("name", ARCHITECTURES)
@pytest.mark.parametrize("pad", [0, 5])
def test_a_long_pass_gives_what_written_scores_give(
    tiny: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, name: str, pad: int
) -> None:
    from mechprobe.models import run
    from mechprobe.models.plain import plain_model

    monkeypatch.setattr("mechprobe.models.plain._MANY_SCORES", 1)
    model = tiny(name, sharpness=OWN)
    ids = (torch.arange(2 * 37).view(2, 37) * 31) % model.cfg.d_vocab
    mask = torch.ones_like(ids)
    mask[1, 37 - pad :] = 0
    twin = plain_model(model, n_scores=1)
    plain = run(model, ids, {}, logits="all", mask=mask).logits
    hooked = run(model, ids, {_BETWEEN: lambda _: None}, logits="all", mask=mask).logits
    if name == "opt":
        assert twin is None
        return
    assert twin is not None
    asks = getattr(twin.body.config, "_attn_implementation", "")
    assert asks == ("eager" if name in {"gemma2", "gptj", "bloom", "gpt_neo"} else "sdpa")
    assert plain is not None
    assert hooked is not None
    assert ((plain - hooked).abs().amax(-1) * mask).max() <= 1e-5 * hooked.abs().max()


@pytest.mark.parametrize("name", ["llama", "mistral", "qwen3", "gemma3", "olmo2", "mixtral"])
def test_it_gives_queries_and_keys(tiny: Callable[..., Any], name: str) -> None:
    from mechprobe.models.plain import plain_model

    model = tiny(name, sharpness=OWN)
    names = [f"blocks.{x}.attn.hook_{y}" for x in range(model.cfg.n_layers) for y in "qk"]
    assert plain_model(model, names) is not None
    assert off_by(model, names) <= 1e-5


def test_packed_queries_and_keys_come_from_the_bridge(tiny: Callable[..., Any]) -> None:
    from mechprobe.models.plain import plain_model

    assert plain_model(tiny("gpt2", sharpness=OWN), ["blocks.0.attn.hook_q"]) is None


@pytest.mark.parametrize("hooked", [False, True])
def test_a_pass_that_only_listens_ends_when_all_is_heard(
    tiny: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, *, hooked: bool
) -> None:
    from mechprobe.models import run
    from mechprobe.models.plain import plain_model

    model = tiny("llama", sharpness=OWN)
    twin = plain_model(model)
    assert twin is not None
    blocks: Any = model.original_model if hooked else twin.body
    last = blocks.base_model.layers[-1]
    if hooked:
        last = last.original_component
    n_calls, forward = 0, type(last).forward

    def count(self: Any, *args: Any, **kwargs: Any) -> Any:
        nonlocal n_calls
        n_calls += self is last
        return forward(self, *args, **kwargs)

    monkeypatch.setattr(type(last), "forward", count)
    first, kept = "blocks.0.hook_resid_post", list[Tensor]()
    capture: dict[str, Callable[[Tensor], None]] = {first: kept.append}
    if hooked:
        capture[_BETWEEN] = kept.append
    run(model, IDS, capture)
    assert len(kept) == len(capture)
    assert n_calls == 0
    assert run(model, IDS, capture, keep_cache=True).cache is not None
    assert run(model, IDS, capture, logits="last").logits is not None
    run(model, IDS, {**capture, "blocks.2.hook_resid_post": lambda _: None})
    assert n_calls == 3
    assert torch.equal(kept[0], kept[len(capture)])


def test_a_sink_that_raises_leaves_no_hook_behind(tiny: Callable[..., Any]) -> None:
    from mechprobe.models import run
    from mechprobe.models.plain import plain_model

    model = tiny("llama", sharpness=OWN)

    def refuse(_: Tensor) -> None:
        msg = "no"
        raise KeyError(msg)

    with pytest.raises(KeyError, match="no"):
        run(model, IDS, {"blocks.0.hook_resid_post": refuse})
    twin = plain_model(model)
    assert twin is not None
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in twin.body.modules())


def test_a_hook_of_somebody_is_called(tiny: Callable[..., Any]) -> None:
    from mechprobe.models import run
    from mechprobe.models.plain import plain_model

    model = tiny("llama", sharpness=OWN)
    before = run(model, IDS, {}, logits="all").logits
    assert plain_model(model) is not None

    def silence(activation: Tensor, hook: Any) -> Tensor:  # noqa: ARG001
        return torch.zeros_like(activation)

    with model.hooks(fwd_hooks=[("blocks.1.hook_mlp_out", silence)]):
        assert plain_model(model) is None
        during = run(model, IDS, {}, logits="all").logits
    after = run(model, IDS, {}, logits="all").logits
    assert before is not None
    assert during is not None
    assert after is not None
    assert (before - during).abs().max() > 1e-3
    assert torch.equal(before, after)


def test_changed_weights_are_its_weights(tiny: Callable[..., Any]) -> None:
    from mechprobe.models import run

    model = tiny("gpt2", sharpness=OWN + 1, dtype=torch.float64)
    run(model, IDS, {}, logits="all")
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(1.25)
    plain = run(model, IDS, {}, logits="all").logits
    hooked = run(model, IDS, {_BETWEEN: lambda _: None}, logits="all").logits
    assert plain is not None
    assert hooked is not None
    torch.testing.assert_close(plain, hooked, rtol=1e-9, atol=1e-9)


def test_processed_weights_are_not_the_weights_of_the_body(tmp_path: Path) -> None:
    from mechprobe.models import load_model, run
    from mechprobe.models.plain import plain_model

    model = load_model(save_tiny(tmp_path, "gpt2"), device="cpu")
    assert plain_model(model) is not None
    model.enable_compatibility_mode()
    assert plain_model(model) is None
    plain = run(model, IDS, {}, logits="all").logits
    hooked = run(model, IDS, {_BETWEEN: lambda _: None}, logits="all").logits
    assert plain is not None
    assert hooked is not None
    assert torch.equal(plain, hooked)


@pytest.mark.parametrize("use", ["logit_lens", "screened", "generate_with_lens", "hooked"])
def test_a_model_that_was_used_can_go(tmp_path: Path, use: str) -> None:
    """Nothing that is kept with a model keeps the model."""
    import mechprobe as mp
    from mechprobe.models import load_model, run

    model = load_model(save_tiny(tmp_path, "llama"), device="cpu", dtype=torch.float32)
    if use == "hooked":
        run(model, IDS, {_BETWEEN: lambda _: None})
    elif use == "generate_with_lens":
        mp.generate_with_lens(model, [1, 2], max_new_tokens=2, stop=None, progress=False)
    else:
        if use == "screened":
            compiler_or_skip()
        mp.logit_lens(model, [[1, 2, 3]], screen=use == "screened", progress=False)
    seen = weakref.ref(model)
    del model
    gc.collect()
    assert seen() is None
