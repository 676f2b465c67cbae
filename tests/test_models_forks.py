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
WINDOWS = {"mistral", "gemma2", "gemma3", "gpt_neo"}
ORDINARY = {*WINDOWS, "stablelm", "gptj", "bloom", "falcon"}


@pytest.mark.parametrize("name", sorted(set(ARCHITECTURES) - WINDOWS))
def test_rows_read_as_if_alone(tiny: Callable[..., Any], name: str) -> None:
    from mechprobe.models import Cursor, looking_at, run
    from mechprobe.models.forks import ForkCache

    generator = torch.Generator().manual_seed(1)
    prompts = torch.randint(3, 290, (3, 7), generator=generator)
    said = torch.randint(3, 290, (8, 4), generator=generator)
    prompt = np.array([2, 0, 2, 2, 0, 2, 2, 0])
    with looking_at(tiny(name, sharpness=OWN)) as session:
        cursor = Cursor(session, many=True)
        cursor.read(prompts, logits="none")
        for step in range(4):
            rows = np.arange(8) if step else prompt
            found = cursor.advance(rows, said[:, step])
            whole = torch.cat([prompts[prompt], said[:, : step + 1]], dim=1)
            alone = run(session, whole, {}, logits="last").logits
            assert found is not None
            assert alone is not None
            assert (found - alone).abs().max() <= 1e-5 * alone.abs().max()
        assert isinstance(cursor._cache, ForkCache) == (name not in ORDINARY)
        if name not in ORDINARY:
            assert len(cursor._cache.prompts) == 2, "nobody continues the second"


@pytest.mark.parametrize("name", sorted(WINDOWS))
def test_windows_are_not_forked(tiny: Callable[..., Any], name: str) -> None:
    from mechprobe.models import looking_at
    from mechprobe.models.forks import forking_body

    with looking_at(tiny(name, sharpness=OWN)) as session:
        assert forking_body(session) is None


def test_the_model_keeps_its_own_attention(tiny: Callable[..., Any]) -> None:
    from mechprobe.models import looking_at
    from mechprobe.models.forks import forking_body

    model = tiny("llama", sharpness=OWN)
    with looking_at(model) as session:
        body = forking_body(session)
    assert body is not None
    assert body.config._attn_implementation != model.original_model.config._attn_implementation
    assert body.model.layers[0].self_attn.config is body.config
    pairs = zip(body.parameters(), model.original_model.parameters(), strict=True)
    assert all(mine is theirs for mine, theirs in pairs)


def test_not_while_somebody_listens(tiny: Callable[..., Any]) -> None:
    from mechprobe.models import looking_at
    from mechprobe.models.forks import forking_body

    model = tiny("llama", sharpness=OWN)

    def listen(activation: Tensor, hook: Any) -> None:
        pass

    listening = model.hooks(fwd_hooks=[("blocks.1.hook_mlp_out", listen)])
    with listening, looking_at(model) as session:
        assert forking_body(session) is None
    with looking_at(model) as session:
        assert forking_body(session) is not None


def test_an_attention_of_more_than_scores_is_refused() -> None:
    from mechprobe.models.forks import PromptCache, _attention, seated

    x = torch.ones(1, 1, 1, 2)
    forks = PromptCache([x.mT], [x], None), seated(np.array([0]), 1, 1)
    with pytest.raises(NotImplementedError, match="forked rows knows nothing of softcap"):
        _attention(None, x, x, x, scaling=1.0, forks=forks, softcap=50.0)
