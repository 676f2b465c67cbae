"""Questions left out, as few as possible, so that named shortcuts fall to chance."""

import random
from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from mechprobe.tasks.audit import audit
from mechprobe.tasks.fitted import binned
from mechprobe.tasks.shortcuts import CHOICE, LOGIC, credit
from mechprobe.tasks.task import Task

_WORDS = "bag_of_words"
# A question's answer with its value of each shortcut: questions of one kind are interchangeable.
Kind = tuple[Any, ...]


class _Row(NamedTuple):
    """One condition on how many questions of each kind are kept: low <= weights . kept <= 0."""

    weights: npt.NDArray[np.float64]
    low: float


def debiased(task: Task, shortcuts: Sequence[str] | None = None, *, seed: int = 0) -> Task:
    """Return the largest part of a task on which the named shortcuts are at chance.

    In a logic task every value of a shortcut (a negated statement, say) then comes with every
    answer equally often; in a multiple-choice task every place is right equally often, and the
    longest option (say) no more often than by chance. Which of interchangeable questions go is
    drawn. The notes say how many are left, and what shortcuts score on them.

    Args:
        task: Questions.
        shortcuts: Names as ``tasks.audit`` gives them; None for all whose interval lies above
            chance there, ``bag_of_words`` aside.
        seed: Decides what goes, and the halves of the audits.

    Returns:
        A task of the questions that are left.

    Raises:
        ValueError: A name is unknown, or nothing would be left: a shortcut that determines the
            label cannot be removed.

    Example:
        >>> from mechprobe import tasks
        >>> task = tasks.select_and_copy(n=40, seed=0).take(range(37))
        >>> len(task), len(tasks.debiased(task, ["position"]))
        (37, 32)
    """
    named = _named(task, shortcuts, seed)
    if not named:
        note = "not debiased: no shortcut is above chance in the audit"
        return task.take(range(len(task)), note)
    values = list(_values(task, named))
    # Where places do not matter they must not decide what goes either.
    by_answer = task.layout == "logic" or "position" in named
    kind_of = [
        (example.answer if by_answer else -1, len(example.candidates), *value)
        for example, value in zip(task.examples, values, strict=True)
    ]
    kinds = sorted(set(kind_of), key=str)
    rows = _choice_rows(kinds) if task.layout == "choice" else _logic_rows(task, kinds)
    chosen = _chosen(task, [kinds.index(k) for k in kind_of], rows, seed)
    if not chosen:
        raise ValueError(_why_nothing(task, named, kinds))
    left = task.take(chosen)
    return left.take(range(len(left)), _note(task, left, named, seed))


def _named(task: Task, shortcuts: Sequence[str] | None, seed: int) -> list[str]:
    known = ["position", *CHOICE] if task.layout == "choice" else list(LOGIC)
    if shortcuts is None:
        found = audit(task, seed=seed)
        return [name for name in found.above_chance if name != _WORDS]
    named = [shortcuts] if isinstance(shortcuts, str) else list(shortcuts)
    unknown = [name for name in named if name not in known]
    if _WORDS in unknown:
        msg = (
            f"{_WORDS!r} cannot be brought to chance by leaving questions out: what is left has "
            "other words to fit. Compare with its accuracy in the audit instead."
        )
        raise ValueError(msg)
    if unknown or not named:
        found_text = repr(unknown[0]) if unknown else "none"
        msg = f"shortcuts of a {task.layout} task are {', '.join(known)}; found {found_text}."
        raise ValueError(msg)
    return list(dict.fromkeys(named))


def _values(task: Task, named: Sequence[str]) -> Iterator[Kind]:
    """Yield each question's value of each shortcut: a word, or two credits for options."""
    if task.layout == "logic":
        columns = [binned([LOGIC[name](e) for e in task.examples]) for name in named]
        yield from zip(*columns, strict=True)
        return
    for example in task.examples:
        found: list[Any] = []
        for name in named:
            if name != "position":
                numbers = CHOICE[name](example)
                found += [round(credit(example, numbers, largest), 9) for largest in (True, False)]
        yield tuple(found)


def _logic_rows(task: Task, kinds: Sequence[Kind]) -> list[_Row]:
    """For each value of each shortcut, every answer is kept equally often."""
    rows: list[_Row] = []
    answers = range(task.n_candidates)
    for column in range(2, len(kinds[0])):
        for value in sorted({kind[column] for kind in kinds}):
            counts = [np.array([float(k[column] == value and k[0] == a) for k in kinds]) for a in answers]
            rows += [_Row(counts[a] - counts[0], 0.0) for a in answers[1:]]
    return rows


def _choice_rows(kinds: Sequence[Kind]) -> list[_Row]:
    """Every place is right equally often, and no extreme is right more often than by chance."""
    rows: list[_Row] = []
    places = sorted({kind[0] for kind in kinds})
    if len(places) > 1:
        counts = [np.array([float(k[0] == place) for k in kinds]) for place in places]
        rows += [_Row(count - counts[0], 0.0) for count in counts[1:]]
    for column in range(2, len(kinds[0])):
        rows.append(_Row(np.array([k[column] - 1 / k[1] for k in kinds]), -np.inf))
    return rows


def _chosen(task: Task, kind_of: Sequence[int], rows: Sequence[_Row], seed: int) -> list[int]:
    """Return the questions that stay; what was drawn together stays, or goes, together."""
    members: dict[tuple[int, ...], list[list[int]]] = defaultdict(list)
    for unit in task.design.units():
        members[tuple(sorted(kind_of[i] for i in unit))].append(unit)
    units = sorted(members)
    held = np.stack([np.bincount(unit, minlength=len(rows[0].weights)) for unit in units])
    kept = _most(
        [_Row(held @ row.weights, row.low) for row in rows], held.sum(1), [len(members[u]) for u in units]
    )
    rng = random.Random(seed)
    return sorted(
        i for unit, n in zip(units, kept, strict=True) for one in rng.sample(members[unit], n) for i in one
    )


def _most(rows: Sequence[_Row], sizes: npt.NDArray[np.int64], available: Sequence[int]) -> list[int]:
    """Return how many of each kind of unit to keep, so that all rows hold and most questions stay."""
    from scipy.optimize import Bounds, LinearConstraint, milp

    weights = np.stack([row.weights for row in rows])
    found = milp(
        -sizes.astype(np.float64),
        constraints=LinearConstraint(weights, [row.low for row in rows], np.zeros(len(rows))),
        bounds=Bounds(0, np.array(available, dtype=float)),
        integrality=np.ones(len(available)),
        # A larger part than this finds in time differs by a fraction of a percent at most.
        options={"time_limit": 20.0, "mip_rel_gap": 1e-4},
    )
    if found.x is None:
        msg = f"no part of the task could be found on which the shortcuts fail: {found.message}"
        raise RuntimeError(msg)
    return [int(n) for n in np.rint(found.x)]


def _why_nothing(task: Task, named: Sequence[str], kinds: Sequence[Kind]) -> str:
    for column, name in enumerate(named, start=2):
        if task.layout == "choice":
            break
        answers: dict[str, set[int]] = defaultdict(set)
        for kind in kinds:
            answers[kind[column]].add(kind[0])
        if all(len(a) == 1 for a in answers.values()) and len(answers) > 1:
            labels = task.examples[0].candidates
            rule = "; ".join(f"{v}: always {labels[min(a)]}" for v, a in sorted(answers.items()))
            return (
                f"{name!r} determines the label of every question of {task.name!r} ({rule}), so "
                "that leaving questions out cannot help and nothing would be left. Use another "
                "data set, or report this accuracy beside every result."
            )
    return (
        f"nothing of {task.name!r} is left on which {', '.join(named)} are at chance "
        "together; name fewer shortcuts."
    )


def _note(task: Task, left: Task, named: Sequence[str], seed: int) -> str:
    said = f"debiased by {', '.join(named)}: kept {len(left)} of {len(task)} questions"
    try:
        found = audit(left, seed=seed)
    except ValueError:
        return f"{said}; too few groups are left to audit"
    now = ", ".join(f"{name} {found[name].accuracy:.2f}" for name in named)
    rest = ", ".join(f"{name} {found[name].accuracy:.2f}" for name in found.above_chance) or "none"
    return f"{said}; audited again: {now}; above chance: {rest} (chance {found.chance:.2f})"
