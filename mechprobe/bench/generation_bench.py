"""The lens at every generated step against generation alone."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from mechprobe.bench.compare import Comparison
from mechprobe.bench.process import WorkerProcess
from mechprobe.bench.report import BenchReport
from mechprobe.bench.rounds import Kind, run_rounds
from mechprobe.bench.workload import generation_workload

if TYPE_CHECKING:
    from mechprobe.bench.contender import Arrays

GENERATION_CONTENDERS = ("mechprobe", "hf generate", "loop")


def run_generation_bench(
    model: str = "smollm2-135m-instruct",
    *,
    workloads: Sequence[str] = ("128+32",),
    contenders: Sequence[str] | None = None,
    repeats: int = 5,
    progress: bool = True,
) -> BenchReport:
    """Time ``generate_with_lens`` against generating the same words without a lens.

    Every contender takes the most likely token at every step and keeps keys and values; the tokens
    are compared before the times.

    Args:
        model: What ``load_model`` takes: the embedded model, a folder, a hub id.
        workloads: ``"<tokens of the prompt>+<tokens generated>"``, each.
        contenders: Some of ``mechprobe``, ``hf generate`` (Hugging Face's own ``generate``) and
            ``loop`` (``models.run``, word by word); by default all. mechprobe is always among them.
        repeats: Timed repetitions; three times as many where mechprobe takes under 3 s, one only
            for a contender that takes over 60 s.
        progress: Show a bar.

    Returns:
        The report; ``passed`` says whether the tokens were equal.

    Raises:
        ValueError: An unknown contender, a malformed workload, or no repetition.
        RuntimeError: mechprobe itself failed; a peer that fails costs its own row only.

    Example:
        >>> report = run_generation_bench(workloads=["16+2"], repeats=1)  # doctest: +SKIP
    """
    kind = Kind("generation", GENERATION_CONTENDERS, "prompt.npz", generation_workload, _compare)
    return run_rounds(kind, str(model), workloads, contenders, repeats, progress=progress)


def _compare(
    name: str,
    work: str,
    ours: "Arrays",
    theirs: "Arrays",
    process: WorkerProcess,  # noqa: ARG001
    folder: Path,  # noqa: ARG001
) -> list[Comparison]:
    a, b = ours["tokens"].tolist(), theirs["tokens"].tolist()
    same = next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), len(a))
    detail = f"{len(b)} tokens, the first {min(same, len(b))} of {len(a)} the same"
    return [Comparison(name, work, "tokens", a == b, detail)]
