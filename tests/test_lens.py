"""The lens against Hugging Face, on many architectures, whatever the padding; and bad input."""

from collections.abc import Callable
from importlib import import_module
from typing import Any

import numpy as np
import pytest
import torch
import transformers as tf

from tests.tiny import ARCHITECTURES, D_VOCAB

PARALLEL = {"cohere", "gpt_neox", "phi", "gptj", "falcon"}
RAGGED = [[5, 9, 100, 42, 7, 3, 250], [8, 8, 31], [77]]


def _lens(model: Any, prompts: Any, **options: Any) -> Any:
    import mechprobe as mp

    return mp.logit_lens(model, prompts, progress=False, **options)


def _same(rows: torch.Tensor, layer: int) -> torch.Tensor:  # noqa: ARG001
    return rows


def _watch(activation: torch.Tensor, hook: Any) -> torch.Tensor:  # noqa: ARG001
    return activation


def _negated(rows: torch.Tensor) -> torch.Tensor:
    return -rows


def _plain(model: Any) -> Any:
    """Load the same checkpoint with Hugging Face alone, eager attention."""
    from mechprobe.models.identity import source_of

    source = source_of(model)
    assert source is not None
    assert source.folder is not None
    return tf.AutoModelForCausalLM.from_pretrained(source.folder, attn_implementation="eager").eval()


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_last_row_is_the_model_and_earlier_rows_are_its_norm_and_head(
    tiny: Callable[..., Any], name: str
) -> None:
    model = tiny(name)
    ids = torch.randint(3, D_VOCAB, (2, 7))
    result = _lens(model, ids, positions=None, top_k=D_VOCAB)
    hf = _plain(model)
    with torch.no_grad():
        out = hf(input_ids=ids, output_hidden_states=True)
    by_id = np.argsort(result.data["top_token"].values, axis=-1)
    log_probs = np.take_along_axis(result.data["top_log_prob"].values, by_id, axis=-1)
    last = out.logits.log_softmax(-1).numpy()
    np.testing.assert_allclose(log_probs[:, :, -1], last, atol=1e-4)
    for layer, entry in enumerate(out.hidden_states[:-1]):
        z = model.ln_final(entry) @ model.W_U + model.b_U
        own = _final_transform(hf, z).log_softmax(-1).detach().numpy()
        np.testing.assert_allclose(log_probs[:, :, layer], own, atol=1e-4)
    assert np.abs(log_probs[:, :, 0] - last).max() > 0.01


def _final_transform(hf: Any, z: torch.Tensor) -> torch.Tensor:
    """Soft-cap or scale, straight from the Hugging Face configuration."""
    config = hf.config
    if getattr(config, "final_logit_softcapping", None):
        cap = config.final_logit_softcapping
        return cap * torch.tanh(z / cap)
    if config.model_type == "cohere":
        return z * config.logit_scale
    return z / config.logits_scaling if config.model_type == "granite" else z


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_batches_of_unequal_prompts_are_right(tiny: Callable[..., Any], name: str) -> None:
    """In float64, so that rounding decides no rank (Mixtral's experts run in float32 at most)."""
    model = tiny(name, dtype=torch.float32 if name == "mixtral" else torch.float64)
    pairs = import_module("mechprobe").Compute(batch_size=2)
    together = _lens(model, RAGGED, positions=None, top_k=3, targets=[4]).data
    small = _lens(model, RAGGED, positions=None, top_k=3, targets=[4], compute=pairs).data
    for i, ids in enumerate(RAGGED):
        alone = _lens(model, [ids], positions=None, top_k=3, targets=[4]).data.isel(prompt=0)
        for batch in (together, small):
            cut = batch.isel(prompt=i, pos=slice(0, len(ids)))
            for variable in ("top_token", "target_rank"):
                np.testing.assert_array_equal(cut[variable], alone[variable])
            for variable in ("top_log_prob", "entropy", "kl_to_final", "target_log_prob"):
                np.testing.assert_allclose(cut[variable], alone[variable], atol=2e-5)
    beyond = together.isel(prompt=2, pos=slice(1, None))
    assert not beyond["valid"].any()
    assert (beyond["top_token"] == -1).all()
    assert (beyond["top_text"] == "").all()
    assert beyond["entropy"].isnull().all()


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_streams_add_up(tiny: Callable[..., Any], name: str) -> None:
    from mechprobe.models import looking_at, run

    model = tiny(name)
    assert _lens(model, RAGGED, stream="attn_out").data.sizes["layer"] == model.cfg.n_layers
    assert _lens(model, RAGGED, stream="mlp_out").data.sizes["layer"] == model.cfg.n_layers
    if name in PARALLEL:
        with pytest.raises(NotImplementedError, match=r"no blocks\.0\.hook_resid_mid: its"):
            _lens(model, RAGGED, stream="resid_mid")
        return
    kept: dict[str, torch.Tensor] = {}
    names = [f"blocks.1.hook_{s}" for s in ("resid_pre", "attn_out", "resid_mid")]
    with looking_at(model) as session:
        run(session, torch.tensor([RAGGED[0]]), {n: _keeper(kept, n) for n in names})
    before, attn, mid = (kept[n] for n in names)
    torch.testing.assert_close(before + attn, mid, atol=1e-4, rtol=1e-5)
    assert _lens(model, RAGGED, stream="resid_mid").data.sizes["layer"] == model.cfg.n_layers


def _keeper(kept: dict[str, torch.Tensor], name: str) -> Callable[[torch.Tensor], None]:
    def sink(activation: torch.Tensor) -> None:
        kept[name] = activation.clone()

    return sink


def test_layers_positions_and_targets_select(tiny_model: Any) -> None:
    every = _lens(tiny_model, RAGGED[:1], positions=None, top_k=5, targets=[4, 9]).data
    some = _lens(tiny_model, RAGGED[:1], positions=[-1, 2], layers=[2, -1], top_k=5, targets=[4, 9]).data
    picked = every.isel(pos=[6, 2], layer=[3, 0])
    assert some["layer"].values.tolist() == [2, -1]
    assert some["position"].values.tolist() == [[6, 2]]
    np.testing.assert_array_equal(some["target_rank"], picked["target_rank"])
    np.testing.assert_allclose(some["entropy"], picked["entropy"], atol=1e-5)
    sliced = _lens(tiny_model, RAGGED[:2], positions=slice(1, None, 2)).data
    assert sliced["position"].values.tolist() == [[1, 3, 5], [1, -1, -1]]


def test_targets_for_each_cell_are_the_next_tokens(tiny_model: Any) -> None:
    ids = torch.tensor([RAGGED[0]])
    following = torch.roll(ids, -1, dims=1)
    cells = _lens(tiny_model, ids, positions=None, targets=following).data
    for position, token in enumerate(following[0].tolist()):
        one = _lens(tiny_model, ids, positions=position, targets=[token]).data
        np.testing.assert_array_equal(
            cells["target_rank"].values[0, position], one["target_rank"].values[0, 0]
        )
    assert cells["target_token"].values[0, :, 0].tolist() == following[0].tolist()


def test_translators_are_applied_before_the_norm(tiny_model: Any) -> None:
    plain = _lens(tiny_model, RAGGED, top_k=4).data
    same = _lens(tiny_model, RAGGED, top_k=4, translators=_same).data
    np.testing.assert_array_equal(plain["top_token"], same["top_token"])
    swapped = _lens(tiny_model, RAGGED, top_k=4, translators={0: _negated}).data
    assert not np.array_equal(plain["entropy"].sel(layer=0), swapped["entropy"].sel(layer=0))
    np.testing.assert_allclose(plain["entropy"].sel(layer=1), swapped["entropy"].sel(layer=1), atol=1e-6)
    seen: list[int] = []

    def watched(rows: torch.Tensor, layer: int) -> torch.Tensor:
        seen.append(layer)
        return rows

    _lens(tiny_model, RAGGED[:1], translators=watched)
    assert sorted(seen) == [-1, 0, 1, 2]


def test_norm_none_reads_raw_residuals(tiny_model: Any) -> None:
    ids = torch.tensor([RAGGED[0]])
    result = _lens(tiny_model, ids, positions=None, norm="none", top_k=D_VOCAB).data
    hf = _plain(tiny_model)
    with torch.no_grad():
        hidden = hf(input_ids=ids, output_hidden_states=True).hidden_states
        for layer in range(3):
            raw = hf.lm_head(hidden[layer][0]).log_softmax(-1).sort(-1, descending=True).values
            ours = result["top_log_prob"].values[0, :, layer]
            np.testing.assert_allclose(ours, raw.numpy(), atol=1e-3)
    own = _lens(tiny_model, ids, positions=None, top_k=D_VOCAB).data
    np.testing.assert_allclose(result["model_log_prob"], own["model_log_prob"], atol=1e-5)


def test_the_lens_refuses_a_path_that_is_not_the_models(
    tiny: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = tiny("gemma2")

    def nothing(logits: torch.Tensor) -> torch.Tensor:
        return logits

    monkeypatch.setattr(model.adapter, "apply_output_logits_transform", nothing)
    with pytest.raises(ValueError, match="do not give the model's own output"):
        _lens(model, RAGGED)
    with pytest.raises(ValueError, match="do not give the model's own output"):
        _lens(model, RAGGED, stream="mlp_out", norm="none")


def test_compatibility_mode_gives_the_same_probabilities(tmp_path: Any) -> None:
    from mechprobe.models import load_model
    from tests.tiny import save_tiny

    folder = save_tiny(tmp_path / "m", "gpt2")
    raw, processed = load_model(folder, device="cpu"), load_model(folder, device="cpu")
    processed.enable_compatibility_mode()
    a, b = _lens(raw, RAGGED).data, _lens(processed, RAGGED).data
    np.testing.assert_allclose(a["model_log_prob"], b["model_log_prob"], atol=1e-4)
    np.testing.assert_allclose(a["entropy"], b["entropy"], atol=1e-3)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_other_precisions(tmp_path: Any, dtype: torch.dtype) -> None:
    from mechprobe.models import load_model
    from tests.tiny import save_tiny

    folder = save_tiny(tmp_path / "m")
    exact = _lens(load_model(folder, device="cpu", dtype=torch.float64), RAGGED).data
    found = _lens(load_model(folder, device="cpu", dtype=dtype), RAGGED).data
    assert found["entropy"].dtype == (np.float64 if dtype == torch.float64 else np.float32)
    np.testing.assert_allclose(found["entropy"], exact["entropy"], atol=0.3)


BAD: list[tuple[dict[str, Any], type[Exception], str]] = [
    ({"prompts": ""}, ValueError, "prompt 0 is empty"),
    ({"prompts": []}, ValueError, "no prompt was given"),
    ({"prompts": [[]]}, ValueError, "prompt 0 is empty"),
    ({"prompts": [[1, D_VOCAB]]}, ValueError, "holds id 300; the model's ids are 0..299"),
    ({"prompts": [[1] * 65]}, ValueError, "65 tokens, the model's context holds 64"),
    ({"prompts": torch.ones(2)}, TypeError, "must hold integer ids"),
    ({"prompts": [3.5]}, TypeError, "neither text nor a list"),
    ({"positions": 7}, ValueError, r"position 7 is out of range for prompt 0 of 3 tokens"),
    ({"positions": [0, -4]}, ValueError, r"position -4 is out of range"),
    ({"positions": slice(5, 9)}, ValueError, "leaves nothing of prompt 0"),
    ({"positions": ["a"]}, TypeError, "positions must be integers"),
    ({"positions": [2, -1]}, ValueError, "names one position of prompt 0 twice"),
    ({"translators": {99: _negated}}, ValueError, "translators has layer 99, which is not read"),
    ({"targets": [3.9]}, TypeError, r"a target must be a text, an id .* found 3\.9 \(float\)"),
    ({"targets": ["\ud800"]}, ValueError, "a target is no valid Unicode text"),
    ({"prompts": "a\ud800"}, ValueError, "prompt 0 is no valid Unicode text"),
    ({"prompts": torch.tensor([[5, 6, 7], [5, 0, 0]])}, ValueError, r"row 1 of the ids is padded"),
    ({"layers": [3]}, ValueError, r"layer 3 is out of range .* -1 \(embedding\), 0..2"),
    ({"layers": [-1], "stream": "attn_out"}, ValueError, "layer -1 is out of range"),
    ({"layers": [1, 1]}, ValueError, "each once"),
    ({"stream": "resid"}, ValueError, "stream must be one of resid_post"),
    ({"norm": "rms"}, ValueError, "norm must be 'final' or 'none'"),
    ({"top_k": 0}, ValueError, "top_k=0 is out of range"),
    ({"top_k": D_VOCAB + 1}, ValueError, "the vocabulary has 300 ids"),
    ({"targets": [D_VOCAB]}, ValueError, "target id 300 is no id"),
    ({"targets": torch.ones(2, 2, dtype=torch.long)}, ValueError, r"shape \[prompt, pos\] = \[1, 1\]"),
    ({"targets": [" seahorse"]}, ValueError, r"is \d tokens: .* Take its first token: targets=\["),
]


@pytest.mark.usefixtures("as_users_run_it")
@pytest.mark.parametrize(("change", "error", "message"), BAD)
def test_bad_input_gets_one_clear_error_before_any_forward_pass(
    tiny_text_model: Any,
    monkeypatch: pytest.MonkeyPatch,
    change: dict[str, Any],
    error: type[Exception],
    message: str,
) -> None:
    passes: Any = import_module("mechprobe.models.run")

    def ran(*_: Any, **__: Any) -> None:
        pytest.fail("the model ran")

    for way in ("_run_own", "_run_twin"):
        monkeypatch.setattr(passes, way, ran)
    request = {"prompts": [[1, 2, 3]], **change}
    with pytest.raises(error, match=message):
        _lens(tiny_text_model, **request)


def test_text_for_a_model_without_tokenizer_is_refused(tiny_model: Any) -> None:
    with pytest.raises(ValueError, match="no tokenizer, so prompt 0 cannot be text"):
        _lens(tiny_model, "hello")
    with pytest.raises(ValueError, match="no tokenizer, so target 'a' cannot be text"):
        _lens(tiny_model, [[1]], targets=["a"])


def test_nan_weights_and_training_mode_are_refused(tmp_path: Any) -> None:
    from mechprobe.models import load_model
    from tests.tiny import save_tiny

    model: Any = load_model(save_tiny(tmp_path / "m"), device="cpu")
    model.train()
    for part, named in (
        (model, "original_model and [0-9]+ more"),
        (model.original_model, "original_model and [0-9]+ more"),
        (model.original_model.model.layers[1].self_attn, r"blocks\.1\.attn and [0-9]+ more"),
    ):
        part.train()
        told = rf"training mode, .*: {named}\. Call \.eval\(\) of the model, and of its original"
        with pytest.raises(ValueError, match=told):
            _lens(model, [[1]])
        model.eval()
        model.original_model.eval()
    with torch.no_grad():
        next(model.parameters())[0, 0] = torch.nan
    with pytest.raises(ValueError, match=r"weight .* holds NaN or infinity"):
        _lens(model, [[1]])


def test_overflow_on_the_way_is_refused(tiny_model: Any) -> None:
    def broken(rows: torch.Tensor, layer: int) -> torch.Tensor:
        return rows * torch.nan if layer == 1 else rows

    with pytest.raises(ValueError, match="prompt 0, cell 0, layer entry 2 hold NaN"):
        _lens(tiny_model, [[1, 2]], translators=broken)


@pytest.mark.usefixtures("as_users_run_it")
def test_something_else_than_a_model_is_refused() -> None:
    with pytest.raises(TypeError, match="expected a TransformerLens model"):
        _lens("gpt2", "hello")
    with pytest.raises(TypeError, match=r"found torch\.nn\.modules\.linear\.Linear"):
        _lens(torch.nn.Linear(2, 2), "hello")


def test_a_prompt_that_carries_bos_does_not_get_a_second_one(tiny_text_model: Any) -> None:
    import mechprobe.models as models

    plain = models.token_ids(tiny_text_model, "the cat")
    assert plain[0][0] == 1
    assert plain[0][1] != 1
    assert models.token_ids(tiny_text_model, "<bos>the cat") == plain
    without = models.token_ids(tiny_text_model, "the cat", prepend_bos=False)
    assert without == [plain[0][1:]]
    assert models.token_ids(tiny_text_model, plain) == plain


def test_padding_that_may_be_text_is_warned_of(tiny: Callable[..., Any]) -> None:
    tiny_text_model = tiny("mistral", tokenizer=True)
    tiny_text_model.tokenizer.pad_token = "<eos>"
    with pytest.warns(UserWarning, match=r"row 1 begins or ends with id 2, .* also the padding"):
        _lens(tiny_text_model, torch.tensor([[5, 6, 7], [5, 6, 2]]))
    with pytest.raises(ValueError, match="row 1 of the ids is padded"):
        _lens(tiny_text_model, torch.tensor([[5, 6, 7], [5, 2, 2]]))


def test_one_layer_may_be_a_number(tiny_model: Any) -> None:
    assert _lens(tiny_model, RAGGED, layers=1).data["layer"].values.tolist() == [1]


@pytest.mark.usefixtures("as_users_run_it")
def test_provenance_tells_different_calls_apart(tmp_path: Any) -> None:
    from mechprobe.models import load_model
    from tests.tiny import save_tiny

    model: Any = load_model(save_tiny(tmp_path / "m", tokenizer=True), device="cpu")

    def record(**options: Any) -> Any:
        return _lens(model, RAGGED[:1], **options).provenance.without_time()

    first = record()
    assert record(positions=np.int64(2))["arguments"]["positions"] == 2
    one, other = (record(targets=torch.tensor([[t]])) for t in (4, 5))
    assert one["arguments"]["targets"] != other["arguments"]["targets"]
    with torch.no_grad():
        model.original_model.model.layers[0].mlp.down_proj.weight.mul_(1.5)
    changed = record()
    assert changed["model"]["note"] == "changed in memory after loading"
    assert changed["model"]["weights_sha256"]
    assert first["model"]["weights_sha256"] == ""
    model.add_hook("blocks.0.hook_resid_post", _watch)
    assert record()["model"]["hooks"] == changed["model"]["hooks"] + 1
    model.reset_hooks()
    again = load_model(save_tiny(tmp_path / "m", tokenizer=True), device="cpu", n_ctx=32)
    short = _lens(again, RAGGED[:1]).provenance.without_time()
    assert short["model"]["config_sha256"] != first["model"]["config_sha256"]


def test_two_runs_are_equal_apart_from_time(tiny_text_model: Any, tmp_path: Any) -> None:
    import mechprobe as mp

    a, b = (_lens(tiny_text_model, ["the cat", "the dog sat"], positions=None) for _ in range(2))
    assert a.data.identical(b.data)
    assert a.provenance.without_time() == b.provenance.without_time()
    read = mp.load_result(a.save(tmp_path / "a.nc"))
    assert type(read) is type(a)
    assert read.data.identical(a.data)
    assert read.provenance == a.provenance
