"""Run the lens benchmark: workers side by side, outputs compared, then timed in turn."""

import math
import os
import platform
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

from mechprobe.bench.compare import Cells, Comparison, compare
from mechprobe.bench.memory import METHOD
from mechprobe.bench.process import WorkerProcess
from mechprobe.bench.report import BenchReport, BenchRow
from mechprobe.bench.workload import Workload, workload
from mechprobe.provenance import utc_now, versions

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    from tqdm import tqdm

# Also the order of every round.
LENS_CONTENDERS = ("mechprobe", "transformer_lens", "hf_loop", "forward", "forward+gemm")
_OURS = "mechprobe"
_SLOW_SECONDS = 60.0
_PROCESSOR = Path("/proc/cpuinfo")


@dataclass
class _Entry:
    """A contender on one workload, as it goes along."""

    process: WorkerProcess
    outputs: str
    threads: int = 0
    absent: bool = False
    saved: Path | None = None
    slow: bool = False
    gone: bool = False
    seconds: list[float] = field(default_factory=list)
    extra: list[float] = field(default_factory=list)

    def run(self, save: Path | None = None) -> float:
        answer = self.process.ask(do="run", save=str(save) if save else None)
        seconds = float(answer["seconds"])
        self.slow = self.slow or seconds > _SLOW_SECONDS
        if save is None:
            extra = answer["extra_bytes"]
            self.seconds.append(seconds)
            self.extra.append(math.nan if extra is None else max(0.0, extra))
        return seconds


def run_lens_bench(
    model: str = "smollm2-135m-instruct",
    *,
    workloads: Sequence[str] = ("1x128", "8x256"),
    contenders: Sequence[str] | None = None,
    repeats: int = 5,
    progress: bool = True,
) -> BenchReport:
    """Time the logit lens against its peers and against the floors of this machine.

    Every contender reads all layers at all positions of the same token ids, in a process of its
    own: top 10, entropy, divergence from the final layer, rank of the token that follows. After
    one warm-up each, whose outputs are compared, they take turns, so that a slower or faster spell
    of the machine meets all of them.

    Args:
        model: What ``load_model`` takes: the embedded model, a folder, a hub id.
        workloads: ``"<prompts>x<tokens>"``, each.
        contenders: Some of ``mechprobe``, ``transformer_lens``, ``hf_loop``, ``forward`` and
            ``forward+gemm``; by default all. mechprobe is always among them.
        repeats: Timed repetitions; one only for a contender that takes over 60 s.
        progress: Show a bar.

    Returns:
        The report; ``passed`` says whether the outputs were equal.

    Raises:
        ValueError: An unknown contender, a malformed workload, or no repetition.
        RuntimeError: mechprobe itself failed; a peer that fails costs its own row only.

    Example:
        >>> report = run_lens_bench(workloads=["1x16"], repeats=1)  # doctest: +SKIP
    """
    if repeats < 1:
        msg = f"repeats={repeats}; at least one repetition is timed."
        raise ValueError(msg)
    names = _chosen(contenders)
    works = [workload(name) for name in workloads]
    rows: list[BenchRow] = []
    lines: list[Comparison] = []
    threads: set[int] = set()
    machine = _machine()
    from tqdm.auto import tqdm

    total = len(works) * len(names) * (repeats + 1)
    with tqdm(total=total, desc="bench", unit="run", disable=not progress, leave=False) as bar:
        for work in works:
            with ExitStack() as stack:
                folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
                entries = _start(stack, names, str(model), work, folder)
                lines += _warm_up(entries, work, folder, bar)
                _take_turns(entries, repeats, bar)
            rows += [_row(name, work, entries) for name in names]
            threads |= {entry.threads for entry in entries.values() if not entry.absent}
    machine["torch threads"] = "/".join(map(str, sorted(threads)))
    return BenchReport(str(model), tuple(rows), tuple(lines), machine, _method())


def _chosen(contenders: Sequence[str] | None) -> list[str]:
    asked = LENS_CONTENDERS if contenders is None else contenders
    unknown = [name for name in asked if name not in LENS_CONTENDERS]
    if unknown:
        msg = f"there is no contender {unknown[0]!r}; choose from {', '.join(LENS_CONTENDERS)}."
        raise ValueError(msg)
    return [name for name in LENS_CONTENDERS if name in asked or name == _OURS]


def _start(
    stack: ExitStack, names: list[str], model: str, work: Workload, folder: Path
) -> dict[str, _Entry]:
    """Load one worker after the other: side by side they would measure a crowded machine."""
    entries: dict[str, _Entry] = {}
    for name in names:
        process = stack.enter_context(WorkerProcess(name, model, work.name, folder / "ids.npy"))
        ready = process.receive()
        absent = "absent" in ready
        outputs = f"absent: {ready['absent']}" if absent else str(ready["outputs"])
        entries[name] = _Entry(process, outputs, int(ready.get("threads", 0)), absent)
    return entries


def _warm_up(
    entries: dict[str, _Entry], work: Workload, folder: Path, bar: "tqdm[Any]"
) -> list[Comparison]:
    import numpy as np

    found: dict[str, dict[str, npt.NDArray[Any]]] = {}
    for i, (name, entry) in enumerate(entries.items()):
        saved = folder / f"{i}.npz"
        if not entry.absent:
            _run_once(name, entry, saved)
        if saved.exists():
            with np.load(saved) as arrays:
                found[name] = dict(arrays)
        bar.update()
    process, n_asked = entries[_OURS].process, 0

    def logits(cells: Cells) -> "npt.NDArray[np.float64]":
        nonlocal n_asked
        n_asked += 1
        asked, told = folder / f"cells{n_asked}.npy", folder / f"logits{n_asked}.npy"
        np.save(asked, cells)
        process.ask(do="exact_logits", cells=str(asked), save=str(told))
        values: npt.NDArray[np.float64] = np.load(told)
        return values

    ours = found.pop(_OURS)
    targets = ours["target"].astype(np.int64)
    return [
        line
        for name, theirs in found.items()
        for line in compare(name, work.name, ours, theirs, targets, logits)
    ]


def _run_once(name: str, entry: _Entry, save: Path | None = None) -> None:
    """Run a contender; a peer that fails or is killed costs its own row and nobody else's."""
    try:
        entry.run(save)
    except RuntimeError as error:
        if name == _OURS:
            raise
        entry.gone, entry.absent = True, not entry.seconds
        entry.outputs = f"failed: {error}"


def _take_turns(entries: dict[str, _Entry], repeats: int, bar: "tqdm[Any]") -> None:
    for repeat in range(repeats):
        for name, entry in entries.items():
            if not (entry.absent or entry.gone or (repeat and entry.slow)):
                _run_once(name, entry)
            bar.update()


def _row(name: str, work: Workload, entries: dict[str, _Entry]) -> BenchRow:
    entry = entries[name]
    if entry.absent:
        nan = math.nan
        return BenchRow(name, work.name, nan, nan, nan, 0, nan, nan, entry.outputs)
    # A slow contender ran in the first round only, and is paired with mechprobe's first.
    pairs = zip(entry.seconds, entries[_OURS].seconds, strict=False)
    times = f"only timed {len(entry.seconds)}x"
    slow = f"; over {_SLOW_SECONDS:.0f} s a repetition, {times}" if entry.slow else ""
    return BenchRow(
        name, work.name, median(entry.seconds), min(entry.seconds), max(entry.seconds),
        len(entry.seconds), median(theirs / ours for theirs, ours in pairs),
        max(entry.extra) / 1e6, entry.outputs + slow,
    )  # fmt: skip


def _machine() -> dict[str, str]:
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


def _method() -> str:
    return (
        "Every contender in its own process, one warm-up, then in turns; x mechprobe is the median "
        "ratio of times in the same round. Extra MB is the highest resident memory of the process "
        f"in the timed repetitions ({METHOD}), less that of the forward pass alone (without "
        "unembedding, measured before), less the outputs."
    )
