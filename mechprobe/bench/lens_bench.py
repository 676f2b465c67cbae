"""The lens against TransformerLens, plain Hugging Face and the floors."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from mechprobe.bench.compare import Cells, Comparison, compare
from mechprobe.bench.process import WorkerProcess
from mechprobe.bench.report import BenchReport
from mechprobe.bench.rounds import Kind, run_rounds
from mechprobe.bench.workload import workload

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from mechprobe.bench.contender import Arrays

# In this order each is loaded and run once: first those that need most memory.
LENS_CONTENDERS = (
    "mechprobe", "transformer_lens", "hf_loop", "forward", "forward+gemm",
)  # fmt: skip
# Of other packages, which the extra "bench" installs as far as they install together.
LENS_PEERS = ("nnsight", "nnterp", "tuned_lens", "interpreto")


def run_lens_bench(
    model: str = "smollm2-135m-instruct",
    *,
    workloads: Sequence[str] = ("1x128", "8x256"),
    contenders: Sequence[str] | None = None,
    repeats: int = 5,
    peers: bool = False,
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
        peers: Also time ``nnsight`` and ``nnterp`` where they are installed, and name the others.
        repeats: Timed repetitions; three times as many where mechprobe takes under 3 s, one only
            for a contender that takes over 60 s.
        progress: Show a bar.

    Returns:
        The report; ``passed`` says whether the outputs were equal.

    Raises:
        ValueError: An unknown contender, a malformed workload, or no repetition.
        RuntimeError: mechprobe itself failed; a peer that fails costs its own row only.

    Example:
        >>> report = run_lens_bench(workloads=["1x16"], repeats=1)  # doctest: +SKIP
    """
    known = LENS_CONTENDERS + LENS_PEERS * peers
    kind = Kind("lens", known, "ids.npy", workload, _compare)
    return run_rounds(kind, str(model), workloads, contenders, repeats, progress=progress)


def _compare(
    name: str,
    work: str,
    ours: "Arrays",
    theirs: "Arrays",
    process: WorkerProcess,
    folder: Path,
) -> list[Comparison]:
    import numpy as np

    n_asked = 0

    def logits(cells: Cells) -> "npt.NDArray[np.float64]":
        nonlocal n_asked
        n_asked += 1
        asked, told = folder / f"{name}{n_asked}.npy", folder / f"{name}{n_asked}.logits.npy"
        np.save(asked, cells)
        process.ask(do="exact_logits", cells=str(asked), save=str(told))
        values: npt.NDArray[np.float64] = np.load(told)
        return values

    return compare(name, work, ours, theirs, ours["target"].astype(np.int64), logits)
