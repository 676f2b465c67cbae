"""Is a head causal? Take it away, and compare with taking away other heads of the same layers."""

from collections import Counter
from collections.abc import Mapping, Sequence
from math import comb, prod
from typing import Literal, get_args

import numpy as np
import torch
from torch import Tensor

from mechprobe.heads.answers import AnswerReader, Answers, Edits, choices, margins
from mechprobe.heads.asked import Head, asked, recorded, require_heads, spelling_of
from mechprobe.heads.interventions import HeadAblation, ablation_of
from mechprobe.heads.places import places
from mechprobe.heads.selection import HeadSelection
from mechprobe.models import HEAD_OUTPUT, Batch, Model, Session, alone, attention_name, batches, opened, run
from mechprobe.models.protocol import Edit, Sink
from mechprobe.provenance import Call
from mechprobe.tasks import Task

How = Literal["zero", "mean", "resample"]


@alone
def ablate_heads(
    model: Model,
    task: Task,
    heads: Sequence[Head] | HeadSelection,
    *,
    how: How = "mean",
    controls: int = 5,
    seed: int = 0,
    batch_size: int | None = None,
    progress: bool = True,
) -> HeadAblation:
    r"""Answer a task with some heads taken away, against random heads of the same layers.

    The output of each head, before its output matrix, is replaced at every position: by zero, by
    its mean over all tokens of the task, or by what it was in another example (the same distance
    from the end). Other heads may take over (self-repair), so that a small effect does not prove a
    head idle.

    Args:
        model: A TransformerLens model with a tokenizer.
        task: The questions; of a selection, all that were scored.
        heads: ``(layer, head)`` to take away, all at once, or a selection: then only the questions
            that it held out are asked, and the model's answers are spelled as it chose.
        how: ``"mean"``, ``"zero"`` or ``"resample"``.
        controls: Different random sets of heads, each with as many heads of each layer, none of them
            chosen; all of them where there are fewer. Five at least, or all, for an interval of
            ablated less controls, 19 for its ``_rank_p``.
        seed: Of controls and donors.
        batch_size: Prompts per forward pass; bounded by their tokens by default.
        progress: Show a bar.

    Returns:
        Accuracy and logit difference (right answer less the best other) intact, ablated and for
        each control, with intervals grouped by context, paired differences to intact, and ablated
        less the mean of the controls.

    Raises:
        ValueError: No head, a head twice or out of range, ``how`` unknown, fewer than 0 controls,
            a layer without enough other heads for a control, one example only to resample from, a
            selection made with other questions.
        NotImplementedError: Changing what heads give changes nothing in this model.
        TypeError: ``model`` is no TransformerLens model.

    Example:
        >>> from mechprobe import tasks
        >>> task = tasks.select_and_copy(4, options=2, seed=0)
        >>> found = ablate_heads(task_model, task, [(1, 2)], controls=1, progress=False)
        >>> found.data.condition.values.tolist()
        ['intact', 'ablated', 'control 1']

    Source: Tulchinskii et al. 2024 (arXiv 2410.02343), ablation of select-and-copy heads; McGrath
    et al. 2023 (arXiv 2307.15771) on self-repair.
    """
    call = Call("ablate_heads", locals())
    session = opened(model)
    task, own = asked(task, heads)
    chosen = require_heads(session, own)
    if how not in get_args(How):
        msg = f"how={how!r} is unknown; choose from {', '.join(get_args(How))}."
        raise ValueError(msg)
    if how == "resample" and len(task) < 2:
        msg = f"how='resample' takes values from another example, and {task.name!r} has only one."
        raise ValueError(msg)
    drawn = control_heads(session, chosen, controls, seed)
    conditions: dict[str, list[Head]] = {"intact": [], "ablated": chosen, **drawn}
    found = places(session, task, "candidate", None, "space")
    reader = AnswerReader(session, found)
    right = np.array([e.answer for e in task], np.int64)
    from tqdm.auto import tqdm

    total = len(task) * len(conditions)
    with tqdm(total=total, desc="ablation", unit="prompt", disable=not progress, leave=False) as bar:
        replacement = _Replacement(session, [p.ids for p in found], how, seed)
        replacement.prepare(sorted({x for some in conditions.values() for x, _ in some}), batch_size)
        answers = {
            name: reader.read(
                replacement.edits(some) if some else None, batch_size=batch_size, done=bar.update
            )
            for name, some in conditions.items()
        }
    require_effect(session, HEAD_OUTPUT, answers)
    best = spelling_of(heads, answers["intact"])
    log_probs = [a[..., best] for a in answers.values()]
    return ablation_of(
        np.stack([choices(a) == right for a in log_probs]),
        np.stack([margins(a, right) for a in log_probs]),
        task.design.group,
        conditions,
        recorded(call, session, task, chosen, best, seed),
        n_control_sets=n_control_sets(session, chosen),
    )


def control_heads(
    session: Session, chosen: Sequence[Head], controls: int, seed: int
) -> dict[str, list[Head]]:
    """Draw different sets of heads with as many of each layer as ``chosen``, and none of it.

    Where there are fewer such sets than ``controls``, all of them are taken.
    """
    if controls < 0:
        msg = f"controls={controls}; give 0 or more."
        raise ValueError(msg)
    n_heads = int(session.cfg.n_heads)
    per_layer = {layer: [h for x, h in chosen if x == layer] for layer, _ in chosen}
    others = {x: [h for h in range(n_heads) if h not in own] for x, own in per_layer.items()}
    for layer, own in per_layer.items() if controls else ():
        if len(others[layer]) < len(own):
            msg = (
                f"{len(own)} of the {n_heads} heads of layer {layer} are chosen; too few are "
                "left for a control of the same size. Choose fewer, or controls=0."
            )
            raise ValueError(msg)
    rng = np.random.default_rng(seed)
    drawn: dict[tuple[Head, ...], None] = {}
    while len(drawn) < min(controls, n_control_sets(session, chosen)):
        some = {x: rng.choice(others[x], len(own), replace=False) for x, own in per_layer.items()}
        drawn[tuple(sorted((x, int(h)) for x, heads in some.items() for h in heads))] = None
    return {f"control {i}": list(heads) for i, heads in enumerate(drawn, 1)}


def n_control_sets(session: Session, chosen: Sequence[Head]) -> int:
    """Return how many sets of heads could be a control of ``chosen``."""
    n_heads = int(session.cfg.n_heads)
    sizes = Counter(layer for layer, _ in chosen).values()
    return prod(comb(n_heads - size, size) for size in sizes)


def require_effect(session: Session, hook: str, answers: Mapping[str, Answers]) -> None:
    """Refuse where no edit of any condition moved anything: the model ignores the hook."""
    intact, *others = answers.values()
    if others and all(np.array_equal(intact, a, equal_nan=True) for a in others):
        msg = (
            f"changing {hook} changes nothing in {session.name}: what its hook returns is not "
            "what the model goes on with."
        )
        raise NotImplementedError(msg)


class _Replacement:
    """What takes the place of a head's output.

    Donors are run batch by batch, so that memory is bounded by the micro-batch.
    """

    def __init__(self, session: Session, ids: list[list[int]], how: How, seed: int) -> None:
        self._session, self._ids, self._how = session, ids, how
        order = np.random.default_rng(seed).permutation(len(ids))
        # Around a random circle: nobody is its own donor.
        self._donor = dict(zip(order.tolist(), np.roll(order, 1).tolist(), strict=True))
        self._mean: dict[int, Tensor] = {}

    def prepare(self, layers: Sequence[int], batch_size: int | None) -> None:
        """Take the mean over all tokens of the task, where that is what is asked for."""
        if self._how != "mean":
            return
        for batch in batches(self._session.model, self._ids, batch_size):
            for layer, z in self._outputs(batch, layers).items():
                real = batch.mask if batch.mask is not None else torch.ones_like(batch.ids)
                sums = (z.double() * real[..., None, None].to(z.device)).sum((0, 1))
                self._mean[layer] = self._mean.get(layer, 0.0) + sums
        n_tokens = sum(map(len, self._ids))
        self._mean = {layer: sums / n_tokens for layer, sums in self._mean.items()}

    def edits(self, heads: Sequence[Head]) -> Edits:
        """Return what changes ``heads`` in a micro-batch."""
        per_layer = {layer: [h for x, h in heads if x == layer] for layer, _ in heads}

        def of(batch: Batch) -> dict[str, Edit]:
            donors = self._donors(batch, list(per_layer)) if self._how == "resample" else {}
            return {
                attention_name(layer, HEAD_OUTPUT): self._edit(layer, own, donors.get(layer))
                for layer, own in per_layer.items()
            }

        return of

    def _edit(self, layer: int, heads: list[int], donor: Tensor | None) -> Edit:
        def change(z: Tensor) -> Tensor:
            z = z.clone()
            if donor is not None:
                z[:, :, heads] = donor[:, :, heads].to(z)
            elif layer in self._mean:
                z[:, :, heads] = self._mean[layer][heads].to(z)
            else:
                z[:, :, heads] = 0.0
            return z

        return change

    def _donors(self, batch: Batch, layers: Sequence[int]) -> dict[int, Tensor]:
        """Return outputs of each prompt's donor, moved so that both end together."""
        index = [self._donor[i] for i in batch.index]
        n_pos = batch.ids.shape[1]
        out: dict[int, Tensor] = {}
        for row, i in enumerate(index):
            ids = torch.tensor([self._ids[i]], device=batch.ids.device)
            length = len(self._ids[batch.index[row]])
            # Positions before the donor's first take its first.
            at = (torch.arange(n_pos) + ids.shape[1] - length).clamp(0, ids.shape[1] - 1)
            for layer, z in self._outputs(Batch([i], ids, None), layers).items():
                moved = z[0, at.to(z.device)]
                out.setdefault(layer, moved.new_zeros(len(index), *moved.shape))[row] = moved
        return out

    def _outputs(self, batch: Batch, layers: Sequence[int]) -> dict[int, Tensor]:
        kept: dict[int, Tensor] = {}

        def sink(layer: int) -> Sink:
            return lambda z: kept.__setitem__(layer, z)

        names = {attention_name(layer, HEAD_OUTPUT): sink(layer) for layer in layers}
        run(self._session, batch.ids, names, mask=batch.mask)
        return kept
