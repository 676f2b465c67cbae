"""Sequences as batches: what is held out, in which order the rest is read, and what is wrong."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from mechprobe.worlds.automata.arrays import PAD, Ids, pad
from mechprobe.worlds.automata.base import World
from mechprobe.worlds.automata.sequences import first_illegal
from mechprobe.worlds.streets.street_map import StreetMap

# Batches whose sequences are sorted by length together: little padding, and still a random order.
_SORTED = 16
_MOST_HELD_OUT = 1000


@dataclass(frozen=True, slots=True)
class Corpus:
    """Sequences to learn from, and sequences to be judged by.

    Attributes:
        train: Ids of the first ones.
        held_out: Ids of the others; none of them is among the first.
    """

    train: list[Ids]
    held_out: list[Ids]

    @property
    def longest(self) -> int:
        """Words of the longest sequence of both."""
        return max(map(len, [*self.train, *self.held_out]))


def corpus(world: World, sequences: Sequence[Ids], held_out: Sequence[Ids] | float, seed: int) -> Corpus:
    """Check sequences and set some apart.

    Args:
        world: In which every sequence must be legal.
        sequences: Ids of each.
        held_out: Sequences to judge by, or the share of different ``sequences`` to set apart (at
            most 1,000). Whatever equals a held-out sequence is not learned from.
        seed: Draws the share.

    Raises:
        ValueError: Nothing to learn from or to be judged by, a sequence that is illegal in this
            world or too short to predict anything, or a share outside (0, 1).
    """
    _check(world, sequences, "sequences")
    # As bytes: sets of arrays do not exist, and of tuples are slow.
    keys = [s.astype(np.int64).tobytes() for s in sequences]
    if isinstance(held_out, int | float):
        apart = _drawn(keys, float(held_out), seed)
        chosen = [np.frombuffer(key, dtype=np.int64) for key in apart]
    else:
        _check(world, held_out, "held_out")
        chosen = list(held_out)
        apart = [s.astype(np.int64).tobytes() for s in held_out]
    known = set(apart)
    train = [s for s, key in zip(sequences, keys, strict=True) if key not in known]
    if not train:
        msg = (
            f"all {len(sequences)} sequences are held out, or equal to held-out ones; nothing is "
            "left to learn from. Give more sequences."
        )
        raise ValueError(msg)
    return Corpus(train, chosen)


def _drawn(keys: list[bytes], share: float, seed: int) -> list[bytes]:
    different = sorted(set(keys))
    if not 0 < share < 1 or len(different) < 2:
        msg = (
            f"held_out={share} of {len(different)} different sequences sets nothing apart; give a "
            "share between 0 and 1 of at least two, or the held-out sequences themselves."
        )
        raise ValueError(msg)
    n = min(max(1, round(share * len(different))), _MOST_HELD_OUT, len(different) - 1)
    drawn = np.random.default_rng(seed).choice(len(different), n, replace=False)
    return [different[i] for i in sorted(drawn.tolist())]


def _check(world: World, sequences: Sequence[Ids], what: str) -> None:
    if not len(sequences):
        msg = f"{what} is empty; pass at least one sequence of ids of {world.name}."
        raise ValueError(msg)
    for i, one in enumerate(sequences):
        if len(one) < 2 or int(one.min()) < 0 or int(one.max()) >= len(world.tokens):
            msg = (
                f"{what}[{i}] = {one[:8].tolist()} is no sequence of at least two ids below "
                f"{len(world.tokens)}, the tokens of {world.name}."
            )
            raise ValueError(msg)
    illegal = first_illegal(world, sequences)
    for i in np.flatnonzero(illegal >= 0)[:1].tolist():
        at = int(illegal[i])
        word = world.tokens[int(sequences[i][at])]
        msg = (
            f"{what}[{i}], word {at + 1}: {word!r} is not legal there in {world.name}; a model "
            "trained on it would learn another world."
        )
        raise ValueError(msg)


def batches(sequences: Sequence[Ids], size: int, seed: int) -> Iterator[Ids]:
    """Yield batches for ever, ``[size, length]`` filled up with -1; every epoch in a new order.

    The order follows from the seed alone, so that a resumed training reads what the uninterrupted
    one would have read.
    """
    epoch = 0
    while True:
        rng = np.random.default_rng([seed, epoch])
        order = rng.permutation(len(sequences))
        size = min(size, len(order))
        whole = order[: len(order) // size * size]
        for start in range(0, len(whole), size * _SORTED):
            near = whole[start : start + size * _SORTED]
            near = near[np.argsort([len(sequences[i]) for i in near.tolist()], kind="stable")]
            rows = near.reshape(-1, size)
            for row in rows[rng.permutation(len(rows))].tolist():
                yield pad([sequences[i] for i in row])
        epoch += 1


def first_judged(world: World) -> int:
    """Return from which word on a prediction is judged: a street's origin and destination are free.

    Every node is legal there, whatever the model knows.
    """
    return 2 if isinstance(world, StreetMap) else 1


def wrong_words(world: World, sequences: Sequence[Ids], said: Ids) -> tuple[Ids, Ids]:
    """Count the words said that are not legal, and all that are judged, in each sequence.

    Args:
        world: Judges.
        sequences: What was read, word by word.
        said: ``[n, length]``: the model's word for each place of the padded sequences.

    Returns:
        Illegal words and judged words, ``[n]`` each.
    """
    ids = pad(sequences)
    states = world.trace(world.initial(len(ids)), ids)[:, :-1]
    judged = ids != PAD
    judged[:, : first_judged(world)] = False
    rows, columns = np.nonzero(judged)
    after = world.step(states[rows, columns], said[rows, columns])
    wrong = np.bincount(rows, weights=after[:, 0] < 0, minlength=len(ids))
    return wrong.astype(np.int64), judged.sum(axis=1)
