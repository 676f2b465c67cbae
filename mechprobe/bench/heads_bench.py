"""QK-scores against TransformerLens' ``run_with_cache``."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from mechprobe.bench.compare import Comparison
from mechprobe.bench.process import WorkerProcess
from mechprobe.bench.report import BenchReport
from mechprobe.bench.rounds import Kind, run_rounds
from mechprobe.bench.workload import heads_workload

if TYPE_CHECKING:
    from mechprobe.bench.contender import Arrays

HEADS_CONTENDERS = (
    "mechprobe", "run_with_cache", "run_with_cache q,k", "run_with_cache q,k x8", "forward",
)  # fmt: skip
# Of the largest score.
MAX_DIFFERENCE = 1e-5


def run_heads_bench(
    model: str = "smollm2-135m-instruct",
    *,
    workloads: Sequence[str] = ("32x200", "32x200+5"),
    contenders: Sequence[str] | None = None,
    repeats: int = 3,
    progress: bool = True,
) -> BenchReport:
    """Time QK-scores of all heads against TransformerLens' ``run_with_cache``.

    True/false questions over made-up theories, two candidates each, prompts of about 200 tokens in
    SmolLM2's vocabulary, alone or all behind the same worked examples of that length. Peers run a
    full text for each candidate; outputs are compared before times.

    Args:
        model: What ``load_model`` takes: the embedded model, a folder, a hub id.
        workloads: ``"<prompts>x200"``, an even number of prompts; ``"<prompts>x200+<shots>"``
            with so many worked examples before each of them.
        contenders: Some of ``mechprobe``, ``run_with_cache`` (all hooks), ``run_with_cache q,k``
            (those names only), ``run_with_cache q,k x8`` (in batches) and ``forward``; all by
            default. mechprobe is always among them.
        repeats: Timed repetitions; three times as many where mechprobe takes under 3 s, one only
            for a contender that takes over 60 s.
        progress: Show a bar.

    Returns:
        The report; ``passed`` says whether the outputs were equal.

    Raises:
        ValueError: An unknown contender, a malformed workload, or no repetition.
        RuntimeError: mechprobe itself failed; a peer that fails costs its own row only.

    Example:
        >>> report = run_heads_bench(workloads=["2x200"], repeats=1)  # doctest: +SKIP
    """
    kind = Kind("heads", HEADS_CONTENDERS, "task.jsonl", heads_workload, _compare)
    return run_rounds(kind, str(model), workloads, contenders, repeats, progress=progress)


def _compare(
    name: str,
    work: str,
    ours: "Arrays",
    theirs: "Arrays",
    process: WorkerProcess,  # noqa: ARG001
    folder: Path,  # noqa: ARG001
) -> list[Comparison]:
    import numpy as np

    a, b = ours["score"].astype(float), theirs["score"].astype(float)
    # A NaN anywhere makes the worst difference NaN, which is not within anything.
    worst = float(np.abs(a - b).max() / np.abs(a).max()) if a.shape == b.shape else np.nan
    detail = f"off by at most {worst:.1e} of the largest score, {MAX_DIFFERENCE:.0e} allowed"
    return [Comparison(name, work, "score", worst <= MAX_DIFFERENCE, detail)]
