"""Next-token validity: the test that a model without a world passes."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from mechprobe.worlds.automata.arrays import PAD, Ids, Mask, pad
from mechprobe.worlds.automata.base import World
from mechprobe.worlds.metrics.judged import Judged
from mechprobe.worlds.predictors.acceptance import Acceptance, Epsilon
from mechprobe.worlds.predictors.callables import CELLS, read
from mechprobe.worlds.predictors.oracles import Oracle
from mechprobe.worlds.predictors.predictor import LogProbs, Predictor


@dataclass(frozen=True, slots=True)
class Validity:
    """Whether the most likely next word is legal, position by position.

    Attributes:
        right: 1 or 0; the share of legal ones where several words are equally likely.
        sequence: Which sequence a position lies in.
        judged: Which words are accepted there, legal ones and others.
    """

    right: npt.NDArray[np.float64]
    sequence: Ids
    judged: Judged = field(default_factory=Judged)

    @property
    def value(self) -> float:
        """Mean over positions."""
        return float(self.right.mean())


def next_token_validity(
    predictor: Predictor,
    world: World,
    sequences: Sequence[Ids],
    *,
    acceptance: Acceptance = Epsilon(0.01),  # noqa: B008 (frozen)
    batch_size: int | None = None,
) -> Validity:
    """Ask a model for the next word after every word of given sequences.

    Asked wherever some word is legal, from the last word of the prompt on (a street's origin and
    destination are its first two words).

    Args:
        predictor: The model.
        world: Tells what is legal.
        sequences: Ids of each.
        acceptance: Which words count as accepted; oracles say so themselves.
        batch_size: Sequences at once.

    Returns:
        A verdict for each position.

    Raises:
        ValueError: No position can be asked.
    """
    ids = pad(sequences)
    if not ids.size:
        msg = "no sequence was given to test next words on; pass some, or leave sequences=None."
        raise ValueError(msg)
    size = batch_size or max(1, CELLS // (ids.shape[1] * len(world.tokens)))
    right: list[npt.NDArray[np.float64]] = []
    where: list[Ids] = []
    judged = Judged()
    rule = Epsilon(0.0) if isinstance(predictor, Oracle) else acceptance
    for start in range(0, len(ids), size):
        some = ids[start : start + size]
        states = world.trace(world.initial(len(some)), some)[:, 1:]
        at = np.arange(some.shape[1])
        row, place = np.nonzero((some != PAD) & (at + 1 >= world.prompt_words))
        legal = world.legal(states[row, place])
        asked = legal.any(axis=1)
        found = read(predictor, some)[row[asked], place[asked]]
        right.append(_share_legal(found, legal[asked]))
        judged += Judged.of(rule.accepts(found), legal[asked])
        where.append(row[asked] + start)
    out = Validity(np.concatenate(right), np.concatenate(where), judged)
    if not len(out.right):
        msg = f"nothing is legal anywhere in the {len(ids)} sequences given; are they of this world?"
        raise ValueError(msg)
    return out


def _share_legal(log_probs: LogProbs, legal: Mask) -> npt.NDArray[np.float64]:
    best = log_probs.max(axis=1, keepdims=True)
    most = (log_probs == best) & np.isfinite(best)
    return (most & legal).sum(axis=1) / np.maximum(most.sum(axis=1), 1)
