"""``mechprobe world``: the third probe, and what lies around it."""

from pathlib import Path
from typing import Annotated, Literal

from cyclopts import App, Parameter

import mechprobe
from mechprobe.cli.shared import Loading, Output
from mechprobe.cli.show import require_folders
from mechprobe.cli.world_subject import Subject, acceptance_named, streets_of, world_named

world = App(name="world", help="Does a next-token predictor hold a coherent world?")

_MODEL, _CHAT, _OUTPUT = Subject(), Loading(), Output()


@world.default
def metrics(
    *,
    subject: Subject = _MODEL,
    n: int = 1000,
    suffixes: int = 30,
    k: int = 5,
    acceptance: str = "epsilon:0.01",
    mode: Literal["corrected", "vafa2024", "exact"] = "corrected",
    prefixes: Literal["random_walk", "on_policy"] = "random_walk",
    sequences: Path | None = None,
    max_tokens: int | None = None,
    sensitivity: bool = False,
    seed: int = 0,
    resume: Path | None = None,
    output: Output = _OUTPUT,
) -> None:
    """Compression, distinction and next-token validity, beside what an empty model scores.

    Args:
        subject: Model and world.
        n: Pairs of prefixes for each metric.
        suffixes: Suffixes drawn for each pair (M).
        k: Longest string that tells two states apart.
        acceptance: Which words the model accepts: epsilon:0.01, top-k:5 or top-p:0.9.
        mode: Whose definitions; exact expands all strings of k words and draws none.
        prefixes: Random walks of the world, or what the model itself says.
        sequences: Held-out sequences for the next-token test, one a line; else those that a model
            of the package was judged by, or random walks.
        max_tokens: Words of prefix and suffix together.
        sensitivity: Also curves over epsilon, M and k.
        seed: Of everything drawn.
        resume: A file that keeps finished batches; an interrupted run goes on from there.
        output: Where it goes.
    """
    from mechprobe.worlds import read_sequences

    output.check()
    rule = acceptance_named(acceptance)
    model, there = subject.load()
    held_out = subject.held_out()
    if sequences is not None:
        held_out = read_sequences(sequences, there, legal=True)
    output.deliver(
        mechprobe.evaluate_world_model(
            model,
            there,
            n,
            suffixes,
            k,
            rule,
            mode,
            prefixes,
            seed=seed,
            sequences=held_out,
            max_tokens=max_tokens,
            sensitivity=sensitivity,
            progress=not output.json,
            resume=resume,
        )
    )


@world.command
def layers(
    *,
    subject: Subject = _MODEL,
    n: int = 300,
    suffixes: int = 30,
    k: int = 5,
    acceptance: str = "epsilon:0.01",
    seed: int = 0,
    output: Output = _OUTPUT,
) -> None:
    """Run the same metrics on what the logit lens reads after every layer.

    Args:
        subject: Model and world.
        n: Pairs of prefixes for each metric.
        suffixes: Suffixes drawn for each pair (M).
        k: Longest string that tells two states apart.
        acceptance: Which words a layer accepts: epsilon:0.01, top-k:5 or top-p:0.9.
        seed: Of everything drawn.
        output: Where it goes.
    """
    output.check()
    rule = acceptance_named(acceptance)
    model, there = subject.load()
    output.deliver(
        mechprobe.world_by_layer(
            model,
            there,
            n,
            suffixes,
            k,
            rule,
            seed=seed,
            sequences=subject.held_out(),
            progress=not output.json,
        )
    )


@world.command
def patching(
    *,
    subject: Subject = _MODEL,
    n: int = 200,
    layers: Annotated[list[int] | None, Parameter(negative=())] = None,
    positions: Annotated[list[int] | None, Parameter(negative=())] = None,
    extent: Literal["position", "tail"] = "position",
    k: int = 5,
    acceptance: str = "epsilon:0.01",
    seed: int = 0,
    output: Output = _OUTPUT,
) -> None:
    """Swap the residual stream between prefixes of two states: does the language go with it?

    Args:
        subject: Model and world.
        n: Pairs of states.
        layers: -1 for the embedding, l for the stream after block l; may be repeated. All if left
            out.
        positions: Words counted from the end of the prefix, -1 the last; may be repeated.
        extent: Patch that word, or the whole tail from there on.
        k: Longest string that tells two states apart.
        acceptance: Which words the model accepts: epsilon:0.01, top-k:5 or top-p:0.9.
        seed: Of everything drawn.
        output: Where it goes.
    """
    output.check()
    rule = acceptance_named(acceptance)
    model, there = subject.load()
    output.deliver(
        mechprobe.patch_states(
            model,
            there,
            n,
            layers=layers,
            positions=tuple(positions or (-1, -2, -3)),
            extent=extent,
            k=k,
            acceptance=rule,
            seed=seed,
            progress=not output.json,
        )
    )


@world.command
def detours(
    *,
    subject: Subject = _MODEL,
    kind: Literal["random_valid", "least_likely", "second_most_likely"] = "random_valid",
    p: Annotated[list[float] | None, Parameter(negative=())] = None,
    n: int = 300,
    seed: int = 0,
    output: Output = _OUTPUT,
) -> None:
    """Push a model off its way, and count how often it still arrives.

    Args:
        subject: Model and world.
        kind: Which turn is forced.
        p: Probability of a detour at each word; may be repeated. Default: 0, 0.01, 0.1, 0.5, 0.75.
        n: Trips.
        seed: Of trips and detours.
        output: Where it goes.
    """
    output.check()
    model, there = subject.load()
    output.deliver(
        mechprobe.detours(
            model,
            streets_of(there),
            kind=kind,
            p=tuple(p or (0, 0.01, 0.1, 0.5, 0.75)),
            n=n,
            seed=seed,
            progress=not output.json,
        )
    )


@world.command(name="map")
def reconstruct(
    *,
    subject: Subject = _MODEL,
    walks: Path | None = None,
    n: int = 1000,
    degree: int = 4,
    radius: float | None = None,
    measure: Literal["hops", "miles", "units"] = "hops",
    corrupt: float = 0.0,
    keep_failed: bool = False,
    seed: int = 0,
    output: Output = _OUTPUT,
) -> None:
    """Draw the map that walks imply, true streets and invented ones.

    Args:
        subject: Model and world.
        walks: A file of walks, one a line, and no model; else the model's own.
        n: Walks.
        degree: Most streets out of a node.
        radius: How far an invented street may reach; 3 for a model of the package, whose city is
            small, else 6.
        measure: In streets, miles or the unit of the coordinates.
        keep_failed: Leave the streets of walks that fail in the end, as the published code does.
        corrupt: The control: of the valid walks only, change one word in this share.
        seed: Of the walks, their order, and the words that are changed.
        output: Where it goes.
    """
    from mechprobe.worlds import Epsilon, corrupted, own_sequences, read_sequences, valid_traversals

    output.check()
    if walks is None:
        model, there = subject.load()
        name, streets = model.name, streets_of(there)
        said = own_sequences(model, there, n, Epsilon(0.01), seed=seed)
    else:
        if subject.world is None:
            msg = f"--world is needed: which streets does {walks.name} walk? --world edges.csv"
            raise ValueError(msg)
        name, streets = walks.name.split(".")[0], streets_of(world_named(subject.world))
        said = read_sequences(walks, streets)[:n]
    reach = radius or (6 if walks is not None or subject.held_out() is None else 3)
    if corrupt:
        ok = valid_traversals(streets, said).ok.tolist()
        valid = [walk for walk, fine in zip(said, ok, strict=True) if fine]
        said, name = corrupted(streets, valid, corrupt, seed), f"{name}, {corrupt:g} corrupted"
    output.deliver(
        mechprobe.reconstruct_map(
            streets,
            said,
            degree=degree,
            radius=reach,
            measure=measure,
            keep_failed=keep_failed,
            seed=seed,
            name=name,
            progress=not output.json,
        )
    )


@world.command
def probes(
    *,
    subject: Subject = _MODEL,
    label: str | None = None,
    layers: Annotated[list[int] | None, Parameter(negative=())] = None,
    n: int = 1000,
    seed: int = 0,
    output: Output = _OUTPUT,
) -> None:
    """Read the state of the world off every layer, beside a control that could only remember.

    Args:
        subject: Model and world.
        label: What to read, such as current; the first that the world has.
        layers: -1 for the embedding, l for the stream after block l; may be repeated. All if left
            out.
        n: Random walks, a quarter of them to test on.
        seed: Of walks, split and control.
        output: Where it goes.
    """
    import numpy as np

    output.check()
    model, there = subject.load()
    walks = there.random_walks(n, np.random.default_rng(seed))
    output.deliver(
        mechprobe.probe_states(
            model, there, walks, label=label, layers=layers, seed=seed, progress=not output.json
        )
    )


@world.command
def puzzles(
    *,
    loading: Loading = _CHAT,
    people: int = 3,
    puzzles: int = 60,
    trials: int = 100,
    max_new_tokens: int = 300,
    seed: int = 0,
    output: Output = _OUTPUT,
) -> None:
    """Let a chat model solve seating puzzles, beside a judge that errs as often at random.

    Args:
        loading: A chat model.
        people: People, and seats.
        puzzles: Puzzles to solve.
        trials: Pairs for compression and for distinction.
        max_new_tokens: Most tokens of an answer.
        seed: Of everything drawn.
        output: Where it goes.
    """
    from mechprobe.worlds import Seating, chat_judge, seating_puzzles

    output.check()
    seats = Seating(people)
    judge = chat_judge(loading.load(), max_new_tokens=max_new_tokens)
    output.deliver(
        seating_puzzles(judge, seats, puzzles=puzzles, trials=trials, seed=seed, name=loading.model)
    )


@world.command
def train(
    *,
    world: str,
    folder: Path,
    walks: Path | None = None,
    n: int = 60_000,
    layers: int = 2,
    d_model: int = 64,
    heads: int = 4,
    steps: int = 4000,
    batch_size: int = 64,
    lr: float = 1e-3,
    weight_decay: float = 0.01,
    seed: int = 0,
    restart: bool = False,
    output: Output = _OUTPUT,
) -> None:
    """Train a small transformer on a world's sequences; interrupted, it goes on where it was.

    Args:
        world: As for the metrics.
        folder: Where the model goes.
        walks: Sequences to learn from, one a line; else random walks.
        n: Random walks.
        layers: Transformer blocks.
        d_model: Width of the residual stream.
        heads: Attention heads of each block.
        steps: Updates.
        batch_size: Sequences of each.
        lr: Highest learning rate.
        weight_decay: Of matrices.
        seed: Of weights, walks and order.
        restart: Start afresh where the folder holds a checkpoint.
        output: Where it goes.
    """
    import numpy as np

    from mechprobe.worlds import read_sequences

    output.check()
    require_folders(folder)
    there = world_named(world)
    if walks is None:
        sequences = there.random_walks(n, np.random.default_rng(seed))
    else:
        sequences = read_sequences(walks, there, legal=True)
    output.deliver(
        mechprobe.train_sequence_model(
            there,
            sequences,
            folder=folder,
            n_layers=layers,
            d_model=d_model,
            n_heads=heads,
            steps=steps,
            batch_size=batch_size,
            lr=lr,
            weight_decay=weight_decay,
            seed=seed,
            resume=not restart,
            progress=not output.json,
        )
    )
