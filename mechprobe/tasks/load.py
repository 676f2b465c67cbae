"""Tasks from files: what ``Task.save`` wrote, and published data sets as they come."""

import gzip
import json
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, Literal

from mechprobe.tasks.choices import first_number_of
from mechprobe.tasks.formats import CHOICE, READERS, Format, examples_of, grouped
from mechprobe.tasks.task import Example, Task, example_from_json


@dataclass
class _Source:
    """A file being read; what cannot be read is an error, or noted."""

    path: Path
    keep_readable: bool
    dropped: list[str] = field(default_factory=list)

    def refuse(self, where: str, problem: str) -> None:
        if not self.keep_readable:
            msg = f"{self.path}, {where}: {problem}"
            raise ValueError(msg)
        self.dropped.append(f"{where} ({problem})")

    def note(self) -> str:
        shown = "; ".join(self.dropped[:20])
        more = f"; and {len(self.dropped) - 20} more" if len(self.dropped) > 20 else ""
        return f"dropped {len(self.dropped)} unreadable: {shown}{more}"


def load(
    path: str | Path,
    format: Format | None = None,
    *,
    name: str | None = None,
    extra_options: bool = False,
    keep_readable: bool = False,
    limit: int | None = None,
    first_number: Literal[0, 1] | None = None,
) -> Task:
    """Return the questions of a file.

    Args:
        path: ``.jsonl`` or ``.jsonl.gz``, one JSON object per line; for ``"prontoqa"`` also the
            ``.json`` that its generator writes.
        format: What the lines are; None for a file that ``Task.save`` wrote. ``"mcqa"`` is anything
            with question, choices and answer, and a passage if there is one, in the field names of
            MMLU, MMLU-Pro, ARC, CommonsenseQA, OpenBookQA, RACE, ReClor or LogiQA.
        name: Name of the task; by default that of the saved task or of the file.
        extra_options: Whether "None of the above" and "I don't know", both always wrong, follow the
            options of multiple-choice questions.
        keep_readable: Keep what can be read; the notes of the task say what was dropped. By default
            the first line that cannot be read is an error.
        limit: Stop after so many questions.
        first_number: Of ``"mcqa"`` whose answers are numbers: what they count from. By default the
            file says it: by a 0, or by a number as high as there are options.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: A line is not UTF-8, not JSON, lacks a field or has a label that is not among
            the candidates (file and line are named); the file is empty; the format is unknown or
            does not fit the options; or numbers of right options may count from 0 or from 1, or can
            count from neither.
    """
    path = Path(path).expanduser()
    _check(path, format, extra_options, limit)
    if first_number is not None and (format != "mcqa" or first_number not in (0, 1)):
        msg = f"first_number is 0 or 1, for format 'mcqa'; found {first_number!r} for {format!r}."
        raise ValueError(msg)
    source = _Source(path, keep_readable)
    head: dict[str, Any] = {}
    if format is None:
        found = _saved_examples(source, head)
    else:
        found = _published_examples(source, format, extra_options, first_number)
    examples = tuple(islice(found, limit))
    if not examples:
        dropped = f" {source.note()}." if source.dropped else ""
        msg = f"{path} holds no question.{dropped}"
        raise ValueError(msg)
    notes = (*head.get("notes", ()), *([source.note()] if source.dropped else []))
    return Task(name or head.get("task") or _stem(path), examples, notes)


def _check(path: Path, format: str | None, extra_options: bool, limit: int | None) -> None:
    if not path.is_file():
        msg = f"there is no file {path}."
        raise FileNotFoundError(msg)
    if format is not None and format not in READERS:
        msg = f"format must be one of {', '.join(READERS)} (or None); found {format!r}."
        raise ValueError(msg)
    if extra_options and format not in CHOICE:
        msg = f"extra_options are for multiple-choice formats ({', '.join(CHOICE)}); found format={format!r}."
        raise ValueError(msg)
    if limit is not None and limit < 1:
        msg = f"limit must be at least 1; found {limit}."
        raise ValueError(msg)


def _stem(path: Path) -> str:
    return path.name.removesuffix(".gz").rsplit(".", 1)[0]


def _published_examples(
    source: _Source, format: str, extra_options: bool, first_number: int | None
) -> Iterator[Example]:
    if format == "mcqa" and first_number is None:
        readable = _Source(source.path, keep_readable=True)
        try:
            first_number = first_number_of(record for _, record in _records(readable))
        except ValueError as error:
            msg = f"{source.path}: {error}"
            raise ValueError(msg) from error
    records = _records(source)

    def read() -> Iterator[Example]:
        for where, record in records:
            try:
                yield from examples_of(format, record, extra_options=extra_options, first_number=first_number)
            except ValueError as error:
                source.refuse(where, str(error))

    return grouped(read())


def _records(source: _Source) -> Iterator[tuple[str, dict[str, Any]]]:
    return _whole(source) if ".json" in source.path.suffixes else _lines(source)


def _saved_examples(source: _Source, head: dict[str, Any]) -> Iterator[Example]:
    records = _lines(source)
    first = next(records, None)
    if first is None:
        return
    record = first[1]
    if not isinstance(record.get("task"), str) or not isinstance(record.get("notes"), list):
        msg = (
            f"{source.path} does not begin with the head line of Task.save; say which format it "
            f"has: {', '.join(READERS)}."
        )
        raise ValueError(msg)
    head.update(record)
    for where, line in records:
        try:
            yield example_from_json(line)
        except (ValueError, TypeError, KeyError) as error:
            source.refuse(where, f"not a line of Task.save: {error}")


def _lines(source: _Source) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield each line that holds a JSON object, with its name for messages."""
    for number, line in enumerate(_bytes(source), start=1):
        where = f"line {number}"
        try:
            text = line.decode("utf-8-sig" if number == 1 else "utf-8").strip()
            record = json.loads(text) if text else None
        except UnicodeDecodeError as error:
            source.refuse(where, f"not UTF-8 (byte {error.start + 1} is 0x{line[error.start]:02x})")
            continue
        except json.JSONDecodeError as error:
            source.refuse(where, f"not JSON ({error.msg}, character {error.pos + 1})")
            continue
        if not text:
            continue
        if not _is_text(text, record):
            source.refuse(where, "an escape stands for half a character, which no prompt can hold")
            continue
        if isinstance(record, dict):
            yield where, record
        else:
            source.refuse(where, f"a JSON object is needed; found {text[:40]!r}")


def _is_text(line: str, record: object) -> bool:
    r"""Return whether the texts of a record can be encoded; ``\ud83d`` alone cannot."""
    if "\\ud" not in line.lower():
        return True
    try:
        json.dumps(record, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return False
    return True


def _bytes(source: _Source) -> Iterator[bytes]:
    opened = gzip.open if source.path.suffix == ".gz" else Path.open
    try:
        with opened(source.path, "rb") as file:
            yield from file
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        msg = f"{source.path} is not a whole gzip file: {error}"
        raise ValueError(msg) from error


def _whole(source: _Source) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the records of a file that is one JSON object of records, or a list of them."""
    try:
        found = json.loads(b"".join(_bytes(source)).decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        msg = f"{source.path} is not UTF-8 (byte {error.start + 1})."
        raise ValueError(msg) from error
    except json.JSONDecodeError as error:
        msg = f"{source.path}, line {error.lineno}: not JSON ({error.msg})."
        raise ValueError(msg) from error
    if isinstance(found, list):
        named = [(f"record {i}", record) for i, record in enumerate(found)]
    elif isinstance(found, dict):
        named = [(f"record {key!r}", record) for key, record in found.items()]
    else:
        msg = f"{source.path} holds neither an object nor a list of records."
        raise ValueError(msg)
    for where, record in named:
        if isinstance(record, dict):
            yield where, record
        else:
            source.refuse(where, f"a JSON object is needed; found {record!r:.40}")
