"""Scores of an unfinished run on disk, line by line, so that nothing computed is lost."""

import json
import os
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import astuple
from pathlib import Path
from typing import Any

import numpy as np

from mechprobe.provenance import Json, digest_json, plain
from mechprobe.worlds.metrics.judged import Judged
from mechprobe.worlds.metrics.scores import Scored, Scores

# What a line holds; a file of another format is another run's.
FORMAT = 3
# Logarithms of probabilities that another batch, thread or machine may give.
_ALIKE = 1e-2


class Journal:
    """A file that every finished batch is added to; without a path it keeps nothing.

    The first line says which run it belongs to, every other one holds a batch. A line that was cut
    short when the run was killed is left out and written again; so is one that is not what it was.

    Args:
        path: The file, or None.
        run: What the run was called with; a file of another run is refused.
        answers: Gives what the model answers to fixed questions; a file of a model that answered
            otherwise is refused, whatever it is called.

    Raises:
        ValueError: The file belongs to another run or model, or is no such file.
    """

    def __init__(
        self, path: str | Path | None, run: Mapping[str, object], answers: Callable[[], Sequence[float]]
    ) -> None:
        self._path = None if path is None else Path(path).expanduser()
        self._done: dict[str, list[Scored]] = {}
        if self._path is None:
            return
        asked = plain({**run, "journal": FORMAT})
        header: dict[str, Json] = {"run": digest_json(dict(asked)), "asked": dict(asked)}
        header["answers"] = list(answers())
        if self._path.exists() and self._path.stat().st_size:
            self._read(self._path, header, asked)
        else:
            self._append(header)

    def done(self, task: str) -> list[Scored]:
        """Return the batches of a task that are there already."""
        return self._done.get(task, [])

    def add(self, task: str, part: Scored) -> None:
        """Write one batch; it is on disk when this returns."""
        if self._path is None:
            return
        self._append(
            {
                "task": task,
                "index": part.index.tolist(),
                "values": _told(part.values),
                "reasons": list(part.reasons),
                "judged": list(astuple(part.judged)),
                "suffix_error": _told(part.suffix_error),
            }
        )

    def _append(self, line: dict[str, Json]) -> None:
        if self._path is None:
            return
        with self._path.open("ab") as file:
            file.write(json.dumps({**line, "sha256": digest_json(line)}).encode() + b"\n")
            file.flush()
            os.fsync(file.fileno())

    def _read(self, path: Path, header: dict[str, Json], asked: dict[str, Json]) -> None:
        data = path.read_bytes()
        whole = data[: data.rfind(b"\n") + 1]
        if len(whole) < len(data):
            # The last line was cut short: its batch is computed again.
            with path.open("rb+") as file:
                file.truncate(len(whole))
        first, *lines = whole.splitlines() or [b""]
        if not whole:
            self._append(header)
            return
        found = _checked(first)
        if found is None or "run" not in found:
            msg = f"{path.name} is not what an interrupted run left, or its first line is damaged; "
            msg += "name another file."
            raise ValueError(msg)
        _require_same(path, found, header, asked)
        parts = [_checked(line) for line in lines]
        damaged = sum(part is None for part in parts)
        if damaged:
            msg = f"{path.name}: {damaged} damaged lines; their batches are computed again."
            warnings.warn(msg, UserWarning, stacklevel=2)
        for part in parts:
            if part is not None:
                self._done.setdefault(part["task"], []).append(_scored(part))


def _checked(text: bytes) -> dict[str, Any] | None:
    """Return what a line says, if it is as it was written."""
    try:
        line = json.loads(text)
        digest = line.pop("sha256")
    # Bytes that are no UTF-8, no JSON, nested without end, or of another shape.
    except (ValueError, KeyError, AttributeError, TypeError, RecursionError):
        return None
    return line if digest == digest_json(line) else None


def _require_same(path: Path, found: dict[str, Any], header: dict[str, Json], asked: dict[str, Json]) -> None:
    """Refuse the file of another run, or of another model of the same name."""
    before: dict[str, Json] = found["asked"]
    if found["run"] != header["run"]:
        differing = [key for key in sorted({*before, *asked}) if before.get(key) != asked.get(key)]
        msg = (
            f"{path.name} belongs to another run: {', '.join(differing)} differ. Call it with "
            "the same arguments to continue, or name another file."
        )
        raise ValueError(msg)
    one, other = (np.array(x["answers"], np.float64) for x in (found, header))
    if one.shape != other.shape or np.abs(one - other).max(initial=0) > _ALIKE:
        msg = (
            f"{path.name} belongs to another model: of the same name, but it gives words other "
            "probabilities. Continue with the model as it was, or name another file."
        )
        raise ValueError(msg)


def _scored(line: dict[str, Any]) -> Scored:
    return Scored(
        np.array(line["index"], dtype=np.int64),
        _read(line["values"]),
        tuple(line["reasons"]),
        Judged(*line["judged"]),
        _read(line["suffix_error"]),
    )


def _told(values: Scores) -> list[Json]:
    return [None if np.isnan(v) else v for v in values.tolist()]


def _read(values: list[float | None]) -> Scores:
    return np.array([np.nan if v is None else v for v in values], np.float64)
