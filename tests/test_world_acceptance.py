"""Acceptance: what is sampled and what is scored follow one rule, but not in the published code."""

import numpy as np
import pytest


def log_probs(*rows: list[float]) -> np.ndarray:
    with np.errstate(divide="ignore"):
        return np.log(np.array(rows, dtype=np.float32))


def test_epsilon_is_strict() -> None:
    from mechprobe.worlds import Epsilon

    rows = log_probs([0.25, 0.25, 0.5, 0.0])
    assert Epsilon(0.25).accepts(rows).tolist() == [[False, False, True, False]]
    assert Epsilon(0.0).accepts(rows).tolist() == [[True, True, True, False]]
    assert Epsilon().epsilon == 0.01


def test_top_k_breaks_ties_by_id_and_never_takes_the_impossible() -> None:
    from mechprobe.worlds import TopK

    rows = log_probs([0.2, 0.3, 0.3, 0.2], [0.0, 1.0, 0.0, 0.0])
    assert TopK(3).accepts(rows).tolist() == [[True, True, True, False], [False, True, False, False]]
    assert TopK(99).accepts(rows)[0].all()


def test_top_p_is_the_smallest_nucleus() -> None:
    from mechprobe.worlds import TopP

    rows = log_probs([0.125, 0.5, 0.25, 0.125])
    for p, expected in {0.5: [1], 0.51: [1, 2], 0.8: [0, 1, 2], 1.0: [0, 1, 2, 3]}.items():
        assert np.flatnonzero(TopP(p).accepts(rows)[0]).tolist() == expected


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("Epsilon", 1.0, r"epsilon must lie in \[0, 1\).* found 1.0"),
        ("Epsilon", -0.1, "found -0.1"),
        ("TopK", 0, "k at least 1; found 0"),
        ("TopP", 0.0, r"p in \(0, 1\]; found 0.0"),
        ("TopP", 1.5, "found 1.5"),
    ],
)
def test_out_of_range(name: str, value: float, message: str) -> None:
    from mechprobe import worlds

    with pytest.raises(ValueError, match=message):
        getattr(worlds, name)(value)


def test_published_choices_are_hugging_face_s() -> None:
    """Its own top-50 warper, then its epsilon warper, on 300 words and on 4."""
    import torch
    from transformers.generation.logits_process import EpsilonLogitsWarper, TopKLogitsWarper

    from mechprobe.worlds.predictors.acceptance import published_choices

    rng = np.random.default_rng(0)
    for n_tokens, epsilon, sharpness in ((300, 0.01, 2.0), (300, 0.3, 0.1), (4, 0.2, 1.0)):
        logits = torch.tensor(rng.normal(size=(50, n_tokens)) * sharpness, dtype=torch.float32)
        ids = torch.zeros((50, 1), dtype=torch.int64)
        warped = EpsilonLogitsWarper(epsilon)(ids, TopKLogitsWarper(50)(ids, logits))
        found = published_choices(logits.log_softmax(-1).numpy(), epsilon)
        np.testing.assert_array_equal(found, torch.isfinite(warped).numpy())
        assert found.any(axis=1).all()


def test_draws_follow_the_distribution_and_the_choices() -> None:
    from mechprobe.worlds.predictors.draws import draw_words, mixed, sample_keys, to_uniform

    rows = log_probs([0.5, 0.1, 0.4, 0.0], [0.0, 0.25, 0.25, 0.5])
    able = np.array([[True, False, True, False], [False, True, True, True]])
    keys = sample_keys(7, np.arange(2), 20_000)
    where = np.repeat(np.arange(2), 20_000)
    words = draw_words(rows, able, where, to_uniform(mixed(keys, np.zeros(40_000, dtype=np.int64))))
    shares = np.stack([np.bincount(words[where == i], minlength=4) / 20_000 for i in range(2)])
    # Five standard errors of a share of 20,000.
    np.testing.assert_allclose(shares, [[5 / 9, 0, 4 / 9, 0], [0, 0.25, 0.25, 0.5]], atol=0.018)


def test_draws_do_not_depend_on_the_batch() -> None:
    from mechprobe.worlds.predictors.draws import sample_keys

    whole = sample_keys(1, np.arange(6), 3).reshape(6, 3)
    np.testing.assert_array_equal(sample_keys(1, np.array([4, 2]), 3).reshape(2, 3), whole[[4, 2]])
    np.testing.assert_array_equal(sample_keys(1, np.arange(6), 2).reshape(6, 2), whole[:, :2])
    assert len(np.unique(np.concatenate([whole, sample_keys(2, np.arange(6), 3).reshape(6, 3)]))) == 36
