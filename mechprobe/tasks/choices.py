"""Multiple choice as data sets write it down: field names, kinds of options, kinds of answers."""

import re
import string
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

# What one field is called in ARC, CommonsenseQA, OpenBookQA, RACE, ReClor, LogiQA, MMLU-Pro.
ALIASES = {
    "question": ("question", "question_stem", "query"),
    "choices": ("choices", "options", "answers"),
    "answer": ("answer", "answerKey", "label", "correct_option"),
    "context": ("context", "passage", "article"),
}
_LETTERS = string.ascii_uppercase


class Choices(NamedTuple):
    """Options of a question.

    Attributes:
        texts: What they say.
        labels: What the data set calls them; empty where it does not say.
    """

    texts: list[str]
    labels: list[str]


def found(record: Mapping[str, Any], field: str) -> str | None:
    """Return the name that a record has for a field, if it has one."""
    return next((name for name in ALIASES[field] if name in record), None)


def context_of(record: Mapping[str, Any]) -> str:
    """Return the passage that a record brings, under whatever name; empty without one.

    Raises:
        ValueError: It has several that differ.
    """
    texts = {str(record[name]) for name in ALIASES["context"] if record.get(name)}
    if len(texts) > 1:
        names = ", ".join(name for name in ALIASES["context"] if record.get(name))
        msg = f"{names} hold different passages; keep one of them."
        raise ValueError(msg)
    return texts.pop() if texts else ""


def choices_of(value: object, name: str) -> Choices:
    """Return options from a list, a mapping of letters, or texts with labels beside them.

    Letters that stand before every text ("A. iron", "(B) tin") are taken off.

    Raises:
        ValueError: They are none of these, or not texts.
    """
    labels: list[Any] = []
    texts: Any = value
    if isinstance(value, Mapping):
        parts: Mapping[str, Any] = value
        if parts.keys() >= {"text", "label"}:
            texts, labels = parts["text"], list(parts["label"])
        else:
            texts, labels = list(parts.values()), list(parts)
    if not isinstance(texts, list) or not texts:
        msg = f"field {name!r} must be a list that is not empty; found {value!r:.60}."
        raise ValueError(msg)
    if not all(isinstance(text, str) for text in texts) or (labels and len(labels) != len(texts)):
        msg = f"field {name!r} must hold texts only; found {value!r:.60}."
        raise ValueError(msg)
    return Choices(_without_letters(texts), [str(label) for label in labels])


def _without_letters(texts: Sequence[str]) -> list[str]:
    """Take the letters off options that all begin with theirs, in order."""
    cut = [
        re.match(rf"\s*(?:\({letter}\)|{letter}[.):])\s+", text)
        for letter, text in zip(_LETTERS, texts, strict=False)
    ]
    if len(cut) < len(texts):
        return list(texts)
    return [t[c.end() :] for t, c in zip(texts, cut, strict=True) if c] if all(cut) else list(texts)


def right_one(value: object, choices: Choices, first_number: int) -> int:
    """Return the index of the right option.

    Args:
        value: What the data set says: a label of its own, a letter (in either case, or as "(B)"), a
            number, or the option's text.
        choices: The options. Where they have labels, a number is one of these or none.
        first_number: What other numbers count from, 0 or 1.

    Raises:
        ValueError: It is none of the options.
    """
    n = len(choices.texts)
    number, said = _number(value), str(value).strip()
    names = choices.labels or list(_LETTERS[:n])
    bare = (said if number is None else str(number)).strip("().:").casefold()
    called = [i for i, name in enumerate(names) if name.casefold() == bare]
    if choices.labels and len(called) == 1:
        return called[0]
    meant: dict[int, str] = {}
    if number is not None and 0 <= number - first_number < n and not choices.labels:
        meant[number - first_number] = "number"
    if isinstance(value, str):
        for i in called:
            meant.setdefault(i, "letter")
        if choices.texts.count(said) == 1:
            meant.setdefault(choices.texts.index(said), "text")
    if len(meant) > 1:
        msg = (
            f"label {value!r} is the {next(iter(meant.values()))} of one option and the text of another; "
            "write numbers (1, not '1')."
        )
        raise ValueError(msg)
    if meant:
        return next(iter(meant))
    numbers = f"{first_number}..{n - 1 + first_number} or A..{_LETTERS[:n][-1]}"
    msg = f"label {value!r} is not among the {n} options ({', '.join(choices.labels) or numbers})."
    raise ValueError(msg)


def first_number_of(records: Iterable[Mapping[str, Any]]) -> int:
    """Return what the numbers of right options count from: a 0 among them, or the number of options.

    Args:
        records: All of a file.

    Returns:
        0 or 1; 0 where there are no numbers.

    Raises:
        ValueError: There are neither, so that both are possible; or both, so that neither is.
    """
    given = [pair for record in records if (pair := _numbered(record)) is not None]
    lowest, highest = any(number == 0 for number, _ in given), any(number == n for number, n in given)
    if lowest != highest or not given:
        return int(highest)
    numbers = [number for number, _ in given]
    why = "cannot all count from either 0 or 1" if lowest else "may count from 0 or from 1"
    msg = (
        f"right options are given by numbers from {min(numbers)} to {max(numbers)}, which {why}; say "
        "first_number=0 or first_number=1."
    )
    raise ValueError(msg)


def _numbered(record: Mapping[str, Any]) -> tuple[int, int] | None:
    """Return the number of the right option and how many there are, where nothing else names it."""
    name, options = found(record, "answer"), found(record, "choices")
    number = _number(record[name]) if name else None
    if name is None or options is None or number is None:
        return None
    try:
        choices = choices_of(record[options], options)
    except ValueError:
        return None  # said when the record itself is read
    named = choices.labels or record[name] in choices.texts
    return None if named else (number, len(choices.texts))


def _number(value: object) -> int | None:
    """Return a number that may come as 1, "1" or 1.0."""
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        return None
    text = re.sub(r"\.0$", "", str(value).strip())
    return int(text) if text.isdecimal() else None
