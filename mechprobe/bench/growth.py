"""How cost grows with the size of the question, beside what theory says.

Each size is measured in a process of its own, so that peak memory belongs to it alone, and the
sizes of an axis take turns, so that a slower spell of the machine meets all of them.
"""

import math
import tempfile
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

from mechprobe.bench.growth_axes import PARTS, Axis, chosen_axes
from mechprobe.bench.growth_report import GrowthReport, GrowthRow
from mechprobe.bench.memory import METHOD
from mechprobe.bench.process import WorkerProcess
from mechprobe.bench.rounds import machine_facts

if TYPE_CHECKING:
    from tqdm import tqdm


def run_growth_bench(
    axes: Sequence[str] = PARTS,
    *,
    model: str = "smollm2-135m-instruct",
    sizes: int | None = None,
    repeats: int = 3,
    progress: bool = True,
) -> GrowthReport:
    """Measure how time and memory grow with prompts, layers, vocabulary, heads and worlds.

    Args:
        axes: ``"lens"``, ``"heads"``, ``"world"`` for all axes of a part, or axes by name, such as
            ``"lens/tokens"``.
        model: What ``load_model`` takes; read on the axes that do not make models of their own.
        sizes: How many sizes of each axis, from the smallest; all by default.
        repeats: Timed repetitions of each size, after a warm-up.
        progress: Show a bar.

    Returns:
        Medians and spread at every size, and the exponents fitted to them beside theory's.

    Raises:
        ValueError: An unknown axis, fewer than two sizes, or no repetition.
        RuntimeError: Nothing could be measured; one size that fails is only named.

    Example:
        >>> report = run_growth_bench(["world"], sizes=2, repeats=1)  # doctest: +SKIP
    """
    chosen = chosen_axes(axes)
    if repeats < 1:
        msg = f"repeats={repeats}; at least one repetition is timed."
        raise ValueError(msg)
    if sizes is not None and sizes < 2:
        msg = f"sizes={sizes}; growth takes two sizes of each axis at least."
        raise ValueError(msg)
    from tqdm.auto import tqdm

    machine = machine_facts()
    rows: list[GrowthRow] = []
    missing: list[str] = []
    total = sum(len(axis.sizes[:sizes]) for axis in chosen) * (repeats + 1)
    with tqdm(total=total, desc="growth", unit="run", disable=not progress, leave=False) as bar:
        for axis in chosen:
            points = _measured(axis, str(model), sizes, repeats, bar)
            rows += [_row(axis, point) for point in points if point.seconds]
            missing += [f"{axis.name} {p.size}: {p.failed}" for p in points if p.failed]
    if not rows:
        msg = f"nothing could be measured: {'; '.join(missing)}"
        raise RuntimeError(msg)
    return GrowthReport(str(model), tuple(chosen), tuple(rows), tuple(missing), machine, _method())


@dataclass
class _Point:
    """One size of an axis, as it goes along."""

    size: int
    process: WorkerProcess
    failed: str = ""
    seconds: list[float] = field(default_factory=list)
    extra: list[float] = field(default_factory=list)

    def start(self) -> None:
        """Wait until its process is ready."""
        self.failed = str(self.process.receive().get("absent", ""))

    def warm_up(self) -> None:
        """Run once, unmeasured."""
        self.process.ask(do="run")

    def measure(self, *, behind_forward: bool) -> None:
        """Run once; keep its time, perhaps behind the forward pass, and its memory."""
        before = float(self.process.ask(do="forward")["seconds"]) if behind_forward else 0.0
        answer = self.process.ask(do="run")
        extra = answer["extra_bytes"]
        self.seconds.append(float(answer["seconds"]) - before)
        self.extra.append(math.nan if extra is None else max(0.0, extra) / 1e6)


def _measured(
    axis: Axis, model: str, sizes: int | None, repeats: int, bar: "tqdm[Any]"
) -> list[_Point]:
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        points: list[_Point] = []
        for size in axis.sizes[:sizes]:
            kind, file = f"growth/{axis.part}", folder / f"{size}.input"
            process = WorkerProcess(kind, axis.name, model, str(size), file)
            points.append(_Point(size, stack.enter_context(process)))
            # One after the other: side by side they would load on a crowded machine.
            _try(points[-1], points[-1].start)
        for turn in range(repeats + 1):
            for point in points:
                if not point.failed:
                    _try(point, partial(point.measure, behind_forward=axis.behind_forward)
                         if turn else point.warm_up)  # fmt: skip
                bar.update()
    return points


def _try(point: _Point, work: Callable[[], None]) -> None:
    """Let a size that fails, or is too large for the model, cost no more than itself."""
    try:
        work()
    except RuntimeError as error:
        point.failed = str(error)


def _row(axis: Axis, point: _Point) -> GrowthRow:
    return GrowthRow(
        axis.name, point.size, *_spread(point.seconds), len(point.seconds), *_spread(point.extra)
    )


def _spread(values: Sequence[float]) -> tuple[float, float, float]:
    return median(values), min(values), max(values)


def _method() -> str:
    return (
        "Every size in its own process, one warm-up, then the sizes of an axis in turns. Tokens, "
        "prompts and layers of the lens: seconds behind a forward pass timed just before; world: "
        f"CPU seconds of one thread. Extra MB: highest resident memory ({METHOD}), less that of "
        "the forward pass alone, less the outputs. Exponents are fitted to the medians."
    )
