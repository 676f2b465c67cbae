"""The command line: what it prints, what it writes, how it fails."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.tiny import save_tiny


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(save_tiny(tmp_path_factory.mktemp("cli"), tokenizer=True))


def _run(*arguments: str) -> int:
    from mechprobe.cli import run

    return run(list(arguments))


def test_lens_prints_a_table_and_writes_files(
    folder: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import mechprobe as mp

    out, html = tmp_path / "r.nc", tmp_path / "r.html"
    code = _run("lens", "--model", folder, "--prompt", "the cat [bold]sat", "--target", "a",
                "--all-positions", "--out", str(out), "--html", str(html))  # fmt: skip
    printed = capsys.readouterr().out
    assert code == 0
    assert "embed" in printed
    assert f"written to {out}" in printed
    result: Any = mp.load_result(out)
    assert result.data.sizes["pos"] > 3
    assert html.read_text().startswith("<!doctype html>") or "<html" in html.read_text()[:200]


def test_lens_generates_and_prints_json(folder: str, capsys: pytest.CaptureFixture[str]) -> None:
    code = _run("lens", "--model", folder, "--prompt", "the dog", "--generate", "3", "--json",
                "--temperature", "0.8", "--seed", "3", "--norm", "none")  # fmt: skip
    printed = capsys.readouterr().out
    record = json.loads(printed)
    assert code == 0
    assert record["schema"] == "mechprobe/lens/1"
    assert record["provenance"]["seed"] == 3
    assert record["provenance"]["arguments"]["norm"] == "none"
    assert len(record["data"]["data_vars"]["next_token"]["data"][0]) <= 3


def test_lens_reads_a_given_continuation(folder: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert _run("lens", "--model", folder, "--prompt", "the", "--continuation", " dog") == 0
    assert "merged" in capsys.readouterr().out


def test_check_models_cite_and_report(
    folder: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "r.nc"
    assert _run("lens", "--model", folder, "--prompt", "the", "--out", str(out)) == 0
    capsys.readouterr()
    assert _run("check", folder) == 0
    assert "passed" in capsys.readouterr().out
    assert _run("check", folder, "--json") == 0
    assert json.loads(capsys.readouterr().out)["passed"] is True
    assert _run("models") == 0
    assert "smollm2-135m-instruct" in capsys.readouterr().out
    assert _run("cite") == 0
    assert capsys.readouterr().out.startswith("@software{mechprobe")
    assert _run("cite", str(out)) == 0
    assert "nostalgebraist" in capsys.readouterr().out
    page = tmp_path / "report.html"
    assert _run("report", str(out), "--out", str(page)) == 0
    assert page.stat().st_size > 1_000_000


@pytest.fixture(scope="module")
def reader(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(save_tiny(tmp_path_factory.mktemp("reader"), tasks=True))


def test_heads_prints_head_model_and_shortcuts_together(
    reader: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import mechprobe as mp

    out, html = tmp_path / "h.nc", tmp_path / "h.html"
    code = _run("heads", "--model", reader, "--task", "ontology", "--steps", "1-2",
                "--distractors", "0", "--n", "22", "--ablate", "1",
                "--out", str(out), "--html", str(html))  # fmt: skip
    printed = capsys.readouterr().out
    assert code == 0
    for words in ("held-out examples, p = ", "model, ", "shortcut: ", "bag_of_words", "ablated",
                  "Difficulty"):  # fmt: skip
        assert words in printed
    scores: Any = mp.load_result(out)
    assert scores.data.sizes["example"] == 24  # the next number that fills both cells evenly
    assert "plotly" in html.read_text()
    again = scores.select(0.5, seed=0)
    assert f"{again.accuracy:.2f}" in printed


def test_heads_reads_files_and_prints_json(
    reader: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from mechprobe import tasks

    file = tasks.select_and_copy(30, options=3, seed=1).save(tmp_path / "t.jsonl")
    assert _run("heads", "--model", reader, "--task", str(file), "--n", "20", "--json") == 0
    record = json.loads(capsys.readouterr().out)
    assert record["schema"] == "mechprobe/head_selection/2"
    assert record["provenance"]["seed"] == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["lens"], "prompt"),
        (["heads", "--steps", "x"], "--steps 'x' is neither a number nor a range"),
        (["heads", "--steps", "3-1"], "is an empty range"),
        (["heads", "--options", "5"], "it goes with --task select_and_copy"),
        (["heads", "--format", "mcqa"], "it goes with a file as --task"),
        (["heads", "--task", "none.jsonl", "--format", "mcqa"], "none.jsonl"),
        (["lens", "--prompt", "the", "--nonsense"], "nonsense"),
        (["lens", "--prompt", "the", "--model", "nowhere"], "there is no folder 'nowhere'"),
        (["cite", "none.nc"], "there is no file none.nc"),
        (["lens", "--prompt", "the", "--out", "no/r.nc"], "there is no folder no to write"),
        (["lens", "--prompt", "the", "--answer-start", "Yes"], "--answer-start has no effect here"),
        (["lens", "--prompt", "the", "--temperature", "1"], "it goes with --generate"),
        (["frobnicate"], "frobnicate"),
    ],
)
def test_wrong_use_is_exit_code_2_and_one_line(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert _run(*arguments) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert message in printed.err
    assert printed.err.count("\n") == 1


def test_bad_input_is_exit_code_2(folder: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert _run("lens", "--model", folder, "--prompt", "the", "--target", " seahorse") == 2
    assert "Take its first token" in capsys.readouterr().err
    assert _run("lens", "--model", folder, "--prompt", "") == 2
    assert "prompt 0 is empty" in capsys.readouterr().err


def test_a_failure_is_exit_code_1(folder: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    # What was computed is printed all the same: a folder stands where the file should.
    assert _run("lens", "--model", folder, "--prompt", "the", "--out", str(tmp_path)) == 1
    printed = capsys.readouterr()
    assert "could not write" in printed.err
    assert "embed" in printed.out
    assert _run("lens", "--model", "no-such-owner/no-such-model", "--prompt", "the") == 1
    assert "cannot reach the hub" in capsys.readouterr().err


def test_debug_shows_the_traceback(folder: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MECHPROBE_DEBUG", "1")
    with pytest.raises(ValueError, match="prompt 0 is empty"):
        _run("lens", "--model", folder, "--prompt", "")


@pytest.mark.model
def test_demo_runs_on_the_packaged_model(
    smollm2: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert smollm2 is not None
    assert _run("demo", "--out", str(tmp_path / "demo")) == 0
    printed = capsys.readouterr().out
    assert "rank of \u2423Paris" in printed
    assert "\U0001f429" in printed
    names = {p.name for p in (tmp_path / "demo").iterdir()}
    assert "best shortcut" in printed
    assert names == {
        "lens.nc", "generation.nc", "heads.nc", "world_random_walks.nc",
        "world_shortest_paths.nc", "report.html",
    }  # fmt: skip
    assert "does a model of shortest paths hold the map?" in printed
