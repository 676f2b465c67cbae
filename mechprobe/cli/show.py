"""What commands share: refusing, printing, saving."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    import pandas as pd

    from mechprobe.results import Result


def require_folders(*paths: Path | None) -> None:
    """Refuse to start on what could not be written down."""
    for path in paths:
        if path is not None and not path.absolute().parent.is_dir():
            msg = f"there is no folder {path.parent} to write {path.name} into; make it first."
            raise ValueError(msg)


def refuse_idle(*options: tuple[str, bool, str, bool]) -> None:
    """Refuse options that would be ignored."""
    for name, given, needed, there in options:
        if given and not there:
            msg = f"{name} has no effect here: it goes with {needed}."
            raise ValueError(msg)


Keep = Literal["first", "last", "all"]


def deliver(
    result: "Result",
    table: "pd.DataFrame",
    *,
    json: bool,
    out: Path | None,
    html: Path | None,
    keep: Keep = "last",
) -> None:
    """Show, then save: what was computed is on the screen even where it cannot be written."""
    if json:
        say(result.to_json())
    else:
        print_table(str(result.provenance.function), table, keep=keep)
    saved = [result.save(out)] if out is not None else []
    saved += [result.html(html)] if html is not None else []
    for path in saved:
        print(f"written to {path}", file=sys.stderr if json else sys.stdout)


def say(text: str) -> None:
    """Print a line on standard output."""
    print(text)  # noqa: T201


def print_table(title: str, table: "pd.DataFrame", *, keep: Keep = "first") -> None:
    """Print a table as wide as the screen allows; nothing in a token is taken for markup.

    Args:
        title: Printed above it.
        table: What to print; numbers with three decimals.
        keep: Which columns stay where not all fit ("all": the others follow below); one called
            "merged" always does.
    """
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console()
    cells = [[_cell(c) for c in row] for row in table.to_numpy(dtype=object).tolist()]
    labels = [_label(label) for label in table.index]
    room = console.width - max(map(len, [str(table.index.name or ""), *labels])) - 4
    columns = [str(c) for c in table.columns]
    shown = _fitting(columns, cells, room, keep)
    drawn = Table(box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    drawn.add_column(str(table.index.name or ""), justify="right", no_wrap=True)
    for i in shown:
        drawn.add_column(Text(columns[i]), no_wrap=True)
    for label, row in zip(labels, cells, strict=True):
        drawn.add_row(Text(label), *(Text(row[i]) for i in shown))
    if title:
        console.print(Text(title), soft_wrap=True)
    console.print(drawn)
    if keep == "all" and len(shown) < len(columns):
        print_table("", table.iloc[:, [i for i in range(len(columns)) if i not in shown]], keep=keep)
    elif len(shown) < len(columns):
        say(f"({len(shown)} of {len(columns)} columns fit; all with --out or --html)")


def _label(label: object) -> str:
    """Return a row's name; one of several levels is read as words."""
    return " ".join(map(str, label)) if isinstance(label, tuple) else str(label)


def _cell(value: object) -> str:
    if isinstance(value, float):
        return "" if value != value else f"{value:.3f}"  # NaN is no number to show
    return str(value)


def _fitting(columns: list[str], cells: list[list[str]], room: int, keep: Keep) -> list[int]:
    """Return the columns that fit."""
    from rich.cells import cell_len

    widths = [max(map(cell_len, column)) + 2 for column in zip(columns, *cells, strict=True)]
    order = range(len(columns))
    if columns[-1] == "merged":
        room -= widths[-1]
        order = order[:-1]
    elif keep == "last":
        order = order[::-1]
    kept: list[int] = []
    for i in order:
        room -= widths[i]
        if room < 0 and kept:
            break
        kept.append(i)
    return sorted(kept) + [len(columns) - 1] * (columns[-1] == "merged")
