"""What every kind of result holds: a new variable, dimension or type is noticed here and only here.

After a meant change: ``MECHPROBE_SNAPSHOT=write pytest tests/test_snapshot.py``, and a new version
of the schema where old files could not be read as new ones.
"""

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.calls import CALLS, QUIET, logic
from tests.calls import brackets as world_of_brackets
from tests.tiny import save_tiny

FILE = Path(__file__).with_name("results.json")
# One of several calls of the same function says as much.
LEFT_OUT = ("lens_long", "lens_text", "qk_cosine_choice", "qk_rotated_choice", "judge")


def results(folder: Path) -> Iterator[Any]:
    """Give at least one result of every kind."""
    import mechprobe as mp
    from mechprobe.results import Result
    from mechprobe.worlds import StreetMap, train_sequence_model

    model = mp.load_model(save_tiny(folder / "model", "llama", tasks=True), device="cpu")
    for call in CALLS:
        if call.name not in LEFT_OUT and not call.name.startswith(("check", "net")):
            found = call.run(call.hold(model))
            if isinstance(found, Result):
                yield found
    scores = mp.qk_scores(model, logic(), **QUIET)
    yield scores.select(n_permutations=20)
    yield mp.transfer({"a": scores, "b": scores})
    streets = StreetMap.grid(3, seed=0)
    yield mp.reconstruct_map(streets, streets.random_walks(20, np.random.default_rng(0)))
    world = world_of_brackets()
    yield train_sequence_model(
        world, world.random_walks(30, np.random.default_rng(0)), folder=folder / "net", steps=3,
        n_layers=1, d_model=8, n_heads=2, batch_size=8, evaluate_every=3, **QUIET,
    )  # fmt: skip


@pytest.mark.usefixtures("as_users_run_it")
@pytest.mark.filterwarnings("ignore:permuting labels")
def test_results_hold_what_they_held(tmp_path: Path) -> None:
    from mechprobe.saved import result_classes

    found: dict[str, dict[str, str]] = {}
    for result in results(tmp_path):
        held = found.setdefault(result.schema(), {})
        for name, variable in result.data.variables.items():
            held[str(name)] = f"({', '.join(map(str, variable.dims))}) {variable.dtype}"
    assert found.keys() == {cls.schema() for cls in result_classes()}
    if os.environ.get("MECHPROBE_SNAPSHOT") == "write":
        FILE.write_text(json.dumps(found, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    assert found == json.loads(FILE.read_text(encoding="utf-8"))
