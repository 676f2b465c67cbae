"""What follows from a theory of facts and rules, and a reader of the sentences that state them.

The generator builds theories from the same types; the reader gets them back from the text alone, so
that a label can be proved without trusting the generator.
"""

import re
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from mechprobe.tasks.words import NOUNS


class Claim(NamedTuple):
    """What is said of something: that it is, or is not, a noun or an adjective."""

    word: str
    positive: bool = True

    @property
    def opposite(self) -> "Claim":
        """The same word, the other polarity."""
        return Claim(self.word, not self.positive)


class Fact(NamedTuple):
    """A claim about one entity: "Max is a bif."."""

    entity: str
    claim: Claim


class Rule(NamedTuple):
    """A claim about everything that is ``noun``: "Every bif is sweet."."""

    noun: str
    claim: Claim


Sentence = Fact | Rule


class Proof(NamedTuple):
    """The shortest way to a claim.

    Attributes:
        steps: Rule applications.
        sentences: The fact, then the rules, in the order of use.
    """

    steps: int
    sentences: tuple[Sentence, ...]


def derive(theory: Iterable[Sentence], entity: str) -> dict[Claim, Proof]:
    """Return everything that follows about ``entity``, by forward chaining.

    Args:
        theory: Facts and rules.
        entity: Whom to ask about.

    Returns:
        Each claim with its shortest proof; of two equally short ones the first in the text.
    """
    theory = list(theory)
    rules = [s for s in theory if isinstance(s, Rule)]
    known: dict[Claim, Proof] = {}
    for fact in theory:
        if isinstance(fact, Fact) and fact.entity == entity:
            known.setdefault(fact.claim, Proof(0, (fact,)))
    newest = list(known)
    while newest:
        found: dict[Claim, Proof] = {}
        for claim in newest:
            steps, sentences = known[claim]
            for rule in rules:
                if claim == Claim(rule.noun) and rule.claim not in known:
                    found.setdefault(rule.claim, Proof(steps + 1, (*sentences, rule)))
        known |= found
        newest = list(found)
    return known


def prove(theory: Sequence[Sentence], entity: str, claim: Claim, steps: int) -> Proof:
    """Return the one proof of a claim, having checked that it is the one.

    Args:
        theory: Facts and rules.
        entity: Of whom the claim is made.
        claim: What must follow.
        steps: Rule applications that the shortest proof must take.

    Raises:
        ValueError: The claim does not follow, or in another number of steps, or without one of
            the sentences of its proof, or its opposite follows too.
    """
    known = derive(theory, entity)
    said = f"that {entity} is {'' if claim.positive else 'not '}{claim.word}"
    if claim not in known:
        msg = f"it does not follow {said}."
        raise ValueError(msg)
    if claim.opposite in known:
        msg = f"both {said} and its opposite follow."
        raise ValueError(msg)
    proof = known[claim]
    if proof.steps != steps:
        msg = f"{said} takes {proof.steps} steps; {steps} were asked for."
        raise ValueError(msg)
    for sentence in proof.sentences:
        rest = [s for s in theory if s != sentence]
        if claim in derive(rest, entity):
            msg = f"{said} also follows without {sentence}."
            raise ValueError(msg)
    return proof


def plural(noun: str) -> str:
    """Return the plural of a noun.

    >>> plural("bif"), plural("dex")
    ('bifs', 'dexes')
    """
    return noun + ("es" if noun.endswith(("s", "x", "z", "ch", "sh")) else "s")


_SINGULAR = {plural(noun): noun for noun in NOUNS}

_ABOUT_EVERY = re.compile(r"(?:every|each) (\w+) is (not )?(?:a )?(\w+)", re.IGNORECASE)
_ABOUT_PLURAL = re.compile(r"(\w+) are (not )?(\w+)")
_ABOUT_ENTITY = re.compile(r"(\w+) is (not )?(?:a )?(\w+)")


def read_sentence(text: str) -> Sentence:
    """Return what one sentence says.

    Args:
        text: "Max is a bif.", "Every bif is sweet.", "Each bif is a dop." or "Bifs are not sweet.";
            the full stop may be missing.

    Raises:
        ValueError: It has none of these forms.

    >>> read_sentence("Bifs are not sweet.")
    Rule(noun='bif', claim=Claim(word='sweet', positive=False))
    """
    text = text.strip().removesuffix(".")
    if found := _ABOUT_EVERY.fullmatch(text):
        noun, no, word = found.groups()
        return Rule(noun, Claim(word, not no))
    if found := _ABOUT_PLURAL.fullmatch(text):
        nouns, no, word = found.groups()
        noun = _SINGULAR.get(nouns.lower(), nouns.lower().removesuffix("s"))
        return Rule(noun, Claim(_SINGULAR.get(word, word), not no))
    if found := _ABOUT_ENTITY.fullmatch(text):
        entity, no, word = found.groups()
        return Fact(entity, Claim(word, not no))
    msg = (
        f"cannot read {text!r}; known are 'Max is a bif', 'Every bif is (not) sweet', "
        "'Each bif is a dop' and 'Bifs are dops'."
    )
    raise ValueError(msg)


def read_theory(context: str) -> list[Sentence]:
    """Return what the sentences of a context say, in their order.

    Raises:
        ValueError: A sentence has none of the forms that ``read_sentence`` knows.
    """
    return [read_sentence(s) for s in re.split(r"(?<=\.)\s+", context.strip()) if s]


def decide(context: str, statement: str) -> bool | None:
    """Return whether a statement follows from a context: True, False (its opposite does) or None.

    Args:
        context: Facts and rules as text.
        statement: One sentence about an entity.

    Raises:
        ValueError: A sentence cannot be read, the statement is a rule, or both it and its opposite
            follow.

    >>> decide("Every bif is sweet. Max is a bif.", "Max is not sweet.")
    False
    """
    asked = read_sentence(statement)
    if isinstance(asked, Rule):
        msg = f"the statement must be about one entity; found the rule {statement!r}."
        raise ValueError(msg)
    known = derive(read_theory(context), asked.entity)
    yes, no = asked.claim in known, asked.claim.opposite in known
    if yes and no:
        msg = f"both {statement!r} and its opposite follow."
        raise ValueError(msg)
    return yes if yes or no else None
