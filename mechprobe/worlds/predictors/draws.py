"""Random draws that depend on what is drawn and not on the batch that it is drawn in.

A number is a hash of (seed, pair, sample, step). So many samples can move in lockstep, in batches
of any size, be dropped or continued after an interruption, and stay the same samples.
"""

import numpy as np
import numpy.typing as npt

from mechprobe.worlds.automata.arrays import Ids, Mask
from mechprobe.worlds.predictors.predictor import LogProbs

Hashes = npt.NDArray[np.uint64]
Uniforms = npt.NDArray[np.float64]


def mixed(hashes: Hashes, values: Ids) -> Hashes:
    """Return each hash mixed with one more number (the finaliser of SplitMix64).

    Source:
        Steele, Lea, Flood, "Fast splittable pseudorandom number generators" (2014).
    """
    with np.errstate(over="ignore"):
        x = hashes + np.uint64(0x9E3779B97F4A7C15) * (values.astype(np.uint64) + np.uint64(1))
        x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return x ^ (x >> np.uint64(31))


def to_uniform(hashes: Hashes) -> Uniforms:
    """Return each hash as a number in [0, 1)."""
    return (hashes >> np.uint64(11)).astype(np.float64) * 2.0**-53


def sample_keys(seed: int, pairs: Ids, n_samples: int) -> Hashes:
    """Return one hash for every sample of every pair, ``[pair * n_samples]``."""
    start = np.full(len(pairs) * n_samples, seed, dtype=np.int64)
    keys = mixed(np.zeros(len(start), dtype=np.uint64), start)
    return mixed(mixed(keys, np.repeat(pairs, n_samples)), np.tile(np.arange(n_samples), len(pairs)))


def draw_words(log_probs: LogProbs, choices: Mask, rows: Ids, uniforms: Uniforms) -> Ids:
    """Draw a word for each sample from the choices of its row, in proportion to probability.

    Args:
        log_probs: ``[row, token]``.
        choices: Words that may be drawn, ``[row, token]``; at least one in each row of ``rows``.
        rows: Row of each sample.
        uniforms: In [0, 1), one for each sample; the word is the inverse of the cumulative
            distribution there.

    Returns:
        One word for each sample.
    """
    if not len(rows):
        return rows
    row, word = np.nonzero(choices)
    weights = np.exp(log_probs[row, word].astype(np.float64))
    total = np.bincount(row, weights, minlength=len(choices))
    # Each row adds up to 1, so that one cumulative sum serves all rows.
    share = np.cumsum(weights / total[row])
    counts = choices.sum(axis=1)
    last = np.cumsum(counts) - 1
    first = last - counts + 1
    before = np.where(first > 0, share[first - 1], 0.0)
    found = np.searchsorted(share, before[rows] + uniforms, side="right")
    return word[np.clip(found, first[rows], last[rows])]
