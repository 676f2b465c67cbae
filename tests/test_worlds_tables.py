"""Finite worlds: counts, minimisation against automata-lib and AALpy, refusals."""

from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

Rows = dict[str, dict[str, str]]


@st.composite
def rows(draw: st.DrawFn) -> Rows:
    """A random automaton, some words rejected, with copies of states to be merged."""
    n, words = draw(st.integers(1, 6)), "abc"[: draw(st.integers(1, 3))]
    after = st.integers(0, n - 1).map(lambda i: f"q{i}")
    row = st.dictionaries(st.sampled_from(words), after)
    out = {f"q{i}": draw(row) for i in range(n)}
    out["q0"].setdefault("a", f"q{n - 1}")
    copied = draw(st.sampled_from(sorted(out)))
    return {**out, "copy": out[copied], "first": {**out["q0"], "a": "copy"}}


def dfa_of(table: Rows, automata: Any) -> Any:
    words = sorted({word for row in table.values() for word in row})
    full = {q: {a: row.get(a, "no") for a in words} for q, row in table.items()}
    full["no"] = dict.fromkeys(words, "no")
    return automata.DFA(
        states=set(full),
        input_symbols=set(words),
        transitions=full,
        initial_state="first",
        final_states=set(table),
    )


def automaton(table: Rows, **options: Any) -> Any:
    """The automaton, or None where it was rightly refused."""
    from mechprobe.worlds import Automaton

    words = {word for row in table.values() for word in row}
    reached, todo = {"first"}, ["first"]
    while todo:
        fresh = set(table[todo.pop()].values()) - reached
        reached |= fresh
        todo += fresh
    if any(words - set(table[q]) for q in reached):
        return Automaton(table, "first", **options)
    with pytest.raises(ValueError, match="accepts everything"):
        Automaton(table, "first", **options)
    return None


@settings(max_examples=150)
@given(rows())
def test_minimisation_equals_automata_lib(table: Rows) -> None:
    automata = pytest.importorskip("automata.fa.dfa")
    plain, small = automaton(table), automaton(table, minimise=True)
    assume(plain is not None)
    dfa = dfa_of(table, automata)
    assert small.n_states == len(dfa.minify().states) - 1
    assert len(set(plain.nerode_classes().tolist())) == small.n_states
    groups = [group for group in dfa.minify(retain_names=True).states if "no" not in group]
    classes = dict(zip(plain.state_names, plain.nerode_classes().tolist(), strict=True))
    for group in groups:
        assert len({classes[state] for state in group if state in classes}) == 1


@settings(max_examples=80)
@given(rows())
def test_distinguishing_length_equals_aalpy(table: Rows) -> None:
    aalpy = pytest.importorskip("aalpy.automata")
    from mechprobe.worlds import distinguishing_length

    world = automaton(table)
    assume(world is not None)
    states = {q: aalpy.DfaState(q, is_accepting=True) for q in world.state_names}
    states["no"] = aalpy.DfaState("no", is_accepting=False)
    for q, state in states.items():
        for word in world.tokens:
            state.transitions[word] = states[table.get(q, {}).get(word, "no")]
    dfa = aalpy.Dfa(states["first"], list(states.values()))
    names = world.state_names
    pairs = [(i, j) for i in range(len(names)) for j in range(i + 1, len(names))]
    assume(bool(pairs))
    first, second = np.array(pairs).T[:, :, None]
    found = distinguishing_length(world, first, second)
    classes = world.nerode_classes()
    for (i, j), length in zip(pairs, found.tolist(), strict=True):
        word = dfa.find_distinguishing_seq(states[names[i]], states[names[j]], list(world.tokens))
        assert length == (len(word) if word is not None else -1)
        assert (length == -1) == (classes[i] == classes[j])


@settings(max_examples=100)
@given(rows(), st.integers(0, 2**31))
def test_minimised_automaton_has_the_same_language(table: Rows, seed: int) -> None:
    big, small = automaton(table), automaton(table, minimise=True)
    assume(big is not None)
    assert big.tokens == small.tokens
    ids = np.random.default_rng(seed).integers(len(big.tokens), size=(200, 5))
    np.testing.assert_array_equal(big.accepts(big.initial(200), ids), small.accepts(small.initial(200), ids))


@pytest.mark.parametrize(("n", "states", "words"), [(3, 19, 21), (4, 221, 52), (5, 4666, 105)])
def test_seating_counts(n: int, states: int, words: int) -> None:
    from mechprobe.worlds import Seating

    world = Seating(n)
    assert (world.n_states, len(world.tokens)) == (states, words)
    assert len(set(world.nerode_classes().tolist())) == states


def test_seating_by_hand() -> None:
    from mechprobe.worlds import Seating

    world = Seating(3)
    said = dict(zip(world.tokens, world.sentences, strict=True))
    assert said["A@1"] == "A is in seat 1"
    assert said["C-A=2"] == "C is 2 away from A"
    for text, ok in [("A@1 B@2 C@3", 1), ("A@1 A@1", 1), ("A@1 B@1", 0), ("A-C=2 B@1", 0)]:
        assert world.accepts(world.initial(), world.encode(text)[None])[0] == ok
    labels = world.state_labels(world.run(world.initial(), world.encode("A-C=2")[None]))
    assert labels["seats"].tolist() == [[0, 2, 0]]
    assert labels["orders_left"].tolist() == [2]


@pytest.mark.parametrize("n", [1, 6])
def test_seating_refuses(n: int) -> None:
    from mechprobe.worlds import Seating

    with pytest.raises(ValueError, match=rf"takes 2 to 5 people; found {n}"):
        Seating(n)


@pytest.mark.parametrize("rows", [1, 2, 3])
def test_connect4_counts(rows: int) -> None:
    """Every board is reached: (rows + 1)^7 of them, listed by stepping."""
    from mechprobe.worlds import CumulativeConnect4

    world = CumulativeConnect4(rows)
    found = level = world.initial()
    for _ in range(world.max_length):
        at, token = world.moves(level)
        level = np.unique(world.step(level[at], token), axis=0)
        found = np.concatenate([found, level])
    assert len(np.unique(found, axis=0)) == len(found) == world.n_states == (rows + 1) ** 7
    assert not world.legal(level).any()
    assert (found >= 0).all()


def test_connect4_refuses() -> None:
    from mechprobe.worlds import CumulativeConnect4

    with pytest.raises(ValueError, match=r"at least one row; found 0"):
        CumulativeConnect4(0)


@pytest.mark.parametrize(("k", "depth", "states"), [(1, 8, 9), (2, 4, 31), (2, 8, 511), (3, 5, 364)])
def test_dyck_counts(k: int, depth: int, states: int) -> None:
    from mechprobe.worlds import Dyck

    world = Dyck(k, depth)
    assert (world.n_states, len(world.tokens)) == (states, 2 * k)
    assert len(set(world.nerode_classes().tolist())) == states
    assert world.depths.max() == depth


def test_dyck_matches_a_stack() -> None:
    from mechprobe.worlds import Dyck

    world, rng = Dyck(5, 3, end="."), np.random.default_rng(0)
    drawn = 0
    for _ in range(300):
        ids = rng.integers(len(world.tokens), size=6)
        ids[:2] = rng.integers(5, size=2)
        stack: list[int] = []
        ok = True
        for at, token in enumerate(ids.tolist()):
            if token < 5:
                stack.append(token)
                ok = ok and len(stack) <= 3
            elif token < 10:
                ok = ok and bool(stack) and stack.pop() == token - 5
            else:
                ok = ok and not stack and at == len(ids) - 1
            if not ok:
                break
        drawn += ok
        assert world.accepts(world.initial(), ids[None])[0] == ok
    assert drawn
    states = world.run(world.initial(), world.encode("(1 (4")[None])
    labels = world.state_labels(states)
    assert (labels["depth"][0], labels["top"][0]) == (2, 4)


@pytest.mark.parametrize(
    ("k", "depth", "message"), [(0, 3, "at least 1; found 0 and 3"), (10, 7, "11,111,111 states")]
)
def test_dyck_refuses(k: int, depth: int, message: str) -> None:
    from mechprobe.worlds import Dyck

    with pytest.raises(ValueError, match=message):
        Dyck(k, depth)


def test_prefixes_are_uniform_among_strings() -> None:
    """Dyck words of 6 brackets: 5 of them, as likely."""
    from mechprobe.worlds import Dyck

    world, rng = Dyck(1, 3), np.random.default_rng(0)
    found = world.sample_prefixes(world.initial(5000), rng, np.full(5000, 6))
    words, counts = np.unique(found.ids, axis=0, return_counts=True)
    assert len(words) == 5
    assert abs(counts - 1000).max() < 5 * np.sqrt(5000 * 0.2 * 0.8)
    odd = world.sample_prefixes(world.initial(), rng, np.array([5]))
    assert odd.reasons == ("no string of the given length reaches the state",)


@pytest.mark.parametrize(
    ("name", "order"), [("S3", 6), ("S4", 24), ("S5", 120), ("A4", 12), ("A5", 60), ("Z7", 7)]
)
def test_groups(name: str, order: int) -> None:
    """Two generators reach all; the answer after the readout is the product."""
    from mechprobe.worlds import Group

    world = Group(name, generators="two")
    assert world.n_states == 2 * order
    assert world.summary().get("unreachable_states_dropped") is None
    assert len(set(world.nerode_classes().tolist())) == 2 * order
    assert sum(word in world.state_names for word in world.tokens) == order


def test_group_products_by_hand() -> None:
    """Swap 1 and 2, then turn 1->2->3->1: 1 goes to 2 and on to 3."""
    from mechprobe.worlds import Group

    world = Group("S3")
    for answer, ok in [("321", True), ("132", False)]:
        text = f"213 231 = {answer}"
        assert world.accepts(world.initial(), world.encode(text)[None])[0] == ok
    after = world.run(world.initial(), world.encode("213 213 =")[None])
    assert world.decode(world.moves(after)[1]) == ["123"]
    assert world.state_labels(after)["asked"].tolist() == [1]


def test_group_from_a_table() -> None:
    from mechprobe.worlds import Group

    klein = [[a ^ b for b in range(4)] for a in range(4)]
    world = Group.from_table(klein, ["e", "a", "b", "c"], generators=["a", "b"], name="klein")
    assert world.n_states == 8
    assert world.accepts(world.initial(), world.encode("a b = c")[None])[0]
    for table, message in [
        ([[0, 1], [1, 1]], "not invertible"),
        ([[1, 0], [1, 0]], "no element leaves all others"),
        ([[0, 1]], r"2 names need an 2 x 2 table"),
    ]:
        with pytest.raises(ValueError, match=message):
            Group.from_table(table, ["e", "a"])
    loop = ["01234", "10342", "24013", "32401", "43120"]  # each element its own inverse, of five
    with pytest.raises(ValueError, match="not associative"):
        Group.from_table([list(map(int, row)) for row in loop], list("eabcd"))


def test_counter_counts() -> None:
    from mechprobe.worlds import Counter

    world = Counter(5, steps=(2, 3))
    assert world.tokens == ("+2", "+3", "=", "0", "1", "2", "3", "4")
    assert world.accepts(world.initial(), world.encode("+2 +3 +3 = 3 +2 = 0")[None])[0]
    assert not world.accepts(world.initial(), world.encode("+2 = 3")[None])[0]
    assert world.state_labels(world.run(world.initial(), world.encode("+3 +3")[None]))["value"].tolist() == [
        1
    ]


def test_without_readout_is_refused_with_the_reason() -> None:
    from mechprobe.worlds import Automaton, Counter, Group

    flip = {"off": {"x": "on"}, "on": {"x": "off"}}
    message = r"accepts everything: .* no string tells two states apart .* readout"
    for make in (
        lambda: Counter(2, readout=None),
        lambda: Group("S3", readout=None),
        lambda: Automaton(flip),
        lambda: Automaton(flip, finals=["on", "off"], end="end"),
    ):
        with pytest.raises(ValueError, match=message):
            make()
    world = Automaton(flip, readout="?")
    assert world.accepts(world.initial(), world.encode("x ? on x ? off")[None])[0]
    assert not world.accepts(world.initial(), world.encode("x ? off")[None])[0]


def test_end_alone_may_tell_states_apart() -> None:
    """Every word legal everywhere is no refusal where ``end`` is not, or a word is the last."""
    from mechprobe.worlds import Automaton

    flip = {"off": {"x": "on"}, "on": {"x": "off"}}
    assert Automaton(flip, finals=["on"], end="end").n_states == 3
    last: Rows = {"p": {"a": "q"}, "q": {}}
    assert Automaton(last, finals=["p"], end="end", minimise=True).n_states == 2


def test_automaton_refusals() -> None:
    from mechprobe.worlds import Automaton, Counter, Group

    ok = {"p": {"a": "q"}, "q": {"b": "p"}}
    for make, message in [
        (lambda: Automaton({}), "has no states"),
        (lambda: Automaton({"p": {"a": "r"}}), r"'a' leads from 'p' to 'r', which is no state"),
        (lambda: Automaton(ok, "z"), r"'z' is no state; its states are p, q"),
        (lambda: Automaton(ok, finals=["p"]), r"give the word too, end='end'"),
        (lambda: Automaton(ok, finals=["p"], end="a"), r"'a' would stand for two tokens"),
        (lambda: Automaton({"p": {"a b": "p"}, "q": {}}), r"'a b' cannot be a token"),
        (lambda: Automaton(ok, readout="p"), r"must be different words"),
        (lambda: Automaton({"p": {}}), r"has no tokens"),
        (lambda: Counter(1), r"modulus of at least 2; found 1"),
        (lambda: Group("S9"), r"'S9' is not built in; there are S2\.\.S5"),
        (lambda: Group("Q8"), r"'Q8' is not built in"),
        (lambda: Group("S3", generators=["999"]), r"'999'.* is no element"),
        (lambda: Automaton(ok).state("z"), r"no reachable state 'z'"),
    ]:
        with pytest.raises(ValueError, match=message):
            make()


def test_table_refusals() -> None:
    from mechprobe.worlds import TableWorld

    def table(rows: list[list[int]]) -> Any:
        return np.array(rows, dtype=np.int32).reshape(len(rows), len(rows[0]) if rows else 1)

    none: list[list[int]] = []
    for rows_, words, initial, message in [
        ([[0, 1]], ["a", "b"], 0, r"must hold -1 and states 0\.\.0 only"),
        ([[0]], ["a", "b"], 0, r"1 columns for 2 tokens"),
        ([[0]], ["a"], 3, r"initial=3 is not among the 1 states"),
        (none, ["a"], 0, r"has no states"),
    ]:
        with pytest.raises(ValueError, match=message):
            TableWorld("odd", words, table(rows_), initial=initial)
    stuck = TableWorld("stuck", ["a"], table([[1], [-1]]))
    with pytest.raises(ValueError, match=r"no state that a string of fewer than 40 words"):
        stuck.sample_states(np.random.default_rng(0), 1)
    one = TableWorld("one", ["a", "b"], table([[0, -1]]))
    with pytest.raises(ValueError, match=r"only one state to draw"):
        one.sample_state_pairs(np.random.default_rng(0), 2)


def test_from_automata_lib() -> None:
    """Words over a, b that end in b: legal is what can still be accepted."""
    automata = pytest.importorskip("automata.fa.dfa")
    from mechprobe.worlds import Automaton

    dfa = automata.DFA(
        states={"q0", "q1", "trap"},
        input_symbols={"a", "b"},
        transitions={
            "q0": {"a": "q1", "b": "trap"},
            "q1": {"a": "trap", "b": "q0"},
            "trap": {"a": "trap", "b": "trap"},
        },
        initial_state="q0",
        final_states={"q0"},
    )
    world = Automaton.from_dfa(dfa, end="end")
    assert (world.n_states, world.end) == (3, world.tokens.index("end"))
    for text, ok in [("a b end", 1), ("a end", 0), ("b", 0), ("a b a b end", 1), ("end a", 0)]:
        assert world.accepts(world.initial(), world.encode(text)[None])[0] == ok
    nothing = automata.DFA(
        states={"q"},
        input_symbols={"a"},
        transitions={"q": {"a": "q"}},
        initial_state="q",
        final_states=set(),
    )
    with pytest.raises(ValueError, match=r"accepts no word at all"):
        Automaton.from_dfa(nothing)


def test_from_networkx() -> None:
    nx = pytest.importorskip("networkx")
    from mechprobe.worlds import Automaton

    graph = nx.MultiDiGraph()
    graph.add_edge("p", "q", label="a")
    graph.add_edge("p", "q", label="b")
    graph.add_edge("q", "p", label="c")
    world = Automaton.from_graph(graph, "p")
    assert world.tokens == ("a", "b", "c")
    assert world.accepts(world.initial(), world.encode("a c b c")[None])[0]
    graph.add_edge("p", "p", label="a")
    with pytest.raises(ValueError, match=r"two edges out of 'p' are labelled 'a'"):
        Automaton.from_graph(graph, "p")
    graph.add_edge("q", "q")
    with pytest.raises(ValueError, match=r"has no attribute 'word'"):
        Automaton.from_graph(graph, "p", label="word")
    with pytest.raises(ValueError, match=r"needs a directed graph"):
        Automaton.from_graph(nx.Graph(), "p")


def test_unreachable_states_are_dropped_and_counted() -> None:
    from mechprobe.worlds import Automaton

    world = Automaton({"p": {"a": "q"}, "q": {"b": "p"}, "island": {"a": "p"}})
    assert world.state_names == ("p", "q")
    assert world.summary()["unreachable_states_dropped"] == 1


def test_prefixes_leave_room_for_suffixes() -> None:
    """Lengths up to half of what a sequence may have, all alike; the shortest if that is longer."""
    from mechprobe.worlds import Counter, Dyck

    rng = np.random.default_rng(0)
    world = Counter(3, max_length=20)
    lengths = world.sample_prefixes(np.full((10_000, 1), 1), rng).lengths
    counts = np.bincount(lengths)[1:]
    assert len(counts) == 10
    assert abs(counts - 1000).max() < 6 * np.sqrt(1000)
    deep = Dyck(1, 12, max_length=20)
    assert set(deep.sample_prefixes(np.full((50, 1), 12), rng).lengths.tolist()) == {12}


def test_large_tables_keep_rare_strings() -> None:
    """A state that one string in 2^1200 reaches is still reached, by exactly that string."""
    from mechprobe.worlds import TableWorld

    n = 1200
    table = np.full((n + 2, 3), -1, dtype=np.int32)
    table[:n, 0] = np.arange(1, n + 1)
    table[: n + 1, 1:] = n + 1
    table[n + 1, :2] = n + 1
    world = TableWorld("needle", ["a", "b", "c"], table, max_length=n + 2)
    found = world.sample_prefixes(np.array([[n]] * 3), np.random.default_rng(0))
    assert found.ok.all()
    assert found.ids.tolist() == [[0] * n] * 3
