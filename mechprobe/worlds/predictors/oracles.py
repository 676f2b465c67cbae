"""Predictors that need no training: what a metric says about them is known by hand.

They answer acceptance themselves, not through probabilities and a threshold: a uniform model over
4,589 words gives each less than 0.01, and would accept nothing.

==================  ============================================================================
``uniform``         accepts every word everywhere
``legal_only``      accepts the legal words behind the prefix, and anything after the first of them
``true_automaton``  accepts the legal words everywhere
``noisy_oracle``    the true automaton with independent errors in single words, of two rates
==================  ============================================================================
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from mechprobe.worlds.automata.arrays import PAD, Ids, Mask, States
from mechprobe.worlds.automata.base import World
from mechprobe.worlds.predictors.draws import mixed, to_uniform
from mechprobe.worlds.predictors.predictor import LogProbs

Hashes = npt.NDArray[np.uint64]
NOISY = "noisy_oracle"


class OracleCursor:
    """Where oracles stand: a state of the world and a hash of everything read, for each row.

    Attributes:
        states: ``[row, state_size]``.
        hashes: Of all words read, in order, ``[row]``.
        steps: Words read since the prefix.
    """

    def __init__(self, oracle: "Oracle", states: States, hashes: Hashes) -> None:
        self._oracle = oracle
        self.states, self.hashes = states, hashes
        self.steps = 0

    @property
    def accepted(self) -> Mask:
        """Which words are accepted after each sequence, ``[row, token]``."""
        return self._oracle.judge(self.states, self.hashes, self.steps)

    @property
    def log_probs(self) -> LogProbs:
        """Uniform over the accepted words."""
        return uniform_over(self.accepted)

    def advance(self, rows: Ids, tokens: Ids) -> None:
        """Go on with some rows, each by one word."""
        self.states = self._oracle.world.step(self.states[rows], tokens)
        self.hashes = mixed(self.hashes[rows], tokens)
        self.steps += 1

    def alike(self, rows1: Ids, rows2: Ids) -> Mask:
        """Return where two rows certainly accept the same continuations."""
        if self._oracle.same is not None:
            return np.full(len(rows1), self.steps >= self._oracle.same, dtype=np.bool_)
        if not self._oracle.by_state:
            return np.zeros(len(rows1), dtype=np.bool_)
        return (self.states[rows1] == self.states[rows2]).all(axis=1)


@dataclass(frozen=True, slots=True)
class Oracle:
    """A predictor whose acceptance is a function of the true state, or of nothing.

    Attributes:
        name: What tables and figures call it.
        world: The world it predicts.
        judge: (states, hashes, steps since the prefix) to ``[row, token]``.
        by_state: Rows of one state accept the same continuations.
        same: Steps after which all rows accept the same continuations; None for never.
        by_pair: Errors are those of the pair that a prefix is read for, not of the prefix alone:
            in a small world few prefixes would decide how often it errs.
        rates: Shares refused and accepted, and the seed, of one that errs.
    """

    name: str
    world: World
    judge: Callable[[States, Hashes, int], Mask]
    by_state: bool = False
    same: int | None = None
    by_pair: bool = False
    rates: tuple[float, float, int] | None = None

    def start(self, prefixes: Ids, pairs: Ids | None = None) -> OracleCursor:
        """Read prefixes ``[n, length]``, filled up with -1 on the right, for pairs of these numbers."""
        states = self.world.run(self.world.initial(len(prefixes)), prefixes)
        hashes = _hashes(prefixes)[:, -1]
        if self.by_pair and pairs is not None:
            hashes = mixed(hashes, pairs)
        return OracleCursor(self, states, hashes)

    def read(self, sequences: Ids) -> LogProbs:
        """Return log-probabilities after every word, ``[n, length, token]``."""
        n, length = sequences.shape
        states = self.world.trace(self.world.initial(n), sequences)[:, 1:]
        flat = states.reshape(n * length, -1)
        accepted = self.judge(flat, _hashes(sequences)[:, 1:].reshape(-1), 0)
        return uniform_over(accepted).reshape(n, length, -1)


def uniform_over(accepted: Mask) -> LogProbs:
    """Return log-probabilities uniform over the accepted words; all -inf where there is none."""
    count = accepted.sum(axis=1, keepdims=True)
    each = -np.log(np.maximum(count, 1), dtype=np.float32)
    return np.where(accepted, each, np.float32(-np.inf))


def uniform(world: World) -> Oracle:
    """Return the predictor that accepts every word everywhere.

    It merges all states, so that it never errs by telling two prefixes apart: compression and
    distinction precision are vacuously perfect, and recall is 0.
    """
    n_tokens = len(world.tokens)

    def judge(states: States, hashes: Hashes, steps: int) -> Mask:
        del hashes, steps
        return np.ones((len(states), n_tokens), dtype=np.bool_)

    return Oracle("uniform", world, judge, same=0)


def legal_only(world: World) -> Oracle:
    """Return the predictor that knows the legal next words and no more.

    Behind a prefix it accepts exactly the legal words, so that no next-token test can fault it;
    once a word of the suffix is said, it accepts everything.
    """
    n_tokens = len(world.tokens)

    def judge(states: States, hashes: Hashes, steps: int) -> Mask:
        del hashes
        if steps:
            return np.ones((len(states), n_tokens), dtype=np.bool_)
        return world.legal(states)

    return Oracle("legal_only", world, judge, same=1)


def true_automaton(world: World) -> Oracle:
    """Return the world itself as a predictor: uniform over the legal words, 1 by every metric."""

    def judge(states: States, hashes: Hashes, steps: int) -> Mask:
        del hashes, steps
        return world.legal(states)

    return Oracle("automaton", world, judge, by_state=True)


def noisy_oracle(world: World, refused: float, accepted: float, seed: int = 0) -> Oracle:
    r"""Return the true automaton with independent errors, which a metric must not mistake for more.

    With :math:`u(s, w)` a uniform number that is a hash of prefix and word, w is accepted after s

    .. math:: \text{if } u(s, w) \ge r \text{ where it is legal}, \qquad
        \text{if } u(s, w) < a \text{ where it is not}.

    A judgement is a function of the prefix and the word alone, the same whenever it is asked for.
    What it says is drawn uniformly from what it accepts.

    Args:
        world: What it predicts.
        refused: r, the share of legal words that it refuses, in [0, 1].
        accepted: a, the share of illegal words that it accepts, in [0, 1].
        seed: Of the errors.

    Returns:
        An oracle; with both rates 0 the true automaton.

    Raises:
        ValueError: A rate is out of range.

    Example:
        >>> from mechprobe.worlds import Dyck
        >>> oracle = noisy_oracle(Dyck(1, 3), refused=0.0, accepted=1.0)
        >>> oracle.start(oracle.world.encode("( )")[None]).accepted.tolist()
        [[True, True]]
    """
    for name, rate in {"refused": refused, "accepted": accepted}.items():
        if not 0 <= rate <= 1:
            msg = f"{name} is a share of words, in [0, 1]; found {rate}."
            raise ValueError(msg)
    words = np.arange(len(world.tokens))

    def judge(states: States, hashes: Hashes, steps: int) -> Mask:
        del steps
        legal = world.legal(states)
        drawn = to_uniform(mixed(mixed(hashes, np.full(len(hashes), seed))[:, None], words[None]))
        return legal ^ (drawn < np.where(legal, refused, accepted))

    return Oracle(NOISY, world, judge, rates=(refused, accepted, seed))


def _hashes(sequences: Ids) -> Hashes:
    """Return hashes before and after every word, ``[n, length + 1]``; padding changes nothing."""
    out = np.zeros((len(sequences), sequences.shape[1] + 1), dtype=np.uint64)
    for i, column in enumerate(sequences.T):
        out[:, i + 1] = np.where(column == PAD, out[:, i], mixed(out[:, i], column))
    return out
