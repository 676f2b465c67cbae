"""``mechprobe demo``, ``mechprobe report`` and ``mechprobe cite``."""

from pathlib import Path

import mechprobe
from mechprobe.cli.show import print_table, say


def demo(*, out: Path = Path("mechprobe-demo"), json: bool = False) -> None:
    """Run the probes on the packaged model and write one report.

    Args:
        out: Folder for the report and the results.
        json: Print the results as JSON and nothing else.
    """
    from mechprobe.report.demo import run_demo

    for title, result, table in run_demo(out, progress=not json):
        if json:
            say(result.to_json())
        else:
            print_table(title, table, keep="all")
    if not json:
        say(f"report written to {out / 'report.html'}")


def report(results: list[Path], *, out: Path, title: str = "mechprobe report") -> None:
    """Put saved results on one self-contained page.

    Args:
        results: Files that --out wrote.
        out: The page to write (.html).
        title: Its title.
    """
    say(f"report written to {mechprobe.write_report(results, out, title=title)}")


def cite(result: Path | None = None) -> None:
    """Print BibTeX for mechprobe, and for the methods of a saved result.

    Args:
        result: A file that --out wrote.
    """
    from mechprobe.results.base import bibliography

    say(bibliography()["mechprobe"] if result is None else mechprobe.load_result(result).citation())
