"""Workers side by side: how often they run, what they are given, and when one dies."""

from pathlib import Path
from typing import Any

import pytest


def test_a_peer_that_dies_costs_its_own_row_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from mechprobe.bench import rounds, run_bench

    run = rounds.Entry.run

    def dies(self: Any, save: Path | None = None) -> float:
        if self.process.contender == "hf_loop":
            msg = "contender hf_loop failed: its process ended with code -9 (silently)"
            raise RuntimeError(msg)
        return run(self, save)

    monkeypatch.setattr(rounds.Entry, "run", dies)
    from tests.tiny import save_tiny

    folder = save_tiny(tmp_path / "m")
    chosen = ["mechprobe", "hf_loop", "forward"]
    report = run_bench("lens", str(folder), workloads=["2x8"], contenders=chosen, repeats=1, progress=False)
    rows = {row.contender: row for row in report.rows}
    assert rows["hf_loop"].repeats == 0
    assert "failed: contender hf_loop failed: its process ended" in rows["hf_loop"].outputs
    assert rows["mechprobe"].repeats == 3
    assert rows["forward"].repeats == 3


def test_what_takes_longer_is_repeated_as_often_as_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mechprobe.bench import rounds, run_bench
    from tests.tiny import save_tiny

    monkeypatch.setattr(rounds, "_SHORT_SECONDS", 0.0)
    report = run_bench("lens",
        str(save_tiny(tmp_path / "m")), workloads=["2x8"], contenders=["mechprobe", "forward"],
        repeats=2, progress=False,
    )  # fmt: skip
    assert [row.repeats for row in report.rows] == [2, 2]


def test_a_worker_is_given_the_allocator_of_its_contender(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A misspelt name would leave a contender without its settings, and nobody would notice."""
    from mechprobe.bench import KINDS, process

    started: list[dict[str, str]] = []

    class Started:
        def __init__(self, *_args: object, env: dict[str, str], **_options: object) -> None:
            started.append(env)

        def communicate(self) -> None:
            """There is nobody to wait for."""

    monkeypatch.setattr(process.subprocess, "Popen", Started)
    names = KINDS["lens"].contenders
    for name in names:
        process.WorkerProcess("lens", name, "nowhere", "1x8", tmp_path / "ids.npy").end()
    given = {name: env["GLIBC_TUNABLES"] for name, env in zip(names, started, strict=True)}
    assert all("glibc.malloc.hugetlb=1" in told for told in given.values())
    assert [name for name in given if "tcache_count=0" in given[name]] == ["transformer_lens"]


def test_a_piece_can_be_taken_away(tmp_path: Path) -> None:
    """Every one that the table names; what mechprobe finds without it is compared like a peer's."""
    from mechprobe.bench import KINDS, run_bench
    from mechprobe.bench.pieces import PIECES
    from tests.tiny import save_tiny

    assert {piece for kind in KINDS.values() for piece in kind.pieces} == set(PIECES)
    folder = str(save_tiny(tmp_path / "m"))
    names = ["mechprobe", "mechprobe without twin", "mechprobe without compiled reductions"]
    report = run_bench("lens", folder, workloads=["2x8"], contenders=names, pieces=True, repeats=1,
                       progress=False)  # fmt: skip
    assert {row.contender for row in report.rows} == set(names)
    assert {line.contender for line in report.comparisons} == set(names[1:])
    assert report.passed


def test_a_piece_that_is_not_there_is_no_silent_success(monkeypatch: pytest.MonkeyPatch) -> None:
    from mechprobe.bench import pieces

    assert pieces.taken_away("mechprobe") == "mechprobe"
    moved = {"twin": ("mechprobe.models.run", "no_such_name", None)}
    monkeypatch.setattr(pieces, "PIECES", moved)
    with pytest.raises(AttributeError, match="table of pieces is out of date"):
        pieces.taken_away("mechprobe without twin")
