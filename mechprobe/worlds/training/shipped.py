"""The two models that come with the package: random walks and shortest paths over one map.

Both say a legal street nearly always; only one of them knows the map. They are made, from nothing
but seeds, by ``python -m mechprobe.worlds.training.shipped FOLDER``.
"""

import gzip
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np

from mechprobe.files import write_whole
from mechprobe.worlds.automata.arrays import Ids
from mechprobe.worlds.automata.sequences import read_sequences
from mechprobe.worlds.streets.street_map import WALKING, StreetMap

if TYPE_CHECKING:
    from mechprobe.worlds.predictors.network import LanguageModel
    from mechprobe.worlds.training.results import SequenceTraining

ShippedName = Literal["random_walks", "shortest_paths"]
NAMES: tuple[ShippedName, ...] = ("random_walks", "shortest_paths")

HELD_OUT = "held_out.txt.gz"
_SEED = 0
_HELD_OUT_PAIRS = 20


@dataclass(frozen=True, slots=True)
class _Lesson:
    """What a shipped model was taught."""

    n_sequences: int
    n_held_out: int
    n_layers: int
    d_model: int
    n_heads: int
    steps: int
    lr: float
    weight_decay: float


# There are few pairs of crossings, and without a strong decay a model learns them by heart.
_LESSONS = {
    "random_walks": _Lesson(400_000, 1000, 6, 96, 6, 16_000, 3e-3, 0.01),
    "shortest_paths": _Lesson(100_000, 500, 4, 128, 4, 5000, 1e-3, 0.5),
}


def shipped_world() -> StreetMap:
    """Return the map of the shipped models: 36 crossings, walks of at most 32 words.

    Example:
        >>> shipped_world().n_nodes
        36
    """
    return StreetMap.grid(6, seed=_SEED, max_length=32)


def load_shipped(name: ShippedName) -> "tuple[LanguageModel, StreetMap]":
    """Return a shipped model, ready for every metric, and its world.

    Args:
        name: ``"random_walks"`` or ``"shortest_paths"``.

    Returns:
        A predictor (its ``model`` is the TransformerLens bridge), and the map.

    Raises:
        ValueError: An unknown name.
        FileNotFoundError: The package was installed without its checkpoints.

    Example:
        >>> net, world = load_shipped("random_walks")
        >>> net.name
        'random_walks'
    """
    from mechprobe.worlds.predictors.loaded import load_sequence_model

    _require_name(name)
    world = shipped_world()
    with resources.as_file(_checkpoints() / name) as folder:
        if not (folder / "model.safetensors").exists():
            msg = (
                f"this installation of mechprobe lacks the checkpoint {name!r}; reinstall it, or "
                "make it with make_shipped(folder)."
            )
            raise FileNotFoundError(msg)
        return load_sequence_model(folder, world, name=name), world


def shipped_training(name: ShippedName) -> dict[str, float]:
    """Return what a shipped model reached when it was made.

    Returns:
        ``held_out_loss``, ``next_token_validity`` with ``_low`` and ``_high``, ``steps``.

    Raises:
        ValueError: An unknown name.

    Example:
        >>> shipped_training("random_walks")["next_token_validity"] > 0.9
        True
    """
    _require_name(name)
    text = (_checkpoints() / name / "training.json").read_text(encoding="utf-8")
    return {key: float(value) for key, value in json.loads(text).items()}


def shipped_sequences(name: ShippedName) -> tuple[list[Ids], list[Ids]]:
    """Return what a shipped model learned from, and what it was judged by.

    No origin and destination of a held-out shortest path is among those learned from; held-out
    random walks are others of the same kind.

    Raises:
        ValueError: An unknown name.

    Example:
        >>> train, held_out = shipped_sequences("shortest_paths")
        >>> {tuple(s[:2]) for s in train} & {tuple(s[:2]) for s in held_out}
        set()
    """
    _require_name(name)
    world, lesson = shipped_world(), _LESSONS[name]
    rng = np.random.default_rng(_SEED)
    if name == "random_walks":
        train = world.random_walks(lesson.n_sequences, rng)
        return train, world.random_walks(lesson.n_held_out, rng)
    origin, destination = np.nonzero(world.distances > 0)
    order = rng.permutation(len(origin))
    trips = np.column_stack([np.full(len(order), WALKING), origin[order], destination[order]])
    cut = len(order) // _HELD_OUT_PAIRS

    def paths(among: Ids, n: int) -> list[Ids]:
        return world.shortest_paths(n, rng, states=among[rng.integers(0, len(among), n)])

    held_out = paths(trips[:cut], lesson.n_held_out)
    return paths(trips[cut:], lesson.n_sequences), held_out


def shipped_held_out(name: ShippedName) -> list[Ids]:
    """Return the sequences that a shipped model was judged by, read from beside its weights.

    Raises:
        ValueError: An unknown name.

    Example:
        >>> len(shipped_held_out("random_walks"))
        1000
    """
    _require_name(name)
    with resources.as_file(_checkpoints() / name / HELD_OUT) as file:
        return read_sequences(file, shipped_world(), legal=True)


def make_shipped(
    folder: str | Path, names: Sequence[ShippedName] = NAMES, *, progress: bool = True
) -> "dict[str, SequenceTraining]":
    """Make the shipped models anew: some minutes each on one thread.

    Args:
        folder: Where to; one folder per model, with its checkpoints, so that it can go on when
            interrupted.
        names: Which.
        progress: Show bars.

    Returns:
        The record of each training.

    Raises:
        ValueError: An unknown name.
    """
    from mechprobe.worlds.training.train import train_sequence_model

    out: dict[str, SequenceTraining] = {}
    for name in names:
        _require_name(name)
        lesson = _LESSONS[name]
        train, held_out = shipped_sequences(name)
        where = Path(folder).expanduser() / name
        out[name] = train_sequence_model(
            shipped_world(),
            train,
            held_out=held_out,
            folder=where,
            n_layers=lesson.n_layers,
            d_model=lesson.d_model,
            n_heads=lesson.n_heads,
            steps=lesson.steps,
            batch_size=64,
            lr=lesson.lr,
            weight_decay=lesson.weight_decay,
            evaluate_every=1000,
            seed=_SEED,
            progress=progress,
        )
        _shrink(where, out[name])
        _keep(where / HELD_OUT, held_out)
    return out


def _shrink(folder: Path, record: "SequenceTraining") -> None:
    """Store the weights in half the bytes, and what the model reached beside them."""
    import torch
    from safetensors.torch import load_file, save

    last = record.data.isel(evaluated=-1)
    reached = {
        name: float(last[name])
        for name in (
            "held_out_loss",
            "next_token_validity",
            "next_token_validity_low",
            "next_token_validity_high",
        )
    } | {"steps": int(last["evaluated"])}
    text = json.dumps(reached, indent=1)
    write_whole(folder / "training.json", text.encode())
    half = {k: v.to(torch.float16) for k, v in load_file(folder / "model.safetensors").items()}
    write_whole(folder / "model.safetensors", save(half, metadata={"format": "pt"}))


def _keep(file: Path, sequences: Sequence[Ids]) -> None:
    """Write sequences as text, one a line; the same sequences make the same file."""
    world = shipped_world()
    text = "".join(f"{' '.join(world.decode(s))}\n" for s in sequences)
    data = gzip.compress(text.encode(), mtime=0)
    write_whole(file, data)


def _checkpoints() -> "resources.abc.Traversable":
    return resources.files("mechprobe.worlds.training") / "checkpoints"


def _require_name(name: str) -> None:
    if name not in NAMES:
        msg = f"no model {name!r} comes with the package; there are {', '.join(NAMES)}."
        raise ValueError(msg)


if __name__ == "__main__":
    for made, training in make_shipped(sys.argv[1] if len(sys.argv) > 1 else "shipped").items():
        sys.stdout.write(f"{made}\n{training.summary().tail(1).to_string()}\n")
