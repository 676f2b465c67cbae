r"""Exact suffix languages: what can be said after one state and not after another.

With :math:`L(q)` the non-empty strings that are legal from state q, the Myhill-Nerode boundary of
two states is

.. math:: B(q_1, q_2) = \{a \in L(q_1) \setminus L(q_2) :
    \text{all proper prefixes of } a \text{ lie in both}\}

It is found level by level in the product of the world with itself: a string is followed only while
it is legal from both states and the two have not met, so nothing is listed to be thrown away.

Source:
    Vafa, Chen, Rambachan, Kleinberg, Mullainathan, "Evaluating the World Model Implicit in a
    Generative Model" (2024), https://arxiv.org/abs/2406.03689, definitions 2.4 to 2.6.
"""

from dataclasses import dataclass

import numpy as np

from mechprobe.worlds.automata.arrays import PAD, Ids, Mask, States, unpad
from mechprobe.worlds.automata.base import World

LIMIT = 1_000_000


@dataclass(frozen=True, slots=True)
class Boundary:
    """Strings that set the first state of each pair apart from the second.

    Attributes:
        pair: Row of ``states1`` and ``states2`` that a string belongs to, ascending, ``[m]``.
        strings: ``[m, k]``, filled up with -1; within a pair shorter ones come first.
        lengths: ``[m]``.
        n_pairs: Pairs that were asked for.
    """

    pair: Ids
    strings: Ids
    lengths: Ids
    n_pairs: int

    def __len__(self) -> int:
        return len(self.pair)

    def of(self, pair: int) -> list[Ids]:
        """Return the strings of one pair."""
        rows = np.flatnonzero(self.pair == pair)
        return unpad(self.strings[rows], self.lengths[rows])

    @property
    def sizes(self) -> Ids:
        """Strings of each pair, ``[n_pairs]``."""
        return np.bincount(self.pair, minlength=self.n_pairs)


def boundary(
    world: World, states1: States, states2: States, k: int, *, published: bool = False, limit: int = LIMIT
) -> Boundary:
    """Return the Myhill-Nerode boundary of each pair of states, strings of at most ``k`` words.

    With *b* words legal in both states of a pair at every level, at most :math:`b^{k-1}` strings
    are followed and at most :math:`b^{k-1}` times the legal words of the first state returned.

    Args:
        world: Where the states live.
        states1: First state of each pair, ``[n, state_size]``.
        states2: Second state of each pair.
        k: Longest string.
        published: As the code of Vafa et al.: ``end`` is never in the boundary, and a string
            counts only if it is the beginning of one of exactly ``k`` words without ``end``.
        limit: Strings followed at once, beyond which it stops.

    Returns:
        Strings, the pair each belongs to, and their lengths.

    Raises:
        ValueError: ``k`` below 1, rejected states, unequal numbers of states, or more than
            ``limit`` strings.

    Example:
        >>> from mechprobe.worlds import Dyck
        >>> world = Dyck(1, 2)
        >>> inside = world.run(world.initial(), world.encode("(")[None])
        >>> [" ".join(world.decode(s)) for s in boundary(world, inside, world.initial(), 3).of(0)]
        [')', '( ) )']

    Source:
        Vafa et al. (2024), https://arxiv.org/abs/2406.03689, definition 2.4.
    """
    _require(states1, states2, k)
    parts: list[Boundary] = []
    n_pairs = len(states1)
    pairs, strings = np.arange(len(states1)), np.zeros((len(states1), 0), dtype=np.int64)
    for level in range(1, k + 1):
        rows, tokens, after1, after2 = _both(world, states1, states2, published)
        apart = after2[:, 0] < 0
        keep = apart.copy()
        if published:
            keep[apart] = _can_go_on(world, after1[apart], k - level)
        found = np.column_stack([strings[rows[keep]], tokens[keep]])
        parts.append(Boundary(pairs[rows[keep]], found, np.full(len(found), level), n_pairs))
        if level == k:
            break
        going = ~apart & (after1 != after2).any(axis=1)
        if int(going.sum()) > limit:
            msg = (
                f"{int(going.sum())} strings of {level} words are legal from both states of a "
                f"pair, more than limit={limit}; take a smaller k or fewer pairs at once."
            )
            raise ValueError(msg)
        pairs, strings = pairs[rows[going]], np.column_stack([strings[rows[going]], tokens[going]])
        states1, states2 = after1[going], after2[going]
    return _joined(parts, k, n_pairs)


def boundary_sizes(world: World, states1: States, states2: States, k: int, *, published: bool = False) -> Ids:
    """Return how many boundary strings of each length there are, ``[n, k]``, listing none.

    Strings that lead to the same pair of states are counted together, so that the work is bounded
    by the pairs of states within ``k`` words and not by the strings between them. Counts are
    int64: exact below :math:`2^{63}`.

    Args:
        world: Where the states live.
        states1: First state of each pair.
        states2: Second state of each pair.
        k: Longest string.
        published: As in ``boundary``.

    Raises:
        ValueError: ``k`` below 1, rejected states, or unequal numbers of states.

    Example:
        >>> from mechprobe.worlds import CumulativeConnect4
        >>> world = CumulativeConnect4(6)
        >>> full = world.run(world.initial(), np.zeros((1, 6), dtype=np.int64))
        >>> boundary_sizes(world, world.initial(), full, 4).tolist()
        [[1, 6, 36, 216]]
    """
    _require(states1, states2, k)
    out = np.zeros((len(states1), k), dtype=np.int64)
    pairs, times = np.arange(len(states1)), np.ones(len(states1), dtype=np.int64)
    size = states1.shape[1]
    for level in range(1, k + 1):
        rows, _, after1, after2 = _both(world, states1, states2, published)
        apart = after2[:, 0] < 0
        keep = apart.copy()
        if published:
            keep[apart] = _can_go_on(world, after1[apart], k - level)
        np.add.at(out[:, level - 1], pairs[rows[keep]], times[rows[keep]])
        if level == k:
            break
        going = ~apart & (after1 != after2).any(axis=1)
        key = np.column_stack([pairs[rows[going]], after1[going], after2[going]])
        merged, inverse = np.unique(key, axis=0, return_inverse=True)
        total = np.zeros(len(merged), dtype=np.int64)
        np.add.at(total, inverse.reshape(-1), times[rows[going]])
        pairs, times = merged[:, 0], total
        states1, states2 = merged[:, 1 : 1 + size], merged[:, 1 + size :]
    return out


def distinguishing_length(world: World, states1: States, states2: States, longest: int = 100) -> Ids:
    """Return the length of the shortest string legal from one state of a pair and not the other.

    Symmetric, unlike ``boundary``. -1 where no string of up to ``longest`` words tells them apart;
    with ``longest`` at least the number of states that means never.

    Args:
        world: Where the states live.
        states1: First state of each pair.
        states2: Second state of each pair.
        longest: Where to give up.

    Raises:
        ValueError: ``longest`` below 1, rejected states, or unequal numbers of states.
    """
    _require(states1, states2, longest)
    out = np.full(len(states1), -1, dtype=np.int64)
    pairs, size = np.arange(len(states1)), states1.shape[1]
    seen = np.zeros((0, 1 + 2 * size), dtype=np.int64)
    for level in range(1, longest + 1):
        rows, _, after1, after2 = _both(world, states1, states2, False)
        back, _, _, other = _both(world, states2, states1, False)
        out[pairs[rows[after2[:, 0] < 0]]] = level
        out[pairs[back[other[:, 0] < 0]]] = level
        going = (after2[:, 0] >= 0) & (out[pairs[rows]] < 0) & (after1 != after2).any(axis=1)
        key = np.column_stack([pairs[rows[going]], after1[going], after2[going]])
        known = len(seen)
        seen, first = np.unique(np.concatenate([seen, key]), axis=0, return_index=True)
        fresh = seen[first >= known]
        if not len(fresh):
            break
        pairs, states1, states2 = fresh[:, 0], fresh[:, 1 : 1 + size], fresh[:, 1 + size :]
    return out


def _both(world: World, states1: States, states2: States, published: bool) -> tuple[Ids, Ids, States, States]:
    rows, tokens = _moves(world, states1, with_end=not published)
    return (rows, tokens, world.step(states1[rows], tokens), world.step(states2[rows], tokens))


def _moves(world: World, states: States, *, with_end: bool) -> tuple[Ids, Ids]:
    rows, tokens = world.moves(states)
    if with_end or world.end is None:
        return rows, tokens
    others = tokens != world.end
    return rows[others], tokens[others]


def _can_go_on(world: World, states: States, n: int) -> Mask:
    """Whether ``n`` more words without ``end`` are legal from each state."""
    if n == 0 or not len(states):
        return np.ones(len(states), dtype=np.bool_)
    distinct, inverse = np.unique(states, axis=0, return_inverse=True)
    rows, tokens = _moves(world, distinct, with_end=False)
    able = np.zeros(len(distinct), dtype=np.bool_)
    able[rows[_can_go_on(world, world.step(distinct[rows], tokens), n - 1)]] = True
    return able[inverse.reshape(-1)]


def _joined(parts: list[Boundary], k: int, n_pairs: int) -> Boundary:
    pair = np.concatenate([part.pair for part in parts])
    lengths = np.concatenate([part.lengths for part in parts])
    strings = np.concatenate(
        [np.pad(p.strings, ((0, 0), (0, k - p.strings.shape[1])), constant_values=PAD) for p in parts]
    )
    order = np.argsort(pair, kind="stable")
    return Boundary(pair[order], strings[order], lengths[order], n_pairs)


def _require(states1: States, states2: States, k: int) -> None:
    if k < 1:
        msg = f"strings of at most {k} words were asked for; k must be at least 1."
        raise ValueError(msg)
    if states1.shape != states2.shape:
        msg = f"pairs need as many first states as second ones; found {len(states1)} and {len(states2)}."
        raise ValueError(msg)
    if bool((states1[:, :1] < 0).any()) or bool((states2[:, :1] < 0).any()):
        msg = "a rejected state has no suffixes; pass states that some sequence reaches."
        raise ValueError(msg)
