"""``mechprobe world``: what it prints, what it writes, how it fails."""

import json
from pathlib import Path
from typing import Any

import pytest


def _run(*arguments: str) -> int:
    from mechprobe.cli import run

    return run(["world", *arguments])


@pytest.fixture
def edges(tmp_path: Path) -> str:
    path = tmp_path / "edges.csv"
    rows = ["a,E,b", "b,E,c", "c,N,a", "b,N,a", "c,W,b"]
    path.write_text("node,direction,neighbor\n" + "\n".join(rows) + "\n")
    return str(path)


def test_metrics_of_a_model_of_the_package(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import mechprobe as mp

    out, html = tmp_path / "w.nc", tmp_path / "w.html"
    assert _run("--n", "8", "--suffixes", "4", "--out", str(out), "--html", str(html)) == 0
    printed = capsys.readouterr().out
    for shown in ("compression precision", "distinction recall", "next token validity",
                  "noisy_oracle", f"written to {out}"):  # fmt: skip
        assert shown in printed
    result: Any = mp.load_result(out)
    assert result.data["model_name"].values[0] == "random_walks"
    assert result.provenance.arguments["suffixes"] == 4
    assert float(result.data["next_token_validity"].values[0]) > 0.95
    assert "<html" in html.read_text()[:200]


def test_what_is_chosen_is_passed_on(capsys: pytest.CaptureFixture[str]) -> None:
    code = _run("--model", "shortest_paths", "--n", "6", "--suffixes", "3", "--k", "4",
                "--acceptance", "top-k:2", "--mode", "exact", "--prefixes", "on_policy",
                "--seed", "5", "--json")  # fmt: skip
    asked = json.loads(capsys.readouterr().out)["provenance"]["arguments"]
    assert code == 0
    assert [asked[k] for k in ("n", "k", "mode", "prefixes", "seed")] == [
        6, 4, "exact", "on_policy", 5,
    ]  # fmt: skip
    assert asked["acceptance"] == "top-2"


@pytest.mark.parametrize(
    ("command", "kind", "arguments"),
    [
        ("layers", "world_by_layer", ["--n", "6", "--suffixes", "3"]),
        (
            "patching",
            "state_patching",
            ["--n", "6", "--positions", "-1", "--layers", "0", "--extent", "tail"],
        ),
        ("detours", "detours", ["--n", "12", "--p", "0.5", "--kind", "least_likely"]),
        ("map", "map_reconstruction", ["--n", "30", "--keep-failed"]),
        ("probes", "state_probes", ["--n", "30", "--label", "current", "--layers", "2"]),
    ],
)
def test_what_lies_around(
    command: str, kind: str, arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert _run(command, *arguments, "--json") == 0
    record = json.loads(capsys.readouterr().out)
    assert record["schema"].startswith(f"mechprobe/{kind}/")


def test_a_map_of_walks_from_a_file(edges: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    walks = tmp_path / "walks.txt"
    walks.write_text("a c E E end\nb a N end\nc b W end\n")
    assert _run("map", "--world", edges, "--walks", str(walks), "--json") == 0
    data = json.loads(capsys.readouterr().out)["data"]["data_vars"]
    assert (data["n_valid"]["data"], data["n_invented"]["data"]) == (3, 0)
    assert _run("map", "--world", edges, "--walks", str(walks), "--corrupt", "1", "--json") == 0
    data = json.loads(capsys.readouterr().out)["data"]["data_vars"]
    assert data["n_valid"]["data"] < 3


def test_training_goes_on_where_it_was(
    edges: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "model"
    asked = ["train", "--world", edges, "--folder", str(folder), "--n", "200", "--steps", "6",
             "--layers", "1", "--d-model", "8", "--heads", "1"]  # fmt: skip
    assert _run(*asked) == 0
    assert _run(*asked) == 0
    assert "next_token_validity" in capsys.readouterr().out
    assert _run("--model", str(folder), "--world", edges, "--n", "4", "--suffixes", "2") == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--world", "othello"], "--world has no effect here: random_walks comes with its own"),
        (["--model", "folder"], "--world is needed: which world are the words of folder of?"),
        (["--model", "folder", "--world", "dyck:1:2:3"], "'dyck:1:2:3' names no world"),
        (["--model", "folder", "--world", "chess"], "'chess' names no world; worlds are spelled "),
        (["--model", "folder", "--world", "none.csv"], "none.csv"),
        (["--acceptance", "epsilon"], "--acceptance 'epsilon' is none of epsilon:0.01, top-k:5"),
        (["--acceptance", "epsilon:1.5"], "epsilon must lie in [0, 1)"),
        (["--n", "0"], "n must be at least 1; found 0"),
        (["--out", "nowhere/w.nc"], "there is no folder nowhere to write w.nc into"),
        (["map", "--walks", "walks.txt"], "--world is needed: which streets does walks.txt walk?"),
        (["map", "--world", "dyck:2:3", "--walks", "w.txt"], "this goes with streets; "),
    ],
)
def test_wrong_use_is_one_line(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert _run(*arguments) == 2
    said = capsys.readouterr().err
    assert message in said
    assert said.count("\n") == 1
