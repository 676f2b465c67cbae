"""What made a number: the record that every result carries.

A leaf: knows no model and no tensor. The same call on the same inputs gives the same record, the
two time fields aside.
"""

import hashlib
import json
import platform
import subprocess
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from functools import cache
from importlib import metadata
from pathlib import Path
from time import perf_counter
from typing import Any

# Not recursive: the runtime type checker of the tests cannot resolve a type that names itself.
Json = None | bool | int | float | str | list[Any] | dict[str, Any]

# Characters; longer arrays are recorded by their digest.
_LONGEST_ARGUMENT = 1000
UNRECORDED = frozenset(
    {"self", "model", "prompts", "prompt", "scores", "walks", "judge", "call", "progress", "resume", "folder"}
)
"""Arguments that change no number, or that the record tells apart (the model, what was read)."""

_PACKAGES = ("mechprobe", "torch", "transformer-lens", "transformers", "numpy", "xarray")


@dataclass(frozen=True)
class Provenance:
    """Function, inputs, model and machine behind one result.

    Attributes:
        function: Public name of the function that made the result.
        arguments: What it was called with, defaults included; large inputs by digest.
        model: Name, revision, weights digest, dtype, device and attention of the model.
        data_digest: SHA-256 of the token ids that were read.
        versions: Python and package versions.
        git: Commit of the caller's working tree and whether it was dirty; empty outside git.
        seed: Random seed, where one was used.
        time_started: UTC time, ISO 8601.
        time_seconds: How long the call took.
    """

    function: str
    arguments: dict[str, Json]
    model: dict[str, Json]
    data_digest: str
    versions: dict[str, str] = field(default_factory=lambda: versions())
    git: dict[str, Json] = field(default_factory=lambda: git_state())
    seed: int | None = None
    time_started: str = ""
    time_seconds: float = 0.0

    def to_json(self) -> str:
        """Return the record as one JSON string with sorted keys."""
        return json.dumps(asdict(self), sort_keys=True, ensure_ascii=True)

    @classmethod
    def from_json(cls, text: str) -> "Provenance":
        """Read a record back.

        Raises:
            ValueError: The text is not a provenance record of this version.
        """
        try:
            return cls(**json.loads(text))
        except (TypeError, json.JSONDecodeError) as error:
            msg = f"not a provenance record of mechprobe: {error}"
            raise ValueError(msg) from error

    def without_time(self) -> dict[str, Json]:
        """Return the fields that two runs of one call must share."""
        record: dict[str, Json] = asdict(self)
        return {k: v for k, v in record.items() if not k.startswith("time_")}


class Call:
    """One call of a public function; makes its provenance when it is done.

    Args:
        function: Public name, without the package.
        arguments: Its ``locals()``, before anything else is in them.
    """

    def __init__(self, function: str, arguments: Mapping[str, object]) -> None:
        self._function = function
        options: Any = arguments.get("options", {})
        self._arguments = {**{k: v for k, v in arguments.items() if k != "options"}, **options}
        self._started = utc_now()
        self._clock = perf_counter()
        # Asked while the model is looked at: git takes some 7 ms.
        beside = ThreadPoolExecutor(1)
        self._git = beside.submit(git_state)
        beside.shutdown(wait=False)

    def record(
        self, model: dict[str, Json], data: Json, *, seed: int | None = None, **meant: object
    ) -> Provenance:
        """Return the record of the call.

        Args:
            model: The model, as ``models.describe`` tells it.
            data: What was read, as JSON; kept as its digest.
            seed: Random seed, where one was used.
            meant: What an argument stood for, where it does not say so itself.
        """
        return Provenance(
            function=f"mechprobe.{self._function}",
            arguments=self.told(**meant),
            model=model,
            data_digest=digest_json(data),
            git=self._git.result(),
            seed=seed,
            time_started=self._started,
            time_seconds=perf_counter() - self._clock,
        )

    def told(self, **meant: object) -> dict[str, Json]:
        """Return what the function was called with, as JSON."""
        arguments = {k: v for k, v in self._arguments.items() if k not in UNRECORDED}
        return plain(arguments | meant)


def utc_now() -> str:
    """Return the time as ISO 8601 in UTC, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def versions() -> dict[str, str]:
    """Return the versions of Python and of the packages that decide a number."""
    return dict(_versions())


@cache
def _versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for name in _PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = "not installed"
    return found


def git_state(folder: Path | None = None) -> dict[str, Json]:
    """Return commit and dirtiness of the git tree around ``folder`` (default: where Python runs).

    Empty where there is no git tree, no commit yet or no git. Programs that the tree's own
    configuration names (file monitor, filters) are not run, and nothing in it is written.
    """

    def git(*args: str) -> str | None:
        try:
            done = subprocess.run(
                ["git", "--no-optional-locks", "-c", "core.fsmonitor=false", *args],
                cwd=folder,
                capture_output=True,
                text=True,
                timeout=5,
                check=False,
            )
        except (OSError, subprocess.TimeoutExpired):
            return None
        return done.stdout.strip() if done.returncode == 0 else None

    filters = git(
        "config", "--local", "--name-only", "--get-regexp", r"^filter\..*\.(clean|process|required)$"
    )
    unset = [part for name in (filters or "").splitlines() for part in ("-c", f"{name}=")]
    asked = ("--porcelain=v2", "--branch", "--untracked-files=no", "--ignore-submodules=dirty")
    told = git(*unset, "status", *asked)
    lines = (told or "").splitlines()
    commit = next((x.split()[-1] for x in lines if x.startswith("# branch.oid ")), "(initial)")
    if commit == "(initial)":
        return {}
    return {"commit": commit, "dirty": any(not x.startswith("#") for x in lines)}


def digest_json(value: Json) -> str:
    """Return the SHA-256 of a JSON value, independent of the order of keys."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def digest_file(path: Path) -> str:
    """Return the SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def plain(arguments: Mapping[str, object]) -> dict[str, Json]:
    """Return call arguments as JSON; what is no JSON value is named by its type."""

    def convert(value: object) -> Json:
        if value is None or isinstance(value, bool | int | float | str):
            return value
        if hasattr(value, "tolist"):
            # Arrays, tensors and their scalars.
            whole = value.tolist()
            few = len(str(whole)) <= _LONGEST_ARGUMENT
            return convert(whole) if few else f"<sha256 {digest_json(whole)}>"
        if isinstance(value, Mapping):
            return {str(k): convert(v) for k, v in value.items()}
        if isinstance(value, Sequence):
            return [convert(v) for v in value]
        if isinstance(value, slice):
            return f"slice({value.start}, {value.stop}, {value.step})"
        name = getattr(value, "__qualname__", None) or type(value).__qualname__
        return f"<{getattr(value, '__module__', '')}.{name}>"

    return {k: convert(v) for k, v in arguments.items()}
