"""``mechprobe bench``."""

from importlib.util import find_spec
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
    peers: bool = False,
    json: bool = False,
    html: Path | None = None,
    image: Path | None = None,
) -> int:
    """Time the lens: every contender in its own process, in turns, outputs compared first.

    Args:
        model: Packaged name or folder.
        workload: Prompts x tokens, such as 1x128; may be repeated. Default: 1x128 and 8x256.
        repeats: Timed repetitions of each contender.
        peers: Also time other packages' lenses, where they are installed (extra "bench").
        json: Print the report as JSON and nothing else.
        html: Write the report as a page here.
        image: Write a picture of the ratios here (.png or .svg; needs the extra "image").
    """
    from mechprobe.bench import run_lens_bench

    _require(html, image)
    chosen = workload or ("1x128", "8x256")
    return _deliver(
        run_lens_bench(
            model, workloads=chosen, repeats=repeats, peers=peers, progress=not json
        ),
        json=json, html=html, image=image,
    )  # fmt: skip


@bench.command(name="generation")
def bench_generation(
    *,
    model: str = PACKAGED,
    workload: Annotated[list[str] | None, Parameter(negative=())] = None,
    repeats: int = 5,
    json: bool = False,
    html: Path | None = None,
    image: Path | None = None,
) -> int:
    """Time the lens at every generated step against generation alone.

    Args:
        model: Packaged name or folder.
        workload: Tokens of the prompt + tokens generated, such as 128+32; may be repeated.
        repeats: Timed repetitions of each contender.
        json: Print the report as JSON and nothing else.
        html: Write the report as a page here.
        image: Write a picture of the ratios here (.png or .svg; needs the extra "image").
    """
    from mechprobe.bench import run_generation_bench

    _require(html, image)
    return _deliver(
        run_generation_bench(
            model, workloads=workload or ("128+32",), repeats=repeats, progress=not json
        ),
        json=json, html=html, image=image,
    )  # fmt: skip


@bench.command(name="heads")
def bench_heads(
    *,
    model: str = PACKAGED,
    workload: Annotated[list[str] | None, Parameter(negative=())] = None,
    repeats: int = 3,
    json: bool = False,
    html: Path | None = None,
    image: Path | None = None,
) -> int:
    """Time QK-scores of all heads against TransformerLens' run_with_cache.

    Args:
        model: Packaged name or folder.
        workload: Prompts x 200 (tokens, about), such as 32x200, or 32x200+5: each behind the same
            5 worked examples; may be repeated. Default: these two.
        repeats: Timed repetitions of each contender.
        json: Print the report as JSON and nothing else.
        html: Write the report as a page here.
        image: Write a picture of the ratios here (.png or .svg; needs the extra "image").
    """
    from mechprobe.bench import run_heads_bench

    _require(html, image)
    chosen = workload or ("32x200", "32x200+5")
    return _deliver(
        run_heads_bench(model, workloads=chosen, repeats=repeats, progress=not json),
        json=json, html=html, image=image,
    )  # fmt: skip


@bench.command(name="world")
def bench_world(
    *,
    model: str = "random_walks",
    workload: Annotated[list[str] | None, Parameter(negative=())] = None,
    repeats: int = 3,
    json: bool = False,
    html: Path | None = None,
    image: Path | None = None,
) -> int:
    """Time the world metrics against the published procedure, in CPU seconds of one thread.

    Args:
        model: A model that comes with the package, or a folder with an edges.csv.
        workload: compression:100x30 (pairs x suffixes), distinction:100x30; may be repeated.
        repeats: Timed repetitions of each contender.
        json: Print the report as JSON and nothing else.
        html: Write the report as a page here.
        image: Write a picture of the ratios here (.png or .svg; needs the extra "image").
    """
    from mechprobe.bench import run_world_bench

    _require(html, image)
    chosen = workload or ("compression:100x30", "distinction:100x30")
    return _deliver(
        run_world_bench(model, workloads=chosen, repeats=repeats, progress=not json),
        json=json, html=html, image=image,
    )  # fmt: skip


@bench.command(name="growth")
def bench_growth(
    *axes: str,
    model: str = PACKAGED,
    sizes: int | None = None,
    repeats: int = 3,
    json: bool = False,
    html: Path | None = None,
    image: Path | None = None,
) -> int:
    """Show how time and memory grow with the size of the question, beside what theory says.

    Args:
        axes: lens, heads, world, or single axes such as lens/tokens; all by default.
        model: Packaged name or folder; read on the axes that do not make models of their own.
        sizes: How many sizes of each axis, from the smallest (two at least); all by default.
        repeats: Timed repetitions of each size.
        json: Print the report as JSON and nothing else.
        html: Write the report as a page here, with its figure.
        image: Write the figure here (.png or .svg; needs the extra "image").
    """
    from mechprobe.bench import run_growth_bench
    from mechprobe.bench.growth_axes import PARTS

    _require(html, image)
    found = run_growth_bench(
        axes or PARTS, model=model, sizes=sizes, repeats=repeats, progress=not json
    )
    say(found.to_json() if json else str(found))
    if html is not None:
        html.write_text(found.page(), encoding="utf-8")
    if image is not None:
        found.plot().write_image(image, scale=2)
    return 0


@bench.command(name="all")
def bench_all(
    *,
    repeats: int = 3,
    peers: bool = False,
    json: bool = False,
    html: Path | None = None,
    image: Path | None = None,
) -> int:
    """Time lens, generation, heads and worlds one after the other, on the models of the package.

    Args:
        repeats: Timed repetitions of each contender.
        peers: Also time other packages' lenses, where they are installed (extra "bench").
        json: Print the reports as one JSON list and nothing else.
        html: Write the reports as one page here.
        image: Write a picture of the lens' ratios here (.png or .svg; needs the extra "image").
    """
    from mechprobe.bench import (
        run_generation_bench,
        run_heads_bench,
        run_lens_bench,
        run_world_bench,
    )

    _require(html, image)
    return _deliver(
        run_lens_bench(repeats=repeats, peers=peers, progress=not json),
        # Short and close: more pairs cost little.
        run_generation_bench(repeats=3 * repeats, progress=not json),
        run_heads_bench(repeats=repeats, progress=not json),
        run_world_bench(repeats=repeats, progress=not json),
        json=json, html=html, image=image,
    )  # fmt: skip


def _require(html: Path | None, image: Path | None) -> None:
    """Refuse before the long run what could not be written after it."""
    require_folders(html, image)
    if image is not None and find_spec("kaleido") is None:
        msg = "--image needs kaleido, which is not installed: pip install 'mechprobe[image]'."
        raise ValueError(msg)


def _deliver(
    *found: "BenchReport", json: bool, html: Path | None, image: Path | None = None
) -> int:
    """Print reports, write their page where asked to; exit 1 where outputs differ."""
    texts = [report.to_json() if json else str(report) for report in found]
    several = json and len(found) > 1
    say(f"[{','.join(texts)}]" if several else "\n\n".join(texts))
    if html is not None:
        html.write_text("".join(report.to_html() for report in found), encoding="utf-8")
    if image is not None:
        found[0].plot().write_image(image, scale=2)
    return 0 if all(report.passed for report in found) else 1
