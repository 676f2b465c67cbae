"""When the model without its hooks is used: where it was seen to be the model, and nowhere else."""

import gc
import weakref
from collections.abc import Callable
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.test_models_twin import BETWEEN, IDS, OWN, OwnPasses, deaf, logits_of
from tests.tiny import save_tiny


@pytest.fixture
def own_passes(monkeypatch: pytest.MonkeyPatch) -> OwnPasses:
    return OwnPasses(monkeypatch)


MASK = torch.tensor([[1] * 6, [1, 1, 1, 1, 0, 0]])
KINDS: dict[str, dict[str, Any]] = {
    "one": {"ids": IDS[:1]},
    "several": {},
    "padded": {"mask": MASK},
    "placed": {"mask": MASK, "positions": (MASK.cumsum(1) - 1)},
    "kept": {"keep_cache": True},
}


def spoilt(plain: Callable[..., Any], asked: dict[str, Any], wrong: str) -> Callable[..., Any]:
    """Return a twin's pass that gives something wrong, in one kind of pass only."""

    def off(sink: Callable[[Tensor], None], activation: Tensor) -> None:
        sink(1.01 * activation)

    def run(twin: Any, what: Any, capture: Any) -> Any:
        shown = (len(what.ids), what.mask is None, what.positions is None, what.keep_cache)
        if shown != (len(asked.get("ids", IDS)), "mask" not in asked, "positions" not in asked,
                     "keep_cache" in asked):  # fmt: skip
            return plain(twin, what, capture)
        sinks = {n: partial(off, s) if n == wrong else s for n, s in capture.items()}
        done = plain(twin, what, sinks)
        if wrong == "logits" and done.logits is not None:
            done.logits.mul_(1.01)
        return done

    return run


@pytest.mark.parametrize("wrong", ["logits", "blocks.1.hook_resid_post"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_twin_is_trusted_only_where_it_gave_the_same(
    tiny: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, own_passes: OwnPasses, kind: str,
    wrong: str,
) -> None:  # fmt: skip
    """Wrong in one kind of pass, of one activation: the model itself does those, and no others."""
    from mechprobe.models import looking_at, run

    module: Any = import_module("mechprobe.models.run")
    monkeypatch.setattr(module, "_run_twin", spoilt(module._run_twin, KINDS[kind], wrong))
    with looking_at(tiny("qwen2", sharpness=OWN)) as session:
        for other, asked in KINDS.items():
            ids = asked.get("ids", IDS)
            options = {k: v for k, v in asked.items() if k != "ids"}
            heard: list[Tensor] = []
            capture = {} if wrong == "logits" else {wrong: keeper(heard)}
            for _ in range(3):
                done = run(session, ids, capture, logits="all", **options)
            assert own_passes.since() == (3 if other == kind else 1), other
            assert done.logits is not None
            assert len(heard) == 3 * len(capture)
            for later in heard[1:]:
                torch.testing.assert_close(heard[0], later, rtol=1e-4, atol=1e-5)
            # What is wrong is one activation; without it, the twin is taken.
            if wrong != "logits":
                run(session, ids, {}, logits="all", **options)
                assert own_passes.since() == 0


def _swap(layers: Any) -> None:
    layers[0], layers[1] = layers[1], layers[0]


def _repeat(layers: Any) -> None:
    layers[1] = layers[0]


def _drop(layers: Any) -> None:
    del layers[1]


def _replace(layers: Any) -> None:
    layers[1] = torch.nn.Identity()


@pytest.mark.parametrize(
    ("change", "found"),
    [
        (_swap, r"blocks\.1, blocks\.0, blocks\.2 of its 3 blocks"),
        (_repeat, r"blocks\.0, blocks\.0, blocks\.2 of its 3 blocks"),
        (_replace, r"blocks\.0, None, blocks\.2 of its 3 blocks"),
        (_drop, r"blocks\.0, blocks\.2 of its 3 blocks"),
    ],
)
def test_a_layer_is_what_its_name_says(tmp_path: Path, change: Callable[[Any], object], found: str) -> None:
    import mechprobe as mp

    model: Any = mp.load_model(save_tiny(tmp_path, "llama"), device="cpu")
    mp.logit_lens(model, [[1, 2, 3]], progress=False)
    change(model.original_model.model.layers)
    with pytest.raises(NotImplementedError, match=f"layers of .* were changed: it runs {found}"):
        mp.logit_lens(model, [[1, 2, 3]], progress=False)


@pytest.mark.parametrize("foreign", [False, True])
def test_an_activation_that_never_comes_by(tmp_path: Path, *, foreign: bool) -> None:
    """Neither NaN nor nothing stands in for it, whoever does the pass; nor is an edit dropped."""
    import mechprobe as mp
    from mechprobe.models import looking_at, run

    model: Any = mp.load_model(save_tiny(tmp_path, "llama"), device="cpu")
    model.original_model.model.layers[1].mlp = torch.nn.Identity()
    if foreign:
        model.original_model.register_forward_hook(forwarding)
    message = "has a name for blocks.1.hook_mlp_out, which never comes by"
    for _ in range(2):
        with pytest.raises(NotImplementedError, match=message):
            mp.logit_lens(model, [[1, 2, 3]], stream="mlp_out", progress=False)
    with looking_at(model) as session, pytest.raises(NotImplementedError, match=message):
        run(session, IDS, {}, edit={"blocks.1.hook_mlp_out": torch.zeros_like})
    found = mp.logit_lens(model, [[1, 2, 3]], progress=False)
    assert bool(np.isfinite(found.data["entropy"].values).all())


def forwarding(*_: Any) -> None:
    """Hear a pass of somebody's, and do nothing."""


def keeper(heard: list[Tensor]) -> Callable[[Tensor], None]:
    def keep(activation: Tensor) -> None:
        heard.append(activation.clone())

    return keep


def counted(monkeypatch: pytest.MonkeyPatch, block: Any) -> list[int]:
    """Return a list that grows with every call of a block."""
    calls: list[int] = []
    forward = type(block).forward

    def count(self: Any, *args: Any, **kwargs: Any) -> Any:
        if self is block:
            calls.append(1)
        return forward(self, *args, **kwargs)

    monkeypatch.setattr(type(block), "forward", count)
    return calls


@pytest.mark.parametrize("hooked", [False, True])
def test_a_pass_that_only_listens_ends_when_all_is_heard(
    tiny: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, *, hooked: bool
) -> None:
    """The twin's does, once its kind is known; the model's own is run as its user runs it."""
    from mechprobe.models import looking_at, run
    from mechprobe.models.twin import twin_of

    model = tiny("llama", sharpness=OWN)
    first, kept = "blocks.0.hook_resid_post", list[Tensor]()
    capture = {first: keeper(kept)}
    if hooked:
        capture[BETWEEN] = keeper(kept)
    more = {**capture, "blocks.2.hook_resid_post": deaf}
    with looking_at(model) as session:
        twin = twin_of(session, None)
        assert twin is not None
        body: Any = model.original_model.base_model if hooked else twin.body.base_model
        last = body.layers[-1].original_component if hooked else body.layers[-1]
        asked: tuple[tuple[Any, dict[str, Any]], ...] = (
            (capture, {}), (capture, {"keep_cache": True}), (capture, {"logits": "last"}),
            (more, {}),
        )  # fmt: skip
        for names, options in asked:
            run(session, IDS, names, **options)
        n_first = len(kept)
        with monkeypatch.context() as patch:
            calls = counted(patch, last)
            n_calls: list[int] = []
            for names, options in asked:
                done = run(session, IDS, names, **options)
                n_calls.append(len(calls))
                assert (done.cache is not None) >= ("keep_cache" in options)
                assert (done.logits is not None) == ("logits" in options)
    assert n_calls == ([1, 2, 3, 4] if hooked else [0, 1, 2, 3])
    assert len(kept) == 2 * n_first == 8 * len(capture)
    for i in range(n_first, len(kept)):
        torch.testing.assert_close(kept[i], kept[i % len(capture)], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("n_before", [0, 1])
def test_a_sink_that_raises_leaves_no_hook_behind(
    tiny: Callable[..., Any], own_passes: OwnPasses, n_before: int
) -> None:
    """Neither in the model, in the first pass of a kind, nor in its twin, later."""
    from mechprobe.models import looking_at, run
    from mechprobe.models.internals import hook_points
    from mechprobe.models.twin import twin_of

    model = tiny("mistral", sharpness=OWN)

    def refuse(_: Tensor) -> None:
        msg = "no"
        raise KeyError(msg)

    name = "blocks.0.hook_resid_post"
    with looking_at(model) as session:
        for _ in range(n_before):
            run(session, IDS, {name: deaf})
        own_passes.since()
        with pytest.raises(KeyError, match="no"):
            run(session, IDS, {name: refuse})
        assert own_passes.since() == 1 - n_before
        twin, seen = twin_of(session, None), session.fingerprint
        assert twin is not None
        assert not any(m._forward_hooks or m._forward_pre_hooks for m in twin.body.modules())
        assert not any(p._forward_hooks or p._forward_pre_hooks for p in hook_points(model))
        run(session, IDS, {name: deaf})
        assert own_passes.since() == 0, "both were compared before the sink was called"
    with looking_at(model) as session:
        assert session.fingerprint == seen


@pytest.mark.parametrize("name", ["llama", "opt"])
def test_a_hook_of_somebody_is_called(tiny: Callable[..., Any], name: str) -> None:
    from mechprobe.models import looking_at
    from mechprobe.models.twin import twin_of

    model = tiny(name, sharpness=OWN)
    with looking_at(model) as session:
        before = logits_of(session)
        assert twin_of(session, None) is not None

    def silence(activation: Tensor, hook: Any) -> Tensor:  # noqa: ARG001
        return torch.zeros_like(activation)

    with model.hooks(fwd_hooks=[("blocks.1.hook_mlp_out", silence)]), looking_at(model) as session:
        assert not session.fingerprint.is_calm
        assert twin_of(session, None) is None
        during = [logits_of(session) for _ in range(2)]
    with looking_at(model) as session:
        after = logits_of(session)
    assert torch.equal(*during)
    assert (before - during[0]).abs().max() > 1e-3
    assert torch.equal(before, after)


def test_changed_weights_are_its_weights(tiny: Callable[..., Any], own_passes: OwnPasses) -> None:
    from mechprobe.models import looking_at

    model = tiny("gpt2", sharpness=OWN + 1, dtype=torch.float64)
    with looking_at(model) as session:
        before = [logits_of(session) for _ in range(2)][1]
        assert own_passes.since() == 1
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(1.25)
    with looking_at(model) as session:
        plain = [logits_of(session) for _ in range(2)][1]
        assert own_passes.since() == 1
        hooked = logits_of(session, capture={BETWEEN: deaf})
    assert (before - hooked).abs().max() > 1e-3
    torch.testing.assert_close(plain, hooked, rtol=1e-9, atol=1e-9)


def test_processed_weights_are_not_the_weights_of_the_body(tmp_path: Path) -> None:
    """In compatibility mode every pass gives what the bridge itself does."""
    from mechprobe.models import load_model, looking_at

    model = load_model(save_tiny(tmp_path, "gpt2"), device="cpu")
    with looking_at(model) as session:
        before = [logits_of(session) for _ in range(2)][1]
    model.enable_compatibility_mode()
    with looking_at(model) as session:
        plain = [logits_of(session) for _ in range(3)]
        hooked = logits_of(session, capture={BETWEEN: deaf})
    with torch.no_grad():
        own = model(IDS, return_type="logits")
    for found in plain:
        torch.testing.assert_close(found, hooked, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(found, own, rtol=1e-5, atol=1e-5)
    # Folded and centred weights move all logits of a position alike.
    torch.testing.assert_close(plain[0].log_softmax(-1), before.log_softmax(-1), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("use", ["logit_lens", "generate_with_lens", "hooked", "twin"])
def test_a_model_that_was_used_can_go(tmp_path: Path, use: str) -> None:
    """Nothing that is kept with a model keeps the model."""
    import mechprobe as mp
    from mechprobe.models import load_model, looking_at, run

    model = load_model(save_tiny(tmp_path, "llama"), device="cpu", dtype=torch.float32)
    if use in ("hooked", "twin"):
        with looking_at(model) as session:
            for _ in range(2):
                run(session, IDS, {BETWEEN: deaf} if use == "hooked" else {})
        del session
    elif use == "generate_with_lens":
        mp.generate_with_lens(model, [1, 2], max_new_tokens=2, stop=None, progress=False)
    else:
        mp.logit_lens(model, [[1, 2, 3]], progress=False)
    seen = weakref.ref(model)
    del model
    gc.collect()
    assert seen() is None
