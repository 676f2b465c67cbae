"""The two prompts: a statement to be judged, and options to choose from."""

import re
import string
from collections.abc import Sequence

from mechprobe.provenance import Json
from mechprobe.tasks.task import ANSWER, Example, Option, Span

EXTRA_OPTIONS = ("None of the above", "I don't know")

# Twenty-four options and the two extra ones.
LETTERS = string.ascii_uppercase


def logic_example(
    context: str,
    statement: str,
    candidates: tuple[str, ...],
    answer: str,
    *,
    lead: str = "True or false:",
    group: str = "",
    block: str = "",
    steps: int = -1,
    distractors: int = -1,
    meta: dict[str, Json] | None = None,
) -> Example:
    """Return a question about the truth of a statement.

    The prompt is ``context``, a new line with ``lead`` and the statement, and ``Answer:``.

    Args:
        context: The premises.
        statement: What is to be judged.
        candidates: Possible answers.
        answer: The right one.
        lead: What stands before the statement.
        group: See ``Example``.
        block: See ``Example``.
        steps: See ``Example``.
        distractors: See ``Example``.
        meta: See ``Example``.

    Raises:
        ValueError: Context or statement is empty, or the answer is not among the candidates.
    """
    context, statement = context.strip(), statement.strip()
    if not context or not statement:
        msg = f"{'the statement' if context else 'the context'} is empty."
        raise ValueError(msg)
    if answer not in candidates:
        msg = f"label {answer!r} is not among the candidates {', '.join(candidates)}."
        raise ValueError(msg)
    before = f"{context}\n{lead} "
    return Example(
        prompt=f"{before}{statement}\n{ANSWER}",
        candidates=candidates,
        answer=candidates.index(answer),
        statement=Span(len(before), len(before) + len(statement)),
        group=group,
        block=block,
        steps=steps,
        distractors=distractors,
        meta=meta or {},
    )


def choice_example(
    question: str,
    contents: Sequence[str],
    answer: int,
    *,
    context: str = "",
    extra_options: bool = False,
    group: str = "",
    meta: dict[str, Json] | None = None,
) -> Example:
    r"""Return a multiple-choice question.

    An option is one line, because its newline stands for it; newlines inside become spaces.

    Args:
        question: What is asked.
        contents: Texts of the options.
        answer: Index of the right one.
        context: A passage before the question, if there is one.
        extra_options: Whether "None of the above" and "I don't know" follow, both always wrong; one
            that is there already is not added again.
        group: See ``Example``.
        meta: See ``Example``.

    Raises:
        ValueError: The question or an option is empty, there are fewer than 2 or more than 24
            options, or the answer is none of them.

    >>> print(choice_example("Which is a fruit?", ["apple", "stone"], 0).prompt)
    Question: Which is a fruit?
    Options:
    A. apple
    B. stone
    Answer:
    """
    lines = [re.sub(r"\s*\n\s*", " ", c.strip()) for c in contents]
    if not 2 <= len(lines) <= 24:
        msg = f"a question has 2 to 24 options; found {len(lines)}."
        raise ValueError(msg)
    if not question.strip() or not all(lines):
        msg = "the question is empty." if all(lines) else f"option {lines.index('')} is empty."
        raise ValueError(msg)
    if not 0 <= answer < len(lines):
        msg = f"label {answer} is not among the {len(lines)} options (0..{len(lines) - 1})."
        raise ValueError(msg)
    known = {line.casefold().rstrip(".").replace("\u2019", "'") for line in lines}
    lines += [line for line in EXTRA_OPTIONS if extra_options and line.casefold() not in known]
    passage = f"Context: {context.strip()}\n" if context.strip() else ""
    prompt = f"{passage}Question: {question.strip()}\nOptions:\n"
    options: list[Option] = []
    for letter, line in zip(LETTERS, lines, strict=False):
        at = len(prompt)
        end = at + len(f"{letter}. {line}")
        prompt += f"{letter}. {line}\n"
        options.append(Option(Span(at, at + 1), Span(at + 3, end), Span(at, end + 1)))
    return Example(
        prompt=prompt + ANSWER,
        candidates=tuple(LETTERS[: len(lines)]),
        answer=answer,
        options=tuple(options),
        group=group,
        meta=meta or {},
    )
