"""``mechprobe bench``."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import App, Parameter

from mechprobe.cli.show import PACKAGED, require_folders, say

if TYPE_CHECKING:
    from mechprobe.bench import BenchReport

bench = App(name="bench", help="Time mechprobe against its peers and against the floor.")


@bench.command(name="lens")
def bench_lens(
    *,
    model: str = PACKAGED,
    workload: Annotated[list[str] | None, Parameter(negative=())] = None,
    repeats: int = 5,
    json: bool = False,
    html: Path | None = None,
) -> int:
    """Time the lens: every contender in its own process, in turns, outputs compared first.

    Args:
        model: Packaged name or folder.
        workload: Prompts x tokens, such as 1x128; may be repeated. Default: 1x128 and 8x256.
        repeats: Timed repetitions of each contender.
        json: Print the report as JSON and nothing else.
        html: Write the report as a page here.
    """
    from mechprobe.bench import run_lens_bench

    require_folders(html)
    chosen = workload or ("1x128", "8x256")
    return _deliver(
        run_lens_bench(model, workloads=chosen, repeats=repeats, progress=not json),
        json=json, html=html,
    )  # fmt: skip


@bench.command(name="heads")
def bench_heads(
    *,
    model: str = PACKAGED,
    workload: Annotated[list[str] | None, Parameter(negative=())] = None,
    repeats: int = 3,
    json: bool = False,
    html: Path | None = None,
) -> int:
    """Time QK-scores of all heads against TransformerLens' run_with_cache.

    Args:
        model: Packaged name or folder.
        workload: Prompts x 200 (tokens, about); may be repeated. Default: 32x200.
        repeats: Timed repetitions of each contender.
        json: Print the report as JSON and nothing else.
        html: Write the report as a page here.
    """
    from mechprobe.bench import run_heads_bench

    require_folders(html)
    chosen = workload or ("32x200",)
    return _deliver(
        run_heads_bench(model, workloads=chosen, repeats=repeats, progress=not json),
        json=json, html=html,
    )  # fmt: skip


def _deliver(found: "BenchReport", *, json: bool, html: Path | None) -> int:
    """Print the report, write its page where asked to; exit 1 where outputs differ."""
    say(found.to_json() if json else str(found))
    if html is not None:
        html.write_text(found.to_html(), encoding="utf-8")
    return 0 if found.passed else 1
