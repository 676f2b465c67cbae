r"""Where a model tells two prefixes apart: many pairs sampled and checked in lockstep.

The model's boundary of two prefixes is the set of minimal strings that it accepts after the first
and not after the second,

.. math:: B^m(s_1, s_2) = \{a : a \in L^m(s_1) \setminus L^m(s_2),
    \text{all proper prefixes of } a \text{ in both}\}

Strings are followed as a tree: what two samples of a pair have in common is read once, and a branch
ends at the first word that the second prefix refuses.

Source:
    Vafa et al. (2024), https://arxiv.org/abs/2406.03689, section 2.4.
"""

from dataclasses import dataclass

import numpy as np

from mechprobe.worlds.automata.arrays import PAD, Ids, Mask
from mechprobe.worlds.automata.base import World
from mechprobe.worlds.metrics.judged import Judged, Tally
from mechprobe.worlds.metrics.pairs import Pairs
from mechprobe.worlds.predictors.acceptance import Acceptance, Epsilon, published_choices
from mechprobe.worlds.predictors.callables import accepted
from mechprobe.worlds.predictors.draws import Hashes, draw_words, mixed, sample_keys, to_uniform
from mechprobe.worlds.predictors.oracles import OracleCursor
from mechprobe.worlds.predictors.predictor import Cursor, Predictor

# Branches of the exact tree of one batch.
LIMIT = 500_000


class TreeTooLargeError(ValueError):
    """The exact tree of one batch has more branches than memory is set aside for."""


@dataclass(frozen=True, slots=True)
class Sampling:
    """How the suffixes of one run are found.

    Attributes:
        acceptance: Which words a model accepts.
        samples: Suffixes drawn for each pair; None expands all of them, to ``depth`` words.
        depth: Longest string of the exact tree.
        max_tokens: Words of prefix and suffix together.
        published: Draw as the paper's code does, from other words than are scored.
        seed: Of the draws.
    """

    acceptance: Acceptance
    samples: int | None
    depth: int
    max_tokens: int
    published: bool
    seed: int


@dataclass(frozen=True, slots=True)
class ModelBoundary:
    """Strings that a model accepts after the first prefix of a pair and not after the second.

    Attributes:
        n_pairs: Pairs that were looked at.
        pair: Pair of each string.
        strings: One array for each string.
        n_said: How many samples said each string; 0 of an exact tree.
        silent: Pairs after whose first prefix the model accepts no word at all.
        judged: Single words, after every prefix and string that was looked at.
    """

    n_pairs: int
    pair: Ids
    strings: list[Ids]
    n_said: Ids
    silent: Mask
    judged: Judged

    @property
    def sizes(self) -> Ids:
        """Strings of each pair."""
        return np.bincount(self.pair, minlength=self.n_pairs)

    @property
    def n_refused(self) -> Ids:
        """Samples of each pair that the second prefix refuses."""
        return np.bincount(self.pair, self.n_said, minlength=self.n_pairs).astype(np.int64)


def model_boundary(
    predictor: Predictor, world: World, pairs: Pairs, index: Ids, how: Sampling, *, first_only: bool
) -> ModelBoundary:
    """Return the boundary that a model draws between the prefixes of each pair.

    Args:
        predictor: The model.
        world: Whose words it predicts.
        pairs: Prefixes.
        index: Pairs to look at, ascending in nothing in particular.
        how: Acceptance, number and length of the suffixes.
        first_only: Leave a pair after its first string (one is enough where none is counted).

    Raises:
        TreeTooLargeError: The exact tree has too many branches; with fewer pairs it has fewer.
    """
    tree = _Tree(predictor, world, pairs, index, how)
    pair, n_said = [np.zeros(0, dtype=np.int64)], [np.zeros(0, dtype=np.int64)]
    strings: list[Ids] = []
    while tree.grows:
        found, said, samples = tree.grow()
        pair.append(found)
        n_said.append(samples)
        strings += list(said)
        if first_only and len(found):
            tree.leave(found)
    where, count = np.concatenate(pair), np.concatenate(n_said)
    return ModelBoundary(len(index), where, strings, count, tree.silent, tree.tally.judged)


class _Tree:
    """Strings being followed for many pairs at once.

    Node i stands for one string of one pair; its rows of the cursor are those of the two prefixes
    with that string behind them. Samples sit on nodes.
    """

    def __init__(self, predictor: Predictor, world: World, pairs: Pairs, index: Ids, how: Sampling) -> None:
        n = len(index)
        self._how, self._n_tokens = how, len(world.tokens)
        self._end = PAD if world.end is None else world.end
        self._cursor: Cursor = predictor.start(stacked(pairs, index))
        self.tally = Tally(world, np.concatenate([pairs.states1[index], pairs.states2[index]]))
        self._row1, self._row2 = np.arange(n), np.arange(n, 2 * n)
        self._pair, self._strings = np.arange(n), np.zeros((n, 0), dtype=np.int64)
        room = how.max_tokens - pairs.lengths[index]
        self._room = np.minimum(room, how.depth) if how.samples is None else room
        self.silent = np.zeros(n, dtype=np.bool_)
        self._keys = sample_keys(how.seed, index, how.samples or 0)
        self._node = np.repeat(np.arange(n), how.samples or 0)
        self._step = 0
        self._keep(self._room > 0)

    @property
    def grows(self) -> bool:
        return len(self._pair) > 0

    def leave(self, pairs: Ids) -> None:
        """Follow some pairs no further."""
        self._keep(~np.isin(self._pair, pairs))

    def grow(self) -> tuple[Ids, Ids, Ids]:
        """Go one word further; return pair, string and samples where the second prefix refuses."""
        self._leave_alike()
        if not self.grows:
            nothing = np.zeros(0, dtype=np.int64)
            return nothing, self._strings, nothing
        parent, word, refused = self._children()
        strings = np.column_stack([self._strings[parent], word])
        going = ~refused & (word != self._end) & (self._step + 1 < self._room[self._pair[parent]])
        n_said = np.bincount(self._node, minlength=len(word)) if self._how.samples else 0 * word
        found = self._pair[parent[refused]], strings[refused], n_said[refused]
        if self._how.samples is not None:
            self._move_samples(going)
        self._advance(parent[going], word[going], strings[going])
        return found

    def _children(self) -> tuple[Ids, Ids, Mask]:
        """Return parent and word of each string one word longer, and whether it is refused."""
        log_probs = self._cursor.log_probs
        allowed = accepted(self._cursor, self._how.acceptance, log_probs)
        self.tally.judge(allowed, np.concatenate([self._row1, self._row2]))
        able = allowed[self._row1]
        epsilon = self._how.acceptance if self._how.published else None
        if isinstance(epsilon, Epsilon) and not isinstance(self._cursor, OracleCursor):
            able = published_choices(log_probs[self._row1], epsilon.epsilon)
        if self._step == 0:
            self.silent[self._pair[~able.any(axis=1)]] = True
        if self._how.samples is None:
            parent, word = np.nonzero(able)
            if len(parent) > LIMIT:
                msg = (
                    f"the exact tree has {len(parent)} strings of {self._step + 1} words in one "
                    f"batch, more than {LIMIT}; take a smaller k or batch_size, or sample."
                )
                raise TreeTooLargeError(msg)
        else:
            parent, word = self._draw(log_probs[self._row1], able)
        return parent, word, ~allowed[self._row2[parent], word]

    def _draw(self, log_probs: np.ndarray, able: Mask) -> tuple[Ids, Ids]:
        """Let every sample say a word, and return the strings that come of it, each once."""
        speaks = (able.sum(axis=1) > 0)[self._node]
        self._node, self._keys = self._node[speaks], self._keys[speaks]
        steps = np.full(len(self._keys), self._step)
        drawn = draw_words(log_probs, able, self._node, to_uniform(mixed(self._keys, steps)))
        said, self._node = np.unique(self._node * self._n_tokens + drawn, return_inverse=True)
        return said // self._n_tokens, said % self._n_tokens

    def _move_samples(self, going: Mask) -> None:
        """Keep the samples of strings that go on, on their new nodes."""
        staying = going[self._node]
        self._node = (np.cumsum(going) - 1)[self._node[staying]]
        self._keys = self._keys[staying]

    def _advance(self, parent: Ids, word: Ids, strings: Ids) -> None:
        n = len(parent)
        self._pair, self._strings = self._pair[parent], strings
        rows = np.concatenate([self._row1[parent], self._row2[parent]])
        self._row1, self._row2 = np.arange(n), np.arange(n, 2 * n)
        self._step += 1
        if n:
            words = np.concatenate([word, word])
            self._cursor.advance(rows, words)
            self.tally.advance(rows, words)

    def _leave_alike(self) -> None:
        """Leave nodes after which the two prefixes cannot be told apart any more."""
        if isinstance(self._cursor, OracleCursor):
            self._keep(~self._cursor.alike(self._row1, self._row2))

    def _keep(self, nodes: Mask) -> None:
        """Leave some nodes, with their samples; the cursor drops their rows when it advances."""
        if nodes.all():
            return
        staying = nodes[self._node]
        self._node = (np.cumsum(nodes) - 1)[self._node[staying]]
        self._keys: Hashes = self._keys[staying]
        self._pair, self._strings = self._pair[nodes], self._strings[nodes]
        self._row1, self._row2 = self._row1[nodes], self._row2[nodes]


def stacked(pairs: Pairs, index: Ids) -> Ids:
    """Return the first prefixes of some pairs, then the second ones, as one rectangle."""
    both = [p[index] for p in (pairs.prefixes1, pairs.prefixes2)]
    width = max(p.shape[1] for p in both)
    wide = [np.pad(p, ((0, 0), (0, width - p.shape[1])), constant_values=PAD) for p in both]
    return np.concatenate(wide)
