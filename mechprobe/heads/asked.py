"""Which heads are asked about, on which questions, and in which spelling the model answers."""

from collections.abc import Sequence

from mechprobe.heads.answers import Answers, likelier_spelling
from mechprobe.heads.places import SPELLINGS
from mechprobe.heads.selection import HeadSelection
from mechprobe.models import Session, describe
from mechprobe.provenance import Call, Provenance
from mechprobe.tasks import Task

Head = tuple[int, int]
Heads = Sequence[Head] | HeadSelection


def asked(task: Task, heads: Heads) -> tuple[Task, Sequence[Head]]:
    """Return questions and heads; of a selection, the questions that it held out.

    Raises:
        ValueError: The selection was made with other questions.
    """
    if isinstance(heads, HeadSelection):
        return heads.held_out(task), heads.heads
    return task, heads


def spelling_of(heads: Heads, intact: Answers) -> int:
    """Return the index of the spelling to read: the selection's, or the one likelier to be said."""
    if isinstance(heads, HeadSelection):
        chosen = str(heads.data["model_spelling"].item())
        if chosen in SPELLINGS:
            return [str(s) for s in SPELLINGS].index(chosen)
    return likelier_spelling(intact)


def recorded(
    call: Call, session: Session, task: Task, heads: Sequence[Head], spelling: int, seed: int
) -> Provenance:
    """Return the record of what was done to ``heads`` on ``task``."""
    return call.record(
        describe(session),
        task.record(),
        seed=seed,
        task=task.name,
        task_notes=task.notes,
        heads=[list(h) for h in heads],
        spelling=SPELLINGS[spelling],
    )


def require_heads(session: Session, heads: Sequence[Head]) -> list[Head]:
    """Return the heads, in order.

    Raises:
        ValueError: None, one twice, or one that the model does not have.
    """
    n_layers, n_heads = session.n_layers, int(session.cfg.n_heads)
    chosen = sorted((int(layer), int(head)) for layer, head in heads)
    if not chosen or len(set(chosen)) < len(chosen):
        msg = f"heads={heads!r}: give each (layer, head) once, at least one."
        raise ValueError(msg)
    outside = [(x, h) for x, h in chosen if not (0 <= x < n_layers and 0 <= h < n_heads)]
    if outside:
        msg = (
            f"head {outside[0]} does not exist: layers are 0..{n_layers - 1}, heads "
            f"0..{n_heads - 1}, in the order (layer, head)."
        )
        raise ValueError(msg)
    return chosen
