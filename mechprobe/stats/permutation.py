"""Labels permuted in the ways that leave a guessing head's score as likely as it was."""

from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np
from jaxtyping import Int
from scipy.special import gammaln

Scheme = Literal["examples", "within groups", "blocks within groups", "whole groups"]


def permutation_scheme(
    answer: Int[np.ndarray, " example"],
    group: Int[np.ndarray, " example"],
    block: Int[np.ndarray, " example"] | None = None,
) -> Scheme:
    """Return what may be exchanged if heads know nothing of the answers.

    - ``"blocks within groups"``: the task declares blocks; the labels of a block, all together,
      change places with those of a block of the same group (a theory and its twin of the opposite
      truth, each asked about twice);
    - ``"examples"``: groups are single examples; labels go to any example;
    - ``"within groups"``: at least half of the examples lie in groups of mixed labels (a theory
      queried with both polarities); labels change places inside their group, so that whatever a
      theory's examples share stays with them;
    - ``"whole groups"``: labels are mostly constant in a group. A group of one label gives it to any
      other such group, of any size; the labels of a mixed group go, as they are, to a mixed group of
      the same size. Labels of single examples are not exchanged then, because examples of one group
      are not independent.

    Args:
        answer: Index of the right candidate.
        group: Which group an example belongs to.
        block: Which block, inside a group; each example is its own by default.

    Returns:
        The scheme.

    Example:
        >>> permutation_scheme(np.array([0, 1, 1, 0]), np.array([7, 7, 8, 8]))
        'within groups'
    """
    if block is not None and len(np.unique(block)) < len(block):
        return "blocks within groups"
    codes, sizes = np.unique(group, return_inverse=True, return_counts=True)[1:]
    if (sizes == 1).all():
        return "examples"
    kinds = np.unique(np.stack([codes, answer]), axis=1)[0]
    mixed = np.bincount(kinds, minlength=len(sizes)) > 1
    return "within groups" if mixed[codes].mean() >= 0.5 else "whole groups"


@dataclass(frozen=True)
class Exchange:
    """Which units of examples may exchange their labels.

    Attributes:
        unit: Unit of every example.
        place: Its place in the unit.
        label: Labels of every unit, by place; a unit of one label holds it in all places.
        pool: Pool of every unit; labels go to any unit of the same pool.
    """

    unit: Int[np.ndarray, " example"]
    place: Int[np.ndarray, " example"]
    label: Int[np.ndarray, "unit place"]
    pool: Int[np.ndarray, " unit"]

    @cached_property
    def kind(self) -> Int[np.ndarray, " unit"]:
        """Which units have the same labels in the same pool."""
        rows = np.column_stack([self.pool, self.label])
        return np.unique(rows, axis=0, return_inverse=True)[1].reshape(-1)

    @property
    def log10_relabellings(self) -> float:
        """Logarithm to base 10 of how many labellings there are, the given one included."""
        pools, kinds = (gammaln(np.bincount(code) + 1).sum() for code in (self.pool, self.kind))
        return float((pools - kinds) / np.log(10))

    def permuted(
        self, n_permutations: int, rng: np.random.Generator
    ) -> Int[np.ndarray, "permutation example"]:
        """Return permuted labels, one row per permutation."""
        # Pools are integers and keys fractions, so a sort of the sums never mixes pools.
        keys = self.pool + rng.random((n_permutations, len(self.pool)))
        source = np.empty(keys.shape, np.intp)
        source[:, np.argsort(self.pool, kind="stable")] = np.argsort(keys, axis=1)
        return self.label[source[:, self.unit], self.place]


def exchange(
    answer: Int[np.ndarray, " example"],
    group: Int[np.ndarray, " example"],
    n_candidates: Int[np.ndarray, " example"],
    scheme: Scheme,
    block: Int[np.ndarray, " example"] | None = None,
) -> Exchange:
    """Return which labels may be exchanged; an example only gets one that it has a candidate for.

    Args:
        answer: Index of the right candidate.
        group: Which group an example belongs to.
        n_candidates: How many candidates an example has; labels stay among examples with as many.
        scheme: From ``permutation_scheme``.
        block: Which block, for ``"blocks within groups"``.

    Returns:
        Units and pools.

    Example:
        >>> group = np.array([0, 0, 0, 1, 2, 2])
        >>> swap = exchange(np.array([1, 1, 1, 0, 0, 0]), group, np.full(6, 2), "whole groups")
        >>> round(10**swap.log10_relabellings)
        3
    """
    unit = np.arange(len(answer))
    if scheme == "whole groups":
        unit = group
    elif scheme == "blocks within groups" and block is not None:
        unit = block
    first, codes = np.unique(unit, return_index=True, return_inverse=True)[1:]
    place = _places(codes)
    # Units exchange labels where each example meets one with as many candidates.
    label, shape = (_table(values, codes, place) for values in (answer, n_candidates))
    alike = np.zeros(len(first), bool)
    if scheme == "whole groups":
        one = [((t == t[:, :1]) | (t < 0)).all(1) for t in (label, shape)]
        alike = one[0] & one[1]
        label, shape = (np.where(alike[:, None], t[:, :1], t) for t in (label, shape))
    keys = [alike, shape] if scheme in {"examples", "whole groups"} else [group[first], shape]
    pool = np.unique(np.column_stack(keys), axis=0, return_inverse=True)[1].reshape(-1)
    return Exchange(codes, place, label, pool)


def _places(codes: Int[np.ndarray, " example"]) -> Int[np.ndarray, " example"]:
    """Return which example of its unit each one is, 0 for the first."""
    sizes = np.bincount(codes)
    place = np.empty(len(codes), np.intp)
    order = np.argsort(codes, kind="stable")
    place[order] = np.arange(len(codes)) - (np.cumsum(sizes) - sizes)[codes[order]]
    return place


def _table(
    values: Int[np.ndarray, " example"],
    codes: Int[np.ndarray, " example"],
    place: Int[np.ndarray, " example"],
) -> Int[np.ndarray, "unit place"]:
    """Return the values of every unit by place; -1 where a unit has fewer."""
    table = np.full((codes.max() + 1, place.max() + 1), -1)
    table[codes, place] = values
    return table
