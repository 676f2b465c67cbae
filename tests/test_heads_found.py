"""A head that knows by construction is found; labels that mean nothing find none."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from tests.test_heads_scores import one_thread  # noqa: F401 (a fixture)

LETTERS = tuple("ABCDEFGH")
WIRED = (1, 2)


def naming(n: int) -> Any:
    """Statements that end with the letter that is the answer."""
    from mechprobe.tasks import Task
    from mechprobe.tasks.layout import logic_example

    rng = np.random.default_rng(0)
    examples = []
    for i in range(n):
        words = " ".join(rng.choice(["one", "two", "the", "dog", "cat", "fox", "mat"], 4))
        letter = LETTERS[i % len(LETTERS)]
        examples.append(logic_example(f"the cat {words}", f"{words} {letter}", LETTERS, letter, group=str(i)))
    return Task("name the letter", tuple(examples))


@pytest.fixture(scope="module")
def wired(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """One head whose query of a letter is that letter's own direction, and so is its key.

    Letters have a direction each, which the residual stream carries through a first layer that
    writes little; every other weight is random.
    """
    from mechprobe.models import load_model
    from tests.tiny import save_tiny

    folder = save_tiny(tmp_path_factory.mktemp("wired"), "llama", tasks=True)
    model: Any = load_model(folder, device="cpu")
    layer, head = WIRED
    body = model.original_model.model

    def weight(module: Any) -> torch.Tensor:
        return getattr(module, "original_component", module).weight

    with torch.no_grad():
        for i, letter in enumerate(LETTERS):
            (token,) = model.tokenizer(f" {letter}", add_special_tokens=False)["input_ids"]
            weight(body.embed_tokens)[token] = 0.0
            weight(body.embed_tokens)[token, i] = 3.0
        for module in (body.layers[0].self_attn.o_proj, body.layers[0].mlp.down_proj):
            weight(module).mul_(0.02)
        attn = body.layers[layer].self_attn
        eye = torch.eye(8, 32)
        weight(attn.q_proj)[8 * head : 8 * head + 8] = eye
        weight(attn.k_proj)[8 * (head // 2) : 8 * (head // 2) + 8] = eye
    return model


def test_the_wired_head_is_found(wired: Any) -> None:
    import mechprobe as mp

    task = naming(64)
    scores = mp.qk_scores(wired, task, key="statement_end", progress=False)
    share = scores.accuracy_map()
    assert float(share.sel(layer=WIRED[0], head=WIRED[1])) == 1.0
    others = np.delete(share.values.ravel(), WIRED[0] * 4 + WIRED[1])
    assert others.max() < 0.7
    found = scores.select(calibration=32, n_permutations=199, n_bootstrap=100)
    assert found.heads == [WIRED]
    assert found.accuracy == 1.0
    assert found.p_value < 0.01
    assert mp.qk_scores(wired, task, score="cosine", key="statement_end", progress=False).select(
        calibration=32, n_permutations=19, n_bootstrap=10
    ).heads == [WIRED]


def test_the_wrong_key_finds_nothing(wired: Any) -> None:
    """The same head reads nothing at the newline before "Answer:"."""
    import mechprobe as mp

    scores = mp.qk_scores(wired, naming(64), progress=False)
    assert float(scores.accuracy_map().sel(layer=WIRED[0], head=WIRED[1])) < 0.5
    assert scores.select(calibration=32, n_permutations=99, n_bootstrap=10).p_value > 0.05


@pytest.mark.parametrize("labels", ["right", "permuted"])
def test_permuted_labels_of_the_wired_model(wired: Any, labels: str) -> None:
    """Nothing but the labels tells the two apart."""
    import mechprobe as mp

    scores = mp.qk_scores(wired, naming(64), key="statement_end", progress=False)
    answer = scores.data["answer"].values
    if labels == "permuted":
        answer = np.random.default_rng(1).permutation(answer)
    data = scores.data.assign(answer=("example", answer))
    p = replace(scores, data=data).select(calibration=32, n_permutations=99, n_bootstrap=10).p_value
    assert (p <= 0.01) == (labels == "right")


@pytest.mark.model
def test_labels_that_mean_nothing(smollm2: Any) -> None:
    """200 labellings of one set of scores: p < 0.05 as seldom as it says."""
    import mechprobe as mp
    from mechprobe.stats import select_heads

    task = mp.tasks.select_and_copy(32, options=2, seed=0)
    scores = mp.qk_scores(smollm2, task, progress=False)
    score, answer = scores.data["score"].values, scores.data["answer"].values
    # What ``scores.select`` calls, without its provenance and intervals.
    flat = score.reshape(*score.shape[:2], -1)
    group, rng = scores.data["group"].values, np.random.default_rng(0)
    p = np.array([
        select_heads(
            flat, rng.permutation(answer), group, calibration=16, seed=seed, n_permutations=99,
            n_bootstrap=1,
        ).p_value
        for seed in range(200)
    ])  # fmt: skip
    assert 0.0 < np.mean(p < 0.05) <= 0.08
    assert 0.3 < np.mean(p) < 0.75
