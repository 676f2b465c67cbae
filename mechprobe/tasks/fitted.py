"""Shortcuts fitted on some questions and tried on others."""

from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np

from mechprobe.tasks.shortcuts import EXTREMES, Value, credit, option_texts, parts
from mechprobe.tasks.task import Example

_BINS = 8


class Fitted(NamedTuple):
    """What a shortcut learnt, and how it did.

    Attributes:
        rule: What it answers when.
        credits: For each question it was tried on, how right it was: 1, 0, or a share for a tie.
    """

    rule: str
    credits: list[float]


def binned(values: Sequence[Value], edges_of: Sequence[Value] | None = None) -> list[str]:
    """Return a name for each value: words as they are, numbers by the interval they lie in.

    Args:
        values: Words, or numbers.
        edges_of: Which numbers decide the intervals: each its own where they are few, quantiles
            otherwise.
    """
    numbers = [v for v in values if not isinstance(v, str)]
    if len(numbers) < len(values):
        return [str(v) for v in values]
    basis = sorted(v for v in (edges_of or values) if not isinstance(v, str))
    distinct = sorted(set(basis))
    if len(distinct) > _BINS:
        at = (len(basis) * i // _BINS for i in range(_BINS))
        distinct = sorted({basis[i] for i in at})
    names = [f"{a:.3g} to {b:.3g}" for a, b in pairwise(distinct)] + [f"from {distinct[-1]:.3g}"]
    index = np.clip(np.searchsorted(distinct, numbers, side="right") - 1, 0, None)
    return [names[i] for i in index.tolist()]


def fit_table(feature: Callable[[Example], Value], fit: Sequence[Example], test: Sequence[Example]) -> Fitted:
    """Answer with what is most frequent for the value of a feature."""
    known = [feature(e) for e in fit]
    overall = Counter(e.label for e in fit)
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    for value, example in zip(binned(known), fit, strict=True):
        counts[value][example.label] += 1

    def most(counted: Counter[str]) -> str:
        return min(counted, key=lambda label: (-counted[label], -overall[label], label))

    table = {value: most(counted) for value, counted in counts.items()}
    default = most(overall)
    values = binned([feature(e) for e in test], known)
    credits = [float(table.get(v, default) == e.label) for v, e in zip(values, test, strict=True)]
    return Fitted("; ".join(f"{v}: {table[v]}" for v in sorted(table)), credits)


def fit_place(fit: Sequence[Example], test: Sequence[Example]) -> Fitted:
    """Answer with the place that is most often right."""
    counts = Counter(e.answer for e in fit)
    place = min(counts, key=lambda i: (-counts[i], i))
    label = next(e.label for e in fit if e.answer == place)
    return Fitted(f"always {label}", [float(e.answer == place) for e in test])


def fit_extreme(
    name: str, feature: Callable[[Example], list[float]], fit: Sequence[Example], test: Sequence[Example]
) -> Fitted:
    """Choose the option with the largest value of a feature, or with the smallest."""

    def credits(examples: Sequence[Example], largest: bool) -> list[float]:
        return [credit(e, feature(e), largest) for e in examples]

    largest = sum(credits(fit, True)) >= sum(credits(fit, False))
    return Fitted(EXTREMES[name][0 if largest else 1], credits(test, largest))


def fit_words(fit: Sequence[Example], test: Sequence[Example], seed: int) -> Fitted:
    """Answer with a logistic regression on the words of statement and of context."""
    from sklearn.feature_extraction.text import CountVectorizer

    labels = [e.label for e in fit]
    if len(set(labels)) < 2:
        return Fitted(f"always {labels[0]}", [float(e.label == labels[0]) for e in test])

    # A word of the statement and the same word of the context are two features.
    def both(example: Example) -> list[str]:
        split = CountVectorizer().build_analyzer()
        context, statement = parts(example)
        return [f"c {w}" for w in split(context)] + [f"s {w}" for w in split(statement)]

    model, vocabulary = _regression(seed), CountVectorizer(analyzer=both, binary=True)
    model.fit(vocabulary.fit_transform(fit), labels)
    answers = model.predict(vocabulary.transform(test)).tolist()
    credits = [float(a == e.label) for a, e in zip(answers, test, strict=True)]
    return Fitted(f"{len(vocabulary.vocabulary_)} words", credits)


def fit_option_words(fit: Sequence[Example], test: Sequence[Example], seed: int) -> Fitted:
    """Choose the option whose words look most like those of a right option."""
    from sklearn.feature_extraction.text import CountVectorizer

    texts = [text for e in fit for text in option_texts(e)]
    right = [i == e.answer for e in fit for i in range(len(e.options))]
    # Single characters count as words: options may be numbers.
    vocabulary = CountVectorizer(binary=True, token_pattern=r"(?u)\b\w+\b")
    model = _regression(seed)
    try:
        model.fit(vocabulary.fit_transform(texts), right)
    except ValueError as error:
        if "empty vocabulary" not in str(error):
            raise
        return Fitted("no words", [1 / len(e.options) for e in test])
    credits: list[float] = []
    for example in test:
        found: list[float] = model.decision_function(vocabulary.transform(option_texts(example))).tolist()
        credits.append(credit(example, found, largest=True))
    return Fitted(f"{len(vocabulary.vocabulary_)} words", credits)


def _regression(seed: int) -> Any:
    from sklearn.linear_model import LogisticRegression

    return LogisticRegression(max_iter=2000, random_state=seed)
