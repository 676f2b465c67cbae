"""Rows of one prompt: its keys and values are read once, by models of which that can be trusted."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.tiny import ARCHITECTURES

# Models that no other test shares, and may have left a hook in.
OWN = 5.5
# Sliding windows, or an attention that transformers does not let anybody replace.
ORDINARY = {"mistral", "gemma2", "gemma3", "stablelm", "gptj", "gpt_neo", "opt", "bloom", "falcon"}


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_which_models_are_trusted(tiny: Callable[..., Any], name: str) -> None:
    from mechprobe.models.forks import forking_body

    assert (forking_body(tiny(name, sharpness=OWN)) is None) == (name in ORDINARY)


@pytest.mark.parametrize("name", ["gpt2", "qwen3", "gpt_neox", "phi", "cohere", "mixtral"])
def test_rows_read_as_if_alone(tiny: Callable[..., Any], name: str) -> None:
    from mechprobe.models import run
    from mechprobe.models.forks import PromptCache, continue_rows, forking_body
    from mechprobe.worlds.kv_cache import SlotCache

    model = tiny(name, sharpness=OWN)
    body = forking_body(model)
    assert body is not None
    generator = torch.Generator().manual_seed(1)
    prompts = torch.randint(3, 290, (3, 7), generator=generator)
    said = torch.randint(3, 290, (8, 4), generator=generator)
    prompt = np.array([2, 0, 2, 2, 0, 2, 2, 0])
    kept = PromptCache.of(run(model, prompts, {}, keep_cache=True).cache, None)
    assert len(kept) == 3
    cache = SlotCache.empty(model.cfg.n_layers, 8).cache
    for step in range(4):
        at = torch.full((8, 1), 7 + step)
        found = continue_rows(model, body, said[:, step : step + 1], at, kept, prompt, cache)
        whole = torch.cat([prompts[prompt], said[:, : step + 1]], dim=1)
        alone = run(model, whole, {}, logits="last").logits
        assert alone is not None
        assert (found - alone[:, -1]).abs().max() <= 1e-5 * alone.abs().max()


def test_the_model_keeps_its_own_attention(tiny: Callable[..., Any]) -> None:
    from mechprobe.models.forks import forking_body

    model = tiny("llama", sharpness=OWN)
    body = forking_body(model)
    assert body is not None
    assert body.config._attn_implementation != model.original_model.config._attn_implementation
    assert body.model.layers[0].self_attn.config is body.config
    pairs = zip(body.parameters(), model.original_model.parameters(), strict=True)
    assert all(mine is theirs for mine, theirs in pairs)


def test_not_while_somebody_listens(tiny: Callable[..., Any]) -> None:
    from mechprobe.models.forks import forking_body

    model = tiny("llama", sharpness=OWN)

    def listen(activation: Tensor, hook: Any) -> None:
        pass

    with model.hooks(fwd_hooks=[("blocks.1.hook_mlp_out", listen)]):
        assert forking_body(model) is None
    assert forking_body(model) is not None


def test_an_attention_of_more_than_scores_is_refused() -> None:
    from mechprobe.models.forks import PromptCache, _attention, _Forks, seated

    x = torch.ones(1, 1, 1, 2)
    forks = _Forks(PromptCache([x.mT], [x], None), seated(np.array([0]), 1, 1))
    with pytest.raises(NotImplementedError, match="forked rows knows nothing of softcap"):
        _attention(None, x, x, x, scaling=1.0, forks=forks, softcap=50.0)
