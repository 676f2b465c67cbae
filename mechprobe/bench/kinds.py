"""The table of benchmarks, and how one of them is run."""

from collections.abc import Sequence

from mechprobe.bench import compare
from mechprobe.bench.pieces import WITHOUT
from mechprobe.bench.report import BenchReport
from mechprobe.bench.rounds import Kind, run_rounds
from mechprobe.bench.workload import GENERATION, HEADS, LENS, WORLD

_PACKAGED = "smollm2-135m-instruct"
KINDS = {
    "lens": Kind(
        _PACKAGED,
        ("1x128", "8x256"),
        ("mechprobe", "transformer_lens", "hf_loop", "forward", "forward+gemm"),
        "ids.npy",
        LENS,
        compare.lenses,
        peers=("nnsight", "nnterp", "tuned_lens", "interpreto"),
        pieces=("compiled reductions", "twin"),
    ),
    "generation": Kind(
        _PACKAGED,
        ("128+32",),
        ("mechprobe", "hf generate", "loop"),
        "prompt.npz",
        GENERATION,
        compare.tokens,
        pieces=("twin",),
    ),
    "heads": Kind(
        _PACKAGED,
        ("32x200", "32x200+5"),
        ("mechprobe", "run_with_cache", "run_with_cache q,k", "run_with_cache q,k x8", "forward"),
        "task.jsonl",
        HEADS,
        compare.scores,
        pieces=("twin",),
    ),
    "world": Kind(
        "random_walks",
        ("compression:100x30", "distinction:100x30"),
        ("mechprobe", "hf generate"),
        "pairs.npz",
        WORLD,
        compare.world_scores,
        pieces=("twin", "forked rows"),
        cpu=True,
    ),
}


def run_bench(
    name: str,
    model: str | None = None,
    *,
    workloads: Sequence[str] | None = None,
    contenders: Sequence[str] | None = None,
    repeats: int = 3,
    peers: bool = False,
    pieces: bool = False,
    progress: bool = True,
) -> BenchReport:
    """Time mechprobe against its peers and against the floors of this machine.

    Every contender does the same work in a process of its own. After one warm-up each, whose
    outputs are compared, they take turns, so that a slower or faster spell of the machine meets
    all of them. ``docs/benchmark.md`` says what each of them does.

    Args:
        name: ``"lens"`` (all layers at all positions of the same ids), ``"generation"`` (the lens
            at every generated step), ``"heads"`` (QK-scores of all heads) or ``"world"`` (the
            metrics on the same pairs).
        model: What ``load_model`` takes; for ``"world"`` a model that comes with the package, or
            a folder with ``edges.csv``. By default that of ``KINDS``.
        workloads: ``"<prompts>x<tokens>"``; ``"<tokens>+<tokens generated>"``;
            ``"<prompts>x200"`` or, behind worked examples, ``"<prompts>x200+<shots>"``;
            ``"compression:<pairs>x<suffixes>"`` or ``"distinction:..."``.
        contenders: Some of those of ``KINDS``; all by default. mechprobe is always among them.
        repeats: Timed repetitions; three times as many where mechprobe takes under 3 s, one only
            for a contender that takes over 60 s.
        peers: Also time other packages where they are installed, and name the others.
        pieces: Also time mechprobe without each piece of its machinery.
        progress: Show a bar.

    Returns:
        The report; ``passed`` says whether the outputs were equal.

    Raises:
        ValueError: An unknown benchmark or contender, a malformed workload, or no repetition.
        RuntimeError: mechprobe itself failed; a peer that fails costs its own row only.

    Example:
        >>> report = run_bench("lens", workloads=["1x16"], repeats=1)  # doctest: +SKIP
    """
    if name not in KINDS:
        msg = f"there is no benchmark {name!r}; choose from {', '.join(KINDS)}."
        raise ValueError(msg)
    kind = KINDS[name]
    chosen = kind.workloads if workloads is None else workloads
    for work in chosen:
        kind.shape.read(work)
    if repeats < 1:
        msg = f"repeats={repeats}; at least one repetition is timed."
        raise ValueError(msg)
    less = tuple(f"{kind.contenders[0]}{WITHOUT}{piece}" for piece in kind.pieces)
    known = kind.contenders + kind.peers * peers + less * pieces
    asked = known if contenders is None else contenders
    unknown = [one for one in asked if one not in known]
    if unknown:
        msg = f"there is no contender {unknown[0]!r}; choose from {', '.join(known)}."
        raise ValueError(msg)
    names = [one for one in known if one in asked or one == known[0]]
    return run_rounds(name, kind, str(model or kind.model), chosen, names, repeats, progress)
