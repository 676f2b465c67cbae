"""How cost grew: sizes, fitted exponents and theory's; as text, JSON, HTML and a figure."""

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from html import escape
from statistics import linear_regression
from typing import TYPE_CHECKING

from mechprobe.bench.growth_axes import Axis, called
from mechprobe.bench.report import html_row, machine_line, number, text_table, where, without_nan

if TYPE_CHECKING:
    import plotly.graph_objects as go

_HEADER = (
    "axis", "size", "median s", "min s", "max s", "n", "extra MB", "min MB", "max MB", "counts",
)  # fmt: skip
_LAWS = ("axis", "of", "theory", "exponent", "measured")
_NUMBERS, _EXPONENTS = slice(1, 9), slice(3, 5)
# What is less is lost in the pages that a process takes and gives back.
_LEAST_MB = 1.0
_UNITS = {"time": "seconds", "memory": "extra MB"}


@dataclass(frozen=True, slots=True)
class GrowthRow:
    """What one size of one axis costs.

    Attributes:
        axis: ``"lens/tokens"``.
        size: How many of what the axis counts.
        seconds: Median over repetitions, on some axes behind the forward pass.
        fastest: The fastest repetition.
        slowest: The slowest repetition.
        repeats: How many repetitions there were.
        extra_mb: Median extra peak memory, MB (10**6), as in ``BenchRow``; NaN outside Linux.
        extra_low: The least of all repetitions.
        extra_high: The most.
    """

    axis: str
    size: int
    seconds: float
    fastest: float
    slowest: float
    repeats: int
    extra_mb: float
    extra_low: float
    extra_high: float


@dataclass(frozen=True, slots=True)
class Law:
    """How one cost grows along one axis.

    Attributes:
        axis: Name of the axis.
        quantity: ``"time"`` or ``"memory"``.
        theory: Exponent of the size that theory names.
        measured: Exponent fitted to the medians (least squares of logarithms); NaN for fewer than
            two sizes.
    """

    axis: str
    quantity: str
    theory: float
    measured: float


@dataclass(frozen=True)
class GrowthReport:
    """One run on one machine.

    Attributes:
        model: Which model was read on the axes that read one.
        axes: What was varied.
        rows: One for each axis and size.
        missing: Sizes that could not be measured, and why.
        machine: Processor, cores, versions and date.
        method: How time and memory were measured.
    """

    model: str
    axes: tuple[Axis, ...]
    rows: tuple[GrowthRow, ...]
    missing: tuple[str, ...]
    machine: dict[str, str]
    method: str

    @property
    def laws(self) -> tuple[Law, ...]:
        """Theory's and the fitted exponent of time and memory along every axis."""
        return tuple(law for axis in self.axes for law in self._laws(axis))

    def to_json(self) -> str:
        """Return everything as one JSON object; NaN becomes null."""
        record = {
            "schema": "mechprobe/growth/1",
            "model": self.model,
            "axes": [asdict(axis) for axis in self.axes],
            "rows": [without_nan(asdict(row)) for row in self.rows],
            "laws": [without_nan(asdict(law)) for law in self.laws],
            "missing": self.missing,
            "machine": self.machine,
            "method": self.method,
        }
        return json.dumps(record, ensure_ascii=False, allow_nan=False)

    def to_html(self) -> str:
        """Return a small HTML fragment; all text is escaped."""
        missing = "".join(f"<li>{escape(line)}</li>" for line in self.missing)
        tables = "".join(
            f"<table><thead>{html_row('th', header)}</thead>"
            f"<tbody>{''.join(html_row('td', cells) for cells in rows)}</tbody></table>"
            for header, rows in ((_LAWS, self._law_cells()), (_HEADER, self._cells()))
        )
        return (
            f"<div><p><b>mechprobe bench growth</b> {escape(self.model)} "
            f"<small>{escape(where(self.machine))}</small></p><ul>{missing}</ul>{tables}"
            f"<p><small>{escape(self.method)}</small></p></div>"
        )

    def page(self) -> str:
        """Return a self-contained HTML page: the figure, and the sizes below it."""
        import pandas as pd

        from mechprobe.results.html import Section, page

        table = pd.DataFrame([asdict(row) for row in self.rows])
        note = " ".join([where(self.machine) + ".", self.method, *self.missing])
        section = Section(self.model, [self.plot()], table, note=note)
        return page("mechprobe bench growth", [section])

    def plot(self) -> "go.Figure":
        """Draw time and memory against size, axis by axis, with theory's power through the last."""
        from mechprobe.plots.bench import Panel, growth_figure

        panels = [
            Panel(
                f"{law.axis}, {law.quantity}: {called(law.theory)}, {_fitted(law.measured)}",
                axis.unit, _UNITS[law.quantity], self._points(axis, law.quantity), law.theory,
                axis.fitted_from(law.quantity),
            )
            for axis in self.axes
            for law in self._laws(axis)
        ]  # fmt: skip
        title = f"mechprobe bench growth, {self.model}"
        return growth_figure(panels, title, machine_line(self.machine))

    def _repr_html_(self) -> str:
        return self.to_html()

    def __str__(self) -> str:
        head = [f"mechprobe bench growth, {self.model}", where(self.machine), *self.missing]
        laws = text_table([_LAWS, *self._law_cells()], _EXPONENTS)
        table = text_table([_HEADER, *self._cells()], _NUMBERS)
        return "\n".join([*head, "", *laws, "", *table, "", self.method])

    def _laws(self, axis: Axis) -> list[Law]:
        laws: list[Law] = []
        for quantity, theory in (("time", axis.time), ("memory", axis.memory)):
            least = axis.fitted_from(quantity)
            fitted = [point[:2] for point in self._points(axis, quantity) if point[0] >= least]
            laws.append(Law(axis.name, quantity, theory, fitted_exponent(fitted)))
        return laws

    def _points(self, axis: Axis, quantity: str) -> list[tuple[int, float, float, float]]:
        """Return size, median, least and most of whatever can stand on a logarithmic scale."""
        rows = [row for row in self.rows if row.axis == axis.name]
        if quantity == "time":
            points = [(row.size, row.seconds, row.fastest, row.slowest) for row in rows]
        else:
            points = [
                (
                    row.size,
                    *(max(x, _LEAST_MB) for x in (row.extra_mb, row.extra_low, row.extra_high)),
                )
                for row in rows
                if not math.isnan(row.extra_mb)
            ]
        return [(n, y, low if low > 0 else y, high) for n, y, low, high in points if y > 0]

    def _law_cells(self) -> list[tuple[str, ...]]:
        return [
            (law.axis, law.quantity, called(law.theory), f"{law.theory:g}", _exponent(law.measured))
            for law in self.laws
        ]

    def _cells(self) -> list[tuple[str, ...]]:
        units = {axis.name: axis.unit for axis in self.axes}
        return [
            (
                row.axis, str(row.size), *map(number, (row.seconds, row.fastest, row.slowest)),
                str(row.repeats), *map(_megabytes, (row.extra_mb, row.extra_low, row.extra_high)),
                units[row.axis],
            )
            for row in self.rows
        ]  # fmt: skip


def fitted_exponent(points: Sequence[tuple[int, float]]) -> float:
    """Return p of the power law y = c x^p that fits best, by least squares of logarithms.

    Args:
        points: (x, y), all positive.

    Returns:
        The exponent; NaN for fewer than two points.

    Example:
        >>> round(fitted_exponent([(1, 3.0), (2, 12.0), (4, 48.0)]), 6)
        2.0
    """
    if len(points) < 2:
        return math.nan
    return linear_regression(*zip(*((math.log(x), math.log(y)) for x, y in points), strict=True))[0]


def _fitted(exponent: float) -> str:
    return "too few sizes" if math.isnan(exponent) else f"measured size^{exponent:.2f}"


def _exponent(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:.2f}"


def _megabytes(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:.0f}"
