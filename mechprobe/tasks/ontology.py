"""Chains of rules over made-up nouns, with steps and distractors as independent knobs.

After the generator of PrOntoQA (Saparov and He, 2023, arXiv:2210.01240), without what makes its
labels readable without reasoning: every theory holds a second chain of the same length that ends in
the opposite polarity of the same property; sentences join the two, so that without the direction of
rules both endings are as far away; and theories come in pairs of one shape, asked about one chain and
about the other.
"""

import random
from collections.abc import Iterator, Sequence
from typing import Literal, NamedTuple

from mechprobe.tasks.distractors import KINDS, Distractors, traps
from mechprobe.tasks.layout import logic_example
from mechprobe.tasks.proof import Claim, Fact, Proof, Rule, Sentence, plural, prove
from mechprobe.tasks.task import Example, Task
from mechprobe.tasks.words import FAMILIES, NAMES, NOUNS

Premises = Literal["last", "shuffled"]

STEPS = range(1, 7)
DISTRACTORS = range(9)


class _Line(NamedTuple):
    """One sentence of a shape: what it says in placeholders, why it is there, how it is worded."""

    sentence: Sentence
    kind: str
    form: Literal["every", "each", "plural"]


def ontology(
    n: int,
    steps: int | Sequence[int] = 3,
    distractors: int | Sequence[int] = 2,
    *,
    seed: int = 0,
    premises: Premises = "last",
) -> Task:
    """Return true/false questions about made-up theories.

    A theory holds one chain ("Max is a bif. Every bif is a dop. Dops are sweet."), a mirrored chain
    of another entity that ends in the opposite polarity ("... is not sweet."), four traps that join
    the chains against the direction of rules, and the distractors: ``2 * (steps + 3) +
    distractors`` sentences. It is asked about twice, "Max is sweet." and "Max is not sweet.", so
    that labels balance exactly in every cell. Labels are proved by forward chaining.

    Two theories of one form with opposite truth are drawn together: they are one ``group``, and
    each is a ``block`` of it.

    Args:
        n: Questions, over all cells; a multiple of 4 in each.
        steps: Rule applications from what is said of the entity to the property, 1..6; or several.
        distractors: Further sentences, beside the traps, 0..8, or several numbers; with several
            steps and several distractors every combination is a cell.
        seed: The same seed gives the same text; more questions begin with the same ones per cell.
        premises: Whether facts about entities come after all rules, as in PrOntoQA, or anywhere.

    Returns:
        A task with the candidates ``true`` and ``false``, cell after cell. ``meta`` names a
        theory's entities, the sentences of the proof and the kinds of distractors.

    Raises:
        ValueError: ``n`` does not divide into a multiple of 4 for each cell, or ``steps``,
            ``distractors`` or ``premises`` are out of range.

    >>> found = ontology(4, steps=1, distractors=0)
    >>> print(found.examples[0].prompt)  # doctest: +NORMALIZE_WHITESPACE
    Every yondel is not light. Crindles are vintles. Yondels are tuls. Every crindle is light.
    Tom is a crindle. Jack is a vintle. Jack is a yondel. Tom is a tul.
    True or false: Tom is light.
    Answer:
    """
    grid = [
        (s, d) for s in _knob("steps", steps, STEPS) for d in _knob("distractors", distractors, DISTRACTORS)
    ]
    if premises not in ("last", "shuffled"):
        msg = f"premises must be 'last' or 'shuffled'; found {premises!r}."
        raise ValueError(msg)
    per_cell = _per_cell(n, len(grid))
    examples = [e for s, d in grid for e in _cell(per_cell // 2, s, d, seed, premises)]
    name = f"ontology(steps={_told(steps)}, distractors={_told(distractors)}, seed={seed})"
    notes = () if premises == "last" else ("premises shuffled",)
    return Task(name, tuple(examples), notes)


def _knob(name: str, value: int | Sequence[int], valid: range) -> list[int]:
    values = [value] if isinstance(value, int) else list(value)
    wrong = [v for v in values if isinstance(v, bool) or v not in valid]
    if wrong or not values or len(set(values)) < len(values):
        found = f"{name}={wrong[0]!r} is out of range" if wrong else f"{name}={value!r}"
        msg = f"{found}; give one or several of {valid[0]}..{valid[-1]}, each once."
        raise ValueError(msg)
    return values


def _told(value: int | Sequence[int]) -> str:
    if isinstance(value, int):
        return str(value)
    values = list(value)
    run = len(values) > 1 and values == list(range(values[0], values[-1] + 1))
    return f"{values[0]}..{values[-1]}" if run else ",".join(map(str, values))


def _per_cell(n: int, cells: int) -> int:
    unit = 4 * cells
    if n < unit or n % unit:
        below, above = n // unit * unit, (n // unit + 1) * unit
        nearest = f"{below} or {above}" if n >= unit else f"{unit}"
        msg = (
            f"n={n} does not give a multiple of 4 to each of {cells} cells of steps and distractors "
            "(theories come in pairs, and each is asked about twice); the nearest that does is "
            f"{nearest}."
        )
        raise ValueError(msg)
    return n // cells


def _cell(n_theories: int, steps: int, distractors: int, seed: int, premises: Premises) -> Iterator[Example]:
    for i in range(n_theories):
        # Two theories of one shape, with other words, asked about one chain and about the other:
        # whatever the shape suggests is right once and wrong once.
        cell = f"{seed}/{steps}/{distractors}"
        form = random.Random(f"{cell}/shape/{i // 2}")
        first = form.randrange(2)
        positive_chain = form.randrange(2)
        shape = _shape(steps, distractors, positive_chain, premises, form)
        asked = (first + i) % 2
        words = _words(random.Random(f"{cell}/words/{i}"))
        yield from _questions(shape, words, asked, asked == positive_chain, steps, distractors, i)


def _shape(
    steps: int, distractors: int, positive_chain: int, premises: Premises, rng: random.Random
) -> list[_Line]:
    said: list[tuple[str, Sentence]] = []
    for chain in range(2):
        nouns = [f"N{chain * steps + i}" for i in range(steps)]
        ends = [*(Claim(noun) for noun in nouns[1:]), Claim("A0", chain == positive_chain)]
        said.append(("chain", Fact(f"E{chain}", Claim(nouns[0]))))
        said += [("chain", Rule(a, b)) for a, b in zip(nouns, ends, strict=True)]
    said += [("trap", sentence) for sentence in traps(steps, rng)]
    said += Distractors(steps, rng).draw(distractors)
    rng.shuffle(said)
    if premises == "last":
        said.sort(key=_is_fact)
    return [_Line(s, kind, rng.choice(("every", "each", "plural"))) for kind, s in said]


def _is_fact(said: tuple[str, Sentence]) -> bool:
    return isinstance(said[1], Fact)


def _words(rng: random.Random) -> dict[str, str]:
    """Return a word for every placeholder that a theory may use."""
    families = rng.sample(sorted(FAMILIES), len(FAMILIES))
    drawn = {
        "N": rng.sample(NOUNS, len(NOUNS)),
        "E": rng.sample(NAMES, len(NAMES)),
        "A": [rng.choice(FAMILIES[f]) for f in families],
    }
    return {f"{kind}{i}": word for kind, words in drawn.items() for i, word in enumerate(words)}


def _questions(
    shape: list[_Line],
    words: dict[str, str],
    asked: int,
    positive: bool,
    steps: int,
    distractors: int,
    index: int,
) -> Iterator[Example]:
    theory = [_in_words(line.sentence, words) for line in shape]
    entity, mirror, adjective = words[f"E{asked}"], words[f"E{1 - asked}"], words["A0"]
    proof = prove(theory, entity, Claim(adjective, positive), steps)
    prove(theory, mirror, Claim(adjective, not positive), steps)
    texts = {s: _text(s, line.form) for s, line in zip(theory, shape, strict=True)}
    for claimed in (True, False):
        yield logic_example(
            " ".join(texts.values()),
            f"{entity} is {'' if claimed else 'not '}{adjective}.",
            ("true", "false"),
            "true" if claimed == positive else "false",
            group=f"steps {steps}, distractors {distractors}, pair {index // 2}",
            block=f"theory {index}",
            steps=steps,
            distractors=distractors,
            meta={
                "entity": entity,
                "mirror": mirror,
                "proof": _proof_texts(proof, texts),
                "distractor_kinds": [line.kind for line in shape if line.kind in KINDS],
            },
        )


def _proof_texts(proof: Proof, texts: dict[Sentence, str]) -> list[str]:
    return [texts[s] for s in proof.sentences]


def _in_words(sentence: Sentence, words: dict[str, str]) -> Sentence:
    claim = Claim(words[sentence.claim.word], sentence.claim.positive)
    if isinstance(sentence, Fact):
        return Fact(words[sentence.entity], claim)
    return Rule(words[sentence.noun], claim)


def _text(sentence: Sentence, form: Literal["every", "each", "plural"]) -> str:
    word, positive = sentence.claim
    no = "" if positive else "not "
    if isinstance(sentence, Rule) and form == "plural":
        what = plural(word) if word in NOUNS else word
        return f"{plural(sentence.noun).capitalize()} are {no}{what}."
    what = f"a {word}" if word in NOUNS else word
    if isinstance(sentence, Rule):
        return f"{form.capitalize()} {sentence.noun} is {no}{what}."
    return f"{sentence.entity} is {no}{what}."
