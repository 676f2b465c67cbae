"""How the questions of a task were drawn: what all statistics of it go by."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Int


class Design(NamedTuple):
    """Groups and blocks of questions as numbers, in the order in which they first come.

    A *group* is the unit of randomisation: what was drawn independently of the rest. Splits, halves
    of the audit and shots never cut one; intervals resample whole ones. A *block* lies inside a
    group: blocks of one group could have had each other's answers, all of a block's questions at
    once. A permutation exchanges answers between whole blocks of a group and nowhere else.

    Attributes:
        group: Of each question.
        block: Of each question; numbers are unique over the task.

    >>> Design.of(["a", "a", "a", "a", ""], ["x", "x", "y", "y", ""])
    Design(group=array([0, 0, 0, 0, 1]), block=array([0, 0, 1, 1, 2]))
    """

    group: Int[np.ndarray, " example"]
    block: Int[np.ndarray, " example"]

    @classmethod
    def of(cls, groups: Sequence[str], blocks: Sequence[str]) -> "Design":
        """Return the design of questions with these groups and blocks; one without is its own."""
        alone = [(str(i),) for i in range(len(groups))]
        group = [(g, "") if g else a for g, a in zip(groups, alone, strict=True)]
        block = [(*g, b) if b else a for g, b, a in zip(group, blocks, alone, strict=True)]
        return cls(_codes(group), _codes(block))

    def units(self) -> list[list[int]]:
        """Return what is drawn, or left out, together: groups that have blocks, else questions."""
        grouped = np.unique(self.block, return_counts=True)[1][self.block] > 1
        whole = np.isin(self.group, self.group[grouped])
        key = np.where(whole, self.group, len(self.group) + np.arange(len(self.group)))
        units: dict[int, list[int]] = {}
        for i, unit in enumerate(key.tolist()):
            units.setdefault(unit, []).append(i)
        return list(units.values())


def _codes(names: Sequence[tuple[str, ...]]) -> Int[np.ndarray, " example"]:
    codes = {name: i for i, name in enumerate(dict.fromkeys(names))}
    return np.array([codes[name] for name in names], np.int64)
