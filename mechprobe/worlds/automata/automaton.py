"""Any deterministic automaton: from a dict, from automata-lib, or from a networkx graph."""

from collections.abc import Collection, Hashable, Iterable, Mapping
from typing import Any, Protocol, TypeVar, runtime_checkable

import numpy as np

from mechprobe.worlds.automata.arrays import REJECT
from mechprobe.worlds.automata.minimise import Table, merged, nerode_classes
from mechprobe.worlds.automata.table import TableWorld

State = TypeVar("State", bound=Hashable)


@runtime_checkable
class DFALike(Protocol):
    """What is read of automata-lib's ``DFA``."""

    @property
    def transitions(self) -> Any:
        """``{state: {symbol: state}}``."""

    @property
    def initial_state(self) -> Any:
        """Where it begins."""

    @property
    def final_states(self) -> Any:
        """Where a word may stop."""


@runtime_checkable
class GraphLike(Protocol):
    """What is read of a networkx graph."""

    @property
    def nodes(self) -> Any:
        """Nodes and their attributes."""

    @property
    def edges(self) -> Any:
        """Edges and their attributes."""

    def is_directed(self) -> bool:
        """Whether edges have a direction."""
        ...


class Automaton(TableWorld):
    """A world written as ``{state: {word: state}}``; a word that is missing is rejected.

    An automaton that allows every word in every state is refused: no string tells its states
    apart, so that every model agrees with it. Give it a ``readout`` word, after which exactly the
    name of the state is legal (and leads back to the state).

    Args:
        transitions: ``{state: {word: state}}``.
        initial: Where it begins; the first state if None.
        finals: States in which ``end`` is legal; only with ``end``.
        end: Word that closes a sequence, legal exactly in ``finals``.
        readout: Word that asks for the state.
        minimise: Merge states that no suffix tells apart.
        max_length: Words that a sequence may have.
        name: What tables and figures call it.

    Raises:
        ValueError: No states, an unknown state, a word that is listed twice or holds white
            space, or every word legal everywhere without ``readout``.

    Example:
        >>> turnstile = {"locked": {"coin": "open"}, "open": {"coin": "open", "push": "locked"}}
        >>> world = Automaton(turnstile)
        >>> world.decode(world.moves(world.state("locked"))[1])
        ['coin']
    """

    def __init__(
        self,
        transitions: Mapping[State, Mapping[str, State]],
        initial: State | None = None,
        *,
        finals: Collection[State] = (),
        end: str | None = None,
        readout: str | None = None,
        minimise: bool = False,
        max_length: int = 40,
        name: str = "automaton",
    ) -> None:
        states, words = _states(transitions, name), _words(transitions)
        index = {state: i for i, state in enumerate(states)}
        first = states[0] if initial is None else initial
        _require_known(name, index, [first, *finals])
        table = _table(transitions, index, words)
        names, start = [str(state) for state in states], index[first]
        if finals and end is None:
            msg = f"{name}: finals say where a sequence may close; give the word too, end='end'."
            raise ValueError(msg)
        if end is not None:
            table, words = _with_end(table, words, [index[state] for state in finals], end)
            names.append(end)
        if minimise:
            classes = nerode_classes(table)
            table, members = merged(table, classes)
            names, start = [names[i] for i in members.tolist()], int(classes[start])
        if readout is not None:
            table, words = with_readout(name, table, words, names, readout)
            names += [f"{readout}{state}" for state in names]
        super().__init__(
            name,
            words,
            table,
            state_names=names,
            initial=start,
            end=None if end is None else words.index(end),
            max_length=max_length,
        )
        require_some_reject(name, self.table, self.end)

    @classmethod
    def from_dfa(
        cls,
        dfa: DFALike,
        *,
        end: str | None = None,
        readout: str | None = None,
        minimise: bool = False,
        max_length: int = 40,
        name: str = "dfa",
    ) -> "Automaton":
        """Take over an automata-lib ``DFA``: a word is legal while a final state can be reached.

        Args:
            dfa: Has ``transitions``, ``initial_state`` and ``final_states``.
            end: Word that closes a sequence, legal exactly in final states; without it only the
                beginnings of accepted words are told from the rest.
            readout: Word that asks for the state.
            minimise: Merge states that no suffix tells apart.
            max_length: Words that a sequence may have.
            name: What tables and figures call it.

        Raises:
            ValueError: It accepts nothing, or what ``Automaton`` refuses.
        """
        rows = {state: dict(row) for state, row in dfa.transitions.items()}
        alive = set(dfa.final_states)
        while True:
            more = {s for s, row in rows.items() if s not in alive and alive & set(row.values())}
            if not more:
                break
            alive |= more
        if dfa.initial_state not in alive:
            msg = f"{name} accepts no word at all: no final state is reached from the first."
            raise ValueError(msg)
        kept = {
            state: {str(word): to for word, to in rows.get(state, {}).items() if to in alive}
            for state in sorted(alive, key=str)
        }
        return cls(
            kept,
            dfa.initial_state,
            finals=list(dfa.final_states) if end is not None else (),
            end=end,
            readout=readout,
            minimise=minimise,
            max_length=max_length,
            name=name,
        )

    @classmethod
    def from_graph(
        cls,
        graph: GraphLike,
        initial: Hashable,
        *,
        label: str = "label",
        readout: str | None = None,
        minimise: bool = False,
        max_length: int = 40,
        name: str = "graph",
    ) -> "Automaton":
        """Take over a directed networkx graph whose edges are labelled with words.

        Args:
            graph: A ``DiGraph`` or ``MultiDiGraph``.
            initial: The node to begin in.
            label: Edge attribute that holds the word.
            readout: Word that asks for the state.
            minimise: Merge states that no suffix tells apart.
            max_length: Words that a sequence may have.
            name: What tables and figures call it.

        Raises:
            ValueError: Undirected, an edge without label, one label twice out of one node, or
                what ``Automaton`` refuses.
        """
        if not graph.is_directed():
            msg = f"{name}: an automaton needs a directed graph; found an undirected one."
            raise ValueError(msg)
        rows: dict[Hashable, dict[str, Hashable]] = {node: {} for node in graph.nodes}
        for source, target, data in graph.edges(data=True):
            if label not in data:
                msg = f"{name}: the edge {source!r} -> {target!r} has no attribute {label!r}."
                raise ValueError(msg)
            word = str(data[label])
            if word in rows[source]:
                msg = f"{name}: two edges out of {source!r} are labelled {word!r}; keep one."
                raise ValueError(msg)
            rows[source][word] = target
        return cls(rows, initial, readout=readout, minimise=minimise, max_length=max_length, name=name)


def _states(transitions: Mapping[State, Mapping[str, State]], name: str) -> list[State]:
    if not transitions:
        msg = f"{name} has no states; give {{state: {{word: state}}}}."
        raise ValueError(msg)
    states = list(transitions)
    for state, row in transitions.items():
        for word, after in row.items():
            if after not in transitions:
                msg = (
                    f"{name}: {word!r} leads from {state!r} to {after!r}, which is no state; "
                    "leave the word out to reject it."
                )
                raise ValueError(msg)
    return states


def _words(transitions: Mapping[State, Mapping[str, State]]) -> list[str]:
    return list(dict.fromkeys(word for row in transitions.values() for word in row))


def _table(
    transitions: Mapping[State, Mapping[str, State]], index: Mapping[State, int], words: list[str]
) -> Table:
    column = {word: i for i, word in enumerate(words)}
    out = np.full((len(index), len(words)), REJECT, dtype=np.int32)
    for state, row in transitions.items():
        for word, after in row.items():
            out[index[state], column[word]] = index[after]
    return out


def _require_known(name: str, index: Mapping[State, int], states: Iterable[State]) -> None:
    for state in states:
        if state not in index:
            msg = f"{name}: {state!r} is no state; its states are {', '.join(map(str, index))}."
            raise ValueError(msg)


def _with_end(table: Table, words: list[str], finals: list[int], end: str) -> tuple[Table, list[str]]:
    out = np.pad(table, ((0, 1), (0, 1)), constant_values=REJECT)
    out[finals, -1] = len(table)
    return out, [*words, end]


def with_readout(
    name: str, table: Table, words: list[str], names: list[str], readout: str
) -> tuple[Table, list[str]]:
    """Return the table with a word that asks for the state, and the words that answer.

    Each state q gets a second one behind it, in which exactly the name of q is legal.
    """
    if len(set(names)) < len(names) or readout in names or readout in words:
        msg = (
            f"{name}: readout={readout!r} and the names of the states must be different words; "
            "rename a state or choose another readout."
        )
        raise ValueError(msg)
    n = len(table)
    vocabulary = [*words, readout, *(state for state in names if state not in words)]
    out = np.full((2 * n, len(vocabulary)), REJECT, dtype=np.int32)
    out[:n, : len(words)] = table
    out[:n, len(words)] = np.arange(n, 2 * n)
    for state, answer in enumerate(names):
        out[n + state, vocabulary.index(answer)] = state
    return out, vocabulary


def require_some_reject(name: str, table: Table, end: int | None = None) -> None:
    """Refuse a table in which every word is legal in every state (but after ``end``).

    Raises:
        ValueError: It is one.
    """
    if end is not None and (closed := int(table[:, end].max())) >= 0:
        after = np.delete(table, closed, axis=0)
        # Another word that leads where ``end`` leads is one after which nothing is legal.
        others = np.arange(table.shape[1]) != end
        table = np.where((after == closed) & others, REJECT, after)
    if not bool((table < 0).any()):
        msg = (
            f"{name} accepts everything: every word is legal in every state, so that no string "
            "tells two states apart and every boundary is empty. Give it a readout word "
            "(readout='='), after which exactly the name of the state is legal."
        )
        raise ValueError(msg)
