"""How attention is read: the proof that what is read is used, spans of tokens, windows, edits."""

import math
from collections.abc import Callable
from typing import Any

import pytest
import tokenizers
import torch
import transformers as tf

from tests.test_heads_scores import (
    WITH_SCORES,
    WITHOUT_SCORES,
    custom,
    logic,
    one_thread,  # noqa: F401 (a fixture)
)


@pytest.mark.parametrize("name", WITH_SCORES)
def test_queries_and_keys_give_the_models_scores(tiny: Callable[..., Any], name: str) -> None:
    from mechprobe.models import attention_path, looking_at
    from mechprobe.models.attention import score_error

    model = tiny(name, tasks=True)
    ids = torch.randint(3, 400, (1, 30))
    with looking_at(model) as session:
        error, note = score_error(session, ids)
        path = attention_path(session, "rotated")
    assert error <= 1e-5
    assert note.startswith("layers [0, 1, 2")
    assert (path.n_heads, path.n_key_value_heads) == (
        model.cfg.n_heads, getattr(model.cfg, "n_key_value_heads", None) or model.cfg.n_heads,
    )  # fmt: skip


@pytest.mark.parametrize("name", WITHOUT_SCORES)
def test_no_scores_to_compare_with(tiny: Callable[..., Any], name: str) -> None:
    from mechprobe.models import looking_at
    from mechprobe.models.attention import score_error

    with looking_at(tiny(name, tasks=True)) as session:
        error, reason = score_error(session, torch.randint(3, 400, (1, 12)))
    assert math.isnan(error)
    assert "probabilities" in reason or "alibi" in reason


def wrongly(what: str, plain: Any) -> Any:
    """Return a way in which a bridge could be read wrongly."""

    def read(self: Any, *args: Any) -> Any:
        if what == "soft_cap":
            return 0.5
        if what == "at":
            return plain(self, args[0], 2 * args[1])
        found = plain(self, *args)
        return 2 * found if what == "scale" else found.flip(2)

    return read


@pytest.mark.parametrize(
    ("name", "what"),
    [
        *((name, what) for name in ("llama", "gpt_neox") for what in ("scale", "queries", "keys")),
        ("gpt_neox", "at"),  # the one that we rotate
        ("gpt2", "soft_cap"),
    ],
)
def test_a_wrong_reading_is_refused(
    tmp_path: Any, monkeypatch: pytest.MonkeyPatch, name: str, what: str
) -> None:
    from mechprobe.models import attention_path, looking_at
    from mechprobe.models.attention import AttentionPath

    model, plain = custom(tmp_path, name), getattr(AttentionPath, what)

    with monkeypatch.context() as patch:
        patch.setattr(AttentionPath, what, wrongly(what, plain))
        for score in ("qk", "rotated", "cosine", "attention"):
            refused = pytest.raises(ValueError, match=r"do not give its attention scores: off by")
            with looking_at(model) as session, refused:
                attention_path(session, score)
    # What was found out of a model is kept with it; the same weights, loaded again, are read.
    again = custom(tmp_path, name)
    with looking_at(again) as session:
        path = attention_path(session, "rotated")
        assert path.session is session
        assert path.session.model is again


def test_the_proof_is_repeated_when_weights_change(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from mechprobe.models import attention, attention_path, looking_at

    proofs: list[int] = []
    plain = attention.score_error

    def counted(*args: Any) -> Any:
        proofs.append(1)
        return plain(*args)

    monkeypatch.setattr(attention, "score_error", counted)
    model = custom(tmp_path, "llama")
    for score in ("qk", "rotated", "attention"):
        with looking_at(model) as session:
            attention_path(session, score)
    assert len(proofs) == 1
    with torch.no_grad():
        next(model.original_model.parameters()).mul_(1.5)
    with looking_at(model) as session:
        attention_path(session, "qk")
    assert len(proofs) == 2


def test_models_without_queries_are_refused(task_model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from mechprobe.models import attention_path, looking_at

    hooks = {n: h for n, h in task_model.hook_dict.items() if not n.endswith("attn.hook_q")}

    def shown(_: object) -> Any:
        return hooks

    monkeypatch.setattr(type(task_model), "hook_dict", property(shown))
    refused = pytest.raises(
        NotImplementedError, match=r"shows no queries and keys of its heads \(hook_q, hook_k\)"
    )
    with looking_at(task_model) as session, refused:
        attention_path(session, "qk")


@pytest.mark.parametrize(
    ("name", "changes", "expected"),
    [
        ("llama", {}, None),
        ("mistral", {"sliding_window": 9}, 9),
        ("qwen2", {"sliding_window": 9, "use_sliding_window": False}, None),
        ("gpt_neo", {"window_size": 9}, 9),
        ("gpt2", {}, None),
    ],
)
def test_windows(tmp_path: Any, name: str, changes: dict[str, Any], expected: int | None) -> None:
    from mechprobe.models.branch import window

    assert window(custom(tmp_path, name, **changes)) == expected


def test_spans_of_a_tokenizer_that_changes_the_text(tmp_path: Any) -> None:
    """Lower case spells another text; the tokenizer's own offsets still hold."""
    from mechprobe.models import load_model, token_spans
    from tests.tiny import save_tiny

    save_tiny(tmp_path, tasks=True)
    fast: Any = tf.AutoTokenizer.from_pretrained(tmp_path)
    fast.backend_tokenizer.normalizer = tokenizers.normalizers.Lowercase()
    fast.save_pretrained(tmp_path)
    model: Any = load_model(tmp_path, device="cpu")
    text = "The Quick CAT"
    ids = model.to_tokens(text)[0].tolist()
    spans = token_spans(model, text, ids)
    assert spans[0] == (0, 0)
    assert [b for _, b in spans[:-1]] == [a for a, _ in spans[1:]]
    for token, (a, b) in zip(ids[1:], spans[1:], strict=True):
        assert model.tokenizer.decode([token]) == text[a:b].lower()
    with pytest.raises(ValueError, match=r"do not spell it.*positions cannot be found"):
        token_spans(model, "another text", ids)


@pytest.mark.parametrize(
    "text", ["caf\u00e9", "\U0001f40e\U0001f9e0 x", " two  spaces ", "a\r\nb\tc", "\u4e2d\u6587"]
)
def test_spans_cover_the_text(task_model: Any, text: str) -> None:
    """Every character belongs to a token; one that tokens cut belongs to all of them."""
    from mechprobe.models import token_spans

    ids = task_model.to_tokens(text)[0].tolist()
    spans = token_spans(task_model, text, ids)
    assert spans[0] == (0, 0)
    assert {i for a, b in spans for i in range(a, b)} == set(range(len(text)))
    for a, b in spans[1:]:
        assert b > a
    assert [a for a, _ in spans] == sorted(a for a, _ in spans)


def test_edits_reach_the_model_and_sinks_see_what_was_before(task_model: Any) -> None:
    from mechprobe.models import looking_at, run

    ids = task_model.to_tokens(logic(1)[0].prompt)
    seen: list[torch.Tensor] = []
    name = "blocks.1.attn.hook_z"
    edit = {name: torch.zeros_like}
    after: list[torch.Tensor] = []
    capture = {name: seen.append, "blocks.1.hook_attn_out": after.append}
    with looking_at(task_model) as session:
        edited = run(session, ids, capture, edit=edit, logits="last").logits
        plain = run(session, ids, {}, logits="last").logits
        again = run(session, ids, {}, logits="last").logits
    assert edited is not None
    assert plain is not None
    assert float((edited - plain).abs().max()) > 1e-3
    assert bool((seen[0] != 0).any())
    assert bool((after[0] == 0).all())
    assert again is not None
    assert torch.equal(plain, again)
    refused = pytest.raises(NotImplementedError, match=r"has no activation 'blocks.9.attn.hook_z'")
    with looking_at(task_model) as session, refused:
        run(session, ids, {}, edit={"blocks.9.attn.hook_z": edit[name]})
