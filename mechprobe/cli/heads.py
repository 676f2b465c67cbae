"""``mechprobe heads``."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from cyclopts import Parameter

import mechprobe
from mechprobe.cli.shared import Loading, Output
from mechprobe.cli.show import print_table, refuse_idle, say

if TYPE_CHECKING:
    from mechprobe.heads.head_scores import HeadScores
    from mechprobe.heads.selection import HeadSelection
    from mechprobe.results import Result
    from mechprobe.tasks import Task

GENERATED = ("ontology", "select_and_copy")


@Parameter(name="*")
@dataclass(frozen=True)
class Questions:
    """What is asked.

    Attributes:
        task: "ontology" or "select_and_copy" (generated), or a file of questions.
        format: Of a file, boolq or mcqa for instance (a wrong one lists all); a file that
            mechprobe saved needs none.
        n: Questions; a larger file is sampled. An ontology over a grid takes the next number that
            fills its cells evenly.
        steps: Of the ontology: rule applications, a number or a range such as 1-5.
        distractors: Of the ontology: extra sentences, a number or a range such as 0-5.
        options: Of select_and_copy: options of each question.
        extra_options: Add "None of the above" and "I don't know" to multiple choice.
        shots: Solved examples before each question, taken from the task's first ones.
    """

    task: str = "ontology"
    format: str | None = None
    n: int = 400
    steps: str = "1-5"
    distractors: str = "0-5"
    options: int = 4
    extra_options: bool = False
    shots: int = 0

    def task_of(self, seed: int) -> "Task":
        """Return the questions, behind their worked examples."""
        name = self.task
        refuse_idle(
            ("--format", self.format is not None, "a file as --task", name not in GENERATED),
            ("--options", self.options != 4, "--task select_and_copy", name == GENERATED[1]),
        )
        task = self._asked(seed)
        return task.with_shots(self.shots) if self.shots else task

    def _asked(self, seed: int) -> "Task":
        from mechprobe import tasks

        n, extra = self.n, self.extra_options
        if self.task == "ontology":
            grid = _numbers("--steps", self.steps), _numbers("--distractors", self.distractors)
            whole = 4 * len(grid[0]) * len(grid[1])
            return tasks.ontology(-(-n // whole) * whole, *grid, seed=seed)
        if self.task == "select_and_copy":
            return tasks.select_and_copy(n, self.options, seed=seed, extra_options=extra)
        known: Any = self.format
        task = tasks.load(self.task, known, extra_options=extra)
        return task.sample(n, seed=seed) if n < len(task) else task


_QUESTIONS, _MODEL, _OUTPUT = Questions(), Loading(), Output()


def heads(
    *,
    questions: Questions = _QUESTIONS,
    loading: Loading = _MODEL,
    score: Literal["qk", "rotated", "cosine", "attention"] = "qk",
    query: str | None = None,
    key: str | None = None,
    calibration: float = 0.5,
    method: Literal["best", "top_k_vote", "zscore_sum", "unsupervised"] = "best",
    flip: bool = False,
    centre: bool = False,
    ablate: int = 0,
    traits: bool = False,
    seed: int = 0,
    output: Output = _OUTPUT,
) -> None:
    """Find the attention head that knows the answer, and say what shortcuts alone score.

    Args:
        questions: What is asked.
        loading: The model.
        score: Raw product as in the papers, what the softmax gets, cosine, or attention weight.
        query: Read the query at each candidate ("candidate") or at the last prompt token ("last").
        key: Token that gives the key, such as before_answer or end_of_line.
        calibration: Share of the questions that the head is chosen on.
        method: How heads are chosen and combined.
        flip: Heads that are wrong more often than right may be inverted.
        centre: Take away each head's calibration median.
        ablate: Take the chosen heads away on the held-out questions, with this many random controls
            (five at least for an interval of the difference to them).
        traits: Say what kind of heads were chosen.
        seed: Of the task, the split and all resampling.
        output: Where it goes: --json prints the selection, --out saves the scores (selections can
            be made again from them), --html writes a page with all figures.
    """
    output.check()
    task = questions.task_of(seed)
    loaded = loading.load()
    chosen: Any = {"score": score, "query": query, "key": key}
    scores = mechprobe.qk_scores(loaded, task, progress=not output.json, **chosen)
    if output.out is not None:
        scores.save(output.out)
    found = scores.select(calibration, method, flip=flip, centre=centre, seed=seed)
    more: list[Result] = []
    if _is_grid(scores):
        from mechprobe.heads.by_difficulty import difficulty_of

        more.append(
            difficulty_of(scores, calibration=calibration, method=method, flip=flip, centre=centre, seed=seed)
        )
    more += _asked(loaded, task, found, ablate, seed, traits=traits, progress=not output.json)
    if output.html is not None:
        title = f"mechprobe heads: {task.name}"
        mechprobe.write_report([found, scores, *more], output.html, title=title)
    _show(found, scores, more, json=output.json)
    for path in (output.out, output.html):
        if path is not None and not output.json:
            say(f"written to {path}")


def _asked(
    model: Any,
    questions: "Task",
    found: "HeadSelection",
    ablate: int,
    seed: int,
    *,
    traits: bool,
    progress: bool,
) -> "list[Result]":
    """Run what was asked for behind the selection."""
    more: list[Result] = []
    if ablate:
        more.append(
            mechprobe.ablate_heads(model, questions, found, controls=ablate, seed=seed, progress=progress)
        )
    if traits:
        rest = found.held_out(questions)
        some = rest.sample(min(len(rest), 32), seed=seed)
        more.append(mechprobe.describe_heads(model, task=some, seed=seed, progress=progress))
    return more


def _numbers(option: str, text: str) -> list[int]:
    """Read "3" or "1-5"."""
    ends = text.split("-")
    if not 1 <= len(ends) <= 2 or not all(x.strip().isdigit() for x in ends):
        msg = f"{option} {text!r} is neither a number nor a range such as 1-5."
        raise ValueError(msg)
    found = list(range(int(ends[0]), int(ends[-1]) + 1))
    if not found:
        msg = f"{option} {text!r} is an empty range; write the smaller number first."
        raise ValueError(msg)
    return found


def _is_grid(scores: "HeadScores") -> bool:
    steps, distractors = scores.data["steps"].values, scores.data["distractors"].values
    several = len(set(zip(steps.tolist(), distractors.tolist(), strict=True))) > 1
    return several and bool((steps >= 0).all())


def _show(found: "HeadSelection", scores: "HeadScores", more: "list[Result]", *, json: bool) -> None:
    if json:
        say(found.to_json())
        return
    print_table(found.headline(), found.summary())
    print_table("the model's own answers", scores.baseline())
    audit = scores.data[["shortcut_accuracy", "shortcut_low", "shortcut_high"]].to_dataframe()
    print_table("what shortcuts alone score (by what was learnt on the other half)", audit.round(3))
    for result in more:
        print_table(type(result).__name__, result.summary())
