"""One example of each way in which a number once belonged to another model than the one in hand.

The judge is always the same object, called as its user calls it.
"""

import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.calls import CALLS, IDS, QUIET, Call, claims_file, differ, lens, numbers, own_log_probs, own_logits
from tests.changes import Zero
from tests.tiny import save_tiny

Make = Callable[[str], Any]


@pytest.fixture(scope="module")
def make(tmp_path_factory: pytest.TempPathFactory) -> Make:
    folders = {k: save_tiny(tmp_path_factory.mktemp(k), k, tasks=True) for k in ("llama", "gpt2")}

    def load(kind: str) -> Any:
        import mechprobe as mp

        return mp.load_model(folders[kind], device="cpu")

    return load


def off_by(model: Any, ids: list[int], found: Any) -> float:
    """Return how far the last layer of a lens at all positions is from the model, in nats."""
    own, data = own_log_probs(model.original_model, ids), found.data
    top, said = data["top_token"].values[0, :, -1], data["top_log_prob"].values[0, :, -1]
    places = data["position"].values[0]
    return float(np.abs(np.take_along_axis(own[places], top, 1) - said).max())


@pytest.mark.parametrize("call", [c for c in CALLS if c.name in
                                  ("lens", "qk_logic", "generate", "evaluate", "net_read")],
                         ids=lambda c: c.name)  # fmt: skip
def test_nothing_remembered_outlives_a_module(make: Make, call: Call) -> None:
    model, new = make("llama"), make("llama")
    held = call.hold(model)
    first = numbers(call.run(held))
    for changed in (model, new):
        changed.original_model.model.layers[1].mlp = Zero()
    second = numbers(call.run(held))
    assert differ(second, numbers(call.run(call.hold(new)))) == ""
    assert differ(second, first) != ""


def test_the_lens_is_of_the_replaced_module(make: Make) -> None:
    model = make("llama")
    lens()(model)
    model.original_model.model.layers[1].mlp = Zero()
    assert off_by(model, IDS, lens()(model)) < 1e-3


def test_a_changed_weight_is_no_longer_of_the_file(make: Make) -> None:
    model = make("llama")
    first = lens()(model)
    assert claims_file(first.provenance.model)
    weight = model.original_model.model.layers[0].mlp.down_proj.weight
    weight.data.mul_(-2)
    second = lens()(model)
    assert off_by(model, IDS, second) < 1e-3
    assert not claims_file(second.provenance.model)
    weight.data.mul_(-0.5)
    assert differ(numbers(lens()(model)), numbers(first)) == ""


@pytest.fixture
def crooked() -> Iterator[Callable[[str], str]]:
    """Return ``crooked(when)``: the name of an attention that is eager but for one kind of pass."""
    from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS as MASKS
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS as KINDS
    from transformers.models.llama.modeling_llama import eager_attention_forward

    made: list[str] = []

    def register(when: str) -> str:
        def attention(module: Any, q: Tensor, k: Tensor, *rest: Any, **kwargs: Any) -> Any:
            out, weights = eager_attention_forward(module, q, k, *rest, **kwargs)
            wrong = {"long": k.shape[2] > 16, "padded": len(q) > 1, "cached": q.shape[2] != k.shape[2]}
            return (out * 0.3 if wrong[when] else out), weights

        name = f"crooked_{when}"
        KINDS.register(name, attention)
        MASKS.register(name, MASKS["eager"])
        made.append(name)
        return name

    yield register
    for name in made:
        for table in (KINDS, MASKS):
            table._global_mapping.pop(name, None)


@pytest.mark.parametrize("when", ["long", "padded", "cached"])
def test_a_path_is_trusted_only_for_what_it_was_tried_on(
    make: Make, crooked: Callable[[str], str], when: str
) -> None:
    """The wrapped model computes its own attention, and its insides have one that errs later."""
    import mechprobe as mp

    model = make("llama")
    model.original_model.config._attn_implementation = crooked(when)
    if when == "cached":
        said = mp.generate_with_lens(model, IDS, max_new_tokens=5, **QUIET)
        tokens = said.data["next_token"].values.reshape(-1).tolist()
        own = own_log_probs(model.original_model, [*IDS, *tokens])[len(IDS) - 1 : -1]
        np.testing.assert_array_equal(own.argmax(-1), tokens)
        found = said.data["top_log_prob"].values[0, :, -1]
        ids = said.data["top_token"].values[0, :, -1]
        np.testing.assert_allclose(found, np.take_along_axis(own, ids, 1), atol=1e-3)
        return
    prompts = [[(31 * i + 7) % 400 for i in range(n)] for n in (40, *([21, 5] * (when != "long")))]
    data = mp.logit_lens(model, prompts, top_k=3, **QUIET).data
    for row, ids in enumerate(prompts):
        own = own_log_probs(model.original_model, ids)[-1]
        top = data["top_token"].values[row, 0, -1]
        np.testing.assert_allclose(data["top_log_prob"].values[row, 0, -1], own[top], atol=1e-3)


def test_check_model_reads_the_model_in_hand(make: Make) -> None:
    """What is compared is the model as its user runs it, whatever stands in for it."""
    import mechprobe as mp

    model = make("llama")
    assert mp.check_model(model).passed
    model.original_model.model.layers[1].mlp = Zero()
    lines = mp.check_model(model).lines
    from_file = next(line for line in lines if "Hugging Face" in line.name)
    right = own_logits(make("llama").original_model, IDS)
    assert float((own_logits(model.original_model, IDS) - right).abs().max()) > 0.01
    assert from_file.status == "FAILED"
    assert all(line.status != "FAILED" for line in lines if line is not from_file)


def test_hidden_states_are_as_many_as_before(make: Make) -> None:
    model = make("llama")
    assert model.tokenizer is not None
    lens()(model)
    out = model.original_model(torch.tensor([IDS]), output_hidden_states=True)
    assert len(out.hidden_states) == model.cfg.n_layers + 1


_RUNS = [c for c in CALLS if c.name not in ("neighbors", "expressible", "check", "puzzles")]


@pytest.mark.parametrize("call", _RUNS, ids=lambda c: c.name)
@pytest.mark.parametrize("before", [False, True], ids=["at_once", "after_a_call"])
@pytest.mark.usefixtures("as_users_run_it")
def test_training_mode_anywhere_is_refused(make: Make, call: Call, *, before: bool) -> None:
    """A Trainer leaves the wrapped model in it, and the wrapper knows nothing of that."""
    model = make("gpt2")
    held = None
    if before:
        held = call.hold(model)
        call.run(held)
    model.original_model.train()
    model.training = False
    with pytest.raises(ValueError, match="train"):
        call.run(held or call.hold(model))
    model.original_model.eval()
    call.run(held or call.hold(model))


def test_dropout_alone_is_refused(make: Make) -> None:
    model = make("gpt2")
    right = numbers(lens()(model))
    dropouts = [m for m in model.original_model.modules() if isinstance(m, torch.nn.Dropout)]
    dropouts[-1].train()
    with pytest.raises(ValueError, match="train"):
        lens()(model)
    dropouts[-1].eval()
    assert differ(numbers(lens()(model)), right) == ""


def compiled(module: Any) -> Any:
    """Compile nothing yet; importing the compiler warns of torch's own deprecated parts."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.compile(module, backend="eager")


@pytest.mark.usefixtures("as_users_run_it")
@pytest.mark.parametrize("call", [c for c in CALLS if c.core or c.name == "check"],
                         ids=lambda c: c.name)  # fmt: skip
def test_a_compiled_model_is_refused_for_that_reason(make: Make, call: Call) -> None:
    model = compiled(make("llama"))
    with pytest.raises((TypeError, NotImplementedError), match="compil"):
        call.run(call.hold(model))


def test_what_is_saved_at_home_is_there(make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import mechprobe as mp

    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    result = lens()(make("llama"))
    result.save("~/x.nc")
    assert (tmp_path / "x.nc").exists()
    assert not (tmp_path / "~").exists()
    assert mp.load_result("~/x.nc").data.identical(result.data)
    result.html("~/x.html")
    assert (tmp_path / "x.html").exists()
