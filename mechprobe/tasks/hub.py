"""Tasks from the Hugging Face hub, at pinned revisions."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any

from mechprobe.tasks.formats import CHOICE, Format, examples_of, grouped
from mechprobe.tasks.task import Example, Task


@dataclass(frozen=True, slots=True)
class _Source:
    repository: str
    revision: str
    config: str
    split: str
    format: Format


# Revisions that hold data files: ``datasets`` runs no scripts any more. CosmosQA's own branch is a
# script, so this is the hub's conversion of it (its branch refs/convert/parquet).
_SOURCES = {
    "mmlu": _Source("cais/mmlu", "c30699e8356da336a370243923dbaf21066bb9fe", "all", "test", "mcqa"),
    "hellaswag": _Source(
        "Rowan/hellaswag", "218ec52e09a7e7462a5400043bb9a69a41d06b76", "default", "validation", "hellaswag"
    ),
    "cosmos_qa": _Source(
        "allenai/cosmos_qa", "ed50fe83db62b355759053b1cd5eef344ee371e0", "default", "validation", "cosmos_qa"
    ),
    "prontoqa": _Source(
        "renma/ProntoQA", "6f3e03863ce763efd1f9cd11aacf4caff1b7af02", "default", "validation", "prontoqa"
    ),
}


def from_hub(
    name: str,
    revision: str | None = None,
    *,
    split: str | None = None,
    extra_options: bool = False,
    limit: int | None = None,
) -> Task:
    """Return a published data set from the hub, through ``datasets`` and its cache.

    Args:
        name: ``"mmlu"`` (cais/mmlu), ``"hellaswag"`` (Rowan/hellaswag), ``"cosmos_qa"``
            (allenai/cosmos_qa) or ``"prontoqa"`` (renma/ProntoQA).
        revision: Commit of the data set; None for the one pinned here.
        split: Which part; by default the one with labels that is meant for testing (``"test"`` for
            MMLU, ``"validation"`` for the others).
        extra_options: Whether "None of the above" and "I don't know", both always wrong, follow the
            options of multiple-choice questions.
        limit: Stop after so many questions.

    Raises:
        ValueError: The name is unknown, ``extra_options`` or ``limit`` does not fit, or a record
            cannot be read (the split may have no labels).
        ImportError: ``datasets`` is not installed.
    """
    if name not in _SOURCES:
        msg = (
            f"from_hub knows {', '.join(_SOURCES)}; found {name!r}. For another data set, write "
            "its questions as JSON lines and load them with tasks.load(path, 'mcqa')."
        )
        raise ValueError(msg)
    source = _SOURCES[name]
    if extra_options and source.format not in CHOICE:
        msg = f"extra_options are for multiple-choice questions; {name!r} has none."
        raise ValueError(msg)
    if limit is not None and limit < 1:
        msg = f"limit must be at least 1; found {limit}."
        raise ValueError(msg)
    revision, split = revision or source.revision, split or source.split
    examples = islice(_read(source, revision, split, extra_options), limit)
    note = f"{source.repository} at {revision}, {split}"
    return Task(name, tuple(examples), (note,))


def _read(source: _Source, revision: str, split: str, extra_options: bool) -> Iterator[Example]:
    try:
        from datasets import load_dataset
    except ImportError as error:
        msg = "from_hub needs the package 'datasets': pip install datasets"
        raise ImportError(msg) from error
    rows: Any = load_dataset(source.repository, source.config, split=split, revision=revision)

    def read() -> Iterator[Example]:
        for i, row in enumerate(rows):
            try:
                yield from examples_of(source.format, row, extra_options=extra_options)
            except ValueError as error:
                msg = f"{source.repository}, {split}, record {i}: {error}"
                raise ValueError(msg) from error

    return grouped(read())
