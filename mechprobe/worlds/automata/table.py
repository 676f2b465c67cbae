"""Finite worlds: one integer per state, one table for all transitions."""

import itertools
from collections.abc import Mapping, Sequence
from functools import cached_property

import numpy as np
import numpy.typing as npt

from mechprobe.worlds.automata.arrays import PAD, REJECT, Ids, Mask, Prefixes, States
from mechprobe.worlds.automata.base import World
from mechprobe.worlds.automata.minimise import Table, depths, nerode_classes, restricted

Weights = npt.NDArray[np.float64]


class TableWorld(World):
    """A world given by its table; states that nothing reaches are left out.

    Prefixes are drawn uniformly among *all* strings of their length that lead to the state, by
    walking backwards with the number of strings that lead to each predecessor as weight. Lengths
    are drawn uniformly among those that lead to the state, up to half of ``max_length``, or the
    shortest where that is longer.

    Attributes:
        table: ``[state, token]``: the next state, -1 for reject.
        start: The state before the first word.
        state_names: What each state is called.
        depths: Words of the shortest string to each state.
    """

    def __init__(
        self,
        name: str,
        tokens: Sequence[str],
        table: Table,
        *,
        state_names: Sequence[str] | None = None,
        initial: int = 0,
        labels: Mapping[str, Ids] | None = None,
        end: int | None = None,
        max_length: int = 40,
    ) -> None:
        super().__init__(name, tokens, end=end, max_length=max_length)
        _require_table(name, table, len(self.tokens), initial)
        depth = depths(table, initial)
        reached = np.flatnonzero(depth >= 0)
        names = [str(i) for i in range(len(table))] if state_names is None else state_names
        self.table = restricted(table, reached)
        self.start = int(np.searchsorted(reached, initial))
        self.state_names = tuple(names[i] for i in reached.tolist())
        self.depths = depth[reached]
        self._labels = {key: values[reached] for key, values in (labels or {}).items()}
        self._n_given = len(table)

    @property
    def n_states(self) -> int:
        """States that some string reaches, reject not counted."""
        return len(self.table)

    def initial(self, n: int = 1) -> States:
        """Return the state before the first word, ``n`` times."""
        return np.full((n, 1), self.start, dtype=np.int64)

    def state(self, name: str) -> States:
        """Return one state by its name, ``[1, 1]``.

        Raises:
            ValueError: No state of that name is reached.
        """
        if name not in self.state_names:
            msg = f"{self.name} has no reachable state {name!r}; see state_names."
            raise ValueError(msg)
        return np.array([[self.state_names.index(name)]], dtype=np.int64)

    def step(self, states: States, tokens: Ids) -> States:
        """Return where one word leads from each state; reject stays reject."""
        at = states[:, 0]
        return np.where(at >= 0, self.table[at, tokens], REJECT).astype(np.int64)[:, None]

    def legal(self, states: States) -> Mask:
        """Return ``[n, token]``: which words do not lead to reject."""
        at = states[:, 0]
        return (self.table[at] >= 0) & (at >= 0)[:, None]

    def sample_states(self, rng: np.random.Generator, n: int, *, published: bool = False) -> States:
        """Draw uniformly among the states that a prefix reaches and that allow some word.

        Args:
            rng: Draws them.
            n: How many.
            published: Makes no difference here.

        Raises:
            ValueError: There is no such state.
        """
        del published
        if not len(self._testable):
            msg = (
                f"{self.name} has no state that a string of fewer than {self.max_length} words "
                "reaches and that allows a word; give a larger max_length."
            )
            raise ValueError(msg)
        return rng.choice(self._testable, n)[:, None]

    def usable_states(self, *, published: bool = False) -> int:
        """Return how many states ``sample_states`` draws from."""
        del published
        return len(self._testable)

    def sample_prefixes(
        self, states: States, rng: np.random.Generator, lengths: Ids | None = None, *, published: bool = False
    ) -> Prefixes:
        """Draw strings that lead to the states, uniform among those of the same length.

        Args:
            states: Where to arrive.
            rng: Draws them.
            lengths: Words of each; drawn if None.
            published: Makes no difference here.

        Returns:
            Prefixes; where no string of that length leads to the state, the reason.
        """
        del published
        at = states[:, 0]
        wanted = self._draw_lengths(at, rng) if lengths is None else lengths
        most = self.max_length - 1
        able = (at >= 0) & (wanted >= 0) & (wanted <= most)
        able &= self._reached[np.where(able, wanted, 0), at]
        ids = self._backwards(np.where(able, at, 0), np.where(able, wanted, 0), rng)
        reasons = [
            "" if ok else self._reason(state, None if lengths is None else length)
            for ok, state, length in zip(able, at.tolist(), wanted.tolist(), strict=True)
        ]
        return Prefixes(ids, np.where(able, wanted, 0), tuple(reasons))

    def nerode_classes(self) -> Ids:
        """Return the Nerode class of each state."""
        return nerode_classes(self.table)

    def state_labels(self, states: States) -> dict[str, Ids]:
        """Return the number of each state and, for some worlds, what it is made of."""
        return {"state": states[:, 0]} | {k: v[states[:, 0]] for k, v in self._labels.items()}

    def _content(self) -> tuple[npt.NDArray[np.integer], ...]:
        return (self.table, np.array([self.start]))

    def summary(self) -> dict[str, str | int]:
        """Return what is worth knowing about its size."""
        out = super().summary() | {"states": self.n_states}
        unreached = self._n_given - self.n_states
        return out | ({"unreachable_states_dropped": unreached} if unreached else {})

    def _reason(self, state: int, length: int | None) -> str:
        if state < 0:
            return "a rejected state has no prefix"
        if length is None:
            return f"no string of 1 to {self.max_length - 1} words reaches the state"
        if length >= self.max_length:
            return f"a prefix must be shorter than max_length={self.max_length}"
        return "no string of the given length reaches the state"

    @cached_property
    def _edges(self) -> tuple[Ids, Ids, Ids, Ids]:
        """Transitions sorted by target: sources, tokens, targets, and where each target begins."""
        sources, tokens = np.nonzero(self.table >= 0)
        targets = self.table[sources, tokens].astype(np.int64)
        order = np.argsort(targets, kind="stable")
        starts = np.searchsorted(targets[order], np.arange(self.n_states + 1))
        return sources[order], tokens[order], targets[order], starts

    @cached_property
    def _strings(self) -> Weights:
        """``[length, state]``: strings of a length that reach a state, each row scaled to 1."""
        sources, _, targets, _ = self._edges
        out = np.zeros((self.max_length, self.n_states))
        out[0, self.start] = 1
        for before, after in itertools.pairwise(out):
            after += np.bincount(targets, before[sources], minlength=self.n_states)
            # A state that is reached at all stays above zero, however rare its strings are.
            after[after > 0] = np.maximum(after[after > 0] / after.max(), 1e-290)
        return out

    @cached_property
    def _reached(self) -> Mask:
        return self._strings > 0

    @cached_property
    def _testable(self) -> Ids:
        some = self._reached[1:].any(axis=0) & (self.table >= 0).any(axis=1)
        return np.flatnonzero(some)

    def _draw_lengths(self, at: Ids, rng: np.random.Generator) -> Ids:
        reached = self._reached[1:][:, at]
        shortest = reached.argmax(axis=0) + 1
        most = np.maximum(self.max_length // 2, shortest)
        reached &= np.arange(1, self.max_length)[:, None] <= most
        lengths = np.where(reached, rng.random(reached.shape), -1).argmax(axis=0) + 1
        return np.where(reached.any(axis=0), lengths, -1)

    def _backwards(self, at: Ids, lengths: Ids, rng: np.random.Generator) -> Ids:
        sources, tokens, targets, starts = self._edges
        ids = np.full((len(at), int(lengths.max(initial=0))), PAD, dtype=np.int64)
        at = at.copy()
        for position in range(ids.shape[1] - 1, -1, -1):
            going = np.flatnonzero(lengths > position)
            weights = self._strings[position, sources]
            total = np.bincount(targets, weights, minlength=self.n_states)
            # Each target's shares add up to 1, so one cumulative sum serves all of them.
            share = np.cumsum(weights / np.where(total > 0, total, 1)[targets])
            base = np.concatenate([[0.0], share])[starts[at[going]]]
            drawn = rng.random(len(going)) * (1 - 1e-9) + 1e-10
            chosen = np.searchsorted(share, base + drawn, side="left")
            chosen = np.clip(chosen, starts[at[going]], starts[at[going] + 1] - 1)
            ids[going, position] = tokens[chosen]
            at[going] = sources[chosen]
        return ids


def _require_table(name: str, table: Table, n_tokens: int, initial: int) -> None:
    if table.ndim != 2 or not len(table):
        msg = f"{name} has no states; its table must be [state, token]; found {table.shape}."
        raise ValueError(msg)
    if table.shape[1] != n_tokens:
        msg = f"{name}: the table has {table.shape[1]} columns for {n_tokens} tokens."
        raise ValueError(msg)
    if int(table.max(initial=-1)) >= len(table) or int(table.min(initial=0)) < REJECT:
        msg = f"{name}: the table must hold -1 and states 0..{len(table) - 1} only."
        raise ValueError(msg)
    if not 0 <= initial < len(table):
        msg = f"{name}: initial={initial} is not among the {len(table)} states."
        raise ValueError(msg)
