"""What is measured: fixed seeded token ids, every layer, every position."""

import re
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

TOP_K = 10
SEED = 0
_SHAPE = re.compile(r"([1-9]\d*)x([1-9]\d*)")


@dataclass(frozen=True, slots=True)
class Workload:
    """Prompts of equal length, so that no contender pads.

    Attributes:
        name: ``"8x256"``: prompts x tokens.
        prompts: How many prompts.
        tokens: Tokens of each.
    """

    name: str
    prompts: int
    tokens: int

    def ids(self, d_vocab: int) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        """Return prompt ids and the id that follows each of them, ``[prompt, pos]`` both.

        Args:
            d_vocab: Ids are drawn from ``0..d_vocab - 1``.
        """
        drawn = np.random.default_rng(SEED).integers(0, d_vocab, (self.prompts, self.tokens + 1))
        return drawn[:, :-1], drawn[:, 1:]


def workload(name: str) -> Workload:
    """Return the workload called ``name``.

    Raises:
        ValueError: It is not ``"<prompts>x<tokens>"``.
    """
    shape = _SHAPE.fullmatch(name)
    if shape is None:
        msg = f"workload {name!r} is not '<prompts>x<tokens>' (two positive integers), as '8x256'."
        raise ValueError(msg)
    return Workload(name, int(shape[1]), int(shape[2]))
