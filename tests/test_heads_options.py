"""Option robustness: PriDe against its algorithm in plain loops, and readers known beforehand."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from tests.test_heads_scores import one_thread  # noqa: F401 (a fixture)

Answers = npt.NDArray[np.float64]
# Of an example and its prompt: a log-probability for each letter.
Reader = Callable[[Any], list[float]]


def questions(n: int, n_options: int = 4) -> Any:
    import mechprobe as mp

    return mp.tasks.select_and_copy(n, options=n_options, seed=0)


def robustness(monkeypatch: pytest.MonkeyPatch, model: Any, task: Any, reader: Reader,
               bare: Reader | None = None, **options: Any) -> Any:  # fmt: skip
    """Return the result for a model whose letters are answered by ``reader``."""
    from mechprobe.heads import option_robustness
    from mechprobe.heads import options as module

    def log_probs(_: Any, task: Any) -> Answers:
        spaced = [reader(e) for e in task]
        other = [bare(e) if bare else [math.nan] * len(e.candidates) for e in task]
        return np.stack([np.array(spaced), np.array(other)], axis=-1)

    monkeypatch.setattr(module, "_log_probs", log_probs)
    return option_robustness(model, task, progress=False, **options).data


def wanted(example: Any) -> str:
    """Return the word that the question asks for."""
    return example.text(example.options[example.answer].content)


def noisy(bias: list[float]) -> Reader:
    """A reader that prefers the right text a little and some letters much."""

    def read(example: Any) -> list[float]:
        z = []
        for b, option in zip(bias, example.options, strict=True):
            text = example.text(option.content)
            seed = sum(map(ord, text + example.prompt[:80]))
            z.append(b + np.random.default_rng(seed).normal() + 1.5 * (text == wanted(example)))
        total = math.log(math.fsum(math.exp(x) for x in z)) + 0.7  # other tokens take a share
        return [x - total for x in z]

    return read


def pride(task: Any, read: Reader, chosen: list[int]) -> tuple[list[int], list[float]]:
    """PriDe with plain loops: answers to all questions, and the prior."""
    import mechprobe as mp

    n = len(task[0].candidates)
    priors: list[list[float]] = []
    averaged: dict[int, int] = {}
    for i in chosen:
        by_place = [0.0] * n
        by_text = [0.0] * n
        for shift in range(n):
            example = mp.tasks.rotated(task.take([i]), shift)[0] if shift else task[i]
            p = [math.exp(x) for x in read(example)]
            p = [x / math.fsum(p) for x in p]
            texts = [example.text(o.content) for o in example.options]
            for place, probability in enumerate(p):
                by_place[place] += math.log(probability) / n
                original = [task[i].text(o.content) for o in task[i].options]
                by_text[original.index(texts[place])] += probability / n
        weights = [math.exp(x) for x in by_place]
        priors.append([w / math.fsum(weights) for w in weights])
        averaged[i] = int(np.argmax(by_text))
    prior = [math.fsum(p[c] for p in priors) / len(priors) for c in range(n)]
    answers = []
    for i, example in enumerate(task):
        moved = [x - math.log(b) for x, b in zip(read(example), prior, strict=True)]
        answers.append(averaged.get(i, int(np.argmax(moved))))
    return answers, prior


@pytest.mark.parametrize("seed", [0, 1])
def test_pride_equals_its_algorithm(task_model: Any, monkeypatch: pytest.MonkeyPatch, seed: int) -> None:
    task, read = questions(40), noisy([2.0, 0.0, -1.0, 0.5])
    found = robustness(monkeypatch, task_model, task, read, seed=seed, prior_share=0.2)
    chosen = sorted(np.random.default_rng(seed).permutation(40)[:8].tolist())
    answers, _ = pride(task, read, chosen)
    own = found.sel(reader="pride")
    for c, letter in enumerate("ABCD"):
        assert float(own.predicted.sel(letter=letter)) == answers.count(c) / 40
    right = [a == e.answer for a, e in zip(answers, task, strict=True)]
    assert float(own.accuracy) == pytest.approx(np.mean(right))
    plain = [int(np.argmax(read(e))) == e.answer for e in task]
    assert float(found.sel(reader="model").accuracy) == pytest.approx(np.mean(plain))
    assert np.mean(right) > np.mean(plain) + 0.1  # the bias was worth removing
    assert float(own.recall_std) < float(found.sel(reader="model").recall_std)


def test_the_prior_is_the_mean_of_priors(task_model: Any) -> None:
    """Not of their logarithms."""
    from mechprobe.heads import options
    from mechprobe.models import looking_at

    task, read = questions(20), noisy([2.0, 0.0, -1.0, 0.5])

    def log_probs(_: Any, some: Any) -> Answers:
        return np.array([[[x] for x in read(e)] for e in some])

    with pytest.MonkeyPatch.context() as patch, looking_at(task_model) as session:
        patch.setattr(options, "_log_probs", log_probs)
        plain = np.array([read(e) for e in task])
        log_prior, picked = options._pride(session, task, plain, 0, 0.25, 0, 0)
    chosen = sorted(np.random.default_rng(0).permutation(20)[:5].tolist())
    _, prior = pride(task, read, chosen)
    np.testing.assert_allclose(np.exp(log_prior), prior, rtol=1e-12)
    assert np.flatnonzero(picked >= 0).tolist() == chosen


def test_a_pure_letter_bias(task_model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Always "C": right by chance, right twice by chance squared, recall all or nothing."""
    task = questions(400)
    found = robustness(monkeypatch, task_model, task, lambda _: [-2.0, -3.0, -0.5, -4.0])
    own = found.sel(reader="model")
    assert float(own.accuracy) == 0.25
    assert float(own.permutation_accuracy) == pytest.approx(1 / 16, abs=0.04)
    assert own.predicted.values.tolist() == [0.0, 0.0, 1.0, 0.0]
    assert own.recall.values.tolist() == [0.0, 0.0, 1.0, 0.0]
    assert float(own.recall_std) == pytest.approx(math.sqrt(3) / 4)
    assert found.answer_share.values.tolist() == [0.25] * 4


def test_a_reader_of_texts(task_model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who follows the text is right wherever it stands, PriDe or not."""
    found = robustness(
        monkeypatch, task_model, questions(40),
        lambda e: [-0.1 if c == e.answer else -3.0 for c in range(4)],
    )  # fmt: skip
    assert found.accuracy.values.tolist() == [1.0, 1.0]
    assert found.permutation_accuracy.values.tolist() == [1.0, 1.0]
    assert found.recall_std.values.tolist() == [0.0, 0.0]


def test_one_spelling_for_all(task_model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The spelling likelier to be said to the questions as they are is kept for the permuted ones."""
    task = questions(40)
    prompts = {e.prompt for e in task}

    def bare(example: Any) -> list[float]:
        """Right on the questions as they are, "A" on all others."""
        right = example.answer if example.prompt in prompts else 0
        return [-0.1 if c == right else -3.0 for c in range(4)]

    def spaced(example: Any) -> list[float]:
        """Right on the permuted questions only, and less sure of itself."""
        right = 0 if example.prompt in prompts else example.answer
        return [-0.3 if c == right else -3.0 for c in range(4)]

    found = robustness(monkeypatch, task_model, task, spaced, bare).sel(reader="model")
    assert float(found.accuracy) == 1.0
    assert float(found.permutation_accuracy) < 0.5


def test_options_that_stay(task_model: Any) -> None:
    """Extra options at the end keep their place, with the model's own answers."""
    import mechprobe as mp

    task = mp.tasks.select_and_copy(6, options=2, seed=0, extra_options=True)
    found = mp.option_robustness(task_model, task, keep_last=2, head=(1, 2), progress=False).data
    assert found.reader.values.tolist() == ["model", "pride", "L1H2"]
    assert found.letter.values.tolist() == ["A", "B", "C", "D"]
    scores = mp.qk_scores(task_model, task, layers=[1], progress=False).data.score
    picked = scores.sel(layer=1, head=2).values.argmax(1)
    predicted = [float((picked == c).mean()) for c in range(4)]
    assert found.predicted.sel(reader="L1H2").values.tolist() == predicted
