"""Geometry of the unembedding on a tiny model."""

from typing import Any

import numpy as np
import pytest
import torch

from tests.tiny import D_VOCAB


def test_a_mixture_is_the_weighted_sum_of_mean_rows(tiny_text_model: Any) -> None:
    import mechprobe as mp

    tokenizer, W_U = tiny_text_model.tokenizer, tiny_text_model.W_U.detach()
    pieces = tokenizer(" seahorse", add_special_tokens=False)["input_ids"]
    x = 0.5 * W_U[:, pieces].mean(-1) - 2.0 * W_U[:, tokenizer.convert_tokens_to_ids("a")]
    by_words = mp.vocabulary_neighbors(tiny_text_model, {" seahorse": 0.5, "a": -2.0}, k=6)
    by_vector = mp.vocabulary_neighbors(tiny_text_model, x, k=6)
    np.testing.assert_array_equal(by_words.data["token"], by_vector.data["token"])
    np.testing.assert_allclose(by_words.data["score"], by_vector.data["score"], atol=1e-5)
    assert by_words.data["n_tokens"].values.tolist() == [len(pieces), 1]
    assert not by_vector.data["is_input"].any()


def test_a_residual_is_read_as_the_lens_reads_it(tiny_text_model: Any) -> None:
    import mechprobe as mp

    near = mp.vocabulary_neighbors(tiny_text_model, "the cat", at=(1, -1), k=5)
    lens = mp.logit_lens(tiny_text_model, "the cat", layers=[1], top_k=5, progress=False)
    np.testing.assert_array_equal(near.data["token"], lens.data["top_token"].values[0, 0, 0])
    last = mp.vocabulary_neighbors(tiny_text_model, "the cat", at=(2, -1), k=5)
    np.testing.assert_array_equal(last.data["token"], lens.data["model_token"].values[0, 0])


def test_a_residual_is_ranked_with_bias_and_soft_cap(tiny: Any) -> None:
    import mechprobe as mp

    for name in ("phi", "gemma2"):
        model, prompt = tiny(name), [[5, 9, 100]]
        last = model.cfg.n_layers - 1
        near = mp.vocabulary_neighbors(model, prompt, at=(last, -1), k=5).data
        lens = mp.logit_lens(model, prompt, top_k=5, progress=False).data
        np.testing.assert_array_equal(near["token"], lens["model_token"].values[0, 0])


def test_an_array_is_a_vector_too(tiny_model: Any) -> None:
    import mechprobe as mp

    x = np.linspace(-1, 1, 32, dtype=np.float32)
    a = mp.vocabulary_neighbors(tiny_model, torch.from_numpy(x), k=3).data
    b = mp.vocabulary_neighbors(tiny_model, x, k=3).data
    assert a.identical(b)


def test_expressible_compares_own_tokens_with_strangers(tiny_text_model: Any) -> None:
    import mechprobe as mp

    found = mp.expressible(tiny_text_model, "a", metric="cosine").data
    assert bool(found["one_token"])
    assert float(found["own"]) == pytest.approx(1.0, abs=1e-5)
    W = tiny_text_model.W_U.detach()
    W = W / W.norm(dim=0)
    cosines = W.T @ W[:, int(found["token"][0])]
    cosines[int(found["token"][0])] = -2.0
    assert float(found["other"]) == pytest.approx(float(cosines.max()), abs=1e-5)
    assert int(found["other_token"]) == int(cosines.argmax())
    assert float(found["margin"]) == pytest.approx(float(found["own"] - found["other"]))


@pytest.mark.usefixtures("as_users_run_it")
@pytest.mark.parametrize(
    ("query", "options", "message"),
    [
        ({}, {}, "the mixture is empty"),
        ("", {}, "is no token at all"),
        (D_VOCAB, {}, "target id 300 is no id"),
        (torch.ones(31), {}, "of length d_model = 32; found torch.float32 of shape"),
        (torch.ones(32, dtype=torch.long), {}, "must be real"),
        ("a", {"k": 0}, "top_k=0 is out of range"),
        ("a", {"metric": "euclid"}, "metric must be 'dot' or 'cosine'"),
        ("the cat", {"at": (9, 0)}, "layer 9 is out of range"),
        ("the cat", {"at": (0, 99)}, "position 99 is out of range"),
        (["the cat", "a"], {"at": (0, -1)}, "one place in one prompt; found 2 prompts"),
        ({"the": 1.0}, {"at": (0, -1)}, "found a mixture of tokens"),
        ({"the": float("nan")}, {}, "the weight of 'the' is nan; it must be finite"),
        (torch.full((32,), torch.nan), {}, "the query vector holds NaN"),
        ("\ud800", {}, "no valid Unicode text"),
    ],
)
def test_bad_queries(tiny_text_model: Any, query: Any, options: dict[str, Any], message: str) -> None:
    import mechprobe as mp

    with pytest.raises(ValueError, match=message):
        mp.vocabulary_neighbors(tiny_text_model, query, **options)


def test_text_needs_a_tokenizer(tiny_model: Any) -> None:
    import mechprobe as mp

    with pytest.raises(ValueError, match="no tokenizer, so what is asked cannot be text"):
        mp.expressible(tiny_model, "a")
    with pytest.raises(ValueError, match="no tokenizer, so a query cannot be text"):
        mp.vocabulary_neighbors(tiny_model, "a")
