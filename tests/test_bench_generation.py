"""``mechprobe bench generation``: the same tokens, with a lens and without."""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.tiny import save_tiny


def test_generation_is_timed_and_compared(tmp_path: Path) -> None:
    """It ends at the model's end-of-text token, in all three ways."""
    from mechprobe.bench import KINDS, run_bench
    from mechprobe.bench.generation_contenders import CONTENDERS

    folder, ids = save_tiny(tmp_path / "m", "llama"), tmp_path / "prompt.npz"
    ours: Any = CONTENDERS["mechprobe"](str(folder))
    ours.draw("6+5", ids)
    ours.take(ids)
    tokens = ours.arrays(ours.run())["tokens"].tolist()
    assert len(tokens) == 5
    n = tokens.index(tokens[2]) + 1
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": tokens[2]}))
    report = run_bench("generation", str(folder), workloads=["6+5"], repeats=1, progress=False)
    assert [row.contender for row in report.rows] == list(KINDS["generation"].contenders)
    assert all(row.repeats == 3 and row.seconds > 0 for row in report.rows)
    assert report.passed
    told = {line.contender: line.detail for line in report.comparisons}
    same = f"{n} tokens, the first {n} of {n} the same"
    assert told == dict.fromkeys(KINDS["generation"].contenders[1:], same)


@pytest.mark.parametrize("name", ["128", "0+4", "4+0", "4x4", "+4", "4+"])
def test_a_malformed_workload_is_refused(name: str) -> None:
    from mechprobe.bench import run_bench

    with pytest.raises(ValueError, match=rf"'{re.escape(name)}' is not '<tokens>\+<tokens gen"):
        run_bench("generation", "nowhere", workloads=[name], progress=False)


@pytest.mark.usefixtures("as_users_run_it")
def test_tokens_that_differ_are_told() -> None:
    from mechprobe.bench.compare import tokens

    def no_logits(cells: Any) -> Any:
        raise AssertionError(cells)

    ours = {"tokens": np.array([3, 4, 5])}
    for other, same in (([3, 9, 5], 1), ([3, 4], 2), ([3, 4, 5, 6], 3)):
        _, passed, detail = tokens(ours, {"tokens": np.array(other)}, no_logits)[0]
        assert not passed
        assert detail == f"{len(other)} tokens, the first {same} of 3 the same"


def test_all_runs_every_benchmark(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """In this order, with the options given; it fails where one of them did not agree."""
    import mechprobe.bench
    from mechprobe.bench.compare import Comparison
    from mechprobe.cli import run

    asked: list[tuple[str, dict[str, Any]]] = []
    differs = {"heads": False}

    def fake(name: str, *args: object, **options: Any) -> Any:  # noqa: ARG001
        asked.append((name, options))
        line = Comparison("peer", "1x1", "score", not differs.get(name), "")
        return mechprobe.bench.BenchReport(name, (), (line,), {"cores": "2"}, "in turns")

    names = ["lens", "generation", "heads", "world"]
    monkeypatch.setattr(mechprobe.bench, "run_bench", fake)
    page = tmp_path / "all.html"
    assert run(["bench", "all", "--peers", "--repeats", "2", "--json", "--html", str(page)]) == 0
    assert len(json.loads(capsys.readouterr().out)) == 4
    assert [name for name, _ in asked] == names
    given = {"repeats": 2, "peers": True, "pieces": False, "progress": False}
    assert all(given.items() <= options.items() for _, options in asked)
    assert all(name in page.read_text() for name in names)
    differs["heads"] = True
    assert run(["bench", "all", "--json"]) == 1
    capsys.readouterr()
    assert run(["bench", "generation", "--workload", "5+2", "--repeats", "1", "--json"]) == 0
    assert asked[-1][1]["workloads"] == ["5+2"]
    assert run(["bench", "all", "--workload", "5+2"]) == 2
    assert "go with one kind" in capsys.readouterr().err
