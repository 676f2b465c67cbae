"""Growth: what is varied, what is fitted, what is drawn; no test asserts a time."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.browser import Scheme, opened


def _report(exponent: float = 1.0, *, evil: str = "") -> Any:
    """Return a report of two axes that grow exactly, memory flat; one size is missing."""
    from mechprobe.bench import GrowthReport, GrowthRow
    from mechprobe.bench.growth_axes import chosen_axes

    axes = chosen_axes(["lens/tokens", "world/distances"])
    rows = [
        GrowthRow(
            a.name, n, s := 1e-3 * float(n) ** exponent, 0.9 * s, 1.2 * s, 3, 80.0, 79.0, 81.0
        )
        for a in axes
        for n in a.sizes
    ]
    missing = (f"lens/layers 31: {evil or 'the model has 4 layers'}",)
    machine = {"processor": "one", "cores": "2", "date": "today"}
    return GrowthReport(evil or "m", tuple(axes), tuple(rows), missing, machine, "in turns")


@pytest.mark.parametrize("exponent", [0.0, 1.0, 2.5])
def test_exponents_are_fitted_beside_theorys(exponent: float) -> None:
    laws = {(law.axis, law.quantity): law for law in _report(exponent).laws}
    assert laws["lens/tokens", "time"].theory == 1
    assert laws["world/distances", "time"].theory == 2.5
    for name in ("lens/tokens", "world/distances"):
        assert laws[name, "time"].measured == pytest.approx(exponent)
        assert laws[name, "memory"].measured == pytest.approx(0)


def test_only_sizes_are_fitted_for_which_theory_holds() -> None:
    from dataclasses import replace

    from mechprobe.bench.growth_axes import chosen_axes

    (axis,) = chosen_axes(["lens/vocabulary"])
    report = _report()
    rows = [
        replace(report.rows[0], axis=axis.name, size=n, extra_mb=min(100.0, 100 * n / 4096),
                seconds=n * (2.0 if n < 2**14 else 1.0))
        for n in axis.sizes
    ]  # fmt: skip
    time, memory = replace(report, axes=(axis,), rows=tuple(rows)).laws
    assert time.measured == pytest.approx(1)
    assert memory.measured == pytest.approx(0)


def test_what_was_not_measured_is_neither_fitted_nor_drawn() -> None:
    from dataclasses import replace

    report = _report()
    unknown = replace(report.rows[0], extra_mb=math.nan, extra_low=math.nan, extra_high=math.nan,
                      seconds=-0.01)  # fmt: skip
    few = replace(report, axes=report.axes[:1], rows=(unknown, report.rows[1]))
    assert all(math.isnan(law.measured) for law in few.laws)
    record = json.loads(few.to_json())
    assert record["rows"][0]["extra_mb"] is None
    assert record["laws"][0]["measured"] is None
    figure = few.plot()
    assert [len(trace.x) for trace in figure.data] == [1, 1, 1, 1]
    assert figure.layout.annotations[0].text == "lens/tokens, time: linear, too few sizes"
    assert "-" in str(few)
    assert not replace(few, rows=(unknown,)).plot().data


def test_a_report_shows_itself() -> None:
    report = _report(evil="<script>alert(1)</script>")
    record = json.loads(report.to_json())
    assert record["schema"] == "mechprobe/growth/1"
    assert [axis["name"] for axis in record["axes"]] == ["lens/tokens", "world/distances"]
    assert len(record["rows"]) == len(report.rows) == 10
    lines = str(report).splitlines()
    assert any(line.split()[:3] == ["lens/tokens", "time", "linear"] for line in lines)
    assert sum(line.startswith("world/distances  ") for line in lines) == 2 + 4
    assert "<script>" not in report.to_html()
    assert report.to_html().count("<table>") == 2


def test_theory_runs_through_the_largest_size() -> None:
    figure = _report(2.0).plot()
    theory, measured = figure.data[:2]
    assert theory.y[-1] == measured.y[-1]
    np.testing.assert_allclose(np.diff(np.log(theory.y)) / np.diff(np.log(theory.x)), 1)
    np.testing.assert_array_equal(measured.x, (32, 64, 128, 256, 512, 1024))
    assert [note.text for note in figure.layout.annotations] == [
        "lens/tokens, time: linear, measured size^2.00",
        "lens/tokens, memory: flat, measured size^0.00",
        "world/distances, time: size^2.5, measured size^2.00",
        "world/distances, memory: quadratic, measured size^0.00",
    ]
    assert sum(bool(trace.showlegend) for trace in figure.data) == 2
    assert set(measured.marker.symbol) == {"circle"}
    assert list(figure.data[7].marker.symbol) == ["circle-open", *["circle"] * 3]
    # Flat looks flat: its axis spans more than a decade all the same.
    low, high = figure.layout.yaxis2.range
    assert high - low >= 1.5


@pytest.mark.browser
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_page_opens_without_an_error(scheme: Scheme, tmp_path: Path) -> None:
    path = tmp_path / "growth.html"
    path.write_text(_report(evil="<script>alert(1)</script>").page(), encoding="utf-8")
    with opened(path, scheme) as seen:
        assert seen.errors == []
        assert seen.dialogs == []
        assert seen.page.locator(".main-svg .scatterlayer .trace").count() == 8
        assert seen.page.get_by_text("theory, through the largest size").count() == 1


def test_parts_and_axes_are_chosen_by_name() -> None:
    from mechprobe.bench.growth_axes import AXES, PARTS, chosen_axes

    assert chosen_axes(PARTS) == list(AXES)
    assert {axis.part for axis in AXES} == set(PARTS)
    names = [axis.name for axis in chosen_axes(["world/distances", "heads", "heads/heads"])]
    assert names == ["heads/prompts", "heads/heads", "world/distances"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"axes": ["lens/heads"]},
            "no axis 'lens/heads'; choose from lens, heads, world, lens/tok",
        ),
        ({"axes": []}, "no axis was named"),
        ({"sizes": 1}, "sizes=1; growth takes two sizes"),
        ({"repeats": 0}, "repeats=0"),
    ],
)
def test_what_cannot_be_run_is_refused_before_any_process(
    options: dict[str, Any], message: str
) -> None:
    from mechprobe.bench import run_growth_bench

    call: Any = run_growth_bench
    with pytest.raises(ValueError, match=message):
        call(**{"model": "nowhere", "progress": False, **options})


def test_the_command_prints_and_writes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import mechprobe.bench
    from mechprobe.cli import run

    asked: list[tuple[Any, dict[str, Any]]] = []

    def fake(axes: Any, **options: Any) -> Any:
        asked.append((tuple(axes), options))
        return _report()

    monkeypatch.setattr(mechprobe.bench, "run_growth_bench", fake)
    page = tmp_path / "growth.html"
    assert run(["bench", "growth", "--html", str(page)]) == 0
    assert "world/distances" in capsys.readouterr().out
    assert "time: linear, measured size^1.00" in page.read_text()
    assert run(["bench", "growth", "lens", "heads/heads", "--sizes", "2", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["schema"] == "mechprobe/growth/1"
    assert [axes for axes, _ in asked] == [("lens", "heads", "world"), ("lens", "heads/heads")]
    assert asked[1][1]["sizes"] == 2
    assert run(["bench", "growth", "--html", str(tmp_path / "nowhere" / "growth.html")]) == 2
    assert len(asked) == 2


def test_a_wrong_axis_is_wrong_use(capsys: pytest.CaptureFixture[str]) -> None:
    from mechprobe.cli import run

    assert run(["bench", "growth", "lens/heads"]) == 2
    assert "there is no axis 'lens/heads'; choose from" in capsys.readouterr().err


def test_sizes_are_measured_in_turn(tmp_path: Path) -> None:
    from mechprobe.bench import run_growth_bench
    from tests.tiny import save_tiny

    folder = save_tiny(tmp_path / "m", tasks=True)
    report = run_growth_bench(
        ["lens/tokens"], model=str(folder), sizes=2, repeats=2, progress=False
    )
    assert [(row.axis, row.size) for row in report.rows] == [
        ("lens/tokens", 32), ("lens/tokens", 64),
    ]  # fmt: skip
    for row in report.rows:
        assert row.repeats == 2
        assert row.fastest <= row.seconds <= row.slowest
        assert math.isnan(row.extra_mb) or 0 <= row.extra_low <= row.extra_mb <= row.extra_high
    assert report.missing == ()


def test_a_size_that_fails_costs_itself_only(monkeypatch: pytest.MonkeyPatch) -> None:
    from mechprobe.bench import growth

    class Process(growth.WorkerProcess):
        def __init__(self, kind: str, axis: str, model: str, size: str, file: Path) -> None:
            assert (kind, axis, model, file.suffix) == ("growth/lens", "lens/layers", "m", ".input")
            self.size = int(size)

        def __enter__(self) -> "Process":
            return self

        def __exit__(self, kind: Any, error: Any, trace: Any) -> None:
            return

        def receive(self) -> dict[str, Any]:
            return {"absent": "only 3 layers"} if self.size == 4 else {"outputs": ""}

        def ask(self, **command: Any) -> dict[str, Any]:
            if self.size == 2:
                msg = "its process ended"
                raise RuntimeError(msg)
            return {"seconds": {"forward": 1.0, "run": 1.5}[command["do"]], "extra_bytes": 2e6}

    monkeypatch.setattr(growth, "WorkerProcess", Process)
    report = growth.run_growth_bench(["lens/layers"], model="m", sizes=3, progress=False)
    assert [(row.size, row.seconds, row.extra_mb) for row in report.rows] == [(1, 0.5, 2.0)]
    assert report.missing == ("lens/layers 2: its process ended", "lens/layers 4: only 3 layers")


@pytest.mark.parametrize(
    ("axis", "size"),
    [
        ("lens/tokens", 32), ("lens/prompts", 2), ("lens/vocabulary", 64), ("heads/prompts", 2),
        ("heads/heads", 8), ("world/distances", 16), ("world/boundaries", 16),
        ("world/metrics", 16),
    ],
)  # fmt: skip
def test_every_axis_does_its_work(tmp_path: Path, axis: str, size: int) -> None:
    import torch

    from mechprobe.bench.worker import contenders
    from tests.tiny import save_tiny

    folder = save_tiny(tmp_path / "m", tasks=True)
    threads = torch.get_num_threads()
    try:
        point: Any = contenders(f"growth/{axis.split('/')[0]}")[axis](str(folder))
        point.draw(str(size), tmp_path / "input.npy")
        point.take(tmp_path / "input.npy")
        point.forward()
        result = point.run()
    finally:
        torch.set_num_threads(threads)
    assert all(values.size for values in point.arrays(result).values())
    assert point.n_bytes(result) > 0


def test_layers_are_read_from_the_last_one_down(tmp_path: Path) -> None:
    from mechprobe.bench.contender import AbsentError
    from mechprobe.bench.growth_lens import Layers
    from tests.tiny import save_tiny

    point = Layers(str(save_tiny(tmp_path / "m", tasks=True)))
    point.draw("2", tmp_path / "ids.npy")
    point.take(tmp_path / "ids.npy")
    assert point.run().data["layer"].values.tolist() == [1, 2]
    with pytest.raises(AbsentError, match="the model has 4 layers to read"):
        point.draw("5", tmp_path / "ids.npy")
