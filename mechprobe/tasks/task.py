"""A task: prompts with candidate answers, and where in the prompt everything stands."""

import gzip
import json
import random
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, overload

from mechprobe.files import write_whole
from mechprobe.provenance import Json, digest_json
from mechprobe.tasks.design import Design

if TYPE_CHECKING:
    import pandas as pd

ANSWER = "Answer:"


class Span(NamedTuple):
    """Characters ``start`` (included) to ``end`` (not included) of a prompt."""

    start: int
    end: int

    def moved(self, by: int) -> "Span":
        """Return the span after ``by`` characters were put before it."""
        return Span(self.start + by, self.end + by)


class Option(NamedTuple):
    """Where one option of a multiple-choice question stands.

    Attributes:
        label: Its letter.
        content: Its text.
        line: Everything from the letter to the newline that ends the option, newline included.
    """

    label: Span
    content: Span
    line: Span


@dataclass(frozen=True, slots=True)
class Example:
    """One question.

    Attributes:
        prompt: The text that the model reads; it ends where the answer follows (``"Answer:"``),
            without a space.
        candidates: Possible answers, without leading space: ``("true", "false")``, ``("A", "B")``.
        answer: Index of the right one.
        statement: Where the statement to be judged stands, if there is one.
        options: Where the options stand, one for each candidate, if there are any.
        group: The unit of randomisation: examples of one group share a theory, context or passage;
            statistics resample whole groups, and a split never cuts one.
        block: Inside a group, examples whose answers change places with those of another block all
            at once or not at all (the questions about one of two theories of one form). Each
            example is its own where nothing is said.
        steps: Rule applications that the answer takes; -1 where unknown.
        distractors: Sentences that play no part in it; -1 where unknown.
        lead: Characters before the question itself: shots, an introduction, a template's head.
        meta: Whatever else is known (proof, subject, kinds of distractors).
    """

    prompt: str
    candidates: tuple[str, ...]
    answer: int
    statement: Span | None = None
    options: tuple[Option, ...] = ()
    group: str = ""
    block: str = ""
    steps: int = -1
    distractors: int = -1
    lead: int = 0
    meta: dict[str, Json] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if len(self.candidates) < 2:
            msg = f"an example needs at least two candidates; found {self.candidates!r}."
            raise ValueError(msg)
        if not 0 <= self.answer < len(self.candidates):
            msg = f"answer {self.answer} is not among the {len(self.candidates)} candidates."
            raise ValueError(msg)
        if self.options and len(self.options) != len(self.candidates):
            msg = f"{len(self.options)} options for {len(self.candidates)} candidates."
            raise ValueError(msg)
        for span in self._spans():
            if not 0 <= span.start < span.end <= len(self.prompt):
                msg = f"{span} lies outside the prompt of {len(self.prompt)} characters."
                raise ValueError(msg)

    def _spans(self) -> Iterator[Span]:
        if self.statement is not None:
            yield self.statement
        for option in self.options:
            yield from option

    @property
    def label(self) -> str:
        """The right answer."""
        return self.candidates[self.answer]

    def text(self, span: Span) -> str:
        """Return what stands at ``span``."""
        return self.prompt[span.start : span.end]

    def within(self, before: str, after: str = "") -> "Example":
        """Return the example with text put before (and after) its prompt, spans moved along."""
        by = len(before)
        return replace(
            self,
            prompt=f"{before}{self.prompt}{after}",
            lead=self.lead + by,
            statement=self.statement.moved(by) if self.statement else None,
            options=tuple(Option(*(s.moved(by) for s in option)) for option in self.options),
        )


Layout = Literal["logic", "choice"]


@dataclass(frozen=True, repr=False)
class Task:
    """Frozen examples under one name.

    Attributes:
        name: What tables and figures call it.
        examples: The questions.
        notes: What was done to it: dropped lines, debiasing, shots.
    """

    name: str
    examples: tuple[Example, ...]
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not self.examples:
            notes = f" ({' '.join(self.notes)})" if self.notes else ""
            msg = f"task {self.name!r} has no examples{notes}."
            raise ValueError(msg)

    def __len__(self) -> int:
        return len(self.examples)

    def __iter__(self) -> Iterator[Example]:
        return iter(self.examples)

    @overload
    def __getitem__(self, index: int) -> Example: ...
    @overload
    def __getitem__(self, index: slice) -> "Task": ...
    def __getitem__(self, index: int | slice) -> "Example | Task":
        """Return one example, or a task of some."""
        found = self.examples[index]
        return found if isinstance(found, Example) else replace(self, examples=found)

    @property
    def layout(self) -> Layout:
        """``"choice"`` where every example has options in its prompt, ``"logic"`` otherwise."""
        return "choice" if all(e.options for e in self.examples) else "logic"

    @property
    def n_candidates(self) -> int:
        """Candidates of each example; the largest number where they differ."""
        return max(len(e.candidates) for e in self.examples)

    @property
    def design(self) -> Design:
        """What was drawn together: every statistic of the task goes by it."""
        return Design.of([e.group for e in self.examples], [e.block for e in self.examples])

    def sample(self, n: int, *, seed: int = 0) -> "Task":
        """Return ``n`` examples drawn without replacement, in their old order.

        A group that has blocks is drawn whole; the last one is cut where ``n`` asks for it.

        Raises:
            ValueError: There are fewer than ``n``, or ``n`` is less than 1.
        """
        if not 1 <= n <= len(self):
            msg = f"cannot draw {n} of the {len(self)} examples of {self.name!r}."
            raise ValueError(msg)
        units = self.design.units()
        drawn = random.Random(seed).sample(range(len(units)), min(n, len(units)))
        return self.take(sorted([i for u in drawn for i in units[u]][:n]))

    def take(self, index: Iterable[int], note: str = "") -> "Task":
        """Return the examples at ``index``, in that order; groups are cut where it cuts them."""
        examples = tuple(self.examples[i] for i in index)
        return replace(self, examples=examples, notes=(*self.notes, *([note] if note else [])))

    def with_shots(self, n: int) -> "Task":
        """Return the task after its first ``n`` examples, each prompt led by those, solved.

        Published few-shot choices were made by hand and cannot be repeated; the first ``n`` can.
        Examples that share a group with a shot go too: the shot would tell their answer.

        Raises:
            ValueError: ``n`` leaves no example.
        """
        shots = self.examples[: max(0, n)]
        groups = {e.group for e in shots if e.group}
        rest = [e for e in self.examples[len(shots) :] if e.group not in groups]
        if n < 1 or not rest:
            msg = (
                f"{n} of {len(self)} examples cannot be shots: there must be one at least, and one "
                "at least of another group must be left."
            )
            raise ValueError(msg)
        shown = "".join(f"{e.prompt} {e.label}\n\n" for e in shots)
        return replace(self, examples=tuple(e.within(shown) for e in rest), notes=(*self.notes, f"{n} shots"))

    def templated(self, template: Callable[[str, str], str]) -> "Task":
        """Return the task with every prompt inside a chat template.

        Args:
            template: Of the user's message and the first words of the answer, for instance
                ``lambda user, start: mp.chat_prompt(model, user, answer_start=start)``.

        Raises:
            ValueError: A prompt does not end in ``"Answer:"``, or the template changes its text.
        """
        return replace(
            self,
            examples=tuple(_in_template(e, template) for e in self.examples),
            notes=(*self.notes, "chat template"),
        )

    def record(self) -> list[Json]:
        """Return all examples as JSON values, for provenance."""
        # Without a block a record is what it was before there were blocks, and so is its digest.
        records = [asdict(e) for e in self.examples]
        return [{k: v for k, v in r.items() if k != "block" or v} for r in records]

    def digest(self) -> str:
        """Return the SHA-256 of all examples, as ``data_digest`` of scores made from them."""
        return digest_json(self.record())

    def save(self, path: str | Path) -> Path:
        """Write one JSON object per line; ``tasks.load(path)`` reads it back.

        The file appears whole or not at all; a name that ends in ``.gz`` is compressed.
        """
        lines = [json.dumps(r, ensure_ascii=False, sort_keys=True) for r in self.record()]
        head = json.dumps({"task": self.name, "notes": list(self.notes)}, ensure_ascii=False)
        data = ("\n".join([head, *lines]) + "\n").encode()
        # No time inside, so that the same task gives the same file.
        whole = gzip.compress(data, mtime=0) if Path(path).suffix == ".gz" else data
        return write_whole(path, whole)

    def to_dataframe(self) -> "pd.DataFrame":
        """Return one row per example."""
        import pandas as pd

        rows = [
            {
                "prompt": e.prompt,
                "answer": e.label,
                "candidates": " | ".join(e.candidates),
                "group": e.group,
                "block": e.block,
                "steps": e.steps,
                "distractors": e.distractors,
            }
            for e in self.examples
        ]
        return pd.DataFrame(rows)

    def __repr__(self) -> str:
        answers = Counter(e.label for e in self.examples)
        counts = ", ".join(f"{label} {n}" for label, n in sorted(answers.items()))
        groups = len({e.group for e in self.examples})
        notes = "".join(f"\n  {note}" for note in self.notes)
        return f"Task({self.name!r}, n={len(self)}, groups {groups}; answers: {counts}){notes}"

    def _repr_html_(self) -> str:
        first = self.examples[0]
        shown = f"{first.prompt} {first.label}"
        return f"<div><b>{escape(repr(self))}</b><pre>{escape(shown)}</pre></div>"


def _in_template(example: Example, template: Callable[[str, str], str]) -> Example:
    if not example.prompt.endswith(ANSWER):
        msg = f"the prompt does not end in {ANSWER!r}: {example.prompt[-40:]!r}"
        raise ValueError(msg)
    body = example.prompt[: -len(ANSWER)]
    user = body.rstrip("\n ")
    # The newline of the last option stands for it, and should stay its own.
    texts = [body] if example.options else []
    for said in [*texts, user]:
        text = template(said, ANSWER)
        at = text.find(said)
        if at >= 0 and text.endswith(ANSWER):
            break
    else:
        msg = "the template changes the text of the prompt, so that nothing in it can be found."
        raise ValueError(msg)
    moved = replace(example.within(text[:at]), prompt=text)
    if not moved.options or moved.text(moved.options[-1].line).endswith("\n"):
        return moved
    # The template has trimmed it away.
    last = moved.options[-1]
    line = Span(last.line.start, last.content.end)
    return replace(moved, options=(*moved.options[:-1], last._replace(line=line)))


def example_from_json(record: dict[str, Any]) -> Example:
    """Rebuild an example from a line that ``Task.save`` wrote."""
    statement = record.get("statement")
    options: Sequence[Sequence[Sequence[int]]] = record.get("options", ())
    fields: dict[str, Any] = {
        **record,
        "candidates": tuple(record["candidates"]),
        "statement": Span(*statement) if statement else None,
        "options": tuple(Option(*(Span(*s) for s in option)) for option in options),
    }
    return Example(**fields)
