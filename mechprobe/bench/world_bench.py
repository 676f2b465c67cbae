"""World metrics against the published procedure, in CPU seconds of one thread."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from time import process_time
from typing import TYPE_CHECKING

from mechprobe.bench.compare import Comparison
from mechprobe.bench.process import WorkerProcess
from mechprobe.bench.report import BenchReport
from mechprobe.bench.rounds import Kind, run_rounds

if TYPE_CHECKING:
    from mechprobe.bench.contender import Arrays

WORLD_CONTENDERS = ("mechprobe", "hf generate")
# What both draw from their own random numbers may differ by, in standard errors of the difference.
MAX_ERRORS = 4.0
# Of the pairs whose recall may differ: probabilities next to epsilon, and float32.
MAX_UNEQUAL = 0.01


def run_world_bench(
    model: str = "random_walks",
    *,
    workloads: Sequence[str] = ("compression:100x30", "distinction:100x30"),
    contenders: Sequence[str] | None = None,
    repeats: int = 3,
    progress: bool = True,
) -> BenchReport:
    """Time the world metrics against the published procedure, one thread, CPU seconds.

    Both are given the same pairs. Distinction recall, which draws nothing, must agree pair by pair;
    what is sampled must agree in the mean. The seconds of a fixed matrix product stand in the
    report, so that machines can be compared.

    Args:
        model: A model that comes with the package, or a folder with ``edges.csv``.
        workloads: ``"compression:<pairs>x<suffixes>"`` or ``"distinction:..."``.
        contenders: Some of ``mechprobe`` and ``hf generate`` (one pair at a time, every suffix
            read again); all by default. mechprobe is always among them.
        repeats: Timed repetitions; three times as many where mechprobe takes under 3 s, one only
            for a contender that takes over 60 s.
        progress: Show a bar.

    Returns:
        The report; ``passed`` says whether the outputs agree.

    Raises:
        ValueError: An unknown contender, a malformed workload, or no repetition.
        RuntimeError: mechprobe itself failed.

    Example:
        >>> report = run_world_bench(workloads=["compression:5x5"], repeats=1)  # doctest: +SKIP
    """
    from mechprobe.bench.world_contenders import world_work

    kind = Kind("world", WORLD_CONTENDERS, "pairs.npz", world_work, _compare)
    found = run_rounds(kind, str(model), workloads, contenders, repeats, progress=progress)
    product = "CPU s of 50 float32 products 1024 x 1024 on one thread"
    return replace(
        found,
        machine={**found.machine, product: f"{_product_seconds():.2f}"},
        method="CPU seconds of one thread. " + found.method,
    )


def _product_seconds() -> float:
    import torch

    n_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        x = torch.randn(1024, 1024, generator=torch.Generator().manual_seed(0))
        out = x @ x
        start = process_time()
        for _ in range(50):
            torch.mm(x, x, out=out)
        return process_time() - start
    finally:
        torch.set_num_threads(n_threads)


def _compare(
    name: str,
    work: str,
    ours: "Arrays",
    theirs: "Arrays",
    process: WorkerProcess,  # noqa: ARG001
    folder: Path,  # noqa: ARG001
) -> list[Comparison]:
    import numpy as np

    out: list[Comparison] = []
    for test, mine in ours.items():
        other = theirs[test]
        if mine.shape != other.shape:
            out.append(Comparison(name, work, test, False, f"{other.shape}, not {mine.shape}"))
        elif test == "distinction_recall":
            n = int((np.abs(mine - other) > 1e-9).sum())
            detail = f"{n} of {len(mine)} pairs differ, {MAX_UNEQUAL:.0%} allowed"
            out.append(Comparison(name, work, test, n <= MAX_UNEQUAL * len(mine), detail))
        else:
            error = float(np.hypot(*(v.std() / np.sqrt(len(v)) for v in (mine, other))))
            gap = float(abs(mine.mean() - other.mean()))
            detail = f"{mine.mean():.3f} and {other.mean():.3f}, standard error {error:.3f}"
            out.append(Comparison(name, work, test, gap <= MAX_ERRORS * error, detail))
    return out
