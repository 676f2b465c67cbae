"""Gather results, from memory and from files, into one HTML report."""

from collections.abc import Sequence
from pathlib import Path

from mechprobe.results import Result
from mechprobe.results.html import write_page
from mechprobe.saved import load_result


def write_report(
    paths_or_results: Result | str | Path | Sequence[Result | str | Path],
    out: str | Path,
    *,
    title: str = "mechprobe report",
) -> Path:
    """Write results as one self-contained HTML file.

    The page holds figures, tables, provenance and citations of every result and needs no network.

    Args:
        paths_or_results: One or several results, or paths of saved ones.
        out: Where to; ``.html`` is customary. A file that is there is replaced.
        title: Title of the page.

    Returns:
        The path of the page.

    Raises:
        ValueError: There is nothing to report, or a file is no result of mechprobe.
        TypeError: Something that is neither a result nor a path.
        FileNotFoundError: There is no such saved result.
        OSError: The page cannot be written; nothing is left behind.

    Example:
        >>> import mechprobe as mp
        >>> lens = mp.logit_lens(tiny_model, [[1, 2, 3]], progress=False)
        >>> mp.write_report([lens], "report.html").name  # doctest: +SKIP
        'report.html'
    """
    single = isinstance(paths_or_results, Result | str | Path)
    given = [paths_or_results] if single else list(paths_or_results)
    if not given:
        msg = "there is nothing to report: found no result; give at least one, or a path of one."
        raise ValueError(msg)
    # All are read before anything is written: one bad path must not cost a page.
    return write_page(out, title, [_result(item).section() for item in given])


def _result(item: object) -> Result:
    if isinstance(item, Result):
        return item
    if isinstance(item, str | Path):
        return load_result(item)
    msg = f"a report takes results and paths of saved results; found {type(item).__name__}."
    raise TypeError(msg)
