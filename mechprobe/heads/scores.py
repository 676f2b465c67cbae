"""QK-scores: how strongly every head aligns every candidate answer with the question."""

from collections.abc import Sequence
from typing import TypedDict, get_args

import numpy as np
import numpy.typing as npt
import xarray as xr

from mechprobe import tasks
from mechprobe.heads.answers import AnswerReader
from mechprobe.heads.capture import HeadReader
from mechprobe.heads.head_scores import HeadScores
from mechprobe.heads.lead import Lead, shared_lead
from mechprobe.heads.places import (
    OF_EXAMPLE,
    OF_OPTION,
    QUERIES,
    SPELLINGS,
    Key,
    Place,
    Query,
    Spelling,
    places,
)
from mechprobe.models import (
    Model,
    Score,
    Session,
    alone,
    attention_path,
    batches,
    branching,
    describe,
    opened,
    takes_positions,
    window,
)
from mechprobe.models.prompts import TOKENS_PER_BATCH
from mechprobe.provenance import Call
from mechprobe.tasks import Task


class ScoreOptions(TypedDict, total=False):
    """Options of ``qk_scores`` that other functions hand on to it."""

    score: Score
    query: Query | None
    key: Key | None
    qk_norm: bool
    spelling: Spelling
    layers: Sequence[int] | None
    batch_size: int | None


# Below this a shortcut cannot be fitted on one half and tested on the other.
_FEWEST_AUDITED = 20


@alone
def qk_scores(
    model: Model,
    task: Task,
    *,
    score: Score = "qk",
    query: Query | None = None,
    key: Key | None = None,
    qk_norm: bool = False,
    spelling: Spelling = "space",
    layers: Sequence[int] | None = None,
    batch_size: int | None = None,
    progress: bool = True,
) -> HeadScores:
    r"""Score every candidate of every example by every attention head.

    .. math:: S_{lh}(c) = \langle q_{lh}(i_c),\; k_{l,\lfloor h/g \rfloor}(j_c) \rangle

    Two layouts. *Candidate in the query* (logic tasks): :math:`i_c` is the candidate's own token
    behind ``"Answer:"``, :math:`j` the last token before it; the prompt is run once and the
    candidates branch from its key-value cache. *Option in the key* (multiple choice): :math:`i` is
    the last prompt token, :math:`j_c` a token of each option; one pass. Nothing but the vectors at
    those positions is kept, and no logits are computed but those of the answer.

    Args:
        model: A TransformerLens model with a tokenizer.
        task: The questions (``mp.tasks``).
        score: ``"qk"``: the product before rotation, unscaled, as in the papers. ``"rotated"``:
            what the softmax gets (QK-norm, rotation, scale and soft-cap included). ``"cosine"``:
            of the same vectors as ``"qk"``. ``"attention"``: the attention weight.
        query: ``"candidate"`` or ``"last"``; by default what the task's layout asks for.
        key: ``"before_answer"`` (the last token before ``"Answer:"``) or ``"statement_end"``; of
            options ``"end_of_line"``, ``"label"``, ``"period"`` (after the letter),
            ``"content_end"``, ``"content_mean"`` (mean over the option's tokens). By default
            ``"before_answer"`` or ``"end_of_line"``.
        qk_norm: For ``"qk"`` and ``"cosine"`` on models with QK-norm: read the normed vectors. The
            papers' code reads them before it.
        spelling: Candidates follow the prompt with a space (``" true"``) or bare (``"true"``).
        layers: Layers to read; all by default.
        batch_size: Prompts per forward pass; bounded by their tokens by default.
        progress: Show a bar.

    Returns:
        Scores (example, candidate, layer, head), the model's own log-probability of every
        candidate in both spellings, and what shortcuts score on this task.

    Raises:
        ValueError: A task whose positions cannot be told (see ``heads.places``), candidates of
            several tokens or sharing their first, a layer out of range, an option unknown.
        NotImplementedError: The model does not show what ``score`` needs.
        TypeError: ``model`` is no TransformerLens model.

    Example:
        >>> from mechprobe import tasks
        >>> task = tasks.select_and_copy(4, options=2, seed=0)
        >>> scores = qk_scores(task_model, task, progress=False)
        >>> dict(scores.data.score.sizes)
        {'example': 4, 'candidate': 2, 'layer': 3, 'head': 4}

    Source: Tulchinskii et al. 2025 (arXiv 2502.17017), section 3; Tulchinskii et al. 2024 (arXiv
    2410.02343), section 3.
    """
    call = Call("qk_scores", locals())
    session = opened(model)
    query, key = _layout(task, query, key)
    _require_known(score, query, key, spelling)
    chosen = _layers(session, layers)
    found = places(session, task, query, key, spelling)
    path = attention_path(session, score, qk_norm=qk_norm)
    lead = shared_lead(session, found) if query == "last" or branching(model) else Lead()
    reader = HeadReader(path, chosen, spelling, lead)
    cells = _Cells(task, chosen, path.n_heads)
    _read(reader, found, query, cells, batch_size, progress=progress)
    record = call.record(
        describe(session),
        task.record(),
        task=task.name,
        task_notes=task.notes,
        query=query,
        key=key,
        layers=chosen,
    )
    return HeadScores(cells.dataset(_audit(task)), record)


def _layout(task: Task, query: Query | None, key: Key | None) -> tuple[Query, Key]:
    """Return query and key, what was left out chosen by where the task has its candidates."""
    choice = task.layout == "choice"
    if query is None:
        query = "last" if (choice if key is None else key in OF_OPTION) else "candidate"
    if key is None:
        key = "end_of_line" if query == "last" else "before_answer"
    return query, key


def _require_known(score: str, query: str, key: str, spelling: str) -> None:
    for name, value, known in (
        ("score", score, get_args(Score)),
        ("query", query, QUERIES),
        ("key", key, (*OF_EXAMPLE, *OF_OPTION)),
        ("spelling", spelling, SPELLINGS),
    ):
        if value not in known:
            msg = f"{name}={value!r} is unknown; choose from {', '.join(known)}."
            raise ValueError(msg)


def _layers(session: Session, layers: Sequence[int] | None) -> list[int]:
    n_layers = session.n_layers
    chosen = list(range(n_layers)) if layers is None else sorted(set(layers))
    outside = [x for x in chosen if not 0 <= x < n_layers]
    if outside or not chosen:
        msg = f"layers={layers!r}: this model has attention in layers 0..{n_layers - 1}."
        raise ValueError(msg)
    return chosen


def _audit(task: Task) -> "tasks.Audit | None":
    return tasks.audit(task) if len(task) >= _FEWEST_AUDITED else None


def _read(
    reader: HeadReader,
    found: list[Place],
    query: Query,
    cells: "_Cells",
    batch_size: int | None,
    *,
    progress: bool,
) -> None:
    from tqdm.auto import tqdm

    session = reader.path.session
    model = session.model
    branches = query == "candidate" and branching(model)
    read = reader.last if query == "last" else reader.branched if branches else reader.full
    prompts = [p.ids for p in found]
    if batch_size is None:
        batch_size = _prompts_per_batch(found, query, reader.lead.n_tokens, branches=branches)
    parts = batches(model, prompts, batch_size, equal_lengths=branches and not _may_pad(session, prompts))
    answers = AnswerReader(session, found)
    with tqdm(total=len(found), desc="heads", unit="prompt", disable=not progress, leave=False) as bar:
        for batch in parts:
            here = [found[i] for i in batch.index]
            scores, resid = read(batch, here)
            cells.score[batch.index, : scores.shape[1]] = scores.cpu().numpy()
            answers.fill(cells.own, batch.index, answers.log_probs(resid, batch))
            bar.update(len(here))


def _prompts_per_batch(found: Sequence[Place], query: Query, n_lead: int, *, branches: bool) -> int | None:
    """Return how many prompts fit when each takes its candidates along; None for as many as ever.

    Every candidate holds a copy of its prompt's cache, or runs the whole text. Of a lead, which
    every prompt copies but none runs, a quarter is counted.
    """
    longest, width = max(len(p.ids) for p in found), max(len(p.answers) for p in found)
    copies = 1 if query == "last" else max(1, width // 2) if branches else width
    if copies == 1 and not n_lead:
        return None
    return max(1, int(TOKENS_PER_BATCH // ((longest - 0.75 * n_lead) * copies)))


def _may_pad(session: Session, prompts: Sequence[Sequence[int]]) -> bool:
    """Whether candidates may branch from a cache that ends in padding.

    The model must take positions, and a sliding window would count padding as tokens.
    """
    size = window(session.model)
    return takes_positions(session) and (size is None or max(map(len, prompts)) < size)


class _Cells:
    """The arrays of a result, filled batch by batch."""

    def __init__(self, task: Task, layers: list[int], n_heads: int) -> None:
        self._task, self._layers = task, layers
        n, width = len(task), task.n_candidates
        shape = (n, width, len(layers), n_heads)
        self.score: npt.NDArray[np.float32] = np.full(shape, np.nan, np.float32)
        self.own: npt.NDArray[np.float64] = np.full((n, width, len(SPELLINGS)), np.nan)

    def dataset(self, audit: "tasks.Audit | None") -> xr.Dataset:
        """Return everything with names, the shortcuts of the task beside the scores."""
        examples, width = list(self._task), self._task.n_candidates
        texts = [[*e.candidates, *[""] * (width - len(e.candidates))] for e in examples]
        lines = list(audit.scores) if audit else []
        right = audit.right if audit else np.empty((0, len(examples)))
        per_example = {
            "answer": [e.answer for e in examples],
            **self._task.design._asdict(),
            "steps": [e.steps for e in examples],
            "distractors": [e.distractors for e in examples],
            "shortcut_half": audit.half if audit else np.full(len(examples), -1),
        }
        shortcuts = {
            "shortcut_accuracy": [x.accuracy for x in lines],
            "shortcut_low": [x.low for x in lines],
            "shortcut_high": [x.high for x in lines],
            "chance": [audit.chance] * len(lines) if audit else [],
        }
        return xr.Dataset(
            {
                "score": (("example", "candidate", "layer", "head"), self.score),
                "candidate_text": (("example", "candidate"), np.array(texts, dtype=object)),
                "model_log_prob": (("example", "candidate", "spelling"), self.own),
                **{k: ("example", np.array(v, np.int64)) for k, v in per_example.items()},
                **{k: ("shortcut", np.array(v, np.float64)) for k, v in shortcuts.items()},
                "shortcut_right": (("shortcut", "example"), right),
            },
            coords={
                "layer": self._layers,
                "head": np.arange(self.score.shape[-1]),
                "spelling": list(SPELLINGS),
                "shortcut": [x.name for x in lines],
            },
        )
