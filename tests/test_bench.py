"""The benchmark measures what it says, on a tiny model; no test asserts a time."""

import json
import math
import re
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

Arrays = dict[str, npt.NDArray[Any]]

_COMPARED = {
    ("transformer_lens", "top ids"),
    ("transformer_lens", "target rank"),
    ("transformer_lens", "entropy"),
    ("hf_loop", "top ids"),
    ("hf_loop", "target rank"),
    ("hf_loop", "entropy"),
    ("hf_loop", "KL to final"),
}


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Any:
    from mechprobe.bench import run_bench
    from tests.tiny import save_tiny

    folder = save_tiny(tmp_path_factory.mktemp("bench"))
    return run_bench("lens", str(folder), workloads=["4x60"], repeats=1, progress=False)


def test_every_contender_is_timed_on_every_workload(report: Any) -> None:
    from mechprobe.bench import KINDS

    found = [(row.workload, row.contender) for row in report.rows]
    assert found == [(work, name) for work in ("4x60",) for name in KINDS["lens"].contenders]
    for row in report.rows:
        if row.outputs.startswith("absent"):
            assert row.contender == "transformer_lens"
            continue
        assert row.repeats == 3  # three times as many as asked, as these are over soon
        assert row.ratio > 0
        assert row.fastest <= row.seconds <= row.slowest
        assert math.isnan(row.extra_mb) or row.extra_mb >= 0
        assert row.contender != "mechprobe" or row.ratio == 1


def test_outputs_are_compared_and_equal(report: Any) -> None:
    assert report.passed
    there = {row.contender for row in report.rows if not math.isnan(row.seconds)}
    for work in ("4x60",):
        found = {(c.contender, c.quantity) for c in report.comparisons if c.workload == work}
        assert found == {pair for pair in _COMPARED if pair[0] in there}
    assert "equal in all" in str(report)


def test_a_report_shows_itself(report: Any) -> None:
    record = json.loads(report.to_json())
    assert record["schema"] == "mechprobe/bench/1"
    assert record["passed"] is True
    assert len(record["rows"]) == len(report.rows)
    assert {"processor", "cores", "torch threads", "torch", "date"} <= set(record["machine"])
    lines = str(report).splitlines()
    assert sum("hf_loop" in line and "4x60" in line and "equal" not in line for line in lines) == 1
    assert "<table>" in report.to_html()


def _row(**changes: Any) -> Any:
    from mechprobe.bench import BenchRow

    values: dict[str, Any] = {
        "contender": "mechprobe", "workload": "1x1", "seconds": 1.234, "fastest": 1.0,
        "slowest": 2.0, "repeats": 3, "ratio": 1.0, "extra_mb": 12.0, "outputs": "top-10",
    }  # fmt: skip
    return BenchRow(**{**values, **changes})


def test_a_failed_comparison_is_loud_and_text_is_escaped() -> None:
    from mechprobe.bench import BenchReport
    from mechprobe.bench.compare import Comparison

    nan = math.nan
    absent = _row(contender="<x>", seconds=nan, fastest=nan, slowest=nan, repeats=0, ratio=nan,
                  extra_mb=nan, outputs="absent: <b>")  # fmt: skip
    wrong = Comparison("<x>", "1x1", "entropy", False, "differs by at most 3.0e+00 nats")
    report = BenchReport("m", (_row(), absent), (wrong,), {"cores": "1"}, "in turns")
    assert not report.passed
    assert str(report).count("OUTPUTS DIFFER") == 2
    assert "DIFFERENT: <x> on 1x1, entropy" in str(report)
    assert "<x>" not in report.to_html()
    assert "&lt;x&gt;" in report.to_html()
    assert "OUTPUTS DIFFER" in report.to_html()
    row = json.loads(report.to_json())["rows"][1]
    assert row["seconds"] is None
    assert row["extra_mb"] is None


def test_nothing_compared_is_said() -> None:
    from mechprobe.bench import BenchReport

    assert "Nothing was compared" in str(BenchReport("m", (_row(),), (), {}, ""))


N_POS = 400


def _reading(k: int = 3, d_vocab: int = 20) -> tuple[npt.NDArray[np.float64], Arrays]:
    """Logits of one prompt at 400 positions of one layer, and what a lens reads there."""
    z = np.random.default_rng(0).permuted(np.tile(np.arange(d_vocab) * 0.5, (N_POS, 1)), axis=1)
    target = np.arange(N_POS) % d_vocab
    rank = (z > np.take_along_axis(z, target[:, None], -1)).sum(-1)
    arrays: Arrays = {
        "top_id": np.argsort(-z, axis=-1)[None, :, None, :k],
        "rank": rank[None, :, None],
        "entropy": np.ones((1, N_POS, 1), np.float32),
        "kl": np.zeros((1, N_POS, 1), np.float32),
        "target": target[None],
    }
    return z, arrays


def _compare(z: npt.NDArray[np.float64], ours: Arrays, theirs: Arrays) -> dict[str, Any]:
    from mechprobe.bench.compare import Comparison, lenses

    def logits(cells: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
        return z[cells[:, 1]]

    lines = [Comparison("peer", "1x400", *line) for line in lenses(ours, theirs, logits)]
    return {line.quantity: line for line in lines}


def _no_logits(cells: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
    raise AssertionError(cells)


def test_equal_readings_pass_without_asking_for_logits() -> None:
    z, ours = _reading()
    lines = _compare(z[:0], ours, {name: ours[name].copy() for name in ("top_id", "rank", "kl")})
    assert set(lines) == {"top ids", "target rank", "KL to final"}
    assert all(line.passed for line in lines.values())


@pytest.mark.parametrize(("name", "quantity"), [("entropy", "entropy"), ("kl", "KL to final")])
@pytest.mark.parametrize("error", [1e-3, math.nan, math.inf])
def test_a_wrong_number_is_caught(name: str, quantity: str, error: float) -> None:
    z, ours = _reading()
    wrong = ours[name].copy()
    wrong[0, 3, 0] += error
    line = _compare(z, ours, {name: wrong})[quantity]
    assert not line.passed
    assert "DIFFERENT" in str(line)


def test_a_small_difference_of_entropy_passes() -> None:
    z, ours = _reading()
    assert _compare(z, ours, {"entropy": ours["entropy"] + 1e-4})["entropy"].passed


@pytest.mark.parametrize("name", ["top_id", "rank", "entropy"])
def test_another_shape_is_caught(name: str) -> None:
    z, ours = _reading()
    assert not any(c.passed for c in _compare(z, ours, {name: ours[name][:, :-1]}).values())


def test_one_wrong_id_or_rank_is_caught() -> None:
    z, ours = _reading()
    swapped = ours["top_id"].copy()
    swapped[0, 7, 0, :2] = swapped[0, 7, 0, 1::-1]
    off = ours["rank"].copy()
    off[0, 7, 0] += 1
    lines = _compare(z, ours, {"top_id": swapped, "rank": off})
    assert not lines["top ids"].passed
    assert not lines["target rank"].passed
    assert "first (0, 7, 0)" in lines["target rank"].detail


def test_ties_are_counted_and_allowed_up_to_the_limit() -> None:
    z, ours = _reading()
    target = ours["target"][0]
    swapped, off = ours["top_id"].copy(), ours["rank"].copy()
    for pos in range(2):
        first, second = ours["top_id"][0, pos, 0, :2]
        z[pos, second] = z[pos, first] - 5e-5
        swapped[0, pos, 0, :2] = second, first
        # An id that is not above the target in one arithmetic may be in the other.
        lower = int(np.argmin(z[pos])) if z[pos].argmin() != target[pos] else int(z[pos].argmax())
        z[pos, lower] = z[pos, target[pos]] - 5e-5
        off[0, pos, 0] += 1
    lines = _compare(z, ours, {"top_id": swapped})
    assert lines["top ids"].passed
    assert "2 of 400 cells (0.50%)" in lines["top ids"].detail
    ours["rank"][0, :2, 0] = [(row > row[t]).sum() for row, t in zip(z, target[:2], strict=False)]
    off[0, :2, 0] = ours["rank"][0, :2, 0] + 1
    assert _compare(z, ours, {"rank": off})["target rank"].passed


def test_too_many_ties_are_refused() -> None:
    z, ours = _reading()
    off = ours["rank"].copy()
    off[0, :3, 0] += 1
    line = _compare(np.zeros_like(z), ours, {"rank": off})["target rank"]
    assert not line.passed
    assert "0.5% are allowed" in line.detail


def test_an_id_given_twice_is_no_tie() -> None:
    z, ours = _reading()
    twice = ours["top_id"].copy()
    twice[0, 0, 0, 1] = twice[0, 0, 0, 0]
    z[0, ours["top_id"][0, 0, 0, 1]] = z[0, twice[0, 0, 0, 0]]
    assert not _compare(z, ours, {"top_id": twice})["top ids"].passed


def test_workload_ids_are_fixed_and_targets_follow(tmp_path: Path) -> None:
    from mechprobe.bench.workload import draw_ids, read_ids, save_ids

    drawn = draw_ids(2, 8, 50, None)
    np.testing.assert_array_equal(drawn, draw_ids(2, 8, 50, None))
    assert drawn.max() < 50
    save_ids(tmp_path / "ids.npy", drawn)
    ids, targets = read_ids(tmp_path / "ids.npy")
    assert ids.shape == targets.shape == (2, 8)
    np.testing.assert_array_equal(ids[:, 1:], targets[:, :-1])


def test_a_model_with_tokenizer_reads_text(tiny_text_model: Any) -> None:
    from mechprobe.bench.workload import draw_ids

    tokenizer = tiny_text_model.tokenizer
    first, second = draw_ids(2, 600, 300, tokenizer)
    assert first.shape == (601,)
    assert "The harbour was quiet" in tokenizer.decode(first.tolist() + second.tolist())
    assert (first != second).any()


@pytest.mark.parametrize("name", ["8", "0x4", "2x", "2 x 4", "-1x4", "2x4x4"])
def test_a_malformed_workload_is_refused(name: str) -> None:
    from mechprobe.bench import run_bench

    with pytest.raises(ValueError, match="<prompts>x<tokens>"):
        run_bench("lens", "nowhere", workloads=[name], progress=False)


def test_what_cannot_be_run_is_refused_before_any_process() -> None:
    from mechprobe.bench import run_bench

    with pytest.raises(ValueError, match="no benchmark 'speed'; choose from lens, generation"):
        run_bench("speed", progress=False)
    with pytest.raises(ValueError, match="no contender 'faster'"):
        run_bench("lens", "nowhere", contenders=["faster"], progress=False)
    with pytest.raises(ValueError, match="repeats=0"):
        run_bench("lens", "nowhere", repeats=0, progress=False)


def test_a_worker_that_fails_gives_its_reason(tmp_path: Path) -> None:
    from mechprobe.bench import run_bench

    with pytest.raises(RuntimeError, match=r"mechprobe failed: .*config\.json"):
        run_bench("lens", str(tmp_path), workloads=["1x4"], contenders=["forward"], progress=False)


def test_exact_logits_are_those_of_the_models_own_residuals(tmp_path: Path) -> None:
    from mechprobe.bench.lens_contenders import Mechprobe
    from tests.tiny import save_tiny

    ours = Mechprobe(str(save_tiny(tmp_path)))
    ours.draw("3x20", tmp_path / "ids.npy")
    ours.take(tmp_path / "ids.npy")
    result = ours.run()
    arrays = ours.arrays(result)
    cells = np.argwhere(np.ones(arrays["entropy"].shape, bool))
    z = ours.exact_logits(cells)
    np.testing.assert_array_equal(z.argmax(-1), arrays["top_id"][..., 0].flatten())
    assert ours.n_bytes(result) > 0


def test_heads_are_timed_and_compared(tmp_path: Path) -> None:
    from mechprobe.bench import KINDS, run_bench
    from tests.tiny import save_tiny

    folder = save_tiny(tmp_path / "m", tasks=True)
    config = folder / "config.json"
    sizes = json.loads(config.read_text())
    config.write_text(json.dumps({**sizes, "max_position_embeddings": 4096}))
    report = run_bench("heads", str(folder), workloads=["4x200+1"], repeats=1, progress=False)
    assert [row.contender for row in report.rows] == list(KINDS["heads"].contenders)
    assert all(row.repeats == 3 and row.seconds > 0 for row in report.rows)
    assert report.passed
    assert {c.contender for c in report.comparisons} == set(KINDS["heads"].contenders[1:4])


@pytest.mark.parametrize("name", ["3x200", "0x200", "4x100", "4", "4x200+0", "4x200+", "4x200-1"])
def test_a_malformed_workload_of_heads_is_refused(name: str) -> None:
    from mechprobe.bench import run_bench

    with pytest.raises(ValueError, match=rf"'{re.escape(name)}' is not '<even .*as '32x200\+5'"):
        run_bench("heads", "nowhere", workloads=[name], progress=False)


@pytest.mark.parametrize(("work", "shots"), [("4x200", 0), ("4x200+1", 1), ("4x200+5", 5)])
def test_all_prompts_begin_with_the_same_worked_examples(work: str, shots: int) -> None:
    from mechprobe.bench.heads_contenders import questions

    examples = list(questions(work))
    assert len(examples) == 4
    assert len({e.prompt[: e.prompt.rindex("Read the theory")] for e in examples}) == 1
    assert all(len(re.findall("Answer: (?:true|false)\n", e.prompt)) == shots for e in examples)


@pytest.mark.usefixtures("as_users_run_it")
def test_scores_that_differ_are_told() -> None:
    from mechprobe.bench.compare import scores

    ours = {"score": np.ones((2, 2, 3, 4))}
    for wrong in (1.001 * ours["score"], ours["score"] * np.nan, ours["score"][:1]):
        assert not scores(ours, {"score": wrong}, _no_logits)[0][1]


def test_world_metrics_are_timed_and_compared() -> None:
    from mechprobe.bench import KINDS, run_bench

    report = run_bench("world", workloads=["compression:6x3", "distinction:6x3"], repeats=1, progress=False)
    assert [row.contender for row in report.rows] == 2 * list(KINDS["world"].contenders)
    assert all(row.repeats == 3 and row.seconds > 0 for row in report.rows)
    assert [line.quantity for line in report.comparisons] == [
        "compression_precision", "distinction_precision", "distinction_recall",
    ]  # fmt: skip
    assert report.comparisons[2].passed
    assert float(report.machine["CPU s of 50 float32 products 1024 x 1024 on one thread"]) > 0
    with pytest.raises(ValueError, match="'100x30' is not '<compression or distinction>:<pairs>x"):
        run_bench("world", workloads=["100x30"])


@pytest.mark.usefixtures("as_users_run_it")
def test_world_scores_that_differ_are_told() -> None:
    from mechprobe.bench.compare import world_scores

    rng = np.random.default_rng(0)
    ours = {"distinction_precision": rng.random(200), "distinction_recall": rng.random(200)}
    same = {"distinction_precision": rng.random(200), "distinction_recall": ours["distinction_recall"]}
    assert all(passed for _, passed, _ in world_scores(ours, same, _no_logits))
    other = {k: v * 0.7 for k, v in ours.items()}
    assert not any(passed for _, passed, _ in world_scores(ours, other, _no_logits))
    short = {k: v[:5] for k, v in ours.items()}
    assert not any(passed for _, passed, _ in world_scores(ours, short, _no_logits))


def test_the_picture_leaves_out_who_did_not_run() -> None:
    from mechprobe.bench import BenchReport

    rows = (_row(), _row(contender="<peer>", ratio=4.5), _row(contender="absent", ratio=math.nan),
            _row(workload="2x2"))  # fmt: skip
    bars: Any = BenchReport("m", rows, (), {"cores": "2"}, "").plot().data
    assert [list(bar.y) for bar in bars] == [["&lt;peer&gt;", "mechprobe"], ["mechprobe"]]
    assert list(bars[0].text) == ["4.50x", "1.00x"]
