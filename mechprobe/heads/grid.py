"""The papers' grid: how head and model fare as proofs get longer and distractors more."""

from collections.abc import Sequence
from typing import Any, Unpack

from mechprobe import tasks
from mechprobe.heads.by_difficulty import Difficulty, difficulty_of
from mechprobe.heads.scores import ScoreOptions, qk_scores
from mechprobe.models import Model, alone
from mechprobe.provenance import Call
from mechprobe.stats import Method


@alone
def difficulty(
    model: Model,
    *,
    steps: Sequence[int] = range(1, 6),
    distractors: Sequence[int] = range(6),
    n: int = 20,
    calibration: float = 0.5,
    method: Method = "best",
    seed: int = 0,
    progress: bool = True,
    **options: Unpack[ScoreOptions],
) -> Difficulty:
    r"""Score ``tasks.ontology`` over steps and distractors, and test one selection cell by cell.

    Heads are chosen once, on theories of all cells pooled; every cell is tested on theories that
    took no part in it. The task is built so that no audited shortcut is above chance, but for
    the look-up that one step is; the best one is reported in every cell all the same.

    Args:
        model: A TransformerLens model with a tokenizer.
        steps: Rule applications, each 1 to 6.
        distractors: Sentences that play no part, each 0 to 8.
        n: Examples of each cell, a multiple of 4.
        calibration: Share of pairs of theories that heads are chosen on.
        method: As for ``HeadScores.select``.
        seed: Of the task and of the split.
        progress: Show a bar.
        options: Of ``qk_scores`` (``score``, ``key``, ``batch_size``, ...).

    Returns:
        Accuracy of the model, of the chosen head and of the best shortcut by cell, with intervals
        (wide ones, at small ``n``).

    Raises:
        ValueError: ``n`` is no multiple of 4, or a range is outside what the task can build.
        TypeError: ``model`` is no TransformerLens model.

    Example:
        >>> found = difficulty(task_model, steps=[1], distractors=[0, 1], n=12,
        ...                    progress=False)
        >>> dict(found.data.head_accuracy.sizes)
        {'steps': 1, 'distractors': 2}

    Source: Tulchinskii et al. 2025 (arXiv 2502.17017), steps by distractors.
    """
    call = Call("difficulty", locals())
    total = n * len(steps) * len(distractors)
    task = tasks.ontology(total, list(steps), list(distractors), seed=seed)
    own: Any = {"progress": progress, **options}
    scores = qk_scores(model, task, **own)
    return difficulty_of(scores, calibration=calibration, method=method, seed=seed, call=call)
