"""Is a head sufficient? Turn its attention toward an option, and see whether the answer follows."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from mechprobe.heads.ablate import control_heads, n_control_sets, require_effect
from mechprobe.heads.answers import AnswerReader, Answers, Edits, choices
from mechprobe.heads.asked import Head, asked, recorded, require_heads, spelling_of
from mechprobe.heads.capture import key_places
from mechprobe.heads.interventions import HeadSteering, steering_of
from mechprobe.heads.places import Key, Place, places
from mechprobe.heads.selection import HeadSelection
from mechprobe.models import PATTERN, Batch, Model, alone, attention_name, opened
from mechprobe.models.protocol import Edit
from mechprobe.provenance import Call
from mechprobe.tasks import Task


@alone
def steer_heads(
    model: Model,
    task: Task,
    heads: Sequence[Head] | HeadSelection,
    *,
    strengths: Sequence[float] = (0.0, 2.0, 4.0, 8.0),
    key: Key = "end_of_line",
    controls: int = 5,
    seed: int = 0,
    batch_size: int | None = None,
    progress: bool = True,
) -> HeadSteering:
    r"""Bias the attention of some heads toward a random option, against random heads.

    At the last prompt token, every chosen head's attention is re-weighted,

    .. math:: a'_t \propto a_t \, e^{\beta [t \in T]}

    which adds :math:`\beta` to its attention scores at the tokens :math:`T` of one wrong option,
    drawn at random for each question.

    Args:
        model: A TransformerLens model with a tokenizer.
        task: Multiple-choice questions; of a selection, all that were scored.
        heads: ``(layer, head)`` to steer, all at once, or a selection: then only the questions that
            it held out are asked, and the model's answers are spelled as it chose.
        strengths: :math:`\beta`, each; 0 is the model as it is.
        key: Tokens of the option to attend to, as in ``qk_scores``.
        controls: Different random sets of heads of the same layers, as in ``ablate_heads``.
        seed: Of options and controls.
        batch_size: Prompts per forward pass; bounded by their tokens by default.
        progress: Show a bar.

    Returns:
        How often the model chose the option steered to, by strength, for the heads, for the
        controls, and for the heads less the mean of the controls.

    Raises:
        ValueError: A task without options, no head, one out of range, strengths that are negative
            or do not ascend, a selection made with other questions.
        NotImplementedError: Changing attention weights changes nothing in this model.
        TypeError: ``model`` is no TransformerLens model.

    Example:
        >>> from mechprobe import tasks
        >>> task = tasks.select_and_copy(4, options=3, seed=0)
        >>> found = steer_heads(task_model, task, [(0, 1)], controls=0, progress=False)
        >>> found.data.strength.values.tolist()
        [0.0, 2.0, 4.0, 8.0]

    Source: Zhang et al. 2023 (arXiv 2311.02262), attention steering.
    """
    call = Call("steer_heads", locals())
    session = opened(model)
    task, own = asked(task, heads)
    chosen = require_heads(session, own)
    _require_strengths(strengths)
    found = places(session, task, "last", key, "space")
    right = np.array([e.answer for e in task], np.int64)
    target = _targets([len(e.candidates) for e in task], right, seed)
    steered = [Place(p.ids, p.answers, [p.keys[t]]) for p, t in zip(found, target, strict=True)]
    conditions = {"heads": chosen, **control_heads(session, chosen, controls, seed)}
    reader = AnswerReader(session, found)
    from tqdm.auto import tqdm

    n_runs = 1 + sum(b > 0 for b in strengths) * len(conditions)
    with tqdm(
        total=n_runs * len(task), desc="steering", unit="prompt", disable=not progress, leave=False
    ) as bar:
        plain = reader.read(batch_size=batch_size, done=bar.update)
        answers: dict[tuple[str, float], Answers] = {
            (name, float(b)): reader.read(_edits(steered, some, b), batch_size=batch_size, done=bar.update)
            if b > 0
            else plain
            for name, some in conditions.items()
            for b in strengths
        }
    moved = {f"{n} {b}": a for (n, b), a in answers.items() if b > 0}
    require_effect(session, PATTERN, {"intact": plain, **moved})
    best = spelling_of(heads, plain)
    said = {key: choices(a[..., best]) for key, a in answers.items()}
    followed = [[said[name, float(b)] == target for b in strengths] for name in conditions]
    return steering_of(
        np.array(followed),
        task.design.group,
        np.array(strengths, np.float64),
        conditions,
        recorded(call, session, task, chosen, best, seed),
        n_control_sets=n_control_sets(session, chosen),
        chance=float(np.mean([1 / len(e.candidates) for e in task])),
    )


def _require_strengths(strengths: Sequence[float]) -> None:
    known = bool(strengths) and bool(np.isfinite(strengths).all()) and strengths[0] >= 0
    if not known or list(strengths) != sorted(set(strengths)):
        msg = f"strengths={list(strengths)}; give at least one, ascending, finite, each 0 or more."
        raise ValueError(msg)


def _targets(n_options: Sequence[int], right: npt.NDArray[np.int64], seed: int) -> list[int]:
    """Draw a wrong option for every question."""
    rng = np.random.default_rng(seed)
    wrong = [[c for c in range(n) if c != a] for n, a in zip(n_options, right.tolist(), strict=True)]
    return [int(rng.choice(some)) for some in wrong]


def _edits(steered: Sequence[Place], heads: Sequence[Head], strength: float) -> Edits:
    per_layer = {layer: [h for x, h in heads if x == layer] for layer, _ in heads}

    def of(batch: Batch) -> dict[str, Edit]:
        here = [steered[i] for i in batch.index]
        keys = key_places(here, batch.ids.device)
        ends = torch.tensor([len(p.ids) - 1 for p in here])
        toward = torch.zeros(len(here), batch.ids.shape[1], device=batch.ids.device)
        toward.scatter_add_(1, keys.at[:, 0], (keys.weight[:, 0] > 0).float())
        bias = strength * toward.clamp(max=1)

        def edit(own: list[int]) -> Edit:
            def change(pattern: Tensor) -> Tensor:
                pattern = pattern.clone()
                row = torch.arange(len(here), device=pattern.device)[:, None]
                at = ends.to(pattern.device)[:, None]
                head = torch.tensor(own, device=pattern.device)[None]
                a = pattern[row, head, at].to(torch.promote_types(pattern.dtype, torch.float32))
                # What an attention sink takes stays in the denominator.
                rest = (1.0 - a.sum(-1, keepdim=True)).clamp(min=0)
                scores = torch.cat([a.log() + bias[:, None].to(a), rest.log()], dim=-1)
                pattern[row, head, at] = scores.softmax(-1)[..., :-1].to(pattern)
                return pattern

            return change

        return {attention_name(x, PATTERN): edit(own) for x, own in per_layer.items()}

    return of
