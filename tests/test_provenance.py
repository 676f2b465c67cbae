"""The record of a call holds all that it was called with, whatever makes a result."""

import inspect
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests import calls
from tests.tiny import save_tiny

# The small call of each, among those that tests share.
_SHARED = {
    "logit_lens": "lens", "generate_with_lens": "generate", "vocabulary_neighbors": "neighbors",
    "expressible": "expressible", "qk_scores": "qk_logic", "ablate_heads": "ablate",
    "steer_heads": "steer", "describe_heads": "describe", "option_robustness": "options",
    "difficulty": "difficulty", "evaluate_world_model": "evaluate",
    "world_by_layer": "world_by_layer", "patch_states": "patch", "probe_states": "probe",
    "detours": "detours", "seating_puzzles": "puzzles",
}  # fmt: skip
# What records say besides arguments.
_MORE = {
    "task_notes", "scores", "models", "task", "score", "query", "key", "n_walks", "warmup", "spelling",
    "threads",
}  # fmt: skip


def makers() -> Iterator[tuple[str, Callable[..., Any]]]:
    """Yield every public function, and every method of a public result, that makes a result."""
    import mechprobe
    from mechprobe import worlds
    from mechprobe.results import Result

    for room in (mechprobe, worlds):
        for name in dir(room):
            found = getattr(room, name)
            whole = inspect.isclass(found) and issubclass(found, Result)
            own = vars(found).items() if whole else [("", found)]
            for method, function in own:
                if not inspect.isfunction(function) or method.startswith("_"):
                    continue
                kind = inspect.signature(function).return_annotation
                kind = getattr(mechprobe.results, kind, kind) if isinstance(kind, str) else kind
                if inspect.isclass(kind) and issubclass(kind, Result):
                    yield (f"{name}.{method}" if method else name), function


def made(model: Any, folder: Path) -> dict[str, Callable[[], Any]]:
    """Return one small call of every maker."""
    import mechprobe as mp

    by_name = {call.name: call for call in calls.CALLS}

    def shared(name: str) -> Callable[[], Any]:
        call = by_name[_SHARED[name]]
        return lambda: call.run(call.hold(model))

    def scores() -> Any:
        return mp.qk_scores(model, calls.logic(), progress=False)

    def trained() -> Any:
        walks = calls.walks()
        return mp.train_sequence_model(
            calls.brackets(), walks, folder=folder / "trained", steps=2, n_layers=1, d_model=8,
            n_heads=2, evaluate_every=2, held_out=0.5, progress=False,
        )  # fmt: skip

    def drawn() -> Any:
        world = calls.streets()
        return mp.reconstruct_map(world, world.random_walks(8, np.random.default_rng(0)), progress=False)

    return {name: shared(name) for name in _SHARED} | {
        "HeadScores.select": lambda: scores().select(calibration=0.5, n_permutations=20),
        "transfer": lambda: mp.transfer({"a": scores(), "b": scores()}),
        "train_sequence_model": trained,
        "reconstruct_map": drawn,
    }


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """One that a test may give a chat template."""
    import mechprobe as mp

    folder = save_tiny(tmp_path_factory.mktemp("recorded"), "llama", tasks=True)
    return mp.load_model(folder, device="cpu")


def test_every_maker_of_results_is_called_here(tmp_path: Path) -> None:
    names = {name for name, _ in makers()}
    assert names - {"load_result"} == set(made(None, tmp_path))


@pytest.mark.usefixtures("as_users_run_it")
@pytest.mark.filterwarnings("ignore:permuting labels")
@pytest.mark.parametrize("name", [*_SHARED, "HeadScores.select", "transfer",
                                  "train_sequence_model", "reconstruct_map"])  # fmt: skip
def test_a_record_holds_every_argument(model: Any, tmp_path: Path, name: str) -> None:
    from mechprobe.provenance import UNRECORDED

    record = made(model, tmp_path)[name]().provenance
    parameters = inspect.signature(dict(makers())[name]).parameters.values()
    asked = {p.name for p in parameters if p.kind is not p.VAR_KEYWORD}
    assert asked - UNRECORDED - set(record.arguments) == set()
    # Nor what a function was in the middle of.
    open_ended = any(p.kind is p.VAR_KEYWORD for p in parameters)
    assert open_ended or set(record.arguments) - asked - _MORE == set()
    assert record.function == f"mechprobe.{name}"


@pytest.mark.usefixtures("as_users_run_it")
def test_options_that_are_passed_on_are_recorded(model: Any) -> None:
    import mechprobe as mp

    found = mp.difficulty(
        model, steps=[1], distractors=[0], n=8, layers=[1], score="cosine", progress=False
    ).provenance.arguments
    assert (found["layers"], found["score"], found["n"]) == ([1], "cosine", 8)
    found = mp.option_robustness(
        model, calls.choice(), head=(1, 2), key="label", prior_share=0.4, progress=False
    ).provenance.arguments
    assert (found["key"], found["head"]) == ("label", [1, 2])


def test_a_call_records_what_is_not_set_apart() -> None:
    """Defaults too, arrays by content; what an argument stands for in its place."""
    from mechprobe.provenance import UNRECORDED, Call

    def public(model: object, new: int = 3, *, many: Any = None, progress: bool = True) -> Any:
        call = import_module("mechprobe.provenance").Call("public", locals())
        other = 5
        return call.record({"name": "toy"}, "ids", seed=other, layers=[1])

    found = public(object(), many=np.arange(3))
    assert found.arguments == {"new": 3, "many": [0, 1, 2], "layers": [1]}
    assert (found.function, found.seed) == ("mechprobe.public", 5)
    assert {"model", "progress"} <= UNRECORDED
    digests = [public(object(), many=np.arange(n)).arguments["many"] for n in (900, 901)]
    assert str(digests[0]).startswith("<sha256 ")
    assert digests[0] != digests[1]
    meant = Call("f", {"options": {"k": 2}, "layers": None}).told(layers=[0, 1])
    assert meant == {"k": 2, "layers": [0, 1]}
