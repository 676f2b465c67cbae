"""What a benchmark found: rows, comparisons, machine; as text, JSON and HTML."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from html import escape
from typing import TYPE_CHECKING

from mechprobe.bench.compare import Comparison

if TYPE_CHECKING:
    import plotly.graph_objects as go

_HEADER = ("workload", "contender", "median s", "min s", "max s", "n", "x mechprobe", "extra MB", "outputs")
_NUMBERS = slice(2, 8)


@dataclass(frozen=True, slots=True)
class BenchRow:
    """One contender on one workload.

    Attributes:
        contender: Its name.
        workload: ``"8x256"``: prompts x tokens.
        seconds: Median of its repetitions; NaN where it is absent.
        fastest: Its fastest repetition.
        slowest: Its slowest repetition.
        repeats: How many repetitions were timed.
        ratio: Median over rounds of its time over mechprobe's in the same round.
        extra_mb: Peak resident memory of its process while timed, less that of the forward pass
            alone in the same process, less what it returned; MB (10**6). NaN outside Linux.
        outputs: What it computes, or why it is absent.
    """

    contender: str
    workload: str
    seconds: float
    fastest: float
    slowest: float
    repeats: int
    ratio: float
    extra_mb: float
    outputs: str

    def cells(self) -> tuple[str, ...]:
        """Return the row as text."""
        extra = "-" if math.isnan(self.extra_mb) else f"{self.extra_mb:.0f}"
        times = [number(x) for x in (self.seconds, self.fastest, self.slowest)]
        shown = (*times, str(self.repeats), number(self.ratio), extra)
        return (self.workload, self.contender, *shown, self.outputs)


@dataclass(frozen=True)
class BenchReport:
    """One benchmark in one run on one machine.

    Attributes:
        model: Which model was read.
        rows: One for each workload and contender.
        comparisons: Were the outputs the same? Made before any time is shown.
        machine: Processor, cores, threads, versions and date.
        method: How time and memory were measured.
    """

    model: str
    rows: tuple[BenchRow, ...]
    comparisons: tuple[Comparison, ...]
    machine: dict[str, str]
    method: str

    @property
    def passed(self) -> bool:
        """Whether every compared output was the same."""
        return all(line.passed for line in self.comparisons)

    def verdict(self) -> str:
        """Say in one line whether the times can be believed."""
        failed = sum(not line.passed for line in self.comparisons)
        if failed:
            return f"OUTPUTS DIFFER in {failed} comparisons: the times below compare unequal work."
        if not self.comparisons:
            return "Nothing was compared: no second contender has outputs."
        return f"Outputs are equal in all {len(self.comparisons)} comparisons."

    def to_json(self) -> str:
        """Return everything as one JSON object; NaN becomes null."""
        record = {
            "schema": "mechprobe/bench/1",
            "model": self.model,
            "passed": self.passed,
            "rows": [without_nan(asdict(row)) for row in self.rows],
            "comparisons": [asdict(line) for line in self.comparisons],
            "machine": self.machine,
            "method": self.method,
        }
        return json.dumps(record, ensure_ascii=False, allow_nan=False)

    def to_html(self) -> str:
        """Return a small HTML fragment; all text is escaped."""
        color = "#1a7f37" if self.passed else "#b00020"
        lines = "".join(f"<li>{escape(str(line))}</li>" for line in self.comparisons)
        body = "".join(html_row("td", row.cells()) for row in self.rows)
        return (
            f"<div><p><b>mechprobe bench</b> {escape(self.model)} "
            f"<small>{escape(where(self.machine))}</small></p>"
            f'<p style="color:{color}"><b>{escape(self.verdict())}</b></p><ul>{lines}</ul>'
            f"<table><thead>{html_row('th', _HEADER)}</thead><tbody>{body}</tbody></table>"
            f"<p><small>{escape(self.method)}</small></p></div>"
        )

    def plot(self) -> "go.Figure":
        """Draw the times as bars, in units of mechprobe's."""
        from mechprobe.plots.bench import bench_figure

        return bench_figure(
            [row.workload for row in self.rows],
            [row.contender for row in self.rows],
            [row.ratio for row in self.rows],
            f"mechprobe bench {self.model}",
            machine_line(self.machine),
        )

    def _repr_html_(self) -> str:
        return self.to_html()

    def __str__(self) -> str:
        comparisons = [f"  {line}" for line in self.comparisons]
        head = [f"mechprobe bench, {self.model}", where(self.machine), self.verdict(), *comparisons]
        table = text_table([_HEADER, *(row.cells() for row in self.rows)], _NUMBERS)
        tail = [] if self.passed else [self.verdict()]
        return "\n".join([*head, "", *table, "", *tail, self.method])


def without_nan(record: Mapping[str, object]) -> dict[str, object]:
    """Return a record as JSON holds it: NaN becomes None."""
    return {k: None if isinstance(v, float) and math.isnan(v) else v for k, v in record.items()}


def where(machine: dict[str, str]) -> str:
    """Return the machine, its state and the versions in one line."""
    return ", ".join(f"{name} {value}" for name, value in machine.items())


def machine_line(machine: dict[str, str]) -> str:
    """Return processor, cores and date, as the subtitle of a figure."""
    known = [machine[k] for k in ("processor", "date") if k in machine]
    return ", ".join([*known[:1], f"{machine.get('cores', '?')} cores", *known[1:]])


def number(value: float) -> str:
    """Show three figures, which is what a repetition is worth."""
    if math.isnan(value):
        return "-"
    digits = 2 - math.floor(math.log10(value)) if value > 0 else 0
    return f"{value:.{min(max(digits, 0), 4)}f}"


def text_table(rows: Sequence[tuple[str, ...]], numbers: slice) -> list[str]:
    """Return lines of a table, the columns ``numbers`` to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    numeric = range(len(widths))[numbers]
    return [
        "  ".join(
            cell.rjust(width) if i in numeric else cell.ljust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]


def html_row(tag: str, cells: Sequence[str]) -> str:
    """Return a row of an HTML table; all text is escaped."""
    return "<tr>" + "".join(f"<{tag}>{escape(cell)}</{tag}>" for cell in cells) + "</tr>"
