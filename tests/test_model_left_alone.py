"""The caller's model and process are left as they were found: after success, error, interruption.

What is registered with transformers' attention interface may grow; nothing else may.
"""

import random
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from tests import inventory
from tests.calls import CALLS, IDS, QUIET, RAGGED, Call, differ, lens, net, numbers, walks
from tests.calls import brackets as world_of_brackets
from tests.calls import choice as choices
from tests.changes import Parts
from tests.tiny import save_tiny

KINDS = ("llama", "gpt2")
# What is dear is tried on one kind.
PACKED = ("lens", "lens_long", "generate", "qk_logic", "ablate", "net_start")
PAIRS = [(c, k) for c in CALLS for k in KINDS if k == "llama" or c.name in PACKED]
# They run no layer, or run so many that five interruptions take too long.
ASIDE = ("neighbors", "expressible", "puzzles", "describe_retrieval")
NAMES = [f"{c.name}-{k}" for c, k in PAIRS]
Make = Callable[[str], Any]


@pytest.fixture(autouse=True)
def _quickly(
    as_users_run_it: None,  # noqa: ARG001
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> Iterator[None]:
    monkeypatch.chdir(tmp_path)
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def make(tmp_path_factory: pytest.TempPathFactory) -> Make:
    """Return ``make(kind)``: a model of its own, the same weights every time."""
    folders = {k: save_tiny(tmp_path_factory.mktemp(k), k, tasks=True) for k in KINDS}

    def load(kind: str) -> Any:
        import mechprobe as mp

        return mp.load_model(folders[kind], device="cpu")

    return load


@pytest.fixture(scope="module")
def shared(make: Make) -> dict[str, Any]:
    """Models that were used once."""
    return {kind: inventory.used(make(kind)) for kind in KINDS}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("call", CALLS, ids=lambda c: c.name)
def test_after_success(shared: dict[str, Any], call: Call, kind: str) -> None:
    model = shared[kind]
    held, registered = call.hold(model), inventory.attention_kinds()
    before = inventory.whole(model)
    call.run(held)
    assert inventory.unlike(before, inventory.whole(model)) == []
    assert registered.items() <= inventory.attention_kinds().items()


@pytest.mark.parametrize(("call", "kind"), PAIRS, ids=NAMES)
def test_gradients_and_flags_stay(make: Make, call: Call, kind: str) -> None:
    """A model in the middle of somebody's training loop: gradients, frozen weights, settings."""
    model = make(kind)
    hf = model.original_model
    for i, parameter in enumerate(hf.parameters()):
        parameter.requires_grad_(i % 2 == 0)
    hf(torch.tensor([IDS])).logits.sum().backward()
    inventory.used(model)
    call.hold(model)
    torch.manual_seed(7)
    random.seed(7)
    before = inventory.whole(model)
    with torch.inference_mode():
        call.run(call.hold(model))
        assert torch.is_inference_mode_enabled()
    assert inventory.unlike(before, inventory.whole(model)) == []
    assert any(p.grad is not None for p in hf.parameters())


@pytest.mark.parametrize(("call", "kind"), PAIRS, ids=NAMES)
def test_hidden_states_stay(make: Make, call: Call, kind: str) -> None:
    """One of each layer and one of the embedding, whoever ran first."""
    model = make(kind)
    call.run(call.hold(model))
    asked: dict[str, Any] = {"output_hidden_states": True, "output_attentions": True}
    out = model.original_model(torch.tensor([IDS]), **asked)
    assert len(out.hidden_states) == model.cfg.n_layers + 1
    plain = make(kind).original_model(torch.tensor([IDS]), **asked)
    assert len(out.attentions or ()) == len(plain.attentions or ())
    for one, other in zip(out.hidden_states, plain.hidden_states, strict=True):
        torch.testing.assert_close(one, other)


class Failing(nn.Module):
    """A part that stops somebody's pass at its n-th call; the count is the user's."""

    def __init__(self, part: nn.Module, error: type[BaseException]) -> None:
        super().__init__()
        self.part, self.error, self.left = part, error, [10**9]

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        self.left[0] -= 1
        if self.left[0] == 0:
            raise self.error("stopped in the middle")
        return self.part(x, *args, **kwargs)


@pytest.fixture(scope="module")
def failing(make: Make) -> dict[type[BaseException], tuple[Any, Failing]]:
    found: dict[type[BaseException], tuple[Any, Failing]] = {}
    for error in (ArithmeticError, KeyboardInterrupt):
        model = make("llama")
        parts = Parts(model)
        part = Failing(parts.mlp(1), error)
        parts.layers[1].mlp = part
        found[error] = inventory.used(model), part
    return found


@pytest.mark.parametrize("error", [ArithmeticError, KeyboardInterrupt])
@pytest.mark.parametrize("call", [c for c in CALLS if c.name not in ASIDE], ids=lambda c: c.name)
def test_after_the_model_fails(
    failing: dict[type[BaseException], tuple[Any, Failing]], call: Call, error: type[BaseException]
) -> None:
    """The model's own forward raises at one pass after the other."""
    model, part = failing[error]
    held = call.hold(model)
    right = numbers(call.run(held))
    before = inventory.whole(model)
    for n in (1, 2, 3, 5, 9):
        before[next(k for k in before if k.endswith(".left"))] = [10**9]
        part.left[0] = n
        # A call of fewer passes comes to its end.
        with suppress(error):
            call.run(held)
        part.left[0] = 10**9
        assert inventory.unlike(before, inventory.whole(model)) == [], f"pass {n}"
        assert differ(numbers(call.run(held)), right) == "", f"after pass {n}"
        part.left[0] = 10**9


def _counted(stop: int, error: type[BaseException]) -> Callable[..., Tensor]:
    left = [stop]

    def translate(rows: Tensor, layer: int) -> Tensor:  # noqa: ARG001
        left[0] -= 1
        if left[0] == 0:
            raise error("stopped in the middle")
        return rows

    return translate


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit])
@pytest.mark.parametrize("kind", KINDS)
def test_after_a_translator_fails(shared: dict[str, Any], error: type[BaseException], kind: str) -> None:
    import mechprobe as mp

    model = shared[kind]
    right = numbers(lens()(model))
    before = inventory.whole(model)
    for stop in (1, 2, 4):
        with pytest.raises(error, match="stopped in the middle"):
            mp.logit_lens(model, RAGGED, translators=_counted(stop, error), compute=mp.Compute(1), **QUIET)
        with pytest.raises(error, match="stopped in the middle"):
            mp.generate_with_lens(model, IDS, translators=_counted(stop, error), **QUIET)
        assert inventory.unlike(before, inventory.whole(model)) == []
        assert differ(numbers(lens()(model)), right) == ""


class Refusing:
    """An acceptance that fails after some calls."""

    label = "refusing"

    def __init__(self, n: int) -> None:
        self.left = n

    def accepts(self, log_probs: np.ndarray) -> np.ndarray:
        self.left -= 1
        if self.left == 0:
            raise ArithmeticError("stopped in the middle")
        return log_probs > np.log(0.01)


@pytest.mark.parametrize("n", [1, 2, 3])
@pytest.mark.parametrize("function", ["evaluate_world_model", "world_by_layer", "patch_states"])
def test_after_an_acceptance_fails(shared: dict[str, Any], function: str, n: int) -> None:
    import mechprobe as mp

    model, world = shared["llama"], world_of_brackets()
    right = net(model).read(walks()[0][None])
    before = inventory.whole(model)
    with pytest.raises(ArithmeticError, match="stopped in the middle"):
        getattr(mp, function)(net(model), world, n=6, k=2, acceptance=Refusing(n), **QUIET)
    assert inventory.unlike(before, inventory.whole(model)) == []
    np.testing.assert_allclose(net(model).read(walks()[0][None]), right, rtol=1e-5)


def _refusals() -> dict[str, Callable[[Any], Any]]:
    import mechprobe as mp

    return {
        "position": lambda m: mp.logit_lens(m, [IDS], positions=99, **QUIET),
        "layer": lambda m: mp.logit_lens(m, [IDS], layers=[9], **QUIET),
        "target": lambda m: mp.logit_lens(m, [IDS], targets=[10**6], **QUIET),
        "translated": lambda m: mp.logit_lens(m, [IDS], translators={0: lambda x: x[:, :3]},
                                              **QUIET),
        "stop": lambda m: mp.generate_with_lens(m, IDS, max_new_tokens=0, **QUIET),
        "head": lambda m: mp.ablate_heads(m, choices(), [(9, 9)], **QUIET),
        "strength": lambda m: mp.steer_heads(m, choices(), [(1, 2)], strengths=(-1.0,), **QUIET),
        "trait": lambda m: mp.describe_heads(m, traits=["charm"], **QUIET),
        "at": lambda m: mp.vocabulary_neighbors(m, IDS, at=(7, 0)),
        "words": lambda m: net(m).read(np.zeros((1, 5000), dtype=np.int64)),
    }  # fmt: skip


@pytest.mark.parametrize("name", ["position", "layer", "target", "translated", "stop", "head",
                                  "strength", "trait", "at", "words"])  # fmt: skip
@pytest.mark.parametrize("kind", KINDS)
def test_after_a_refusal(shared: dict[str, Any], name: str, kind: str) -> None:
    model = shared[kind]
    right = numbers(lens()(model))
    before = inventory.whole(model)
    with pytest.raises((ValueError, RuntimeError)):
        _refusals()[name](model)
    assert inventory.unlike(before, inventory.whole(model)) == []
    assert differ(numbers(lens()(model)), right) == ""


INTERRUPTED = [c for c in CALLS if c.name in
               ("lens", "lens_padded", "generate", "qk_rotated_choice", "ablate", "net_start",
                "world_by_layer")]  # fmt: skip


@pytest.fixture
def _alarmed() -> Iterator[None]:
    def stop(number: int, frame: FrameType | None) -> None:  # noqa: ARG001
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGALRM, stop)
    yield
    signal.setitimer(signal.ITIMER_REAL, 0)
    signal.signal(signal.SIGALRM, before)


# Python swallows an interruption that comes in the middle of a finaliser, and says so.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.usefixtures("_alarmed")
@pytest.mark.parametrize("call", INTERRUPTED, ids=lambda c: c.name)
def test_after_an_interruption(make: Make, call: Call) -> None:
    """Ctrl-C at twelve moments of a call; what follows is right, and nothing is left hanging."""
    model = inventory.used(make("llama"))
    held = call.hold(model)
    right = numbers(call.run(held))
    begun = time.perf_counter()
    call.run(held)
    lasts = time.perf_counter() - begun
    before, n_interrupted = inventory.whole(model), 0
    for moment in np.random.default_rng(0).permutation(np.linspace(0.02, 0.95, 12)):
        try:
            signal.setitimer(signal.ITIMER_REAL, float(moment * lasts))
            call.run(held)
        except KeyboardInterrupt:
            n_interrupted += 1
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
        assert inventory.unlike(before, inventory.whole(model)) == [], f"at {moment:.2f}"
        assert differ(numbers(call.run(held)), right) == "", f"after {moment:.2f}"
    assert n_interrupted >= 3
