"""Calibration and held-out examples, groups kept whole."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

# A number of examples, a share of them, or the very examples.
Calibration = int | float | Sequence[int] | np.ndarray


class Split(NamedTuple):
    """Examples on which a head is chosen, and those on which it is tested; both ascending."""

    calibration: Int[np.ndarray, " example"]
    test: Int[np.ndarray, " example"]


def split_groups(group: Int[np.ndarray, " example"], calibration: Calibration, *, seed: int = 0) -> Split:
    """Split examples so that no group has examples on both sides.

    Groups are taken in random order as long as they fit, so the calibration set may stay a few
    examples below what was asked.

    Args:
        group: Which group (theory, context, passage) an example belongs to.
        calibration: Number of examples, a share in (0, 1), or indices of examples.
        seed: Of the order of groups; unused for indices.

    Returns:
        Indices of both parts.

    Raises:
        ValueError: The calibration set would be empty or hold every example, an index does not
            exist or comes twice, or indices cut a group.

    Example:
        >>> split_groups(np.array([0, 0, 1, 1]), 2, seed=1)
        Split(calibration=array([0, 1]), test=array([2, 3]))
    """
    n = len(group)
    if isinstance(calibration, int | float):
        chosen = _drawn(group, _size(calibration, n), seed)
    else:
        chosen = _explicit(np.asarray(calibration), group)
    test = np.setdiff1d(np.arange(n), chosen)
    if len(test) == 0:
        msg = (
            f"all {n} examples are in the calibration set, so none is left to test a head on; "
            "ask for a smaller calibration set."
        )
        raise ValueError(msg)
    return Split(chosen, test)


def _size(calibration: int | float, n: int) -> int:
    if isinstance(calibration, float):
        if not 0 < calibration < 1:
            msg = (
                f"calibration={calibration} is no share of the examples; a share lies between 0 "
                "and 1, a number of examples is an int."
            )
            raise ValueError(msg)
        return max(1, int(n * calibration))
    if calibration < 1:
        msg = f"a calibration set of {calibration} examples chooses no head; ask for at least 1."
        raise ValueError(msg)
    if calibration >= n:
        msg = (
            f"calibration={calibration} of {n} examples leaves none to test a head on; ask for less than {n}."
        )
        raise ValueError(msg)
    return int(calibration)


def _drawn(group: Int[np.ndarray, " example"], size: int, seed: int) -> Int[np.ndarray, " chosen"]:
    codes, sizes = np.unique(group, return_inverse=True, return_counts=True)[1:]
    taken = np.zeros(len(sizes), bool)
    room = size
    for g in np.random.default_rng(seed).permutation(len(sizes)).tolist():
        if sizes[g] <= room:
            taken[g] = True
            room -= int(sizes[g])
    if not taken.any():
        msg = (
            f"no group fits into a calibration set of {size} examples: the smallest of the "
            f"{len(sizes)} groups has {sizes.min()}, and groups are not cut."
        )
        raise ValueError(msg)
    return np.flatnonzero(taken[codes])


def _explicit(
    index: Int[np.ndarray, " chosen"], group: Int[np.ndarray, " example"]
) -> Int[np.ndarray, " chosen"]:
    n = len(group)
    if index.size == 0:
        msg = "the calibration set is empty; give at least one index."
        raise ValueError(msg)
    if index.min() < 0 or index.max() >= n:
        wrong = index[(index < 0) | (index >= n)][0]
        msg = f"calibration holds example {wrong}; there are {n}, 0 to {n - 1}."
        raise ValueError(msg)
    chosen = np.unique(index)
    if len(chosen) < len(index):
        msg = f"calibration names {len(index) - len(chosen)} examples twice; name each once."
        raise ValueError(msg)
    rest = np.setdiff1d(np.arange(n), chosen)
    cut = np.intersect1d(group[chosen], group[rest])
    if len(cut):
        msg = (
            f"calibration cuts {len(cut)} groups (group {cut[0]} first): examples that share a "
            "theory or a passage must be on one side."
        )
        raise ValueError(msg)
    return chosen


def group_weights(
    n_groups: int, n_bootstrap: int, rng: np.random.Generator
) -> Float[np.ndarray, "resample group"]:
    """Return how often each group is drawn in each resample."""
    even = np.full(n_groups, 1 / n_groups)
    return rng.multinomial(n_groups, even, size=n_bootstrap).astype(np.float64)
