"""What learners that know no direction score on theories of `tasks.ontology` that are new to them.

python docs/scripts/ontology_readers.py 9600
"""

import re
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.feature_extraction.text import CountVectorizer, HashingVectorizer
from sklearn.linear_model import LogisticRegression

from mechprobe.stats import accuracy_interval
from mechprobe.tasks import Example, Task, audit, ontology
from mechprobe.tasks.proof import Fact, read_sentence, read_theory
from mechprobe.tasks.shortcuts import parts

KNOWN = {"every", "each", "is", "are", "not", "a", "true", "or", "false", "answer"}


def form(example: Example) -> list[float]:
    """Return, sentence by sentence, wording and polarity and whether it names what is asked."""
    context, statement = parts(example)
    entity, (word, _) = read_sentence(statement)
    rows = [
        [isinstance(s, Fact), s.claim.positive, s.claim.word == word, " are " in text,
         text.startswith("Each"), s[0] == entity]
        for s, text in zip(read_theory(context), context.split(". "), strict=True)
    ]  # fmt: skip
    rows += [[-1] * 6] * (24 - len(rows))
    return [float(x) for row in rows for x in row]


def graph(example: Example) -> list[float]:
    """Return for both endings how many words lie how far from entity and ending, links both ways."""
    context, statement = parts(example)
    entity, (word, _) = read_sentence(statement)
    links: dict[str, set[str]] = {}
    ends: dict[bool, list[str]] = {True: [], False: []}
    for s in read_theory(context):
        if s.claim.word == word:
            ends[s.claim.positive].append(s[0])
            continue
        links.setdefault(s[0], set()).add(s.claim.word)
        links.setdefault(s.claim.word, set()).add(s[0])
    far, found = _distances(links, entity), list[float]()
    for ending in (True, False):
        end = next(w for w in ends[ending] if w in far)
        near, counts = _distances(links, end), np.zeros((8, 8, 2))
        for w in far:
            counts[min(7, far[w]), min(7, near[w])] += [1, len(links[w])]
        found += [far[end], len(links[end]), *counts.ravel().tolist()]
    return found


def _distances(links: dict[str, set[str]], start: str) -> dict[str, int]:
    found = {start: 0}
    for word in (queue := [start]):
        new = [w for w in links[word] if w not in found]
        found |= dict.fromkeys(new, found[word] + 1)
        queue += new
    return found


def kinds(example: Example) -> str:
    """Return the prompt with words told by their kind."""
    entity, (word, _) = read_sentence(parts(example).statement)

    def kind(found: re.Match[str]) -> str:
        said = found[0].lower()
        names = {entity.lower(): "entity", word: "property", **{w: w for w in KNOWN}}
        return names.get(said, "name" if said != found[0] and not said.endswith("s") else "noun")

    return re.sub(r"\w+", kind, example.prompt)


def affirmed(task: Task) -> Task:
    """Return the affirmed questions: the other half have the opposite answers."""
    return task.take([i for i, e in enumerate(task) if e.statement and " not " not in e.text(e.statement)])


def show(name: str, train: Task, test: Task, features: Callable[[Task], Any], learner: Any) -> None:
    """Learn on some theories, and print how it does on others."""
    learner.fit(features(train), [e.answer for e in train])
    right = learner.predict(features(test)) == np.array([e.answer for e in test])
    value, low, high = accuracy_interval(right, test.design.group)
    print(f"| {name} | {value:.3f} [{low:.3f}, {high:.3f}] |", flush=True)


def main(n: int) -> None:
    """Print a table of readers."""
    train, test = (affirmed(ontology(n, range(2, 6), range(6), seed=seed)) for seed in (1, 2))
    for s in audit(ontology(n, range(2, 6), range(6), seed=2)).scores:
        print(f"| {s.name} | {s.accuracy:.3f} [{s.low:.3f}, {s.high:.3f}] |", flush=True)
    boosted = HistGradientBoostingClassifier(random_state=0)
    counts = CountVectorizer(ngram_range=(1, 4), token_pattern=r"\w+", max_features=400)
    counts.fit(kinds(e) for e in train)
    hashed = HashingVectorizer(ngram_range=(1, 3), token_pattern=r"\w+", n_features=2**18)
    show("gradient boosting on form", train, test, lambda t: [form(e) for e in t], boosted)
    show(
        "gradient boosting on n-grams (1 to 4) of kinds of words", train, test,
        lambda t: counts.transform(kinds(e) for e in t).toarray(), boosted,
    )  # fmt: skip
    show(
        "logistic regression on n-grams (1 to 3) of words", train, test,
        lambda t: hashed.transform(e.prompt for e in t), LogisticRegression(max_iter=300),
    )  # fmt: skip
    show("gradient boosting on undirected graph", train, test, lambda t: [graph(e) for e in t], boosted)
    near = [affirmed(ontology(n // 4, 1, range(6), seed=seed)) for seed in (1, 2)]
    show("the same at 1 step, the look-up", *near, lambda t: [graph(e) for e in t], boosted)


if __name__ == "__main__":
    main(int(sys.argv[1]))
