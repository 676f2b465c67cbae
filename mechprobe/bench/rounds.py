"""Workers side by side: outputs compared first, then timed in turn."""

import math
import os
import platform
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from time import process_time
from typing import TYPE_CHECKING, Any

from mechprobe.bench.compare import Cells, Compare, Comparison
from mechprobe.bench.memory import METHOD
from mechprobe.bench.process import WorkerProcess
from mechprobe.bench.report import BenchReport, BenchRow
from mechprobe.bench.workload import Shape
from mechprobe.provenance import utc_now, versions

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    from tqdm import tqdm

    from mechprobe.bench.contender import Arrays

OURS = "mechprobe"
_SLOW_SECONDS = 60.0
# What is over soon is moved most by the machine's moods, and costs least to repeat.
_SHORT_SECONDS = 3.0
_SHORT_ROUNDS = 3
_PROCESSOR = Path("/proc/cpuinfo")
_METHOD = (
    f"Every contender in its own process, one warm-up, then in turns ({_SHORT_ROUNDS} times as "
    f"many where mechprobe takes under {_SHORT_SECONDS:.0f} s; what takes over "
    f"{_SLOW_SECONDS:.0f} s runs once); x mechprobe is the median "
    "ratio of times in the same round. Extra MB is the highest resident memory of the process "
    f"in the timed repetitions ({METHOD}), less that of the forward pass alone (without "
    "unembedding, measured before), less the outputs."
)


@dataclass(frozen=True)
class Kind:
    """One benchmark.

    Attributes:
        model: What is read by default.
        workloads: What is done by default.
        contenders: Their names, in the order of every round: each is loaded and run once before
            the next, first those that need most memory.
        input: File name of the input that they share.
        shape: How workloads are named.
        compare: Says whether a contender's outputs equal ours.
        peers: Of other packages, run where they are asked for and installed (extra "bench").
        pieces: Of mechprobe's machinery, without which it is run where they are asked for.
        cpu: Whether the CPU seconds of one thread are counted.
    """

    model: str
    workloads: tuple[str, ...]
    contenders: tuple[str, ...]
    input: str
    shape: Shape
    compare: Compare
    peers: tuple[str, ...] = ()
    pieces: tuple[str, ...] = ()
    cpu: bool = False


@dataclass
class Entry:
    """A contender on one workload, as it goes along."""

    process: WorkerProcess
    outputs: str
    threads: int = 0
    absent: bool = False
    saved: Path | None = None
    slow: bool = False
    gone: bool = False
    ours: bool = False
    warm_up: float = math.nan
    seconds: list[float] = field(default_factory=list)
    extra: list[float] = field(default_factory=list)

    def run(self, save: Path | None = None) -> float:
        """Run once; keep its time and memory, or its outputs in a file, or both if it is slow."""
        answer = self.process.ask(do="run", save=str(save) if save else None)
        seconds = float(answer["seconds"])
        if save is not None:
            self.warm_up = seconds
        self.slow = not self.ours and (self.slow or seconds > _SLOW_SECONDS)
        if save is None or self.slow:
            extra = answer["extra_bytes"]
            self.seconds.append(seconds)
            self.extra.append(math.nan if extra is None else max(0.0, extra))
        return seconds


def run_rounds(
    name: str,
    kind: Kind,
    model: str,
    workloads: Sequence[str],
    names: Sequence[str],
    repeats: int,
    progress: bool,
) -> BenchReport:
    """Run one benchmark: every contender in its own process, in turns.

    Raises:
        RuntimeError: mechprobe itself failed; a peer that fails costs its own row only.
    """
    rows: list[BenchRow] = []
    lines: list[Comparison] = []
    threads: set[int] = set()
    machine = machine_facts()
    from tqdm.auto import tqdm

    total = len(workloads) * len(names) * (repeats + 1)
    with tqdm(total=total, desc="bench", unit="run", disable=not progress, leave=False) as bar:
        for work in workloads:
            with ExitStack() as stack:
                folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
                entries: dict[str, Entry] = {}
                for one in names:
                    process = WorkerProcess(name, one, model, work, folder / kind.input)
                    entries[one] = _begun(one, stack.enter_context(process), folder)
                    bar.update()
                lines += _compared(kind.compare, entries, work, folder)
                rounds = _rounds(entries[OURS], repeats)
                bar.total += (rounds - repeats) * len(names)
                _take_turns(entries, rounds, bar)
            rows += [_row(one, work, entries) for one in names]
            threads |= {entry.threads for entry in entries.values() if not entry.absent}
    machine["torch threads"] = "/".join(map(str, sorted(threads)))
    if kind.cpu:
        machine["CPU s of 50 float32 products 1024 x 1024 on one thread"] = _product_seconds()
    method = ("CPU seconds of one thread. " if kind.cpu else "") + _METHOD
    return BenchReport(f"{name}, {model}", tuple(rows), tuple(lines), machine, method)


def _begun(name: str, process: WorkerProcess, folder: Path) -> Entry:
    """Load a worker and run it once, before the next one takes memory; a slow one is done then."""
    ready = process.receive()
    absent = "absent" in ready
    outputs = f"absent: {ready['absent']}" if absent else str(ready["outputs"])
    entry = Entry(process, outputs, int(ready.get("threads", 0)), absent, ours=name == OURS)
    if not absent:
        entry.saved = folder / f"{name}.npz"
        _run_once(name, entry, entry.saved)
    if entry.slow:
        process.end()
    return entry


def _compared(compare: Compare, entries: dict[str, Entry], work: str, folder: Path) -> list[Comparison]:
    import numpy as np

    found: dict[str, Arrays] = {}
    for name, entry in entries.items():
        if entry.saved is not None and entry.saved.exists():
            with np.load(entry.saved) as arrays:
                found[name] = dict(arrays)
    ours, process = found.pop(OURS), entries[OURS].process

    def logits(cells: Cells) -> "npt.NDArray[np.float64]":
        asked, told = folder / "cells.npy", folder / "logits.npy"
        np.save(asked, cells)
        process.ask(do="exact_logits", cells=str(asked), save=str(told))
        values: npt.NDArray[np.float64] = np.load(told)
        return values

    return [
        Comparison(name, work, *line)
        for name, theirs in found.items()
        if theirs
        for line in compare(ours, theirs, logits)
    ]


def _run_once(name: str, entry: Entry, save: Path | None = None) -> None:
    """Run a contender; a peer that fails or is killed costs its own row and nobody else's."""
    try:
        entry.run(save)
    except RuntimeError as error:
        if name == OURS:
            raise
        entry.gone, entry.absent = True, not entry.seconds
        entry.outputs = f"failed: {error}"


def _rounds(ours: Entry, repeats: int) -> int:
    return repeats * _SHORT_ROUNDS if ours.warm_up < _SHORT_SECONDS else repeats


def _take_turns(entries: dict[str, Entry], rounds: int, bar: "tqdm[Any]") -> None:
    for _ in range(rounds):
        for name, entry in entries.items():
            if not (entry.absent or entry.gone or (entry.slow and entry.seconds)):
                _run_once(name, entry)
            bar.update()


def _row(name: str, work: str, entries: dict[str, Entry]) -> BenchRow:
    entry = entries[name]
    if entry.absent:
        nan = math.nan
        return BenchRow(name, work, nan, nan, nan, 0, nan, nan, entry.outputs)
    # A slow contender ran once, its warm-up, and is paired with mechprobe's first timed run.
    pairs = zip(entry.seconds, entries[OURS].seconds, strict=False)
    times = f"timed {len(entry.seconds)}x, from the first"
    slow = f"; over {_SLOW_SECONDS:.0f} s a repetition, {times}" if entry.slow else ""
    return BenchRow(
        name,
        work,
        median(entry.seconds),
        min(entry.seconds),
        max(entry.seconds),
        len(entry.seconds),
        median(theirs / ours for theirs, ours in pairs),
        max(entry.extra) / 1e6,
        entry.outputs + slow,
    )


def machine_facts() -> dict[str, str]:
    """Return processor, cores, load, versions and date."""
    known = versions()
    # What else was running: on a busy machine even ratios are worth little.
    load = f"{os.getloadavg()[0]:.1f}" if hasattr(os, "getloadavg") else "unknown"
    return {
        "processor": _processor(),
        "cores": str(os.cpu_count() or "?"),
        "load before": load,
        **{name: known[name] for name in ("mechprobe", "torch", "transformer-lens")},
        "transformers": known["transformers"],
        "python": known["python"],
        "date": utc_now(),
    }


def _processor() -> str:
    try:
        lines = _PROCESSOR.read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def _product_seconds() -> str:
    import torch

    n_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        x = torch.randn(1024, 1024, generator=torch.Generator().manual_seed(0))
        out = x @ x
        start = process_time()
        for _ in range(50):
            torch.mm(x, x, out=out)
        return f"{process_time() - start:.2f}"
    finally:
        torch.set_num_threads(n_threads)
