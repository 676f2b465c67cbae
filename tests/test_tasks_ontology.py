"""The ontology generator: labels proved from the text, cells balanced, nothing to read off."""

import os
import re
import subprocess
import sys
from collections import Counter
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

steps_of = st.integers(1, 6)
distractors_of = st.integers(0, 8)
seeds = st.integers(0, 10_000)
orders = st.sampled_from(["last", "shuffled"])


def _context_and_statement(example: Any) -> tuple[str, str]:
    """Split a prompt by its text alone, without the spans under test."""
    found = re.fullmatch(r"(.+)\nTrue or false: (.+)\nAnswer:", example.prompt)
    assert found
    return found[1], found[2]


@settings(max_examples=60)
@given(steps=steps_of, distractors=distractors_of, seed=seeds, premises=orders)
def test_every_label_follows_from_the_text_in_the_stated_steps(
    steps: int, distractors: int, seed: int, premises: Any
) -> None:
    from mechprobe.tasks import ontology
    from mechprobe.tasks.proof import decide, derive, read_sentence, read_theory

    task = ontology(4, steps, distractors, seed=seed, premises=premises)
    for example in task:
        context, statement = _context_and_statement(example)
        assert decide(context, statement) is (example.label == "true")
        fact: Any = read_sentence(statement)
        known = derive(read_theory(context), fact.entity)
        proof = known.get(fact.claim) or known[fact.claim.opposite]
        assert proof.steps == steps == example.steps
        said: Any = example.meta["proof"]
        assert [read_sentence(s) for s in said] == list(proof.sentences)
        for sentence in said:
            left = context.replace(sentence, "").replace("  ", " ").strip()
            assert decide(left, statement) is None


@settings(max_examples=40)
@given(steps=steps_of, distractors=distractors_of, seed=seeds, premises=orders)
def test_a_theory_has_two_chains_four_traps_and_the_distractors_asked_for(
    steps: int, distractors: int, seed: int, premises: Any
) -> None:
    from mechprobe.tasks import ontology
    from mechprobe.tasks.proof import Fact, derive, read_sentence, read_theory

    for example in ontology(4, steps, distractors, seed=seed, premises=premises):
        context, statement = _context_and_statement(example)
        theory = read_theory(context)
        assert len(theory) == len(set(theory)) == 2 * (steps + 3) + distractors
        kinds: Any = example.meta["distractor_kinds"]
        assert len(kinds) == distractors == example.distractors
        assert max(Counter(kinds).values(), default=0) <= -(-distractors // 5)
        asked: Any = read_sentence(statement)
        mirror: Any = example.meta["mirror"]
        own, others = derive(theory, asked.entity), derive(theory, mirror)
        claims = {c: p for c, p in (own | others).items() if c.word == asked.claim.word}
        assert {c.positive for c in claims} == {True, False}
        assert {p.steps for p in claims.values()} == {steps}
        if premises == "last":
            facts = [isinstance(s, Fact) for s in theory]
            assert facts == sorted(facts)


@settings(max_examples=25)
@given(
    steps=st.lists(steps_of, min_size=1, max_size=3, unique=True),
    distractors=st.lists(distractors_of, min_size=1, max_size=3, unique=True),
    pairs=st.integers(1, 3),
    seed=seeds,
)
def test_labels_and_conclusions_balance_in_every_cell(
    steps: list[int], distractors: list[int], pairs: int, seed: int
) -> None:
    from mechprobe.tasks import ontology

    n = 4 * pairs * len(steps) * len(distractors)
    task = ontology(n, steps, distractors, seed=seed)
    assert len(task) == n
    cells = Counter((e.steps, e.distractors, e.label) for e in task)
    assert cells == {
        (s, d, label): 2 * pairs for s in steps for d in distractors for label in ("true", "false")
    }
    positive = Counter(
        (e.steps, e.distractors) for e in task
        if (e.label == "true") != (" not " in e.text(e.statement or e.options[0].line))
    )  # fmt: skip
    assert positive == {(s, d): 2 * pairs for s in steps for d in distractors}
    assert set(Counter(e.group for e in task).values()) == {4}
    assert set(Counter((e.group, e.block) for e in task).values()) == {2}


@given(steps=steps_of, distractors=distractors_of, seed=seeds)
@settings(max_examples=25)
def test_spans_and_groups(steps: int, distractors: int, seed: int) -> None:
    from mechprobe.tasks import ontology

    task = ontology(4, steps, distractors, seed=seed)[:2]
    for example in task:
        assert example.statement
        context, statement = _context_and_statement(example)
        assert example.text(example.statement) == statement
        assert example.prompt[example.statement.end :] == "\nAnswer:"
        assert example.candidates == ("true", "false")
        assert statement.startswith(f"{example.meta['entity']} is ")
        assert context in task.examples[0].prompt
    affirmed, denied = (e.text(e.statement) for e in task if e.statement)
    assert denied == affirmed.replace(" is ", " is not ")


def test_text_depends_on_the_seed_alone() -> None:
    from mechprobe.tasks import ontology

    task = ontology(24, [1, 3], [0, 4, 8], seed=7)
    assert task.digest() == ontology(24, [1, 3], [0, 4, 8], seed=7).digest()
    assert task.digest() != ontology(24, [1, 3], [0, 4, 8], seed=8).digest()
    again = "from mechprobe.tasks import ontology;print(ontology(24, [1, 3], [0, 4, 8], seed=7).digest())"
    for hash_seed in ("1", "2"):
        done = subprocess.run(
            [sys.executable, "-c", again], capture_output=True, text=True, check=True,
            env={**os.environ, "PYTHONHASHSEED": hash_seed},
        )  # fmt: skip
        assert done.stdout.strip() == task.digest()


def test_more_questions_begin_with_the_same_ones() -> None:
    from mechprobe.tasks import ontology

    assert ontology(20, 2, 3).examples[:8] == ontology(8, 2, 3).examples
    cell = [e for e in ontology(32, [2, 4], [3, 1]).examples if (e.steps, e.distractors) == (2, 3)]
    assert tuple(cell) == ontology(8, 2, 3).examples


def test_paired_theories_share_their_form_and_swap_the_chain_asked_about() -> None:
    from mechprobe.tasks import ontology
    from mechprobe.tasks.proof import Fact, read_theory

    examples = ontology(40, 3, 4, seed=3).examples
    for a, b in zip(examples[0::4], examples[2::4], strict=True):
        forms = [
            [(type(s), s.claim.positive, " are " in t) for s, t in zip(theory, texts, strict=True)]
            for theory, texts in (
                (read_theory(c), c.split(". ")) for c in (x.prompt.split("\n")[0] for x in (a, b))
            )
        ]
        assert forms[0] == forms[1]
        assert a.label != b.label
        assert a.group == b.group
        assert a.block != b.block
        where = [
            next(i for i, s in enumerate(read_theory(e.prompt.split("\n")[0]))
                 if isinstance(s, Fact) and s.entity == who)
            for e, who in ((a, a.meta["entity"]), (b, b.meta["mirror"]))
        ]  # fmt: skip
        assert where[0] == where[1]


def test_words_are_many_and_never_of_two_kinds() -> None:
    from mechprobe.tasks.proof import plural
    from mechprobe.tasks.words import COMMON_WORDS, FAMILIES, NAMES, NOUNS

    adjectives = [a for family in FAMILIES.values() for a in family]
    lists = [list(NOUNS), [n.lower() for n in NAMES], adjectives, list(COMMON_WORDS)]
    everything = [*(w for words in lists for w in words), *map(plural, NOUNS)]
    assert len(everything) == len(set(everything))
    assert len(NOUNS) >= 60
    assert len(NAMES) >= 20
    assert len(COMMON_WORDS) >= 200
    assert not [n for n in NOUNS if n[0] in "aeiou"]


def test_every_distractor_kind_turns_up_about_equally_often() -> None:
    from mechprobe.tasks import ontology
    from mechprobe.tasks.distractors import KINDS

    drawn: list[Any] = [e.meta["distractor_kinds"] for e in ontology(2000, 2, 1)]
    kinds = Counter(kind for one in drawn for kind in one)
    assert set(kinds) == set(KINDS)
    # 2,000 questions of 500 shapes: 400 each, sd about 36.
    assert all(240 < n < 560 for n in kinds.values())


@pytest.mark.parametrize(
    ("n", "steps", "distractors", "says"),
    [
        (6, 2, 2, "n=6 does not give a multiple of 4 to each of 1 cells.*nearest that does is 4 or 8"),
        (2000, range(1, 6), range(6), "nearest that does is 1920 or 2040"),
        (10, range(1, 6), range(6), "nearest that does is 120"),
        (0, 2, 2, "nearest that does is 4"),
        (2, 0, 2, r"steps=0 is out of range; give one or several of 1\.\.6"),
        (2, 7, 2, "steps=7 is out of range"),
        (2, 2, 9, r"distractors=9 is out of range; give one or several of 0\.\.8"),
        (2, [2, 2], 1, r"steps=\[2, 2\]; give one or several"),
        (2, [], 1, r"steps=\[\]; give"),
    ],
)
def test_what_cannot_be_made_is_refused(n: int, steps: Any, distractors: Any, says: str) -> None:
    from mechprobe.tasks import ontology

    with pytest.raises(ValueError, match=says):
        ontology(n, steps, distractors)


@pytest.mark.usefixtures("as_users_run_it")
def test_an_unknown_order_is_refused() -> None:
    from mechprobe.tasks import ontology

    wrong: Any = "first"
    with pytest.raises(ValueError, match="premises must be 'last' or 'shuffled'; found 'first'"):
        ontology(2, premises=wrong)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("Max is a bif.", ("Max", "bif", True)),
        ("Max is not sweet.", ("Max", "sweet", False)),
        ("Every bif is a dop.", ("bif", "dop", True)),
        ("Each dex is not a dop.", ("dex", "dop", False)),
        ("Dexes are bifs.", ("dex", "bif", True)),
        ("Bifs are not sweet", ("bif", "sweet", False)),
    ],
)
def test_reader_knows_every_form(text: str, sentence: tuple[str, str, bool]) -> None:
    from mechprobe.tasks.proof import read_sentence

    said: Any = read_sentence(text)
    assert (said[0], said.claim.word, said.claim.positive) == sentence
    assert type(said).__name__ == ("Fact" if text.startswith("Max") else "Rule")


def test_checker_refuses_what_is_not_so() -> None:
    from mechprobe.tasks.proof import Claim, decide, prove, read_sentence, read_theory

    theory = read_theory("Max is a bif. Every bif is a dop. Every dop is sweet. Bifs are not cold.")
    sweet = Claim("sweet")
    assert prove(theory, "Max", sweet, 2).steps == 2
    with pytest.raises(ValueError, match="takes 2 steps; 1 were asked for"):
        prove(theory, "Max", sweet, 1)
    with pytest.raises(ValueError, match="does not follow that Max is not sweet"):
        prove(theory, "Max", sweet.opposite, 2)
    with pytest.raises(ValueError, match="does not follow that Max is cold"):
        prove(theory, "Max", Claim("cold"), 1)
    longer_way = [*theory, *read_theory("Max is a kel. Every kel is a lod. Every lod is a bif.")]
    with pytest.raises(ValueError, match="also follows without"):
        prove(longer_way, "Max", sweet, 2)
    with pytest.raises(ValueError, match="both that Max is sweet and its opposite follow"):
        prove([*theory, read_sentence("Bifs are not sweet.")], "Max", sweet, 2)
    with pytest.raises(ValueError, match="both 'Max is a dop' and its opposite"):
        decide("Max is a dop. Max is not a dop.", "Max is a dop")
    with pytest.raises(ValueError, match="cannot read 'Bifs may be sweet'"):
        decide("Bifs may be sweet.", "Max is sweet.")
    with pytest.raises(ValueError, match="must be about one entity"):
        decide("Max is a bif.", "Every bif is sweet.")
    assert decide("Every bif is sweet. Max is a dop.", "Max is sweet.") is None
    # From what is denied nothing follows, and circles end.
    assert decide("Max is not a bif. Every bif is sweet.", "Max is sweet.") is None
    assert decide("Max is a bif. Every bif is a dop. Dops are bifs.", "Max is sweet.") is None


def _graph(example: Any) -> tuple[str, dict[str, set[str]], dict[bool, list[str]]]:
    """Return whom the question is about, which words are linked, and which have the property.

    Links are read both ways, facts and rules alike.
    """
    from mechprobe.tasks.proof import read_sentence, read_theory

    context, statement = _context_and_statement(example)
    asked: Any = read_sentence(statement)
    links: dict[str, set[str]] = {}
    ends: dict[bool, list[str]] = {True: [], False: []}
    for sentence in read_theory(context):
        if sentence.claim.word == asked.claim.word:
            ends[sentence.claim.positive].append(sentence[0])
            continue
        links.setdefault(sentence[0], set()).add(sentence.claim.word)
        links.setdefault(sentence.claim.word, set()).add(sentence[0])
    return asked.entity, links, ends


def _distances(links: dict[str, set[str]], start: str) -> dict[str, int]:
    found = {start: 0}
    for word in (queue := [start]):
        for near in links.get(word, set()):
            if near not in found:
                found[near] = found[word] + 1
                queue.append(near)
    return found


@settings(max_examples=60)
@given(steps=steps_of, distractors=distractors_of, seed=seeds, premises=orders)
def test_without_direction_both_endings_are_reached_and_equally_far(
    steps: int, distractors: int, seed: int, premises: Any
) -> None:
    from mechprobe.tasks import ontology

    for example in ontology(4, steps, distractors, seed=seed, premises=premises):
        entity, links, ends = _graph(example)
        far = _distances(links, entity)
        reached = {p: sorted(far[w] for w in ends[p] if w in far) for p in ends}
        # One step: the look-up is the reasoning, and the other ending one link further.
        assert sorted(reached.values()) == ([[1], [2]] if steps == 1 else [[steps], [steps]])


def _colours(links: dict[str, set[str]], start: str) -> dict[str, int]:
    """Return what passing messages along links could ever tell of each word (Weisfeiler and Leman)."""
    colour = {w: int(w == start) for w in links}
    for _ in links:
        seen = {w: (colour[w], tuple(sorted(colour[v] for v in links[w]))) for w in links}
        names = {s: i for i, s in enumerate(sorted(set(seen.values())))}
        colour = {w: names[s] for w, s in seen.items()}
    return colour


def test_no_reader_without_direction_can_tell_the_endings_apart() -> None:
    from mechprobe.tasks import ontology

    for steps in range(2, 7):
        for example in ontology(40, steps, 0, seed=steps):
            entity, links, ends = _graph(example)
            colour = _colours(links, entity)
            assert [colour[w] for w in ends[True]] == [colour[w] for w in ends[False]]


def test_side_branches_tell_nothing_to_a_reader_without_direction() -> None:
    """Learn which neighbourhood of an ending goes with its being proved; try it on new pairs."""
    from mechprobe.tasks import ontology

    counts: dict[Any, Counter[bool]] = {}
    right: list[float] = []
    for seed in (0, 1):
        for example in ontology(2400, [2, 3], [3, 5], seed=seed):
            entity, links, ends = _graph(example)
            far = _distances(links, entity)
            # How many words lie how far from the entity and from the ending, for both endings.
            views = {}
            for p in ends:
                end = next(w for w in ends[p] if w in far)
                near = _distances(links, end)
                views[p] = tuple(sorted((far[w], near[w], len(links[w])) for w in far))
            truth = (example.label == "true") != (" not " in _context_and_statement(example)[1])
            if seed == 0:
                counts.setdefault((views[True], views[False]), Counter())[truth] += 1
            elif len(set(views.values())) == 2 and (views[True], views[False]) in counts:
                known = counts[views[True], views[False]]
                guess = known[True] - known[False]
                right.append(0.5 if guess == 0 else float((guess > 0) == truth))
    assert len(right) > 800
    # In fours at worst: standard error of 200 pairs 0.035.
    assert abs(sum(right) / len(right) - 0.5) < 0.1


def test_heads_that_read_only_the_form_are_at_chance_where_pairs_are_whole() -> None:
    """With each theory a group of its own they were right on 0.405 of held-out questions."""
    import numpy as np

    from mechprobe.stats import select_heads
    from mechprobe.tasks import ontology

    task = ontology(160, 2, 2)
    form = np.arange(160) // 4
    denied = np.array([" not " in _context_and_statement(e)[1] for e in task])
    answer = np.array([e.answer for e in task])
    rng = np.random.default_rng(0)
    for seed in range(5):
        # Which ending a head believes in, by form; it says so of both statements of both theories.
        believes = rng.integers(0, 2, (40, 60))[form]
        score = np.zeros((160, 2, 60))
        score[:, 0] = np.where(denied[:, None], 1 - believes, believes) - 0.5
        found = select_heads(score, answer, task.design.group, seed=seed, n_permutations=20, n_bootstrap=20)
        assert found.right.mean() == 0.5
        assert (found.accuracy_calibration == 0.5).all()


def test_no_shortcut_is_above_chance() -> None:
    from mechprobe.tasks import audit, ontology

    found = audit(ontology(1920, range(2, 6), range(6), seed=0), seed=0)
    assert not found.above_chance, found
    assert found.worst.accuracy <= 0.53, found
    for name in ("connectivity", "shortest_path"):
        assert found[name].accuracy == 0.5
    one = audit(ontology(240, 1, range(6), seed=0), seed=0)
    assert one.above_chance == ["shortest_path"]
    assert one["connectivity"].accuracy == 0.5
