"""What shortcuts score on a task, each fitted on one half of it and tried on the other."""

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from html import escape
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from jaxtyping import Float, Int

from mechprobe.tasks.fitted import Fitted, fit_extreme, fit_option_words, fit_place, fit_table, fit_words
from mechprobe.tasks.shortcuts import CHOICE, LOGIC, Value
from mechprobe.tasks.task import Example, Task

if TYPE_CHECKING:
    import pandas as pd

# What a shortcut answers on some questions, having learnt from others.
Fitter = Callable[[Sequence[Example], Sequence[Example]], Fitted]


class ShortcutScore(NamedTuple):
    """How well one shortcut does.

    Attributes:
        name: Which one.
        accuracy: Over all questions, each tried by what was learnt on the other half.
        low: Lower end of its interval; the intervals of all shortcuts hold together with 95 %.
        high: Upper end.
        rule: What it learnt; on either half, where that differs.
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


@dataclass(frozen=True, repr=False, eq=False)
class Audit:
    """What shortcuts alone score on a task.

    Attributes:
        task: Name of the task.
        scores: One for each shortcut.
        chance: Accuracy of guessing among the candidates.
        right: How right each shortcut is on each question: 1, 0, or a share for a tie.
        half: Which half each question is in, 0 or 1; its shortcuts were fitted on the other.
        n_groups: Groups of questions that were drawn independently.
        seed: Decides the halves.
    """

    task: str
    scores: tuple[ShortcutScore, ...]
    chance: float
    right: Float[np.ndarray, "shortcut example"]
    half: Int[np.ndarray, " example"]
    n_groups: int
    seed: int

    @property
    def worst(self) -> Worst:
        """The shortcut with the highest accuracy: the bar for any claim of more than shortcuts."""
        best = max(s.accuracy for s in self.scores)
        return next(Worst(s.name, s.accuracy) for s in self.scores if s.accuracy == best)

    @property
    def above_chance(self) -> list[str]:
        """The shortcuts whose interval lies above chance; of chance alone, any in 5 % of tasks."""
        return [s.name for s in self.scores if s.low > self.chance]

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

        rows = [{**s._asdict(), "n": self.right.shape[1], "chance": self.chance} for s in self.scores]
        return pd.DataFrame(rows)

    def _head(self) -> str:
        return (
            f"{self.right.shape[1]} questions in {self.n_groups} groups, each tried by what was "
            f"learnt on the other half; 95 % intervals of {len(self.scores)} shortcuts together; "
            f"chance {self.chance:.2f}"
        )

    def __repr__(self) -> str:
        return "\n".join([f"Audit of {self.task!r}: {self._head()}", *map(self._line, self.scores)])

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
            f"<div><b>What shortcuts score on {escape(self.task)}</b> ({self._head()})<table><tr>"
            f"<th>shortcut</th><th>accuracy</th><th>interval</th><th>rule</th></tr>{cells}"
            "</table></div>"
        )


def audit(task: Task, *, seed: int = 0) -> Audit:
    r"""Return what simple shortcuts score on a task.

    .. math:: A_s = \frac{1}{n} \sum_i c_s(i;\, D_{1 - h(i)})

    where :math:`c_s(i; D)` is how right shortcut s, fitted on the half D, is on question i, and
    :math:`h(i)` is the half of i. Intervals resample groups, and those of all shortcuts hold
    together with 95 %, so that of the best one too (``mechprobe.stats.crossed_interval``).

    Logic: the most frequent answer; a negation in the statement; the polarity of the last, and of
    most, sentences that say something with the statement's predicate; of these the one whose
    subject is named most often, and those that links taken both ways lead to, all or the nearest;
    words that statement and last sentence, or whole context, share; length of statement and of
    context; a logistic regression on the words of both.
    Multiple choice: the most frequent place; the longest or shortest option; the option that shares
    most or fewest words with the question; a logistic regression on the words of options.

    Args:
        task: Logic or multiple-choice questions.
        seed: Decides the halves. A group is never cut.

    Returns:
        Accuracies with intervals that resample groups, and how right each shortcut is on each
        question.

    Raises:
        ValueError: All questions are of one group, so that there are no halves.

    >>> from mechprobe.tasks import select_and_copy
    >>> audit(select_and_copy(40)).worst
    Worst(name='option_overlap', accuracy=1.0)

    Source: Stone, Cross-Validatory Choice and Assessment of Statistical Predictions (1974), of two
    parts.
    """
    from mechprobe.stats import crossed_interval

    half, group = halves(task, seed), task.design.group
    tried = [(name, *_crossed(task, half, fitter)) for name, fitter in _fitters(task, seed)]
    scores = [
        ShortcutScore(name, *crossed_interval(right, group, half, n_intervals=len(tried)), rule)
        for name, right, rule in tried
    ]
    chance = sum(1 / len(e.candidates) for e in task) / len(task)
    rights = np.stack([right for _, right, _ in tried])
    return Audit(task.name, tuple(scores), chance, rights, half, int(group.max()) + 1, seed)


def halves(task: Task, seed: int) -> Int[np.ndarray, " example"]:
    """Return two halves of a task, groups whole, with each answer as often in both as groups allow.

    Were answers divided by chance, the more frequent one of one half would be the rarer one of the
    other, and a balanced task would put the most frequent answer below chance.

    Args:
        task: Questions.
        seed: Of the order in which groups are dealt out.

    Returns:
        0 or 1 for each question.

    Raises:
        ValueError: There is one group only.
    """
    group = task.design.group
    n_groups = int(group.max()) + 1
    if n_groups < 2:
        msg = (
            f"{task.name!r} is one group of {len(task)} questions; an audit needs two groups at "
            "least, to fit shortcuts on one and try them on the other."
        )
        raise ValueError(msg)
    cells = group * task.n_candidates + np.array([e.answer for e in task])
    counts = np.bincount(cells, minlength=n_groups * task.n_candidates).reshape(n_groups, -1)
    order = random.Random(seed).sample(range(n_groups), n_groups)
    first = np.zeros(n_groups, bool)
    # Answers of the first half less those of the second.
    gap = np.zeros(task.n_candidates, np.int64)
    for g in order:
        first[g] = gap @ counts[g] <= 0
        gap += counts[g] if first[g] else -counts[g]
    if first.all():
        first[order[-1]] = False
    return np.where(first[group], 0, 1)


def _crossed(
    task: Task, half: Int[np.ndarray, " example"], fitter: Fitter
) -> tuple[Float[np.ndarray, " example"], str]:
    """Return how right a shortcut is on each question, fitted on the half without it; and its rules."""
    right = np.full(len(task), np.nan)
    rules: list[str] = []
    for tried in (0, 1):
        test = [e for e, h in zip(task, half.tolist(), strict=True) if h == tried]
        fit = [e for e, h in zip(task, half.tolist(), strict=True) if h != tried]
        found = fitter(fit, test)
        right[half == tried] = found.credits
        rules.append(found.rule)
    return right, " | ".join(dict.fromkeys(rules))


def _fitters(task: Task, seed: int) -> Iterator[tuple[str, Fitter]]:
    if task.layout == "choice":
        yield "position", fit_place
        for name, values in CHOICE.items():
            yield name, partial(fit_extreme, name, values)
        yield "bag_of_words", partial(fit_option_words, seed=seed)
        return
    for name, feature in LOGIC.items():
        yield name, partial(fit_table, _once(feature, task))
    yield "bag_of_words", partial(fit_words, seed=seed)


def _once(feature: Callable[[Example], Value], task: Task) -> Callable[[Example], Value]:
    """Return the feature looked up: both halves are fitted on, and tried."""
    values = {id(e): feature(e) for e in task}
    return lambda example: values[id(example)]
