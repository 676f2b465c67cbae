"""Multiple-choice questions: a synthetic set that only asks to copy, and reordered options."""

import random
from collections.abc import Callable, Sequence
from dataclasses import replace

from mechprobe.tasks.layout import choice_example
from mechprobe.tasks.task import Example, Option, Span, Task
from mechprobe.tasks.words import COMMON_WORDS


def select_and_copy(n: int, options: int = 4, *, seed: int = 0, extra_options: bool = False) -> Task:
    """Return questions that name a word and ask which option is that word.

    They test whether a model can answer in the format at all: overlap with the question solves
    them, and is meant to. After the synthetic set of Tulchinskii et al. (2024, arXiv:2410.02343),
    whose word list is not public.

    Args:
        n: Questions. The right option stands equally often at each place where ``options`` divides
            ``n``, and within one of it otherwise.
        options: Words to choose from, 2..24.
        seed: The same seed gives the same questions.
        extra_options: Whether "None of the above" and "I don't know" follow, both always wrong.

    Raises:
        ValueError: ``n`` or ``options`` is out of range.

    >>> print(select_and_copy(1, options=2).examples[0].prompt)
    Question: Which of the following options is the word "key"?
    Options:
    A. blood
    B. key
    Answer:
    """
    if n < 1 or not 2 <= options <= 24:
        msg = f"n must be at least 1 and options 2..24; found n={n}, options={options}."
        raise ValueError(msg)
    rng = random.Random(seed)
    rounds = -(-n // options)
    places = [i for _ in range(rounds) for i in rng.sample(range(options), options)][:n]
    rng.shuffle(places)
    examples: list[Example] = []
    for place in places:
        words = rng.sample(COMMON_WORDS, options)
        question = f'Which of the following options is the word "{words[place]}"?'
        examples.append(choice_example(question, words, place, extra_options=extra_options))
    grouped = (replace(e, group=f"question {i}") for i, e in enumerate(examples))
    more = ", extra options" if extra_options else ""
    return Task(f"select_and_copy({options} words{more}, seed={seed})", tuple(grouped))


def permuted(task: Task, *, seed: int = 0, keep_last: int = 0) -> Task:
    """Return the task with the texts of the options in random order; the letters stay.

    Args:
        task: Multiple-choice questions.
        seed: With the index of a question, decides its order, so that one question is reordered
            alike whatever the others are.
        keep_last: Options at the end that stay where they are: 2 for "None of the above" and "I
            don't know".

    Raises:
        ValueError: A question without options, or ``keep_last`` leaves fewer than 2 to reorder.
    """

    def order(i: int, n: int) -> list[int]:
        return random.Random(f"{seed}/{i}").sample(range(n), n)

    return _reordered(task, order, keep_last, f"options permuted (seed {seed})")


def rotated(task: Task, by: int, *, keep_last: int = 0) -> Task:
    """Return the task with the texts of the options moved on by ``by`` places, the last ones round.

    Args:
        task: Multiple-choice questions.
        by: Places.
        keep_last: Options at the end that stay where they are.

    Raises:
        ValueError: A question without options, or ``keep_last`` leaves fewer than 2 to reorder.
    """

    def order(_: int, n: int) -> list[int]:
        return [(i - by) % n for i in range(n)]

    return _reordered(task, order, keep_last, f"options rotated by {by}")


def _reordered(task: Task, order: Callable[[int, int], list[int]], keep_last: int, note: str) -> Task:
    out: list[Example] = []
    for i, example in enumerate(task.examples):
        n = len(example.options) - keep_last
        letters = tuple(example.text(option.label) for option in example.options)
        if not example.options or letters != example.candidates:
            msg = (
                f"question {i} of {task.name!r} has no lettered options to reorder; only "
                "multiple-choice tasks whose candidates are the letters can be."
            )
            raise ValueError(msg)
        if keep_last < 0 or n < 2:
            msg = (
                f"keep_last={keep_last} leaves {n} of the {len(letters)} options of question {i} "
                "to reorder; at least 2 are needed, and keep_last is not negative."
            )
            raise ValueError(msg)
        out.append(_with_contents(example, [*order(i, n), *range(n, len(letters))]))
    return replace(task, examples=tuple(out), notes=(*task.notes, note))


def _with_contents(example: Example, source: Sequence[int]) -> Example:
    """Return the example with the text of option ``source[i]`` at place i."""
    texts = [example.text(option.content) for option in example.options]
    prompt = example.prompt[: example.options[0].line.start]
    options: list[Option] = []
    for old, new in zip(example.options, source, strict=True):
        by = len(prompt) - old.line.start
        start = old.content.start + by
        end = start + len(texts[new])
        prompt += example.prompt[old.line.start : old.content.start] + texts[new]
        prompt += example.prompt[old.content.end : old.line.end]
        options.append(Option(old.label.moved(by), Span(start, end), Span(old.line.start + by, len(prompt))))
    prompt += example.prompt[example.options[-1].line.end :]
    return replace(
        example,
        prompt=prompt,
        options=tuple(options),
        answer=source.index(example.answer),
        meta={**example.meta, "order": list(source)},
    )
