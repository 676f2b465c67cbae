"""Labels permuted in the ways that leave a guessing head's score as likely as it was."""

from typing import Literal

import numpy as np
from jaxtyping import Int

Scheme = Literal["examples", "within groups", "whole groups"]


def permutation_scheme(answer: Int[np.ndarray, " example"], group: Int[np.ndarray, " example"]) -> Scheme:
    """Return what may be exchanged if heads know nothing of the answers.

    - ``"examples"``: groups are single examples; labels go to any example;
    - ``"within groups"``: at least half of the examples lie in groups of mixed labels (a theory
      queried with both polarities); labels change places inside their group, so that whatever a
      theory's examples share stays with them;
    - ``"whole groups"``: labels are mostly constant in a group; the labels of a group go, as they
      are, to a group of the same size. Labels of single examples are not exchanged then, because
      examples of one group are not independent.

    Args:
        answer: Index of the right candidate.
        group: Which group an example belongs to.

    Returns:
        The scheme.

    Example:
        >>> permutation_scheme(np.array([0, 1, 1, 0]), np.array([7, 7, 8, 8]))
        'within groups'
    """
    codes, sizes = np.unique(group, return_inverse=True, return_counts=True)[1:]
    if (sizes == 1).all():
        return "examples"
    kinds = np.unique(np.stack([codes, answer]), axis=1)[0]
    mixed = np.bincount(kinds, minlength=len(sizes)) > 1
    return "within groups" if mixed[codes].mean() >= 0.5 else "whole groups"


def permuted_answers(
    answer: Int[np.ndarray, " example"],
    group: Int[np.ndarray, " example"],
    n_candidates: Int[np.ndarray, " example"],
    scheme: Scheme,
    n_permutations: int,
    rng: np.random.Generator,
) -> Int[np.ndarray, "permutation example"]:
    """Return permuted labels; an example only ever gets a label that it has a candidate for.

    Args:
        answer: Index of the right candidate.
        group: Which group an example belongs to.
        n_candidates: How many candidates an example has; labels stay among examples with as many.
        scheme: From ``permutation_scheme``.
        n_permutations: How many.
        rng: Source of chance.

    Returns:
        One row per permutation.
    """
    if scheme == "whole groups":
        source = _group_sources(group, n_candidates, n_permutations, rng)
    else:
        keys = [n_candidates, group] if scheme == "within groups" else [n_candidates]
        block = np.unique(np.stack(keys), axis=1, return_inverse=True)[1].reshape(-1)
        source = _shuffled(block, n_permutations, rng)
    return answer[source]


def _shuffled(
    block: Int[np.ndarray, " item"], n_permutations: int, rng: np.random.Generator
) -> Int[np.ndarray, "permutation item"]:
    """Return, for every item, which item of its own block it is given."""
    # Blocks are integers and keys fractions, so a sort of the sums never mixes blocks.
    keys = block + rng.random((n_permutations, len(block)))
    source = np.empty(keys.shape, np.intp)
    source[:, np.argsort(block, kind="stable")] = np.argsort(keys, axis=1)
    return source


def _group_sources(
    group: Int[np.ndarray, " example"],
    n_candidates: Int[np.ndarray, " example"],
    n_permutations: int,
    rng: np.random.Generator,
) -> Int[np.ndarray, "permutation example"]:
    codes, sizes = np.unique(group, return_inverse=True, return_counts=True)[1:]
    order = np.argsort(codes, kind="stable")
    starts = np.concatenate([[0], np.cumsum(sizes)[:-1]])
    place = np.empty(len(group), np.intp)
    place[order] = np.arange(len(group)) - starts[codes[order]]
    member = np.full((len(sizes), sizes.max()), -1)
    member[codes, place] = np.arange(len(group))
    # Groups are exchanged where each example meets one with as many candidates.
    shape = np.where(member >= 0, n_candidates[member], -1)
    alike = np.unique(shape, axis=0, return_inverse=True)[1].reshape(-1)
    given = _shuffled(alike, n_permutations, rng)
    return member[given[:, codes], place]
