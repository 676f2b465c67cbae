"""The model without its hooks gives what the model gives, in every kind of pass."""

from collections.abc import Callable
from importlib import import_module
from typing import Any
from weakref import WeakKeyDictionary

import pytest
import torch
from torch import Tensor

from tests.tiny import ARCHITECTURES

# Models that no other test shares, and may have left a hook in.
OWN = 5.0
# An activation that only the bridge can give.
BETWEEN = "blocks.0.hook_mlp_out"
IDS = torch.tensor([[5, 9, 17, 120, 33, 8], [7, 7, 200, 3, 41, 19]])
# Whose attention torch's own knows nothing of, or whose library has only one.
WRITTEN = {"gemma2", "gptj", "bloom", "gpt_neo"}


class OwnPasses:
    """Counts the passes that the model itself did, with its hooks and all."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        module: Any = import_module("mechprobe.models.run")
        self.n, plain = 0, module._run_own

        def counted(*args: Any, **kwargs: Any) -> Any:
            self.n += 1
            return plain(*args, **kwargs)

        monkeypatch.setattr(module, "_run_own", counted)
        # Nothing is known yet of models that other tests have used.
        monkeypatch.setattr("mechprobe.models.session._KEPT", WeakKeyDictionary())

    def since(self) -> int:
        """Return how many there were since this was last asked."""
        n, self.n = self.n, 0
        return n


@pytest.fixture
def own_passes(monkeypatch: pytest.MonkeyPatch) -> OwnPasses:
    return OwnPasses(monkeypatch)


def deaf(_: Tensor) -> None:
    """Listen, and keep nothing."""


def proofs(session: Any) -> dict[Any, dict[str, bool]]:
    """Return what was found of the twin, by kind of pass."""
    found = session._facts.items()
    return {k[1]: v for k, v in found if isinstance(k, tuple) and k[0] == "proved"}


def listen(heard: dict[str, Tensor], names: list[str]) -> dict[str, Callable[[Tensor], None]]:
    return {n: lambda t, n=n: heard.update({n: t.clone()}) for n in names}


def logits_of(session: Any, **options: Any) -> Tensor:
    from mechprobe.models import run

    found = run(session, options.pop("ids", IDS), options.pop("capture", {}), logits="all",
                **options).logits  # fmt: skip
    assert found is not None
    return found


def off_by(session: Any, names: list[str]) -> float:
    """Return how far activations of a pass are from the bridge's, of the largest."""
    from mechprobe.models import run

    plain: dict[str, Tensor] = {}
    hooked: dict[str, Tensor] = {}
    run(session, IDS, listen(plain, names))
    run(session, IDS, {**listen(hooked, names), BETWEEN: deaf})
    return max(float((plain[n] - b).abs().max() / b.abs().max()) for n, b in hooked.items())


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_it_gives_the_logits_of_the_bridge(
    tiny: Callable[..., Any], own_passes: OwnPasses, name: str
) -> None:
    from mechprobe.models import looking_at
    from mechprobe.models.twin import twin_of

    model = tiny(name, sharpness=OWN)
    with looking_at(model) as session:
        twin = twin_of(session, None)
        assert twin is not None
        assert not any(hasattr(m, "original_component") for m in twin.body.modules())
        first = logits_of(session)
        assert own_passes.since() == 1
        assert list(proofs(session).values()) == [{"logits": True}]
        plain = logits_of(session)
        assert own_passes.since() == 0
        hooked = logits_of(session, capture={BETWEEN: deaf})
        assert own_passes.since() == 1
    assert torch.equal(first, plain), "the first call's bits are the second's"
    assert (plain - hooked).abs().max() <= 1e-5 * hooked.abs().max()
    with torch.no_grad():
        theirs = model(IDS, return_type="logits")
    assert (plain - theirs).abs().max() <= 1e-5 * theirs.abs().max()


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_it_gives_the_residual_streams_of_the_bridge(
    tiny: Callable[..., Any], own_passes: OwnPasses, name: str
) -> None:
    from mechprobe.models import looking_at, run
    from mechprobe.models.twin import twin_of

    model = tiny(name, sharpness=OWN)
    layers = range(model.cfg.n_layers)
    names = ["blocks.0.hook_resid_pre", *(f"blocks.{layer}.hook_resid_post" for layer in layers)]
    with looking_at(model) as session:
        twin = twin_of(session, None)
        run(session, IDS, dict.fromkeys(names, deaf))
        assert own_passes.since() == 1
        assert off_by(session, names) <= 1e-5
        assert own_passes.since() == 1  # the second of the two
        seen = session.fingerprint
    # Nor does a pass with hooks leave any behind that count.
    with looking_at(model) as session:
        assert session.fingerprint == seen
        assert twin_of(session, None) is twin


@pytest.mark.parametrize("name", ARCHITECTURES)
@pytest.mark.parametrize("pad", [0, 5])
def test_a_long_pass_gives_what_written_scores_give(
    tiny: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, own_passes: OwnPasses, name: str,
    pad: int,
) -> None:  # fmt: skip
    from mechprobe.models import looking_at
    from mechprobe.models.twin import attention_for, twin_of

    monkeypatch.setattr("mechprobe.models.twin._MANY_SCORES", 1)
    model = tiny(name, sharpness=OWN)
    ids = (torch.arange(2 * 37).view(2, 37) * 31) % model.cfg.d_vocab
    mask = torch.ones_like(ids)
    mask[1, 37 - pad :] = 0
    with looking_at(model) as session:
        attention = attention_for(session, 1)
        assert attention == (None if name in WRITTEN else "sdpa")
        twin = twin_of(session, attention)
        assert twin is not None
        asks = getattr(twin.body.config, "_attn_implementation", "")
        assert asks == ("eager" if name in WRITTEN else "sdpa")
        logits_of(session, ids=ids, mask=mask)
        assert own_passes.since() == 1
        plain = logits_of(session, ids=ids, mask=mask)
        assert own_passes.since() == 0
        padded = {kind.padded for kind in proofs(session) if kind.attention == attention}
        assert padded == {pad > 0}
        hooked = logits_of(session, ids=ids, mask=mask, capture={BETWEEN: deaf})
    assert ((plain - hooked).abs().amax(-1) * mask).max() <= 1e-5 * hooked.abs().max()


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_going_on_from_a_cache_is_reading_the_whole(
    tiny: Callable[..., Any], own_passes: OwnPasses, name: str
) -> None:
    """Model and twin, compared, do not add to one cache."""
    from mechprobe.models import looking_at, run

    model = tiny(name, sharpness=OWN)
    with looking_at(model) as session:
        whole = logits_of(session, capture={BETWEEN: deaf})
        own_passes.since()
        for own in (1, 0):
            read = run(session, IDS[:, :4], {}, keep_cache=True)
            assert own_passes.since() == own
            done = run(session, IDS[:, 4:], {}, logits="all", cache=read.cache, keep_cache=True)
            assert own_passes.since() == own
            assert done.logits is not None
            assert (done.logits - whole[:, 4:]).abs().max() <= 1e-5 * whole.abs().max()
            assert done.cache.get_seq_length() == 6


@pytest.mark.parametrize("name", ["llama", "mistral", "qwen3", "gemma3", "olmo2", "mixtral"])
def test_it_gives_queries_and_keys(tiny: Callable[..., Any], own_passes: OwnPasses, name: str) -> None:
    from mechprobe.models import looking_at, run

    model = tiny(name, sharpness=OWN)
    names = [f"blocks.{x}.attn.hook_{y}" for x in range(model.cfg.n_layers) for y in "qk"]
    with looking_at(model) as session:
        run(session, IDS, dict.fromkeys(names, deaf))
        own_passes.since()
        assert off_by(session, names) <= 1e-5
        assert own_passes.since() == 1


def test_packed_queries_and_keys_come_from_the_bridge(
    tiny: Callable[..., Any], own_passes: OwnPasses
) -> None:
    from mechprobe.models import looking_at, run
    from mechprobe.models.twin import twin_of

    name = "blocks.0.attn.hook_q"
    with looking_at(tiny("gpt2", sharpness=OWN)) as session:
        twin = twin_of(session, None)
        assert twin is not None
        assert name not in twin.places
        for _ in range(3):
            run(session, IDS, {name: deaf})
        assert own_passes.since() == 3


def test_near_looks_at_every_row() -> None:
    from mechprobe.models.twin import near

    big = torch.cat([torch.full((1, 8), 1e6), torch.ones(1, 8)])
    assert near(big, big * (1 + 1e-6))
    small = big.clone()
    small[1, 3] = 1.001
    assert not near(big, small)
    assert not near(big, big * torch.nan)
    assert not near(big, big[:1])
    half = big.to(torch.bfloat16)
    assert near(half, half * 1.01)
    assert not near(half, half * 1.1)
