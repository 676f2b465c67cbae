"""State probes: what they read is what the model holds, split by sequence, beside a control."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch


@pytest.fixture(scope="module")
def world() -> Any:
    from mechprobe.worlds import StreetMap

    return StreetMap.grid(3, seed=1, max_length=16)


@pytest.fixture(scope="module")
def net(world: Any, tmp_path_factory: pytest.TempPathFactory) -> Any:
    from mechprobe.worlds.predictors.loaded import load_sequence_model
    from mechprobe.worlds.training.train import train_sequence_model

    folder = tmp_path_factory.mktemp("probed")
    walks = world.random_walks(50, np.random.default_rng(0))
    train_sequence_model(world, walks, folder=folder, steps=2, d_model=32, n_heads=2, progress=False)
    return load_sequence_model(folder, world)


@pytest.fixture(scope="module")
def walks(world: Any) -> Any:
    return world.random_walks(120, np.random.default_rng(1))


def probed(net: Any, world: Any, walks: Any, **options: Any) -> Any:
    from mechprobe.worlds.inside.probes import probe_states

    asked: dict[str, Any] = {"progress": False, "places": 600, **options}
    return probe_states(net, world, walks, **asked)


def test_residuals_are_those_of_the_model(net: Any, world: Any, walks: Any) -> None:
    from mechprobe.models import looking_at
    from mechprobe.worlds.inside.probes import _features, _places

    _, places = _places(world, walks, "current", 300, None, np.random.default_rng(0))
    with looking_at(net.model):
        found = _features(net, walks, places, [-1, 0, 1], progress=False)
    for i in range(0, 300, 41):
        ids = net.ids[torch.from_numpy(walks[places.row[i]])][None]
        _, cache = net.model.run_with_cache(ids)
        hooks = ["blocks.0.hook_resid_pre", "blocks.0.hook_resid_post", "blocks.1.hook_resid_post"]
        for x, hook in zip(found, hooks, strict=True):
            np.testing.assert_allclose(x[i], cache[hook][0, places.column[i]], atol=2e-5)


def test_labels_stand_behind_the_word(world: Any, walks: Any) -> None:
    from mechprobe.worlds.inside.probes import _places

    name, places = _places(world, walks, None, 10_000, None, np.random.default_rng(0))
    assert name == "current"
    assert len(places.row) == sum(len(w) - 1 for w in walks), "every word but ``end``"
    for row, column, label in zip(places.row, places.column, places.label, strict=True):
        here = world.run(world.initial(), walks[row][None, : column + 1])
        assert label.tolist() == [here[0, 1]]


def test_control_labels_are_a_function_of_the_last_words(world: Any, walks: Any) -> None:
    from mechprobe.worlds.inside.probes import _entropy, _places

    for words in (1, 2, None):
        _, places = _places(world, walks, "current", 10_000, words, np.random.default_rng(0))
        for k in range(1, 8) if words is None else [words]:
            seen: dict[tuple[int, ...], set[int]] = {}
            for row, column, label in zip(places.row, places.column, places.control, strict=True):
                last = walks[row][max(0, column + 1 - k) : column + 1]
                seen.setdefault(tuple(last.tolist()), set()).add(int(label[0]))
            if max(map(len, seen.values())) == 1:
                break
        assert max(map(len, seen.values())) == 1
        if words is None:
            assert k > 1, "five directions vary less than nine crossings"
            assert len(seen) >= np.exp(_entropy(places.label[:, 0]))


def test_split_by_sequence(net: Any, world: Any, walks: Any) -> None:
    """A label that only says which sequence it is cannot be read off unseen sequences."""
    data = probed(net, world, walks, test=0.25, label="current").data
    assert int(data["n_test_sequences"]) == 30
    assert int(data["n_test"]) + int(data["n_train"]) == 600
    assert data["layer"].values.tolist() == [-1, 0, 1]
    for name in ("accuracy", "control_accuracy", "selectivity"):
        low, value, high = (data[f"{name}{e}"].values for e in ("_low", "", "_high"))
        assert (low <= value).all()
        assert (value <= high).all()
    np.testing.assert_allclose(data["selectivity"], data["accuracy"] - data["control_accuracy"], atol=1e-12)
    assert np.isnan(float(data["above_embedding"][0]))
    np.testing.assert_allclose(
        data["above_embedding"][1:], data["accuracy"][1:] - data["accuracy"][0], atol=1e-12
    )
    again = probed(net, world, walks, test=0.25, label="current").data
    assert again.identical(data)


def test_the_destination_is_read_where_it_is_said(net: Any, world: Any) -> None:
    """Right behind the destination's own word the embedding tells it, even untrained."""
    short = [w[:2] for w in world.random_walks(400, np.random.default_rng(2))]
    data = probed(net, world, short, label="destination", control_words=1).data
    assert (data["accuracy"].values > 0.95).all()
    assert (data["control_accuracy"].values > 0.95).all(), "so is any other label of the word"
    assert float(data["majority"]) < 0.3


def test_several_parts(tmp_path: Path) -> None:
    from mechprobe.worlds import Seating
    from mechprobe.worlds.predictors.loaded import load_sequence_model
    from mechprobe.worlds.training.train import train_sequence_model

    world = Seating(3)
    said = world.random_walks(80, np.random.default_rng(0), length=6)
    train_sequence_model(world, said, folder=tmp_path, steps=2, d_model=16, progress=False)
    net = load_sequence_model(tmp_path, world)
    data = probed(net, world, said, label="seats", places=300).data
    assert (data["accuracy"].values > float(data["majority"])).any()


def test_bad_input(net: Any, world: Any, walks: Any) -> None:
    cases: list[tuple[dict[str, Any], str]] = [
        ({"label": "board"}, r"grid 3x3 seed 1 has no label 'board'; it has current, destination"),
        ({"layers": [2]}, r"layers=\[2\]: .* has blocks 0\.\.1, and -1 is the embedding"),
        ({"layers": []}, r"layers=\[\]"),
        ({"test": 1.0}, r"a split needs test in \(0, 1\)"),
        ({"control_words": 0}, r"control_words must be at least 1"),
    ]
    for options, message in cases:
        with pytest.raises(ValueError, match=message):
            probed(net, world, walks, **options)
    with pytest.raises(ValueError, match=r"the label 'destination' has one value in all"):
        probed(net, world, [world.encode("0 8 E")] * 8, label="destination")
    with pytest.raises(ValueError, match=r"at least 4 sequences; got 0.25 of 3"):
        probed(net, world, walks[:3])


def test_saved_and_drawn(net: Any, world: Any, walks: Any, tmp_path: Path) -> None:
    from mechprobe import load_result

    found = probed(net, world, walks, layers=[1, -1])
    again = load_result(found.save(tmp_path / "p.nc"))
    assert again.data.identical(found.data)
    figure: Any = again.plot()
    names = [t.name for t in figure.data if t.name]
    assert {"pointwise 95 %", "simultaneous 95 %"} < set(names)
    assert (found.data["accuracy_band_low"] <= found.data["accuracy_low"]).all()
    assert names[:3] == ["state", "control: random labels", "selectivity"]
    assert figure.layout.xaxis.ticktext == ("embedding", "1")
    with pytest.raises(ValueError, match=r"no figure 'bars' of state probes"):
        found.plot("bars")
