"""What shortcuts score on a task, each fitted on one half of it and tried on the other."""

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from html import escape
from math import sqrt
from typing import TYPE_CHECKING, NamedTuple

from mechprobe.tasks.fitted import Fitted, fit_extreme, fit_option_words, fit_place, fit_table, fit_words
from mechprobe.tasks.shortcuts import CHOICE, LOGIC
from mechprobe.tasks.task import Example, Task

if TYPE_CHECKING:
    import pandas as pd


class ShortcutScore(NamedTuple):
    """How well one shortcut does.

    Attributes:
        name: Which one.
        accuracy: On the half that it was not fitted on.
        low: Lower end of the 95 % interval (Wilson; questions counted as independent).
        high: Upper end.
        rule: What it learnt on the other half.
    """

    name: str
    accuracy: float
    low: float
    high: float
    rule: str


class Worst(NamedTuple):
    """The shortcut that does best."""

    name: str
    accuracy: float


@dataclass(frozen=True, repr=False)
class Audit:
    """What shortcuts alone score on a task.

    Attributes:
        task: Name of the task.
        scores: One for each shortcut.
        chance: Accuracy of guessing among the candidates.
        n_fit: Questions that the shortcuts were fitted on.
        n_test: Questions that they were tried on.
        seed: Decides the halves.
    """

    task: str
    scores: tuple[ShortcutScore, ...]
    chance: float
    n_fit: int
    n_test: int
    seed: int

    @property
    def worst(self) -> Worst:
        """The shortcut with the highest accuracy: the bar for any claim of more than shortcuts."""
        best = max(s.accuracy for s in self.scores)
        return next(Worst(s.name, s.accuracy) for s in self.scores if s.accuracy == best)

    def __getitem__(self, name: str) -> ShortcutScore:
        """Return the score of one shortcut.

        Raises:
            KeyError: It was not audited.
        """
        for score in self.scores:
            if score.name == name:
                return score
        msg = f"no shortcut {name!r}; audited: {', '.join(s.name for s in self.scores)}."
        raise KeyError(msg)

    def to_dataframe(self) -> "pd.DataFrame":
        """Return one row per shortcut."""
        import pandas as pd

        rows = [{**s._asdict(), "n_test": self.n_test, "chance": self.chance} for s in self.scores]
        return pd.DataFrame(rows)

    def __repr__(self) -> str:
        head = (
            f"Audit of {self.task!r}: fitted on {self.n_fit} questions, tried on {self.n_test}; "
            f"chance {self.chance:.2f}"
        )
        return "\n".join([head, *map(self._line, self.scores)])

    def _line(self, s: ShortcutScore) -> str:
        rule = s.rule if len(s.rule) <= 60 else s.rule[:57] + "..."
        return f"  {s.name:<22} {s.accuracy:.3f}  [{s.low:.3f}, {s.high:.3f}]  {rule}"

    def _repr_html_(self) -> str:
        cells = "".join(
            f"<tr><td>{s.name}</td><td>{s.accuracy:.3f}</td><td>{s.low:.3f} to {s.high:.3f}</td>"
            f"<td>{escape(s.rule[:200])}</td></tr>"
            for s in self.scores
        )
        return (
            f"<div><b>What shortcuts score on {escape(self.task)}</b> (fitted on {self.n_fit} "
            f"questions, tried on {self.n_test}; chance {self.chance:.2f})<table><tr>"
            f"<th>shortcut</th><th>accuracy</th><th>95 %</th><th>rule</th></tr>{cells}"
            "</table></div>"
        )


def audit(task: Task, *, seed: int = 0) -> Audit:
    """Return what simple shortcuts score on a task.

    Logic: the most frequent answer; a negation in the statement; the polarity of the last, and of
    most, sentences that say something with the statement's predicate; of these the one whose
    subject is named most often; words that statement and last sentence, or whole context, share;
    length of statement and of context; a logistic regression on the words of both.
    Multiple choice: the most frequent place; the longest or shortest option; the option that shares
    most or fewest words with the question; a logistic regression on the words of options.

    Args:
        task: Logic or multiple-choice questions.
        seed: Decides the halves. A group is never cut.

    Raises:
        ValueError: All questions are of one group, so that there are no halves.

    >>> from mechprobe.tasks import select_and_copy
    >>> audit(select_and_copy(40)).worst
    Worst(name='option_overlap', accuracy=1.0)
    """
    fit, test = halves(task, seed)
    scores = [_score(name, fitted) for name, fitted in _fitted(task, fit, test, seed)]
    chance = sum(1 / len(e.candidates) for e in test) / len(test)
    return Audit(task.name, tuple(scores), chance, len(fit), len(test), seed)


def halves(task: Task, seed: int) -> tuple[list[Example], list[Example]]:
    """Return two halves of a task, groups whole; a question without a group is its own.

    Raises:
        ValueError: There is one group only.
    """
    names = [e.group or f"\0{i}" for i, e in enumerate(task.examples)]
    sizes: dict[str, int] = {}
    for name in names:
        sizes[name] = sizes.get(name, 0) + 1
    if len(sizes) < 2:
        msg = (
            f"{task.name!r} is one group of {len(task)} questions; an audit needs two groups at "
            "least, to fit shortcuts on one and try them on the other."
        )
        raise ValueError(msg)
    order = list(sizes)
    random.Random(seed).shuffle(order)
    fit: set[str] = set()
    n = 0
    for name in order[:-1]:
        if n >= len(task) / 2:
            break
        fit.add(name)
        n += sizes[name]
    first = [e for name, e in zip(names, task.examples, strict=True) if name in fit]
    second = [e for name, e in zip(names, task.examples, strict=True) if name not in fit]
    return first, second


def _fitted(
    task: Task, fit: Sequence[Example], test: Sequence[Example], seed: int
) -> Iterator[tuple[str, Fitted]]:
    if task.layout == "choice":
        yield "position", fit_place(fit, test)
        for name, values in CHOICE.items():
            yield name, fit_extreme(name, values, fit, test)
        yield "bag_of_words", fit_option_words(fit, test, seed)
        return
    for name, feature in LOGIC.items():
        yield name, fit_table(feature, fit, test)
    yield "bag_of_words", fit_words(fit, test, seed)


def _score(name: str, fitted: Fitted) -> ShortcutScore:
    n = len(fitted.credits)
    accuracy = sum(fitted.credits) / n
    return ShortcutScore(name, accuracy, *wilson(accuracy, n), fitted.rule)


def wilson(share: float, n: int) -> tuple[float, float]:
    """Return the 95 % interval of a share of ``n`` (Wilson, 1927).

    >>> [round(x, 3) for x in wilson(0.5, 100)]
    [0.404, 0.596]
    """
    z = 1.959963984540054
    middle = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    return max(0.0, middle - half), min(1.0, middle + half)
