"""Scores of an unfinished run on disk, line by line, so that nothing computed is lost."""

import json
import os
from collections.abc import Mapping
from dataclasses import astuple
from pathlib import Path

import numpy as np

from mechprobe.provenance import Json, digest_json, plain
from mechprobe.worlds.metrics.judged import Judged
from mechprobe.worlds.metrics.scores import Scored, Scores

# What a line holds; a file of another format is another run's.
FORMAT = 2


class Journal:
    """A file that every finished batch is added to; without a path it keeps nothing.

    The first line says which run it belongs to, every other one holds a batch. A line that was cut
    short when the run was killed is left out and written again.

    Args:
        path: The file, or None.
        run: What the run was called with; a file of another run is refused.

    Raises:
        ValueError: The file belongs to another run, or is no such file.
    """

    def __init__(self, path: str | Path | None, run: Mapping[str, object]) -> None:
        self._path = None if path is None else Path(path).expanduser()
        self._done: dict[str, list[Scored]] = {}
        if self._path is None:
            return
        asked = plain({**run, "journal": FORMAT})
        header: dict[str, Json] = {"run": digest_json(dict(asked)), "asked": dict(asked)}
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
            file.write(json.dumps(line).encode() + b"\n")
            file.flush()
            os.fsync(file.fileno())

    def _read(self, path: Path, header: dict[str, Json], asked: dict[str, Json]) -> None:
        data = path.read_bytes()
        whole = data[: data.rfind(b"\n") + 1]
        try:
            lines = [json.loads(line) for line in whole.splitlines()]
            found = lines[0]["run"] if lines else header["run"]
        except (ValueError, KeyError, TypeError) as error:
            msg = f"{path.name} is not what an interrupted run left ({error}); name another file."
            raise ValueError(msg) from error
        if found != header["run"]:
            before: dict[str, Json] = lines[0].get("asked", {})
            keys = sorted({*before, *asked})
            differing = [key for key in keys if before.get(key) != asked.get(key)]
            msg = (
                f"{path.name} belongs to another run: {', '.join(differing)} differ. Call it with "
                "the same arguments to continue, or name another file."
            )
            raise ValueError(msg)
        if len(whole) < len(data):
            # The last line was cut short: its batch is computed again.
            with path.open("rb+") as file:
                file.truncate(len(whole))
        if not lines:
            self._append(header)
        for line in lines[1:]:
            part = Scored(
                np.array(line["index"], dtype=np.int64),
                _read(line["values"]),
                tuple(line["reasons"]),
                Judged(*line["judged"]),
                _read(line["suffix_error"]),
            )
            self._done.setdefault(line["task"], []).append(part)


def _told(values: Scores) -> list[Json]:
    return [None if np.isnan(v) else v for v in values.tolist()]


def _read(values: list[float | None]) -> Scores:
    return np.array([np.nan if v is None else v for v in values], np.float64)
