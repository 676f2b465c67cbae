"""``mechprobe bench``."""

from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import App, Parameter

from mechprobe.cli.show import PACKAGED, require_folders, say

if TYPE_CHECKING:
    import plotly.graph_objects as go

    from mechprobe.bench import BenchReport

bench = App(name="bench", help="Time mechprobe against its peers and against the floor.")


@Parameter(name="*")
@dataclass(frozen=True)
class Output:
    """What is printed and written.

    Attributes:
        json: Print the report as JSON (several as one list) and nothing else.
        html: Write the report as a page here.
        image: Write its figure here (.png or .svg; needs the extra "image"): of several
            reports that of the lens.
    """

    json: bool = False
    html: Path | None = None
    image: Path | None = None

    def check(self) -> None:
        """Refuse before the long run what could not be written after it."""
        require_folders(self.html, self.image)
        if self.image is not None and find_spec("kaleido") is None:
            msg = "--image needs kaleido, which is not installed: pip install 'mechprobe[image]'."
            raise ValueError(msg)

    def deliver(self, *found: "BenchReport") -> int:
        """Print and write reports; return 1 where outputs differ."""
        texts = [report.to_json() if self.json else str(report) for report in found]
        self.write(texts, lambda: "".join(report.to_html() for report in found), found[0].plot)
        return 0 if all(report.passed for report in found) else 1

    def write(
        self, texts: list[str], page: Callable[[], str], plot: "Callable[[], go.Figure]"
    ) -> None:
        """Print texts, and write page and figure where asked to."""
        several = self.json and len(texts) > 1
        say(f"[{','.join(texts)}]" if several else "\n\n".join(texts))
        if self.html is not None:
            self.html.write_text(page(), encoding="utf-8")
        if self.image is not None:
            plot().write_image(self.image, scale=2)


_OUTPUT = Output()


@bench.command(name="lens")
def bench_lens(
    *,
    model: str = PACKAGED,
    workload: Annotated[list[str] | None, Parameter(negative=())] = None,
    repeats: int = 5,
    peers: bool = False,
    output: Output = _OUTPUT,
) -> int:
    """Time the lens: every contender in its own process, in turns, outputs compared first.

    Args:
        model: Packaged name or folder.
        workload: Prompts x tokens, such as 1x128; may be repeated. Default: 1x128 and 8x256.
        repeats: Timed repetitions; three times as many of what is over in 3 s, one of a peer that
            takes over 60 s.
        peers: Also time other packages' lenses, where they are installed (extra "bench").
        output: What is printed and written.
    """
    from mechprobe.bench import run_lens_bench

    output.check()
    chosen = workload or ("1x128", "8x256")
    return output.deliver(
        run_lens_bench(
            model, workloads=chosen, repeats=repeats, peers=peers, progress=not output.json
        ),
    )


@bench.command(name="generation")
def bench_generation(
    *,
    model: str = PACKAGED,
    workload: Annotated[list[str] | None, Parameter(negative=())] = None,
    repeats: int = 5,
    output: Output = _OUTPUT,
) -> int:
    """Time the lens at every generated step against generation alone.

    Args:
        model: Packaged name or folder.
        workload: Tokens of the prompt + tokens generated, such as 128+32; may be repeated.
        repeats: Timed repetitions; three times as many of what is over in 3 s, one of a peer that
            takes over 60 s.
        output: What is printed and written.
    """
    from mechprobe.bench import run_generation_bench

    output.check()
    return output.deliver(
        run_generation_bench(
            model, workloads=workload or ("128+32",), repeats=repeats, progress=not output.json
        ),
    )


@bench.command(name="heads")
def bench_heads(
    *,
    model: str = PACKAGED,
    workload: Annotated[list[str] | None, Parameter(negative=())] = None,
    repeats: int = 3,
    output: Output = _OUTPUT,
) -> int:
    """Time QK-scores of all heads against TransformerLens' run_with_cache.

    Args:
        model: Packaged name or folder.
        workload: Prompts x 200 (tokens, about), such as 32x200, or 32x200+5: each behind the same
            5 worked examples; may be repeated. Default: these two.
        repeats: Timed repetitions; three times as many of what is over in 3 s, one of a peer that
            takes over 60 s.
        output: What is printed and written.
    """
    from mechprobe.bench import run_heads_bench

    output.check()
    chosen = workload or ("32x200", "32x200+5")
    return output.deliver(
        run_heads_bench(model, workloads=chosen, repeats=repeats, progress=not output.json),
    )


@bench.command(name="world")
def bench_world(
    *,
    model: str = "random_walks",
    workload: Annotated[list[str] | None, Parameter(negative=())] = None,
    repeats: int = 3,
    output: Output = _OUTPUT,
) -> int:
    """Time the world metrics against the published procedure, in CPU seconds of one thread.

    Args:
        model: A model that comes with the package, or a folder with an edges.csv.
        workload: compression:100x30 (pairs x suffixes), distinction:100x30; may be repeated.
        repeats: Timed repetitions; three times as many of what is over in 3 s, one of a peer that
            takes over 60 s.
        output: What is printed and written.
    """
    from mechprobe.bench import run_world_bench

    output.check()
    chosen = workload or ("compression:100x30", "distinction:100x30")
    return output.deliver(
        run_world_bench(model, workloads=chosen, repeats=repeats, progress=not output.json),
    )


@bench.command(name="growth")
def bench_growth(
    *axes: str,
    model: str = PACKAGED,
    sizes: int | None = None,
    repeats: int = 3,
    output: Output = _OUTPUT,
) -> int:
    """Show how time and memory grow with the size of the question, beside what theory says.

    Args:
        axes: lens, heads, world, or single axes such as lens/tokens; all by default.
        model: Packaged name or folder; read on the axes that do not make models of their own.
        sizes: How many sizes of each axis, from the smallest (two at least); all by default.
        repeats: Timed repetitions of each size.
        output: What is printed and written.
    """
    from mechprobe.bench import run_growth_bench
    from mechprobe.bench.growth_axes import PARTS

    output.check()
    found = run_growth_bench(
        axes or PARTS, model=model, sizes=sizes, repeats=repeats, progress=not output.json
    )
    output.write([found.to_json() if output.json else str(found)], found.page, found.plot)
    return 0


@bench.command(name="all")
def bench_all(
    *,
    repeats: int = 3,
    peers: bool = False,
    output: Output = _OUTPUT,
) -> int:
    """Time lens, generation, heads and worlds one after the other, on the models of the package.

    Args:
        repeats: Timed repetitions; three times as many of what is over in 3 s, one of a peer that
            takes over 60 s.
        peers: Also time other packages' lenses, where they are installed (extra "bench").
        output: What is printed and written.
    """
    from mechprobe.bench import (
        run_generation_bench,
        run_heads_bench,
        run_lens_bench,
        run_world_bench,
    )

    output.check()
    return output.deliver(
        run_lens_bench(repeats=repeats, peers=peers, progress=not output.json),
        run_generation_bench(repeats=repeats, progress=not output.json),
        run_heads_bench(repeats=repeats, progress=not output.json),
        run_world_bench(repeats=repeats, progress=not output.json),
    )
