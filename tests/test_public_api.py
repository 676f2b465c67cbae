"""The public surface: a change of it shows here."""

import doctest
import importlib
import inspect
import pkgutil
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

ROOT = Path(__file__).parents[1]

SURFACE = [
    "Compute", "HeadScores", "HeadSelection", "LensResult", "Result", "WorldModelResult",
    "__version__", "ablate_heads", "chat_prompt", "check_model", "describe_heads", "detours",
    "difficulty",
    "evaluate_world_model", "expressible", "generate_with_lens", "load_model", "load_result",
    "logit_lens", "option_robustness", "patch_states", "probe_states", "qk_scores",
    "reconstruct_map", "steer_heads", "tasks", "train_sequence_model", "transfer",
    "vocabulary_neighbors", "world_by_layer", "worlds", "write_report",
]  # fmt: skip


def test_the_surface_is_this_list() -> None:
    import mechprobe

    assert dir(mechprobe) == SURFACE
    for name in SURFACE:
        assert getattr(mechprobe, name) is not None
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        _ = mechprobe.nothing


def _loaded_by(statement: str) -> set[str]:
    code = f"import sys; {statement}; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    return set(done.stdout.split())


def test_importing_mechprobe_loads_nothing_heavy() -> None:
    heavy = {"torch", "transformer_lens", "transformers", "plotly", "pandas", "xarray", "numpy"}
    assert not heavy & _loaded_by("import mechprobe")
    assert not heavy & _loaded_by("import mechprobe.cli")
    # The check itself can fail:
    assert "numpy" in _loaded_by("import mechprobe, numpy")


def test_the_version_is_one() -> None:
    import mechprobe

    cff = (ROOT / "CITATION.cff").read_text()
    assert re.search(rf"^version: {re.escape(mechprobe.__version__)}$", cff, re.MULTILINE)
    assert f"version = {{{mechprobe.__version__}}}" in (ROOT / "mechprobe/citation.bib").read_text()
    assert f"## [{mechprobe.__version__}]" in (ROOT / "CHANGELOG.md").read_text()


def _modules() -> list[str]:
    names = [m.name for m in pkgutil.walk_packages([str(ROOT / "mechprobe")], "mechprobe.")]
    return ["mechprobe", *sorted(names)]


@pytest.mark.parametrize("name", _modules())
def test_doctests(name: str, tiny_model: Any, task_model: Any) -> None:
    module = importlib.import_module(name)
    shared = {"tiny_model": tiny_model, "task_model": task_model, "torch": torch}
    finder, runner = doctest.DocTestFinder(), doctest.DocTestRunner()
    examples = 0
    for test in finder.find(module, name, extraglobs=shared):
        examples += len(test.examples)
        runner.run(test)
    assert runner.failures == 0, f"{runner.failures} of {examples} examples failed"


def test_every_public_name_is_documented() -> None:
    import mechprobe

    for name in SURFACE:
        if name != "__version__":
            assert (getattr(mechprobe, name).__doc__ or "").strip(), name
            assert name in (ROOT / "docs/api.md").read_text(), name


def test_the_map_of_the_house_is_the_house() -> None:
    """Every room stands in docs/contributing.md, with the sentence at its door."""
    home = ROOT / "mechprobe"
    text = (ROOT / "docs/contributing.md").read_text(encoding="utf-8")
    shown = dict(re.findall(r"^\| `([\w/]+)/` \| (.+) \|$", text, re.MULTILINE))
    doors = {
        door.parent.relative_to(home).as_posix(): door.read_text(encoding="utf-8").splitlines()[0]
        for door in home.glob("*/**/__init__.py")
    }
    assert shown == {room: x.strip('"').replace("``", "`") for room, x in doors.items()}


def test_results_load_neither_torch_nor_plotly() -> None:
    loaded = _loaded_by("from mechprobe.saved import result_classes; result_classes()")
    assert not {"torch", "plotly", "transformer_lens", "transformers"} & loaded
    assert "mechprobe.heads.selection" in loaded


def test_commands_and_the_lens_have_few_parameters() -> None:
    import mechprobe as mp

    assert len(inspect.signature(mp.logit_lens).parameters) <= 12
    homes = [importlib.import_module(f"mechprobe.cli.{name}")
             for name in ("bench", "heads", "lens", "models", "report", "world")]  # fmt: skip
    commands = [
        f
        for home in homes
        for name, f in vars(home).items()
        if inspect.isfunction(f) and f.__module__ == home.__name__ and name[0] != "_"
    ]
    assert {"bench", "heads", "lens", "check", "demo", "metrics"} <= {f.__name__ for f in commands}
    assert max(len(inspect.signature(f).parameters) for f in commands) <= 16


def test_no_public_parameter_is_any() -> None:
    import mechprobe as mp

    functions = [getattr(mp, name) for name in SURFACE if callable(getattr(mp, name))]
    functions += [f for room in (mp.tasks, mp.worlds) for n in dir(room)
                  if inspect.isfunction(f := getattr(room, n))]  # fmt: skip
    loose = [
        f"{f.__module__}.{f.__qualname__}({name})"
        for f in functions
        for name, one in inspect.signature(f).parameters.items()
        if one.annotation is Any
    ]
    assert len(functions) > 60
    assert loose == []
