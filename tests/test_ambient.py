"""What surrounds a call: torch's settings do not decide whether it works, and the record tells."""

import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests import inventory
from tests.calls import CALLS, IDS, QUIET, Call, choice, differ, lens, logic, numbers, own_logits
from tests.calls import brackets as world_of_brackets
from tests.tiny import save_tiny


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Any:
    import mechprobe as mp

    folder = save_tiny(tmp_path_factory.mktemp("ambient"), "llama", tasks=True)
    return inventory.used(mp.load_model(folder, device="cpu"))


@contextmanager
def _default_device(name: str) -> Iterator[None]:
    torch.set_default_device(name)
    try:
        yield
    finally:
        torch.set_default_device(None)


@contextmanager
def _default_dtype(dtype: torch.dtype) -> Iterator[None]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


@contextmanager
def _deterministic() -> Iterator[None]:
    torch.use_deterministic_algorithms(True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(False)


SETTINGS: dict[str, Callable[[], Any]] = {
    "no_grad": torch.no_grad,
    "grad": torch.enable_grad,
    "inference": torch.inference_mode,
    "meta": lambda: _default_device("meta"),
    "float64": lambda: _default_dtype(torch.float64),
    "bfloat16": lambda: _default_dtype(torch.bfloat16),
    "deterministic": _deterministic,
    "anomaly": lambda: torch.autograd.set_detect_anomaly(False),
}
_TRIED = [c for c in CALLS if c.name not in ("puzzles", "describe_retrieval")]


@pytest.mark.usefixtures("as_users_run_it")
@pytest.mark.parametrize("setting", SETTINGS)
@pytest.mark.parametrize("call", _TRIED, ids=lambda c: c.name)
def test_settings_change_nothing(model: Any, call: Call, setting: str) -> None:
    right = numbers(call.run(call.hold(model)))
    with SETTINGS[setting]():
        before = inventory.of_process()
        found = numbers(call.run(call.hold(model)))
        assert inventory.unlike(before, inventory.of_process()) == []
    assert differ(found, right) == ""


@pytest.mark.usefixtures("as_users_run_it")
@pytest.mark.parametrize("setting", SETTINGS)
def test_loading_under_settings(setting: str, tmp_path: Path) -> None:
    import mechprobe as mp
    from mechprobe.worlds.training.shipped import load_shipped

    folder, found = save_tiny(tmp_path, "llama", tasks=True), list[Any]()
    for name in ("none", setting):
        with SETTINGS[setting]() if name == setting else nullcontext():
            model = mp.load_model(folder, device="cpu")
            net, world = load_shipped("random_walks")
            walks = world.random_walks(1, np.random.default_rng(0), length=8)
            net.read(walks[0][None])
        assert not any(p.is_inference() for p in model.parameters())
        found.append((own_logits(model.original_model, IDS), net.read(walks[0][None])))
    torch.testing.assert_close(found[0][0], found[1][0])
    np.testing.assert_array_equal(found[0][1], found[1][1])


@pytest.mark.parametrize("setting", ["no_grad", "inference", "meta", "float64", "bfloat16"])
def test_training_under_settings(setting: str, tmp_path: Path) -> None:
    """Every TransformerLens notebook begins by switching gradients off."""
    from mechprobe.worlds import train_sequence_model

    world = world_of_brackets()
    walks = world.random_walks(30, np.random.default_rng(0))
    losses = []
    for name in ("none", setting):
        with SETTINGS[setting]() if name == setting else nullcontext():
            was = torch.is_grad_enabled(), torch.is_inference_mode_enabled()
            found = train_sequence_model(
                world, walks, folder=tmp_path / name, steps=3, n_layers=1, d_model=8, n_heads=2,
                batch_size=8, evaluate_every=3, **QUIET,
            )  # fmt: skip
            assert (torch.is_grad_enabled(), torch.is_inference_mode_enabled()) == was
        losses.append(found.data["loss"].values)
    np.testing.assert_allclose(losses[0], losses[1], rtol=1e-5)


def _log_probs(ids: Any) -> torch.Tensor:
    table = torch.linspace(-2, 1, 36).view(6, 6)
    return table[torch.as_tensor(ids)[:, -1]].log_softmax(-1)


KINDS: dict[str, Callable[[torch.Tensor], Any]] = {
    "float64": lambda x: x.double(),
    "bfloat16": lambda x: x.bfloat16(),
    "half": lambda x: x.half(),
    "with_gradients": lambda x: x.requires_grad_() * 1,
    "numpy": lambda x: x.numpy(),
    "list": lambda x: x.tolist(),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.usefixtures("as_users_run_it")
def test_callables_of_any_type(kind: str) -> None:
    from mechprobe.worlds import callable_model

    ids = np.array([[0, 1, 2], [3, 4, 5]])
    asked = callable_model(lambda x: KINDS[kind](_log_probs(x)), world_of_brackets())
    found = asked.start(ids).log_probs
    close = 0.02 if kind in ("bfloat16", "half") else 1e-6
    np.testing.assert_allclose(found, _log_probs(ids).numpy(), atol=close)
    assert found.dtype == np.float32


def test_autocast_is_told(model: Any) -> None:
    """Numbers that autocast moves come with a record that says so, if they come at all."""
    right, plain = lens()(model), own_logits(model.original_model, IDS)
    try:
        with torch.autocast("cpu", torch.bfloat16):
            moved = own_logits(model.original_model, IDS)
            found = lens()(model)
    except (ValueError, NotImplementedError) as refusal:
        if "autocast" not in str(refusal):
            raise
        return
    assert float((moved - plain).abs().max()) > 1e-3
    gap = np.abs(found.data["entropy"].values - right.data["entropy"].values)
    if float(np.nanmax(gap)) > 1e-5:
        assert found.provenance.without_time() != right.provenance.without_time()
        assert "autocast" in found.provenance.to_json()


@pytest.mark.usefixtures("as_users_run_it")
@pytest.mark.filterwarnings("ignore:permuting labels")
def test_records_hold_every_argument(model: Any) -> None:
    """What moves a number is an argument, and every argument is in the record."""
    import mechprobe as mp

    scores = mp.qk_scores(model, logic(), **QUIET)
    made: dict[Any, tuple[Any, set[str]]] = {
        mp.logit_lens: (lens()(model), set()),
        mp.generate_with_lens: (mp.generate_with_lens(model, IDS, max_new_tokens=2, **QUIET),
                                set()),
        mp.vocabulary_neighbors: (mp.vocabulary_neighbors(model, 5, k=2), set()),
        mp.expressible: (mp.expressible(model, " fox"), set()),
        mp.qk_scores: (scores, set()),
        mp.ablate_heads: (mp.ablate_heads(model, choice(), [(1, 2)], controls=0, **QUIET), set()),
        mp.steer_heads: (mp.steer_heads(model, choice(), [(1, 2)], controls=0,
                                        strengths=(0.0, 4.0), **QUIET), set()),
        mp.describe_heads: (mp.describe_heads(model, traits=["ov_copying"], **QUIET), set()),
        mp.option_robustness: (mp.option_robustness(model, choice(), head=(1, 2),
                                                    key="label", prior_share=0.4, **QUIET),
                               {"key"}),
        mp.difficulty: (mp.difficulty(model, steps=[1], distractors=[0], n=8, layers=[1],
                                      spelling="bare", score="cosine", **QUIET),
                        {"n", "layers", "spelling", "score"}),
        mp.HeadScores.select: (scores.select(calibration=0.5, n_permutations=20), set()),
        mp.transfer: (mp.transfer({"a": scores, "b": scores}), set()),
    }  # fmt: skip
    missing: dict[str, list[str]] = {}
    for function, (result, given) in made.items():
        asked = {n for n, p in inspect.signature(function).parameters.items()
                 if p.kind is not p.VAR_KEYWORD}  # fmt: skip
        known = set(result.provenance.arguments)
        known |= {"seed"} if result.provenance.seed is not None else set()
        if lacks := sorted((asked | given) - _BY_DIGEST - known):
            missing[function.__qualname__] = lacks
    assert missing == {}


# What is recorded by itself, or decides no number.
_BY_DIGEST = {"self", "model", "prompts", "prompt", "task", "scores", "progress"}


@pytest.mark.filterwarnings("ignore:permuting labels")
def test_derived_records_tell_their_arguments_apart(model: Any) -> None:
    import mechprobe as mp

    one, other = (
        mp.difficulty(model, steps=[1], distractors=[0], n=n, layers=[1], **QUIET).provenance for n in (8, 12)
    )
    assert one.arguments != other.arguments
    scores = mp.qk_scores(model, logic(), **QUIET)
    flips = [scores.select(flip=f, n_permutations=20).provenance for f in (False, True)]
    assert flips[0].arguments != flips[1].arguments


@pytest.mark.usefixtures("as_users_run_it")
@pytest.mark.parametrize("kind", ["numpy", "int32", "numpy_list", "tensors", "tuple", "target"])
def test_ids_as_users_hold_them(model: Any, kind: str) -> None:
    """The same ids, and the same target, in other wrappings."""
    right = numbers(lens(targets=[4])(model))
    asked: dict[str, Any] = {
        "numpy": {"prompts": np.array([IDS])},
        "int32": {"prompts": torch.tensor([IDS], dtype=torch.int32)},
        "numpy_list": {"prompts": [[np.int64(i) for i in IDS]]},
        "tensors": {"prompts": [torch.tensor(IDS)]},
        "tuple": {"prompts": (tuple(IDS),)},
        "target": {"targets": torch.tensor(4)},
    }[kind]
    assert differ(numbers(lens(**{"targets": [4], **asked})(model)), right) == ""
