"""Sequences as a model itself would say them: prefixes that are not off its own path."""

import numpy as np

from mechprobe.worlds.automata.arrays import PAD, Ids, unpad
from mechprobe.worlds.automata.base import World
from mechprobe.worlds.predictors.acceptance import Acceptance
from mechprobe.worlds.predictors.callables import CELLS, accepted
from mechprobe.worlds.predictors.draws import draw_words, mixed, sample_keys, to_uniform
from mechprobe.worlds.predictors.predictor import Predictor


def own_sequences(
    predictor: Predictor,
    world: World,
    n: int,
    acceptance: Acceptance,
    *,
    seed: int = 0,
    max_tokens: int | None = None,
) -> list[Ids]:
    """Let a model go on from the first words of random walks, word by word.

    Args:
        predictor: The model.
        world: Gives the first words (a street's origin and destination, one word elsewhere).
        n: Sequences.
        acceptance: Which words may be drawn.
        seed: Of walks and draws.
        max_tokens: Longest sequence; ``world.max_length`` if None.

    Returns:
        Sequences, each up to ``end``, to the limit, or to where the model accepts nothing.
    """
    walks = world.random_walks(n, np.random.default_rng(seed))
    size = world.prompt_words
    prompts = np.array([walk[:size] for walk in walks if len(walk) >= size], dtype=np.int64)
    most = max_tokens or world.max_length
    rows = int(getattr(predictor, "rows_at_once", CELLS // len(world.tokens)))
    out: list[Ids] = []
    for start in range(0, len(prompts), rows):
        some = prompts[start : start + rows]
        keys = sample_keys(seed, np.arange(start, start + len(some)), 1)
        out += _continued(predictor, world, some, acceptance, keys, most)
    return out


def _continued(
    predictor: Predictor, world: World, prompts: Ids, acceptance: Acceptance, keys: np.ndarray, most: int
) -> list[Ids]:
    n, size = prompts.shape
    ids = np.full((n, most), PAD, dtype=np.int64)
    ids[:, :size] = prompts
    lengths = np.full(n, size, dtype=np.int64)
    cursor, going = predictor.start(prompts), np.arange(n)
    for position in range(size, most):
        able = accepted(cursor, acceptance)
        rows = np.flatnonzero(able.any(axis=1))
        going = going[rows]
        steps = np.full(len(going), position)
        word = draw_words(cursor.log_probs, able, rows, to_uniform(mixed(keys[going], steps)))
        ids[going, position] = word
        lengths[going] += 1
        on = word != (PAD if world.end is None else world.end)
        going = going[on]
        if not len(going) or position + 1 == most:
            break
        cursor.advance(rows[on], word[on])
    return unpad(ids, lengths)
