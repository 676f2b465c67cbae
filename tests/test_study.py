"""The study of the statistics: a seeded cut of it, what it calls broken, and how it goes on."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

# One line of every kind that the study has; each tells of what it is.
CUT = [
    "share, 5 of 10, p 0.2, ICC 0.5",
    "share, 20 of 10, p 0.5, ICC 0.1",
    "difference, 20 of 10, +0.15 -0.05, ICC 0.5",
    "mean, 3 of 10, ICC 0.5",
    "states, 100 pairs of 3, p 0.5, spread 0.5",
    "difference over states, 100 pairs of 100, p 0.5, spread 0.5",
    "table of 32 values tried on the other half, 100 examples",
    "treatment less 5 controls of spread 0.3, 40 groups of 2",
    "12 layers, alike 0.9, 40 of 2",
    "select best, 24 options",
    "select best, flip, twin theories",
    "select unsupervised, passages of 2 to 13",
    "transfer, 71 % yes",
    "heads less 5 random controls",
    "24 options, 0 of 60 heads know, independent",
    "6 options, 6 of 60 heads know, alike",
    "twin theories, none knows",
    "accuracy of the chosen head, twin theories",
    "best by chance, 71 % yes",
    "Seating, refused 0.2, accepted 0.1",
]


@pytest.mark.parametrize("setting", CUT)
def test_what_is_promised_is_kept(setting: str) -> None:
    from mechprobe.study import study_rows

    (row,) = [row for row in study_rows() if row.setting == setting]
    outcomes = row.run(min(row.runs, 100 if row.part != "oracles" else 2), 5)
    assert row.promises
    kept = {name: verdict for name, _, verdict in row.judged(outcomes)}
    assert {kept[name] for name in row.promises} <= {"holds", "conservative"}, outcomes
    # What keeps its level and never finds anything would be of no use.
    assert "power" not in outcomes or outcomes["power"].mean > 0.1


def test_every_line_is_another() -> None:
    from mechprobe.study import PARTS, study_rows

    names = [(row.part, row.setting) for row in study_rows()]
    assert len(set(names)) == len(names) > 400
    assert {part for part, _ in names} == set(PARTS)
    assert sum(part == "p-values" for part, _ in names) >= 36


def broken(low: float, high: float, found: Any) -> str:
    from mechprobe.study import Promise
    from mechprobe.study.row import summed

    return summed(found).verdict(Promise(low, high, 0.99))


def test_a_broken_promise_is_called_so() -> None:
    """Coverage that is meant to be 0.93 to 0.97, and up to 0.99 where it is conservative."""
    some: list[float] = [1.0] * 1000
    assert broken(0.93, 0.97, some[:900] + [0.0] * 100) == "FAILS"
    assert broken(0.93, 0.97, some[:950] + [0.0] * 50) == "holds"
    assert broken(0.93, 0.97, some[:985] + [0.0] * 15) == "conservative"
    assert broken(0.93, 0.97, some) == "FAILS"
    # Of few runs hardly anything is known.
    assert broken(0.93, 0.97, [*some[:9], 0.0]) == "holds"
    assert broken(0.93, 0.97, [float("nan")]) == "-"
    numbers = np.random.default_rng(0).normal(1.5, 1, 400).tolist()
    assert broken(0.9, 1.1, numbers) == "FAILS"


def test_intervals_that_ignore_groups_fail(monkeypatch: pytest.MonkeyPatch) -> None:
    """The study would see it if an interval took questions of a group for independent."""
    from mechprobe.stats import accuracy_interval
    from mechprobe.study import coverage, study_rows

    def blind(right: Any, group: Any) -> Any:
        return accuracy_interval(right, np.arange(len(group)))

    monkeypatch.setattr(coverage, "accuracy_interval", blind)
    (row,) = [row for row in study_rows() if row.setting == "share, 20 of 10, p 0.5, ICC 0.5"]
    assert next(row.judged(row.run(100, 0)))[2] == "FAILS"


def test_finished_lines_are_not_run_again(tmp_path: Path) -> None:
    from mechprobe.study import study_statistics

    told: list[str] = []
    journal = tmp_path / "study.jsonl"
    asked: dict[str, Any] = {"runs": 0.02, "journal": journal, "tell": told.append}
    first = study_statistics(["bands"], **asked)
    assert len(told) == 6
    lines = journal.read_text().splitlines()
    # One is cut short, one has another number in it.
    record = json.loads(lines[1])
    record["outcomes"]["all covered"][0] = 0.5
    journal.write_text("\n".join([lines[0][:40], json.dumps(record), *lines[2:]]) + "\n")
    told.clear()
    again = study_statistics(["bands"], **asked)
    assert len(told) == 2
    assert str(again) == str(first)
    study_statistics(["bands"], **asked | {"seed": 1})
    assert len(told) == 8


def test_the_command_prints_tables(capsys: pytest.CaptureFixture[str]) -> None:
    from mechprobe.cli import run

    assert run(["study", "statistics", "--part", "bands", "--runs", "0.02"]) == 0
    printed = capsys.readouterr().out
    assert "| 12 layers, alike 0, 100 single |" in printed
    assert "| bands | 6 | 0 | 0 |" in printed
    assert run(["study", "statistics", "--part", "levels"]) == 2
    assert "no part 'levels' in the study; choose from intervals, bands" in capsys.readouterr().err
    assert run(["study", "statistics", "--runs", "0"]) == 2
    assert "give more than 0" in capsys.readouterr().err
