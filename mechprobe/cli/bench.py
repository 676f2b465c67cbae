"""``mechprobe bench``."""

from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from mechprobe.cli.show import require_folders, say
from mechprobe.files import write_whole

if TYPE_CHECKING:
    from mechprobe.bench import BenchReport


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
        several = self.json and len(texts) > 1
        say(f"[{','.join(texts)}]" if several else "\n\n".join(texts))
        if self.html is not None:
            page = "".join(report.to_html() for report in found)
            write_whole(self.html, page.encode())
        if self.image is not None:
            found[0].plot().write_image(self.image, scale=2)
        return 0 if all(report.passed for report in found) else 1


_OUTPUT = Output()


def bench(
    kind: str,
    *,
    model: str | None = None,
    workload: Annotated[list[str] | None, Parameter(negative=())] = None,
    repeats: int = 3,
    contender: Annotated[list[str] | None, Parameter(negative=())] = None,
    peers: bool = False,
    pieces: bool = False,
    output: Output = _OUTPUT,
) -> int:
    """Time mechprobe against its peers and against the floor, outputs compared first.

    Args:
        kind: lens (all layers at all positions), generation (the lens at every generated step),
            heads (QK-scores of all heads), world (the metrics, in CPU seconds of one thread), or
            all: one after the other.
        model: Packaged name or folder; of worlds a model that comes with the package, or a folder
            with an edges.csv.
        workload: 1x128 (prompts x tokens) of the lens, 128+32 (tokens of the prompt + generated)
            of generation, 32x200 or 32x200+5 (behind 5 worked examples) of heads,
            compression:100x30 or distinction:100x30 (pairs x suffixes) of worlds; may be repeated.
        repeats: Timed repetitions; three times as many of what is over in 3 s, one of a peer that
            takes over 60 s.
        contender: Who is timed beside mechprobe; may be repeated. By default all.
        peers: Also time other packages, where they are installed (extra "bench").
        pieces: Also time mechprobe without each piece of its machinery.
        output: What is printed and written.
    """
    from mechprobe.bench import KINDS, run_bench

    output.check()
    if kind == "all" and (model or workload or contender):
        msg = "bench all runs all there is; --model, --workload, --contender go with one kind."
        raise ValueError(msg)
    found = [
        run_bench(
            name,
            model,
            workloads=workload,
            contenders=contender,
            repeats=repeats,
            peers=peers,
            pieces=pieces,
            progress=not output.json,
        )
        for name in (KINDS if kind == "all" else [kind])
    ]
    return output.deliver(*found)
