"""The model without its hooks is the model, or it is not used."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.tiny import ARCHITECTURES, save_tiny

# Models that no other test shares, and may have left a hook in.
OWN = 5.0
IDS = torch.tensor([[5, 9, 17, 120, 33, 8], [7, 7, 200, 3, 41, 19]])


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_it_gives_the_logits_of_the_bridge(tiny: Callable[..., Any], name: str) -> None:
    from mechprobe.models import run
    from mechprobe.models.plain import plain_body

    model = tiny(name, sharpness=OWN)
    body = plain_body(model)
    if name == "opt":
        # Its bridge hangs hooks of its own into hook points, which look like anybody's.
        assert body is None
        return
    assert body is not None
    assert not any(hasattr(m, "original_component") for m in body.modules())
    layer = f"blocks.{model.cfg.n_layers - 1}.hook_resid_post"
    plain = run(model, IDS, {}, logits="all").logits
    hooked = run(model, IDS, {layer: lambda _: None}, logits="all").logits
    assert plain is not None
    assert hooked is not None
    assert (plain - hooked).abs().max() <= 1e-5 * hooked.abs().max()


def test_a_hook_of_somebody_is_called(tiny: Callable[..., Any]) -> None:
    from mechprobe.models import run
    from mechprobe.models.plain import plain_body

    model = tiny("llama", sharpness=OWN)
    before = run(model, IDS, {}, logits="all").logits
    assert plain_body(model) is not None

    def silence(activation: Tensor, hook: Any) -> Tensor:  # noqa: ARG001
        return torch.zeros_like(activation)

    with model.hooks(fwd_hooks=[("blocks.1.hook_mlp_out", silence)]):
        assert plain_body(model) is None
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
    hooked = run(model, IDS, {"blocks.0.hook_resid_post": lambda _: None}, logits="all").logits
    assert plain is not None
    assert hooked is not None
    torch.testing.assert_close(plain, hooked, rtol=1e-9, atol=1e-9)


def test_processed_weights_are_not_the_weights_of_the_body(tmp_path: Path) -> None:
    from mechprobe.models import load_model, run
    from mechprobe.models.plain import plain_body

    model = load_model(save_tiny(tmp_path, "gpt2"), device="cpu")
    assert plain_body(model) is not None
    model.enable_compatibility_mode()
    assert plain_body(model) is None
    plain = run(model, IDS, {}, logits="all").logits
    hooked = run(model, IDS, {"blocks.0.hook_resid_post": lambda _: None}, logits="all").logits
    assert plain is not None
    assert hooked is not None
    assert torch.equal(plain, hooked)
