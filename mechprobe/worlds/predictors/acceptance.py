r"""Which words a model accepts: one rule for what is sampled and for what is scored.

A model's language after a prefix s is the set of strings whose every word it accepts,

.. math:: L^m(s) = \{a_1 \dots a_j : a_{i+1} \in A(m(\cdot \mid s\, a_1 \dots a_i))\}

with A one of the rules below.

Source:
    Vafa, Chen, Rambachan, Kleinberg, Mullainathan, "Evaluating the World Model Implicit in a
    Generative Model" (2024), https://arxiv.org/abs/2406.03689, definition 2.5 and appendix F.
"""

import math
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np

from mechprobe.worlds.automata.arrays import Mask
from mechprobe.worlds.predictors.predictor import LogProbs

# Hugging Face's default, active in the published code although nobody asked for it.
PUBLISHED_TOP_K = 50
# How far the sum of some float32 probabilities may be off.
FLOAT32 = 1e-6


@runtime_checkable
class Acceptance(Protocol):
    """A rule that turns next-word log-probabilities into accepted words."""

    @property
    def label(self) -> str:
        """What tables and figures call it."""

    def accepts(self, log_probs: LogProbs) -> Mask:
        """Return ``[row, token]``: which words are accepted; probability 0 never is."""
        ...


@dataclass(frozen=True, slots=True)
class Epsilon:
    r"""Accept words of probability above a threshold, :math:`p > \epsilon`.

    Args:
        epsilon: In [0, 1).

    Raises:
        ValueError: It is outside.

    Example:
        >>> Epsilon(0.1).accepts(np.log(np.array([[0.05, 0.15, 0.8]], dtype=np.float32))).tolist()
        [[False, True, True]]
    """

    epsilon: float = 0.01

    def __post_init__(self) -> None:
        if not 0 <= self.epsilon < 1:
            msg = f"epsilon must lie in [0, 1): no probability exceeds 1; found {self.epsilon}."
            raise ValueError(msg)

    @property
    def label(self) -> str:
        """What tables and figures call it."""
        return f"ε = {self.epsilon:g}"

    def accepts(self, log_probs: LogProbs) -> Mask:
        """Return ``[row, token]``: which words are accepted."""
        return log_probs > (math.log(self.epsilon) if self.epsilon else -math.inf)


@dataclass(frozen=True, slots=True)
class TopK:
    """Accept the k most likely words; of equally likely ones the lower ids.

    Args:
        k: At least 1.

    Raises:
        ValueError: It is below.

    Example:
        >>> TopK(2).accepts(np.log(np.array([[0.2, 0.6, 0.2]], dtype=np.float32))).tolist()
        [[True, True, False]]
    """

    k: int

    def __post_init__(self) -> None:
        if self.k < 1:
            msg = f"TopK(k) accepts the k most likely words, k at least 1; found {self.k}."
            raise ValueError(msg)

    @property
    def label(self) -> str:
        """What tables and figures call it."""
        return f"top-{self.k}"

    def accepts(self, log_probs: LogProbs) -> Mask:
        """Return ``[row, token]``: which words are accepted."""
        order = np.argsort(-log_probs, axis=1, kind="stable")[:, : self.k]
        out = np.zeros(log_probs.shape, dtype=np.bool_)
        np.put_along_axis(out, order, True, axis=1)
        return out & np.isfinite(log_probs)


@dataclass(frozen=True, slots=True)
class TopP:
    """Accept the most likely words until together they hold a probability of p (the nucleus).

    Args:
        p: In (0, 1].

    Raises:
        ValueError: It is outside.

    Example:
        >>> TopP(0.7).accepts(np.log(np.array([[0.1, 0.6, 0.3]], dtype=np.float32))).tolist()
        [[False, True, True]]
    """

    p: float

    def __post_init__(self) -> None:
        if not 0 < self.p <= 1:
            msg = f"TopP(p) accepts words up to a probability p in (0, 1]; found {self.p}."
            raise ValueError(msg)

    @property
    def label(self) -> str:
        """What tables and figures call it."""
        return f"top-p {self.p:g}"

    def accepts(self, log_probs: LogProbs) -> Mask:
        """Return ``[row, token]``: which words are accepted."""
        order = np.argsort(-log_probs, axis=1, kind="stable")
        sorted_probs = np.exp(np.take_along_axis(log_probs, order, axis=1).astype(np.float64))
        before = np.cumsum(sorted_probs, axis=1) - sorted_probs
        inside = before < self.p - FLOAT32
        inside[:, 0] = True
        out = np.zeros(log_probs.shape, dtype=np.bool_)
        np.put_along_axis(out, order, inside, axis=1)
        return out & np.isfinite(log_probs)


def published_choices(log_probs: LogProbs, epsilon: float) -> Mask:
    """Return which words the published code samples from, which are not those that it scores.

    The 50 most likely words are renormalised, and of these the ones with at least ``epsilon`` are
    kept, but always the most likely one.

    Args:
        log_probs: Of each word, ``[row, token]``.
        epsilon: The threshold.

    Returns:
        Words that may be drawn, ``[row, token]``.
    """
    top = np.isfinite(log_probs)
    if log_probs.shape[1] > PUBLISHED_TOP_K:
        kth = np.partition(log_probs, -PUBLISHED_TOP_K, axis=1)[:, -PUBLISHED_TOP_K, None]
        top &= log_probs >= kth
    probs = np.where(top, np.exp(log_probs.astype(np.float64)), 0)
    total = probs.sum(axis=1, keepdims=True)
    out: Mask = (probs >= epsilon * total) & top
    out[np.arange(len(out)), log_probs.argmax(axis=1)] = True
    return out
