"""Training small models of a world, and the two that come with the package."""

import json
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch

SMALL: dict[str, Any] = {
    "n_layers": 2, "d_model": 16, "n_heads": 2, "batch_size": 16, "progress": False,
}  # fmt: skip


@pytest.fixture(scope="module")
def world() -> Any:
    from mechprobe.worlds import StreetMap

    return StreetMap.grid(3, seed=1, max_length=16)


@pytest.fixture(scope="module")
def walks(world: Any) -> Any:
    return world.random_walks(400, np.random.default_rng(0))


def weights(folder: Path) -> dict[str, torch.Tensor]:
    from safetensors.torch import load_file

    return load_file(folder / "model.safetensors")


def test_it_learns_and_loads(world: Any, walks: Any, tmp_path: Path) -> None:
    from mechprobe import load_model, load_result
    from mechprobe.worlds.predictors.loaded import load_sequence_model
    from mechprobe.worlds.training.train import train_sequence_model

    record = train_sequence_model(
        world, walks, folder=tmp_path / "m", steps=60, lr=5e-3, evaluate_every=20, **SMALL
    )
    data = record.data
    assert data["evaluated"].values.tolist() == [20, 40, 60]
    assert data.sizes["step"] == 60
    assert data["held_out_loss"].values[-1] < data["held_out_loss"].values[0]
    assert data["loss"].values[-10:].mean() < data["loss"].values[:10].mean() - 0.3
    low, value, high = (float(data[f"next_token_validity{e}"].values[-1]) for e in ("_low", "", "_high"))
    assert low < value < high
    words = json.loads((tmp_path / "m/tokens.json").read_text())
    assert list(words) == [*world.tokens, "<pad>"]
    assert list(words.values()) == list(range(len(world.tokens) + 1))
    model = load_model(tmp_path / "m", device="cpu")
    assert model.tokenizer is None
    net = load_sequence_model(tmp_path / "m", world)
    assert validity(net, world, [w for w in walks if len(w) > 3][:50]) > 0.4
    again = load_result(record.save(tmp_path / "r.nc"))
    assert again.data.identical(data)
    assert type(again) is type(record)
    figure: Any = record.plot()
    assert [t.name for t in figure.data] == ["batches", "held out", "validity"]
    with pytest.raises(ValueError, match=r"there is no figure 'map' of a training"):
        record.plot("map")


def validity(net: Any, world: Any, sequences: Any) -> float:
    """Share of places where the likeliest word is legal, word by word through the predictor."""
    from mechprobe.worlds.automata.arrays import pad
    from mechprobe.worlds.predictors.callables import read

    ids = pad(sequences)
    said = read(net, ids).argmax(axis=2)
    states = world.trace(world.initial(len(ids)), ids)
    judged = ids[:, 2:] != -1
    legal = np.array([world.legal(states[:, i + 1]) for i in range(1, ids.shape[1] - 1)])
    right = np.take_along_axis(legal.swapaxes(0, 1), said[:, 1:-1, None], axis=2)[:, :, 0]
    return float(right[judged].mean())


def test_validity_agrees_with_the_predictor(world: Any, walks: Any, tmp_path: Path) -> None:
    """What training reports is what is found by reading the saved model."""
    from mechprobe.worlds.predictors.loaded import load_sequence_model
    from mechprobe.worlds.training.train import train_sequence_model

    held_out = walks[:60]
    record = train_sequence_model(
        world, walks, folder=tmp_path, steps=15, lr=5e-3, held_out=held_out, **SMALL
    )
    net = load_sequence_model(tmp_path, world)
    reported = float(record.data["next_token_validity"].values[-1])
    assert validity(net, world, held_out) == pytest.approx(reported, abs=1e-9)


def test_interrupted_and_resumed_is_the_same(
    world: Any, walks: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mechprobe.worlds.training import train

    options: dict[str, Any] = {**SMALL, "steps": 30, "evaluate_every": 10, "seed": 3}
    whole = train.train_sequence_model(world, walks, folder=tmp_path / "whole", **options)
    update = train._Session._update
    seen: list[Any] = []

    def interrupted(self: Any, ids: Any) -> float:
        seen.append(ids)
        if len(seen) == 17:
            raise KeyboardInterrupt
        return update(self, ids)

    monkeypatch.setattr(train._Session, "_update", interrupted)
    with pytest.raises(KeyboardInterrupt):
        train.train_sequence_model(world, walks, folder=tmp_path / "parts", **options)
    assert not (tmp_path / "parts/model.safetensors").exists()
    parts = train.train_sequence_model(world, walks, folder=tmp_path / "parts", **options)
    assert len(seen) == 17 + 20, "it went on from step 10"
    assert parts.data.identical(whole.data)
    assert whole.provenance.arguments["threads"] == [torch.get_num_threads()]
    first, second = weights(tmp_path / "whole"), weights(tmp_path / "parts")
    for name, value in first.items():
        torch.testing.assert_close(second[name], value, rtol=0, atol=0)


def test_a_damaged_checkpoint_is_refused(world: Any, walks: Any, tmp_path: Path) -> None:
    """Whatever is damaged: a bit anywhere, the end, a tensor that is missing, another step."""
    from safetensors import safe_open
    from safetensors.torch import save_file

    from mechprobe.worlds.training import train

    options: dict[str, Any] = {**SMALL, "steps": 4, "folder": tmp_path}
    first = train.train_sequence_model(world, walks, **options)
    file, rng = tmp_path / train.CHECKPOINT, np.random.default_rng(0)
    whole = file.read_bytes()
    damaged = [whole[: len(whole) // 2], b"", whole + b"0"]
    bits = [*range(0, 400, 23), *rng.integers(0, len(whole), 20).tolist()]
    damaged += [whole[:i] + bytes([whole[i] ^ int(2 ** rng.integers(8))]) + whole[i + 1 :] for i in bits]
    with safe_open(file, "pt") as stored:
        notes = stored.metadata()
        tensors = {key: stored.get_tensor(key) for key in stored.keys()}  # noqa: SIM118
    for left, step in ((list(tensors)[1:], "4"), (list(tensors), "3")):
        save_file({key: tensors[key] for key in left}, file, metadata={**notes, "step": step})
        damaged.append(file.read_bytes())
    for content in damaged:
        file.write_bytes(content)
        with pytest.raises(ValueError, match=r"training\.safetensors is damaged, or of an older version"):
            train.train_sequence_model(world, walks, **options)
    file.write_bytes(whole)
    assert train.train_sequence_model(world, walks, **options).data.identical(first.data)


def test_a_finished_training_is_not_repeated(
    world: Any, walks: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mechprobe.worlds.training import train

    options: dict[str, Any] = {**SMALL, "steps": 4, "folder": tmp_path}
    first = train.train_sequence_model(world, walks, **options)

    def never(_self: Any, _ids: Any) -> float:
        raise AssertionError

    with monkeypatch.context() as patch:
        patch.setattr(train._Session, "_update", never)
        assert train.train_sequence_model(world, walks, **options).data.identical(first.data)
        with pytest.raises(AssertionError):
            train.train_sequence_model(world, walks, **options, resume=False)
    with pytest.raises(ValueError, match=r"\(sequences, seed=0 instead of 1\); pass resume"):
        train.train_sequence_model(world, walks, **options, seed=1)
    with pytest.raises(ValueError, match=r"another training \(sequences\)"):
        train.train_sequence_model(world, walks[1:], **options)


def test_padding_is_not_learned(world: Any, walks: Any) -> None:
    from mechprobe.worlds.automata.arrays import pad
    from mechprobe.worlds.training.train import Recipe, _new_model, next_word_loss

    model = _new_model(world, 16, Recipe(1, 16, 2, 1, 1, 0.1, 0.0, 1, 0))
    ids = torch.from_numpy(pad(walks[:8]))
    wider = torch.nn.functional.pad(ids, (0, 5), value=-1)
    loss = next_word_loss(model, ids)
    torch.testing.assert_close(next_word_loss(model, wider), loss)
    each = [next_word_loss(model, torch.from_numpy(w[None])) * (len(w) - 1) for w in walks[:8]]
    by_hand = torch.stack(each).sum() / sum(len(w) - 1 for w in walks[:8])
    torch.testing.assert_close(loss, by_hand)
    next_word_loss(model, wider).backward()
    assert not model.transformer.wpe.weight.grad[ids.shape[1] :].any()


def test_learning_rate() -> None:
    from mechprobe.worlds.training.train import Recipe, learning_rate

    recipe = Recipe(1, 8, 1, 100, 1, 0.01, 0.0, 5, 0)
    rates = np.array([learning_rate(i, recipe) for i in range(100)])
    np.testing.assert_allclose(rates[:6], [0.002, 0.004, 0.006, 0.008, 0.01, 0.01])
    assert (np.diff(rates[5:]) < 0).all()
    assert rates[-1] < 1e-5


def test_held_out_is_held_out(world: Any, walks: Any) -> None:
    from mechprobe.worlds.training.data import corpus

    twice = [*walks, *walks[:50]]
    found = corpus(world, twice, 0.2, 0)
    apart = {w.tobytes() for w in found.held_out}
    assert len(apart) == round(0.2 * len({w.tobytes() for w in walks}))
    assert apart.isdisjoint({w.tobytes() for w in found.train})
    assert len(found.train) + sum(w.tobytes() in apart for w in twice) == len(twice)
    given = corpus(world, twice, walks[:3], 0)
    assert len(given.train) == len(twice) - 6


def test_batches_cover_every_sequence(walks: Any) -> None:
    from mechprobe.worlds.training.data import batches

    def rows(seed: int) -> list[bytes]:
        reader = batches(walks, 8, seed)
        return [r[r >= 0].tobytes() for _ in range(len(walks) // 8) for r in next(reader)]

    assert sorted(rows(0)) == sorted(w.tobytes() for w in walks)
    assert rows(0) == rows(0)
    assert rows(0) != rows(1)
    padding = [float((b < 0).mean()) for b, _ in zip(batches(walks, 8, 0), range(40), strict=False)]
    assert np.mean(padding) < 0.1, "sequences of like length are read together"
    assert len(next(batches(walks[:3], 8, 0))) == 3


def test_wrong_words_by_hand() -> None:
    from mechprobe.worlds import StreetMap
    from mechprobe.worlds.training.data import wrong_words

    plain = StreetMap.grid(2, longer=0.0, missing=0.0)
    walk = plain.encode("0 1 E end")
    said = [plain.encode(f"0 0 {a} {b}") for a, b in (("E", "end"), ("S", "W"), ("W", "N"))]
    found = wrong_words(plain, [walk] * 3, np.array(said))
    assert found[0].tolist() == [0, 0, 2]
    assert found[1].tolist() == [2, 2, 2]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"d_model": 10, "n_heads": 4}, r"d_model=10 cannot be shared out among 4 heads"),
        ({"steps": 0}, r"steps must be at least 1; got 0"),
        ({"lr": 2.0}, r"lr must be a learning rate between 0 and 1"),
        ({"held_out": 1.5}, r"held_out=1.5 of \d+ different sequences sets nothing apart"),
        ({"held_out": []}, r"held_out is empty"),
    ],
)
def test_training_refuses(
    world: Any, walks: Any, tmp_path: Path, options: dict[str, Any], message: str
) -> None:
    from mechprobe.worlds.training.train import train_sequence_model

    with pytest.raises(ValueError, match=message):
        train_sequence_model(world, walks, folder=tmp_path, **{**SMALL, **options})


def test_bad_sequences(world: Any, walks: Any, tmp_path: Path) -> None:
    from mechprobe.worlds.training.train import train_sequence_model

    bad = world.encode("0 1 end")
    cases: list[tuple[list[Any], str]] = [
        ([], r"sequences is empty"),
        ([*walks, bad], r"sequences\[400\], word 3: 'end' is not legal there in grid 3x3 seed 1"),
        ([np.array([3])], r"sequences\[0\] = \[3\] is no sequence of at least two ids below 14"),
        ([np.array([5, 99])], r"no sequence of at least two ids below 14"),
    ]
    for sequences, message in cases:
        with pytest.raises(ValueError, match=message):
            train_sequence_model(world, sequences, folder=tmp_path, **SMALL)
    with pytest.raises(ValueError, match=r"all 2 sequences are held out"):
        train_sequence_model(world, walks[:1] * 2, held_out=walks[:1], folder=tmp_path, **SMALL)


def test_a_loss_that_is_no_number(
    world: Any, walks: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mechprobe.worlds.training import train

    def nan(_model: Any, _ids: Any) -> torch.Tensor:
        return torch.tensor(float("nan"))

    monkeypatch.setattr(train, "next_word_loss", nan)
    with pytest.raises(FloatingPointError, match=r"the loss is nan at step 1; train with a lower"):
        train.train_sequence_model(world, walks, folder=tmp_path, **SMALL)


@pytest.mark.parametrize("name", ["random_walks", "shortest_paths"])
def test_shipped_models_are_small_and_legal(name: Any) -> None:
    from mechprobe.worlds.training.shipped import load_shipped, shipped_sequences, shipped_training

    net, world = load_shipped(name)
    folder = Path(__file__).parents[1] / "mechprobe/worlds/training/checkpoints" / name
    assert sum(f.stat().st_size for f in folder.iterdir()) < 2e6
    reached = shipped_training(name)
    held_out = shipped_sequences(name)[1]
    found = validity(net, world, held_out)
    # Half precision moves a word here and there.
    assert found == pytest.approx(reached["next_token_validity"], abs=0.002)
    assert found > 0.95


def test_shipped_pair_parts_ways_off_its_paths() -> None:
    """Both say legal words on their own ground; on random walks only one still does."""
    from mechprobe.worlds.training.shipped import load_shipped

    known, world = load_shipped("random_walks")
    unknown, _ = load_shipped("shortest_paths")
    walks = [w for w in world.random_walks(300, np.random.default_rng(99)) if len(w) > 3]
    assert validity(known, world, walks) > validity(unknown, world, walks) + 0.2


@pytest.mark.usefixtures("as_users_run_it")
def test_shipped_names() -> None:
    from mechprobe.worlds.training.shipped import load_shipped, make_shipped

    with pytest.raises(ValueError, match=r"no model 'taxi' comes with the package; there are rand"):
        load_shipped(cast("Any", "taxi"))
    with pytest.raises(ValueError, match=r"no model 'taxi'"):
        make_shipped("nowhere", [cast("Any", "taxi")])


def test_the_record_says_how_many_threads_trained(
    world: Any, walks: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A training that goes on with another number of threads names both."""
    from mechprobe.worlds import train_sequence_model
    from mechprobe.worlds.training import train

    before, update = torch.get_num_threads(), train._Session._update

    def interrupted(self: Any, ids: Any) -> float:
        if self.step == 1:
            raise KeyboardInterrupt
        return update(self, ids)

    options: dict[str, Any] = {"folder": tmp_path, "steps": 2, "evaluate_every": 1, **SMALL}
    try:
        torch.set_num_threads(1)
        with monkeypatch.context() as patch:
            patch.setattr(train._Session, "_update", interrupted)
            with pytest.raises(KeyboardInterrupt):
                train_sequence_model(world, walks, **options)
        torch.set_num_threads(2)
        for _ in range(2):
            found = train_sequence_model(world, walks, **options)
            assert found.provenance.arguments["threads"] == [1, 2]
        afresh = train_sequence_model(world, walks, resume=False, **options)
        assert afresh.provenance.arguments["threads"] == [2]
    finally:
        torch.set_num_threads(before)
