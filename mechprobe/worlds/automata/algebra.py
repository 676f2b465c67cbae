"""Counters and groups: state without syntax, so that the state has to be asked for."""

import itertools
import re
from collections.abc import Sequence
from typing import Literal

import numpy as np

from mechprobe.worlds.automata.arrays import Ids
from mechprobe.worlds.automata.automaton import require_some_reject, with_readout
from mechprobe.worlds.automata.minimise import Table
from mechprobe.worlds.automata.table import TableWorld

Generators = Literal["all", "two"]
LARGEST = {"S": 5, "A": 5, "Z": 1000}


class Counter(TableWorld):
    r"""A counter modulo m: :math:`q \mapsto (q + a) \bmod m` for every word ``+a``.

    Every word is legal in every state, so without a readout word no string would tell two counts
    apart: after ``readout`` exactly the count is legal.

    Args:
        m: Modulus.
        steps: What the words add.
        readout: Word that asks for the count; None is refused, with the reason.
        max_length: Words that a sequence may have.

    Raises:
        ValueError: m below 2, no steps or one twice, or no readout.

    Example:
        >>> world = Counter(3)
        >>> world.accepts(world.initial(), world.encode("+1 +1 = 2")[None]).tolist()
        [True]
    """

    def __init__(
        self, m: int, *, steps: Sequence[int] = (0, 1), readout: str | None = "=", max_length: int = 40
    ) -> None:
        if m < 2:
            msg = f"a counter needs a modulus of at least 2; found {m}."
            raise ValueError(msg)
        name = f"counter mod {m}"
        table = (np.arange(m)[:, None] + np.array(steps, dtype=np.int64)) % m
        words, names = [f"+{a}" for a in steps], [str(q) for q in range(m)]
        _init(self, name, table.astype(np.int32), words, names, 0, readout, max_length)


class Group(TableWorld):
    r"""The word problem of a finite group: :math:`q \mapsto q \cdot g` for every generator g.

    A word is legal in every state, so the product is asked for with ``readout``, after which
    exactly the name of the element is legal. Permutations are named in one-line notation:
    ``213`` swaps the first two; q·g is "q, then g".

    Args:
        group: ``"S3"``, ``"A5"``, ``"S5"``, ``"Z6"``, ...: symmetric, alternating or cyclic.
        generators: ``"all"`` elements, ``"two"`` that generate it (one, for a cyclic group), or
            names of elements.
        readout: Word that asks for the product; None is refused, with the reason.
        max_length: Words that a sequence may have.

    Raises:
        ValueError: An unknown group, an unknown generator, or no readout.

    Example:
        >>> Group("S3").n_states  # six products, and six in which the answer is due
        12
    """

    def __init__(
        self,
        group: str,
        *,
        generators: Generators | Sequence[str] = "all",
        readout: str | None = "=",
        max_length: int = 40,
    ) -> None:
        names, product, two = _named(group)
        chosen = two if generators == "two" else generators
        self._set(group, product, names, chosen, readout, max_length)

    @classmethod
    def from_table(
        cls,
        product: Sequence[Sequence[int]],
        names: Sequence[str],
        *,
        generators: Sequence[str] | None = None,
        readout: str | None = "=",
        max_length: int = 40,
        name: str = "group",
    ) -> "Group":
        """Take over a multiplication table: ``product[q][g]`` is q·g.

        Args:
            product: Square table of indices.
            names: What the elements are called.
            generators: Names of the elements that are words; None for all.
            readout: Word that asks for the product.
            max_length: Words that a sequence may have.
            name: What tables and figures call it.

        Raises:
            ValueError: Not a group: not square, no identity, not invertible, not associative.
        """
        table = np.array(product, dtype=np.int64)
        _require_group(name, table, len(names))
        out = cls.__new__(cls)
        out._set(name, table, list(names), generators or "all", readout, max_length)
        return out

    def _set(
        self,
        name: str,
        product: Ids,
        names: list[str],
        generators: str | Sequence[str],
        readout: str | None,
        max_length: int,
    ) -> None:
        words = names if generators == "all" else list(generators)
        unknown = [word for word in words if word not in names]
        if unknown or not words:
            msg = f"{name}: {unknown[:1]!r} is no element; its elements are {', '.join(names)}."
            raise ValueError(msg)
        table = product[:, [names.index(word) for word in words]].astype(np.int32)
        one = int(np.flatnonzero((product == np.arange(len(product))).all(axis=1))[0])
        _init(self, name, table, list(words), names, one, readout, max_length)


def _init(
    world: TableWorld,
    name: str,
    table: Table,
    words: list[str],
    names: list[str],
    initial: int,
    readout: str | None,
    max_length: int,
) -> None:
    if readout is None:
        require_some_reject(name, table)
        return
    n = len(names)
    labels = {"value": np.tile(np.arange(n), 2), "asked": np.repeat(np.arange(2), n)}
    table, words = with_readout(name, table, words, names, readout)
    TableWorld.__init__(
        world,
        name,
        words,
        table,
        state_names=[*names, *(f"{readout}{state}" for state in names)],
        initial=initial,
        labels=labels,
        max_length=max_length,
    )


def _named(group: str) -> tuple[list[str], Ids, list[str]]:
    found = re.fullmatch(r"([SAZ])([1-9]\d*)", group)
    if not found or not 2 <= int(found[2]) <= LARGEST[found[1]]:
        msg = (
            f"the group {group!r} is not built in; there are S2..S5, A2..A5 and Z2..Z1000. "
            "Others: Group.from_table(product, names)."
        )
        raise ValueError(msg)
    kind, n = found[1], int(found[2])
    if kind == "Z":
        names = [str(i) for i in range(n)]
        return names, (np.arange(n)[:, None] + np.arange(n)) % n, ["1"]
    elements = [p for p in itertools.permutations(range(n)) if kind == "S" or _even(p)]
    index = {p: i for i, p in enumerate(elements)}
    product = [[index[tuple(g[i] for i in q)] for g in elements] for q in elements]
    names = ["".join(str(i + 1) for i in p) for p in elements]
    return names, np.array(product, dtype=np.int64), _generators(kind, n)


def _generators(kind: str, n: int) -> list[str]:
    """A swap and a full cycle for S; a 3-cycle and the longest even cycle for A."""
    ones = list(range(1, n + 1))
    if kind == "A":
        if n < 4:
            return ["231"] if n == 3 else ["12"]
        odd = n % 2 == 1
        cycle = [*ones[1:], 1] if odd else [1, *ones[2:], 2]
        return ["".join(map(str, [2, 3, 1, *ones[3:]])), "".join(map(str, cycle))]
    swap = "".join(map(str, [2, 1, *ones[2:]]))
    return [swap] if n == 2 else [swap, "".join(map(str, [*ones[1:], 1]))]


def _even(p: tuple[int, ...]) -> bool:
    return sum(a > b for a, b in itertools.combinations(p, 2)) % 2 == 0


def _require_group(name: str, product: Ids, n: int) -> None:
    if product.shape != (n, n) or n == 0 or product.min() < 0 or product.max() >= n:
        msg = f"{name}: {n} names need an {n} x {n} table of 0..{n - 1}; found {product.shape}."
        raise ValueError(msg)
    ones = np.flatnonzero((product == np.arange(n)).all(axis=1))
    order = np.sort(product, axis=1) == np.arange(n)
    if not len(ones) or not bool((product[:, ones[0]] == np.arange(n)).all()):
        msg = f"{name} is not a group: no element leaves all others as they are."
        raise ValueError(msg)
    if not bool(order.all()) or not np.array_equal(product[product], product[:, product]):
        msg = f"{name} is not a group: its product is not invertible, or not associative."
        raise ValueError(msg)
