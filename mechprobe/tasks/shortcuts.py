"""What can be read off a question without reasoning.

For a question of the logic layout a shortcut is a value (a word or a number) from which the
answer is guessed; for a multiple-choice question it is a number for every option, and the largest
or smallest is chosen. All are crude on purpose: what crude code finds, a model finds too.
"""

import re
from collections import Counter
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import NamedTuple

from mechprobe.tasks.task import ANSWER, Example

Value = str | float

_SAID_NEGATIONS = """
    not no never none nobody nothing neither nor cannot without
"""
_NEGATIONS = frozenset(_SAID_NEGATIONS.split())
_SAID_FUNCTION_WORDS = """
    a an the every each all any some both if then when and or but that which who whom whose this
    these those it its they their them he his she her we our you your i is are was were be been
    being am do does did has have had will would can could may might must shall should of to in on
    at by for from with as than so there here something someone somebody anything anyone people
"""
_FUNCTION_WORDS = frozenset(_SAID_FUNCTION_WORDS.split())
# What polarity is said in: "strong and not kind then it is heavy" affirms heavy.
_CLAUSE_ENDS = frozenset(("then", "if", "and", "or", "but"))


class Parts(NamedTuple):
    """A question taken apart.

    Attributes:
        context: What stands before the line of the statement.
        statement: What is to be judged.
    """

    context: str
    statement: str


def parts(example: Example) -> Parts:
    """Return context and statement; without a marked statement, the last line is it."""
    if example.statement is not None:
        head = example.prompt[example.lead : example.statement.start]
        context, newline, _ = head.rpartition("\n")
        return Parts(context if newline else head, example.text(example.statement))
    context, _, last = example.prompt.removesuffix(ANSWER).strip().rpartition("\n")
    return Parts(context, last)


@lru_cache(maxsize=20_000)
def words(text: str) -> tuple[str, ...]:
    """Return the words of a text, in lower case.

    >>> words("Max isn't sweet.")
    ('max', "isn't", 'sweet')
    """
    return tuple(re.findall(r"[^\W_]+(?:'[^\W_]+)?", text.lower().replace("\u2019", "'")))


def _negates(word: str) -> bool:
    return word in _NEGATIONS or word.endswith("n't")


@lru_cache(maxsize=20_000)
def stem(word: str) -> str:
    """Return a word without the ending of a plural or of a verb.

    >>> [stem(w) for w in ("bifs", "dexes", "likes", "famous")]
    ['bif', 'dex', 'like', 'famous']
    """
    if len(word) > 4 and word.endswith(("xes", "zes", "ches", "shes", "sses")):
        return word[:-2]
    if len(word) > 3 and word.endswith("s") and not word.endswith(("ss", "us", "is")):
        return word[:-1]
    return word


@lru_cache(maxsize=20_000)
def content_words(text: str) -> tuple[str, ...]:
    """Return the stems of the words that are neither function words nor negations."""
    return tuple(stem(w) for w in words(text) if w not in _FUNCTION_WORDS and not _negates(w))


@lru_cache(maxsize=20_000)
def _stems(text: str) -> tuple[str, ...]:
    return tuple(stem(w) for w in words(text))


@lru_cache(maxsize=4_000)
def sentences(text: str) -> tuple[str, ...]:
    """Return the sentences of a text."""
    return tuple(s for s in re.split(r"(?<=[.!?])\s+", text.strip()) if s)


@lru_cache(maxsize=20_000)
def negated(text: str) -> bool:
    """Return whether a text holds a negation."""
    return any(map(_negates, words(text)))


class Mention(NamedTuple):
    """A sentence of the context that says something with the statement's last word.

    Attributes:
        positive: Whether it affirms it.
        subject: The sentence's first content word.
        others: Its content words but the predicate.
    """

    positive: bool
    subject: str
    others: tuple[str, ...]


def mentions(example: Example) -> tuple[Mention, ...]:
    """Return the sentences of the context that end in the statement's predicate, or else hold it.

    The predicate is the last content word of the statement. Its polarity is that of the clause it
    stands in.
    """
    context, statement = parts(example)
    said = content_words(statement)
    return _mentions(context, said[-1]) if said else ()


@lru_cache(maxsize=4_000)
def _mentions(context: str, predicate: str) -> tuple[Mention, ...]:
    at_end, anywhere = list[Mention](), list[Mention]()
    for sentence in sentences(context):
        found, stems = words(sentence), _stems(sentence)
        if predicate not in stems:
            continue
        at = len(stems) - 1 - stems[::-1].index(predicate)
        start = max((i for i in range(at) if found[i] in _CLAUSE_ENDS), default=-1)
        positive = not any(map(_negates, found[start + 1 : at]))
        said = content_words(sentence)
        others = tuple(w for w in said if w != predicate)
        mention = Mention(positive, (said or (predicate,))[0], others)
        anywhere.append(mention)
        if at == len(stems) - 1:
            at_end.append(mention)
    return tuple(at_end or anywhere)


def _against_statement(example: Example, positive: bool | None) -> str:
    if positive is None:
        return "tie"
    return "other" if positive == negated(parts(example).statement) else "same"


def negation(example: Example) -> Value:
    """Return whether the statement holds a negation."""
    return "negated" if negated(parts(example).statement) else "affirmed"


def last_polarity(example: Example) -> Value:
    """Return whether the last sentence about the predicate has the statement's polarity."""
    found = mentions(example)
    return _against_statement(example, found[-1].positive) if found else "not mentioned"


def majority_polarity(example: Example) -> Value:
    """Return whether most sentences about the predicate have the statement's polarity."""
    found = mentions(example)
    if not found:
        return "not mentioned"
    more = sum(1 if m.positive else -1 for m in found)
    return _against_statement(example, more > 0 if more else None)


def subject_frequency(example: Example) -> Value:
    """Return whether the sentence with the most frequent subject has the statement's polarity.

    Of the sentences about the predicate, that whose subject the context names most often.
    """
    found = mentions(example)
    if not found:
        return "not mentioned"
    named = Counter(content_words(parts(example).context))
    most = max(named[m.subject] for m in found)
    return _against_statement(example, _of_all([m for m in found if named[m.subject] == most]))


def connectivity(example: Example) -> Value:
    """Return whether what links to the statement's first word has the statement's polarity.

    Words of one sentence are linked, whichever comes first: a reader who takes rules both ways. Of
    the sentences about the predicate, those linked to the statement's subject.
    """
    return _against_statement(example, _of_all([m for _, m in _reached(example)]))


def shortest_path(example: Example) -> Value:
    """Return whether the sentence fewest links away has the statement's polarity.

    As ``connectivity``, but of the sentences about the predicate those nearest to the subject.
    """
    reached = _reached(example)
    nearest = min((links for links, _ in reached), default=0)
    return _against_statement(example, _of_all([m for links, m in reached if links == nearest]))


def _of_all(found: Sequence[Mention]) -> bool | None:
    polarities = {m.positive for m in found}
    return polarities.pop() if len(polarities) == 1 else None


def _reached(example: Example) -> list[tuple[int, Mention]]:
    """Return the mentions that links lead to from the statement's subject, and after how many."""
    context, statement = parts(example)
    said = content_words(statement)
    if len(said) < 2:
        return []
    links = _links(context, said[-1])
    steps, newest, n = {said[0]: 0}, [said[0]], 0
    while newest:
        n += 1
        newest = sorted({w for word in newest for w in links.get(word, ()) if w not in steps})
        steps |= dict.fromkeys(newest, n)
    places = [(min((steps[w] for w in m.others if w in steps), default=-1), m) for m in mentions(example)]
    return [(n, m) for n, m in places if n >= 0]


@lru_cache(maxsize=4_000)
def _links(context: str, predicate: str) -> dict[str, set[str]]:
    """Return the words that share a sentence with each word; the predicate links nothing."""
    links: dict[str, set[str]] = {}
    for sentence in sentences(context):
        said = set(content_words(sentence)) - {predicate}
        for word in said:
            links.setdefault(word, set()).update(said)
    return links


def last_sentence_overlap(example: Example) -> Value:
    """Return the share of the statement's words that the last sentence of the context holds."""
    context, statement = parts(example)
    return _overlap(statement, (sentences(context) or ("",))[-1])


def word_overlap(example: Example) -> Value:
    """Return the share of the statement's words that the context holds."""
    context, statement = parts(example)
    return _overlap(statement, context)


def _overlap(text: str, inside: str) -> float:
    """Return the share of the content words of one text that another holds."""
    asked = content_words(text)
    known = set(content_words(inside))
    return sum(w in known for w in asked) / max(1, len(asked))


def statement_length(example: Example) -> Value:
    """Return the number of words of the statement."""
    return float(len(words(parts(example).statement)))


def context_length(example: Example) -> Value:
    """Return the number of words of the context."""
    return float(len(words(parts(example).context)))


def majority_answer(_: Example) -> Value:
    """Return nothing: the most frequent answer is guessed."""
    return "always"


LOGIC: dict[str, Callable[[Example], Value]] = {
    "majority_answer": majority_answer,
    "negation": negation,
    "last_polarity": last_polarity,
    "majority_polarity": majority_polarity,
    "subject_frequency": subject_frequency,
    "connectivity": connectivity,
    "shortest_path": shortest_path,
    "last_sentence_overlap": last_sentence_overlap,
    "word_overlap": word_overlap,
    "statement_length": statement_length,
    "context_length": context_length,
}


def option_texts(example: Example) -> list[str]:
    """Return the texts of the options."""
    return [example.text(option.content) for option in example.options]


def option_length(example: Example) -> list[float]:
    """Return the number of characters of each option."""
    return [float(len(text)) for text in option_texts(example)]


def option_overlap(example: Example) -> list[float]:
    """Return the share of each option's words that the question (with its passage) holds."""
    asked = example.prompt[example.lead : example.options[0].line.start]
    return [_overlap(text, asked) for text in option_texts(example)]


CHOICE: dict[str, Callable[[Example], list[float]]] = {
    "option_length": option_length,
    "option_overlap": option_overlap,
}
EXTREMES: dict[str, tuple[str, str]] = {
    "option_length": ("longest", "shortest"),
    "option_overlap": ("most overlap", "least overlap"),
}


def credit(example: Example, values: list[float], largest: bool) -> float:
    """Return how right it is to choose the largest (or smallest) value; ties share."""
    best = max(values) if largest else min(values)
    return (values[example.answer] == best) / values.count(best)
