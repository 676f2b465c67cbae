"""Multiple choice: does an answer follow the text of an option, or its letter?"""

from collections.abc import Mapping, Sequence
from typing import Any, Unpack

import numpy as np
import numpy.typing as npt
import xarray as xr

from mechprobe import tasks
from mechprobe.heads.answers import AnswerReader, choices
from mechprobe.heads.asked import Head, Heads, asked, require_heads, spelling_of
from mechprobe.heads.head_scores import HeadScores
from mechprobe.heads.places import places
from mechprobe.heads.results import OptionRobustness
from mechprobe.heads.scores import ScoreOptions, qk_scores
from mechprobe.heads.selection import HeadSelection
from mechprobe.models import Model, Session, alone, describe, opened
from mechprobe.provenance import Call
from mechprobe.stats import accuracy_interval
from mechprobe.tasks import Task

Choices = npt.NDArray[np.int64]


@alone
def option_robustness(
    model: Model,
    task: Task,
    *,
    head: Head | HeadSelection | None = None,
    keep_last: int = 0,
    prior_share: float = 0.05,
    seed: int = 0,
    progress: bool = True,
    **options: Unpack[ScoreOptions],
) -> OptionRobustness:
    r"""Ask every question again with its option texts reshuffled, letters in place.

    Permutation accuracy counts a question where both answers are right. PriDe estimates the
    model's prior for letters on a share of the questions, from all cyclic permutations, and
    divides it out of the rest; the questions it was estimated on are answered by the mean over
    permutations.

    .. math:: \mathrm{PA} = \frac1N \sum_i I_i I^\pi_i, \qquad
        \hat p_i(c) \propto p_i(c) / p_{prior}(c)

    Args:
        model: A TransformerLens model with a tokenizer.
        task: Multiple-choice questions of one size.
        head: ``(layer, head)`` read by its QK-score, chosen elsewhere, or a selection of one head:
            then only the questions that it held out are asked. None by default.
        keep_last: Last options that stay in place (2 where there are "None of the above" and
            "I don't know").
        prior_share: Share of questions that PriDe estimates its prior on.
        seed: Of permutations and of PriDe's questions.
        progress: Show bars.
        options: Of ``qk_scores`` (``score``, ``key``, ...), for the head.

    Returns:
        Accuracy and permutation accuracy with intervals, letters answered, recall by letter.

    Raises:
        ValueError: A task without options or with different numbers of them, a head out of range,
            ``keep_last`` that leaves fewer than two options to shuffle, a selection made with other
            questions, or one that reads several heads, inverted or centred.
        TypeError: ``model`` is no TransformerLens model.

    Example:
        >>> from mechprobe import tasks
        >>> task = tasks.select_and_copy(6, options=2, seed=0)
        >>> found = option_robustness(task_model, task, progress=False)
        >>> found.data.reader.values.tolist()
        ['model', 'pride']

    Source: Tulchinskii et al. 2024 (arXiv 2410.02343), permutation accuracy; Zheng et al. 2023
    (arXiv 2309.03882), PriDe and the standard deviation of recalls.
    """
    call = Call("option_robustness", locals())
    session = opened(model)
    n_options = _n_options(task, keep_last)
    chosen = _readable(head)
    task, own_heads = asked(task, chosen)
    shuffled = tasks.permuted(task, seed=seed, keep_last=keep_last)
    right, right_shuffled = _right(task), _right(shuffled)
    both = _log_probs(session, task)
    spelling = spelling_of(chosen, both)
    plain, moved = both[..., spelling], _log_probs(session, shuffled)[..., spelling]
    prior, picked = _pride(session, task, plain, spelling, prior_share, keep_last, seed)
    readers: dict[str, tuple[Choices, Choices]] = {
        "model": (choices(plain), choices(moved)),
        "pride": (np.where(picked >= 0, picked, choices(plain - prior)), choices(moved - prior)),
    }
    for layer, index in require_heads(session, own_heads) if own_heads else []:
        own: Any = {"layers": [layer], "progress": progress, **options}
        pair = [_head_choices(qk_scores(model, t, **own), index) for t in (task, shuffled)]
        readers[f"L{layer}H{index}"] = (pair[0], pair[1])
    data = _dataset(readers, right, right_shuffled, task, n_options)
    record = call.record(
        describe(session),
        task.record(),
        seed=seed,
        task=task.name,
        task_notes=task.notes,
        head=own_heads[0] if own_heads else None,
    )
    return OptionRobustness(data, record)


def _n_options(task: Task, keep_last: int) -> int:
    sizes = {len(e.candidates) for e in task}
    if task.layout != "choice" or len(sizes) > 1:
        msg = (
            f"task {task.name!r} must ask multiple-choice questions with one number of options; "
            f"found layout {task.layout!r}, sizes {sorted(sizes)}."
        )
        raise ValueError(msg)
    n_options = sizes.pop()
    if not 0 <= keep_last <= n_options - 2:
        msg = f"keep_last={keep_last} leaves fewer than two of {n_options} options to shuffle."
        raise ValueError(msg)
    return n_options


def _readable(head: Head | HeadSelection | None) -> Heads:
    """Return the head, refused where it was not chosen as it is read here."""
    if not isinstance(head, HeadSelection):
        return [] if head is None else [head]
    inverted = bool(head.data["chosen_inverted"].values.any())
    if len(head.heads) > 1 or inverted or head.provenance.arguments.get("centre"):
        msg = (
            "the selection reads several heads, inverted or centred; here one head is read as it is. "
            "Select with method='best', or give one (layer, head) of selection.heads."
        )
        raise ValueError(msg)
    return head


def _right(task: Task) -> Choices:
    return np.array([e.answer for e in task], np.int64)


def _log_probs(session: Session, task: Task) -> npt.NDArray[np.float64]:
    """Return the model's log-probabilities of the letters, in both spellings."""
    return AnswerReader(session, places(session, task, "candidate", None, "space")).read()


def _pride(
    session: Session,
    task: Task,
    plain: npt.NDArray[np.float64],
    spelling: int,
    share: float,
    keep_last: int,
    seed: int,
) -> tuple[npt.NDArray[np.float64], Choices]:
    """Return the log-prior of letters, and debiased answers of the questions it came from."""
    n, n_options = plain.shape
    n_prior = max(1, round(share * n))
    chosen = np.sort(np.random.default_rng(seed).permutation(n)[:n_prior])
    part = task.take(chosen.tolist())
    rotations = [plain[chosen]]
    n_moved = n_options - keep_last
    rotations += [
        _log_probs(session, tasks.rotated(part, by, keep_last=keep_last))[..., spelling]
        for by in range(1, n_moved)
    ]
    z = np.stack([r - np.logaddexp.reduce(r, axis=1, keepdims=True) for r in rotations])
    # One prior per question, softmax of its mean log-probabilities; then the mean of the priors.
    each = z.mean(0)
    prior = np.exp(each - np.logaddexp.reduce(each, axis=1, keepdims=True)).mean(0)
    picked = np.full(n, -1, np.int64)
    # Each text's probability, averaged over the letters it stood behind.
    text = np.arange(n_options)
    by_text = [r[:, np.where(text < n_moved, (text + by) % n_moved, text)] for by, r in enumerate(np.exp(z))]
    picked[chosen] = np.mean(by_text, axis=0).argmax(1)
    return np.log(prior), picked


def _head_choices(scores: HeadScores, head: int) -> Choices:
    values = scores.data["score"].isel(layer=0, head=head).values.astype(np.float64)
    return choices(values)


def _dataset(
    readers: Mapping[str, tuple[Choices, Choices]],
    right: Choices,
    right_shuffled: Choices,
    task: Task,
    n_options: int,
) -> xr.Dataset:
    groups = task.design.group
    letters = np.arange(n_options)
    columns: dict[str, list[float]] = {}
    predicted: list[Sequence[float]] = []
    recall: list[Sequence[float]] = []
    for plain, moved in readers.values():
        first = plain == right
        both = first & (moved == right_shuffled)
        for name, hits in (("accuracy", first), ("permutation_accuracy", both)):
            found = accuracy_interval(hits, groups)
            for end, value in (("", found.value), ("_low", found.low), ("_high", found.high)):
                columns.setdefault(name + end, []).append(value)
        predicted.append([float((plain == x).mean()) for x in letters])
        recall.append([float(first[right == x].mean()) if (right == x).any() else np.nan for x in letters])
    return xr.Dataset(
        {
            **{name: ("reader", values) for name, values in columns.items()},
            "predicted": (("reader", "letter"), np.array(predicted)),
            "recall": (("reader", "letter"), np.array(recall)),
            "recall_std": ("reader", np.nanstd(recall, axis=1)),
            "answer_share": ("letter", [float((right == x).mean()) for x in letters]),
        },
        coords={"reader": list(readers), "letter": list(task[0].candidates)},
    )
