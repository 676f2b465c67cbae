"""What the metrics ask of a model: next-word log-probabilities, followed word by word."""

from typing import Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

from mechprobe.worlds.automata.arrays import Ids

LogProbs = npt.NDArray[np.float32]


@runtime_checkable
class Cursor(Protocol):
    """Many sequences being read side by side, each as far as it has come."""

    @property
    def log_probs(self) -> LogProbs:
        """Log-probability of every word of the world after each sequence, ``[row, token]``.

        Natural logarithm, over all that the model may say: what it gives to tokens that are no
        word of the world is missing from the sum. Probability 0 is -inf; NaN is refused.
        """
        ...

    def advance(self, rows: Ids, tokens: Ids) -> None:
        """Go on with some rows, each by one word: new row ``i`` is old row ``rows[i]``.

        A row may be named several times (continuations of one prefix share its cache) or not at
        all (it is dropped).
        """
        ...


@runtime_checkable
class Predictor(Protocol):
    """A next-word predictor over the words of a world."""

    @property
    def name(self) -> str:
        """What tables and figures call it."""

    def start(self, prefixes: Ids) -> Cursor:
        """Read prefixes ``[n, length]``, filled up with -1 on the right, and stand behind them."""
        ...
