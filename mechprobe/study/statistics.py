"""All lines of the study, run one after the other, kept on disk, and shown as tables."""

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from mechprobe.provenance import digest_json
from mechprobe.study import coverage, levels, truths
from mechprobe.study.row import PARTS, Outcome, Part, Row


def study_rows(parts: Sequence[str] = PARTS) -> list[Row]:
    """Return the lines of some parts, in order.

    Raises:
        ValueError: There is no such part.
    """
    unknown = sorted(set(parts) - set(PARTS))
    if unknown:
        msg = f"no part {unknown[0]!r} in the study; choose from {', '.join(PARTS)}."
        raise ValueError(msg)
    every = [*coverage.rows(), *levels.rows(), *truths.rows()]
    return [row for row in every if row.part in parts]


@dataclass(frozen=True, slots=True)
class StudyReport:
    """What every line came to.

    Attributes:
        found: Lines and their outcomes, in order.
        seed: Of the simulations.
    """

    found: tuple[tuple[Row, dict[str, Outcome]], ...]
    seed: int

    @property
    def failed(self) -> list[str]:
        """Lines that do not keep what is promised."""
        return [
            f"{row.part}: {row.setting}: {name} {outcome.mean:.3f}"
            for row, outcomes in self.found
            for name, outcome, verdict in row.judged(outcomes)
            if verdict == "FAILS"
        ]

    def __str__(self) -> str:
        """Return one Markdown table for each part, and how many promises were kept."""
        return "\n\n".join([self._table(part) for part in PARTS if self._of(part)] + [self.summary()])

    def summary(self) -> str:
        """Return by part how many promises hold, are kept with room to spare, and fail."""
        lines = ["| part | holds | conservative | FAILS |", "| --- | --- | --- | --- |"]
        for part in (p for p in PARTS if self._of(p)):
            verdicts = [v for row, outcomes in self._of(part) for _, _, v in row.judged(outcomes)]
            counts = [str(verdicts.count(v)) for v in ("holds", "conservative", "FAILS")]
            lines.append(f"| {part} | {' | '.join(counts)} |")
        return "\n".join(lines)

    def _of(self, part: Part) -> list[tuple[Row, dict[str, Outcome]]]:
        return [(row, outcomes) for row, outcomes in self.found if row.part == part]

    def _table(self, part: Part) -> str:
        here = self._of(part)
        names = list(dict.fromkeys(name for _, outcomes in here for name in outcomes))
        lines = [f"| {part} | {' | '.join(names)} | runs |", f"|{' --- |' * (len(names) + 2)}"]
        for row, outcomes in here:
            verdicts = {name: verdict for name, _, verdict in row.judged(outcomes)}
            cells = [_cell(outcomes[n], verdicts[n]) if n in outcomes else "" for n in names]
            runs = max((o.runs for o in outcomes.values()), default=0)
            lines.append(f"| {row.setting} | {' | '.join(cells)} | {runs} |")
        return "\n".join(lines)


def _cell(outcome: Outcome, verdict: str) -> str:
    if math.isnan(outcome.mean):
        return "none"
    return f"{outcome.mean:.3f}" + ("" if verdict in {"-", "holds"} else f" {verdict}")


def study_statistics(
    parts: Sequence[str] = PARTS,
    *,
    runs: float = 1.0,
    seed: int = 0,
    journal: str | Path | None = None,
    tell: Callable[[str], object] | None = None,
) -> StudyReport:
    """Simulate with known truth what intervals, p-values, lists of heads and controls promise.

    Args:
        parts: "intervals", "bands", "p-values", "discoveries", "bias", "oracles".
        runs: Times the usual number of runs of each line, more than 0.
        seed: Of all of them; every line and run has its own.
        journal: File that every finished line is added to; lines that it holds are not run again.
        tell: Is told the name of every line that is run.

    Returns:
        Every outcome with its Monte Carlo error, and whether the promise is kept.

    Raises:
        ValueError: An unknown part, or ``runs`` is not above 0.

    Example:
        >>> report = study_statistics(["bands"], runs=0.02)
        >>> len(report.found), report.failed
        (6, [])
    """
    if not 0 < runs < math.inf:
        msg = f"runs={runs} times the usual number; give more than 0."
        raise ValueError(msg)
    path = None if journal is None else Path(journal).expanduser()
    known: dict[str, dict[str, Outcome]] = {} if path is None else _read(path)
    found: list[tuple[Row, dict[str, Outcome]]] = []
    for row in study_rows(parts):
        n = max(2, round(row.runs * runs))
        key = f"{row.part}: {row.setting}: {n} runs, seed {seed}"
        outcomes = known.get(key)
        if outcomes is None:
            if tell is not None:
                tell(key)
            outcomes = row.run(n, int(digest_json([row.part, row.setting, seed])[:8], 16))
            if path is not None:
                _add(path, key, outcomes)
        found.append((row, outcomes))
    return StudyReport(tuple(found), seed)


def _add(path: Path, key: str, outcomes: dict[str, Outcome]) -> None:
    line = {"key": key, "outcomes": {name: list(outcome) for name, outcome in outcomes.items()}}
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps({**line, "sha256": digest_json(line)}) + "\n")


def _read(path: Path) -> dict[str, dict[str, Outcome]]:
    """Return finished lines; one that is cut short or damaged is run again."""
    if not path.exists():
        return {}
    found: dict[str, dict[str, Outcome]] = {}
    for text in path.read_text(encoding="utf-8").splitlines():
        try:
            line = json.loads(text)
            digest = line.pop("sha256")
        except (ValueError, KeyError, AttributeError):
            continue
        if digest == digest_json(line):
            found[line["key"]] = {name: Outcome(*values) for name, values in line["outcomes"].items()}
    return found
