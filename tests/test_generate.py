"""Generation with the lens: the model's own tokens, no step computed twice, every way to stop."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from tests.tiny import ARCHITECTURES, D_VOCAB

PROMPT = [5, 9, 100, 42, 7]


def _generate(model: Any, prompt: Any = None, **options: Any) -> Any:
    import mechprobe as mp

    return mp.generate_with_lens(model, prompt or PROMPT, progress=False, **options)


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_tokens_are_hugging_faces_and_rows_those_of_one_pass(tiny: Callable[..., Any], name: str) -> None:
    model = tiny(name)
    said = _generate(model, max_new_tokens=5, targets=[4])
    tokens = said.data["next_token"].values[0].tolist()
    ids = torch.tensor([PROMPT])
    theirs = model.original_model.generate(
        ids, attention_mask=torch.ones_like(ids), max_new_tokens=5, do_sample=False
    )
    assert tokens == theirs[0, len(PROMPT) :].tolist()
    forced = _generate(model, continuation=tokens, targets=[4])
    assert forced.data["position"].values.tolist() == said.data["position"].values.tolist()
    assert forced.data["next_token"].values[0].tolist() == tokens
    for variable in ("top_log_prob", "entropy", "kl_to_final", "target_log_prob"):
        np.testing.assert_allclose(forced.data[variable], said.data[variable], atol=2e-4)


def test_no_earlier_position_is_computed_again(tiny_model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from mechprobe.kernels import readout
    from mechprobe.models import cursor

    widths: list[int] = []
    products: list[tuple[int, ...]] = []
    run = cursor.run

    def counted(model: Any, ids: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        widths.append(ids.shape[1])
        return run(model, ids, *args, **kwargs)

    def watched(rows: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        products.append(tuple(rows.shape))
        return readout(rows, *args, **kwargs)

    import mechprobe.lens.generate as generate

    monkeypatch.setattr(cursor, "run", counted)
    monkeypatch.setattr(generate, "readout", watched)
    _generate(tiny_model, max_new_tokens=4)
    assert widths == [len(PROMPT), 1, 1, 1]
    # One product of [n_layers + 1, d_model] each step, the last block as the reference.
    assert products == [(4, 1, 32)] * 4


def test_sampling_is_seeded_and_temperature_matters(tiny_model: Any) -> None:
    def tokens(**options: Any) -> list[int]:
        return _generate(tiny_model, max_new_tokens=8, **options).data["next_token"].values[0].tolist()

    assert tokens(temperature=2.0, seed=1) == tokens(temperature=2.0, seed=1)
    assert tokens(temperature=2.0, seed=1) != tokens(temperature=2.0, seed=2)
    assert tokens(temperature=1e-4, seed=5) == tokens()


def test_stops(tiny_text_model: Any) -> None:
    free = _generate(tiny_text_model, max_new_tokens=6).data
    tokens = free["next_token"].values[0].tolist()
    stopped = _generate(tiny_text_model, max_new_tokens=6, stop=tokens[1]).data
    assert stopped.sizes["pos"] == tokens.index(tokens[1]) + 1


def test_a_stop_text_may_span_tokens(tiny_text_model: Any) -> None:
    from mechprobe.lens.generate import _Stop

    ids = tiny_text_model.tokenizer(" quick dog", add_special_tokens=False)["input_ids"]
    stop = _Stop(tiny_text_model, ["ck do", 77])
    assert stop.reached(ids)
    assert not stop.reached(ids[:1])
    assert stop.reached([5, 77])


def test_the_end_of_text_token_stops(tiny: Callable[..., Any], monkeypatch: Any) -> None:
    model = tiny("mistral")
    free = _generate(model, max_new_tokens=4).data["next_token"].values[0].tolist()
    monkeypatch.setattr(model.original_model.generation_config, "eos_token_id", [free[1]])
    stopped = _generate(model, max_new_tokens=4).data["next_token"].values[0].tolist()
    assert stopped == free[: free.index(free[1]) + 1]


def test_merged_text_joins_bytes_over_steps(tiny_text_model: Any) -> None:
    emoji = "\U0001f420"
    ids = tiny_text_model.tokenizer(emoji, add_special_tokens=False)["input_ids"]
    forced = _generate(tiny_text_model, "the dog", continuation=emoji, top_k=D_VOCAB)
    assert forced.data["next_token"].values[0].tolist() == ids
    table = forced.table()
    assert table.columns[-1] == "merged"
    assert forced.data["merged_text"].sizes == {"prompt": 1, "layer": 4}
    assert forced.data["generated"].values[0].tolist() == [False] + [True] * (len(ids) - 1)


BAD: list[tuple[dict[str, Any], type[Exception], str]] = [
    ({"max_new_tokens": 0}, ValueError, "at least one step; found max_new_tokens=0"),
    ({"temperature": -1.0}, ValueError, "temperature must be 0 .* or positive; found -1"),
    ({"temperature": float("nan")}, ValueError, "temperature must be"),
    ({"continuation": []}, ValueError, "the continuation is empty"),
    ({"continuation": [D_VOCAB]}, ValueError, "target id 300 is no id"),
    ({"prompt": [[1], [2]]}, ValueError, "takes one prompt, found 2"),
    ({"max_new_tokens": 61}, ValueError, "5 tokens and 60 more to generate, .* holds 64"),
    ({"stop": ""}, ValueError, "stop holds an empty text"),
    ({"layers": [7]}, ValueError, "layer 7 is out of range"),
]


@pytest.mark.usefixtures("as_users_run_it")
@pytest.mark.parametrize(("change", "error", "message"), BAD)
def test_bad_input(
    tiny_text_model: Any, change: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        _generate(tiny_text_model, **change)


@pytest.mark.parametrize("kind", ["Rwkv", "RecurrentGemma"])
def test_models_without_a_cache_are_refused(tmp_path: Any, kind: str) -> None:
    """Left to itself, generation would go on from the last token alone."""
    import transformers as tf

    import mechprobe as mp

    sizes = {"vocab_size": 50, "hidden_size": 32, "num_hidden_layers": 3, "pad_token_id": 0}
    more = {"num_attention_heads": 4, "intermediate_size": 64, "lru_width": 32}
    config = getattr(tf, f"{kind}Config")(**sizes, **(more if kind != "Rwkv" else {}))
    tf.AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path / "m")
    model = mp.load_model(tmp_path / "m", device="cpu")
    with pytest.raises(NotImplementedError, match=r"no key-value cache"):
        _generate(model, [1, 2, 3], max_new_tokens=3)


def test_recurrent_models_are_refused_by_name(tmp_path: Any) -> None:
    import transformers as tf

    import mechprobe as mp

    config = tf.MambaConfig(
        vocab_size=50, hidden_size=32, num_hidden_layers=2, pad_token_id=0, eos_token_id=2
    )
    tf.AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path / "mamba")
    model = mp.load_model(tmp_path / "mamba", device="cpu")
    lens = mp.logit_lens(model, [[1, 2, 3]], top_k=3, progress=False)
    assert lens.data.sizes["layer"] == 3
    with pytest.raises(NotImplementedError, match="MambaForCausalLM is recurrent"):
        _generate(model, [1, 2])


def test_ids_in_any_container(tiny_text_model: Any) -> None:
    said = _generate(tiny_text_model, max_new_tokens=4).data["next_token"].values[0]
    for ids in (said.tolist(), tuple(said), said, torch.from_numpy(said), torch.from_numpy(said)[:1]):
        forced = _generate(tiny_text_model, continuation=ids).data["next_token"].values[0]
        np.testing.assert_array_equal(forced, said[: len(ids)])
    end = said.tolist().index(said[1]) + 1
    for stop in (said[1], said[1:2], torch.from_numpy(said)[1], [said[1], "never said"]):
        assert _generate(tiny_text_model, max_new_tokens=4, stop=stop).data.sizes["pos"] == end
    assert _generate(tiny_text_model, max_new_tokens=np.int64(2)).data.sizes["pos"] == 2


def test_a_continuation_is_cut_into_tokens_behind_its_prompt(tiny_text_model: Any) -> None:
    tokenizer = tiny_text_model.tokenizer
    whole = tokenizer("the quick dog", add_special_tokens=False)["input_ids"]
    prompt = tokenizer("the quick", add_special_tokens=False)["input_ids"]
    for given in ("the quick", ["the quick"]):
        forced = _generate(tiny_text_model, given, continuation=" dog").data["next_token"].values[0]
        assert forced.tolist() == whole[len(prompt) :]
    with pytest.raises(ValueError, match="begins inside the token"):
        _generate(tiny_text_model, "the quick d", continuation="og")


@pytest.mark.usefixtures("as_users_run_it")
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"continuation": [2.5]}, "continuation must be a text or token ids; found 2.5"),
        ({"continuation": {"input_ids": [5]}}, "continuation must be a text or token ids; found a"),
        ({"continuation": torch.tensor([True])}, "continuation must be a text or token ids"),
        ({"stop": [2.5]}, "stop must be texts or token ids; found 2.5"),
        ({"stop": torch.tensor([0.5])}, "stop must be texts or token ids; found a tensor"),
        ({"max_new_tokens": 2.5}, "max_new_tokens must be an integer; found 2.5"),
    ],
)
def test_neither_texts_nor_ids(tiny_text_model: Any, change: dict[str, Any], message: str) -> None:
    with pytest.raises(TypeError, match=message):
        _generate(tiny_text_model, **change)
