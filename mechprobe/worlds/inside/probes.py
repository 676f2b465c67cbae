"""Linear probes: can the state of the world be read off the residual stream, and where?"""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from jaxtyping import Bool, Float, Int
from threadpoolctl import threadpool_limits
from tqdm.auto import tqdm

from mechprobe.models import alone, opened, run, stream_name
from mechprobe.models.protocol import Sink
from mechprobe.provenance import Call, digest_json
from mechprobe.worlds.automata.arrays import PAD, Ids, pad
from mechprobe.worlds.automata.base import World
from mechprobe.worlds.inside.results import Read, StateProbes, probes_of
from mechprobe.worlds.predictors.loaded import language_model
from mechprobe.worlds.predictors.network import LanguageModel
from mechprobe.worlds.predictors.residual import chosen_layers

_ROWS_AT_ONCE = 64
_ITERATIONS = 300

Features = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Places:
    """Words of sequences that are probed.

    Attributes:
        row: Sequence of each.
        column: Position in it.
        label: What is to be read, ``[place, part]``.
        control: What a control probe is to read in its stead, ``[place, part]``.
    """

    row: Int[np.ndarray, " place"]
    column: Int[np.ndarray, " place"]
    label: Int[np.ndarray, "place part"]
    control: Int[np.ndarray, "place part"]


@alone
def probe_states(
    model: LanguageModel | Any,
    world: World,
    sequences: Sequence[Ids],
    *,
    label: str | None = None,
    layers: Sequence[int] | None = None,
    test: float = 0.25,
    places: int = 8000,
    control_words: int | None = None,
    strength: float = 1.0,
    seed: int = 0,
    progress: bool = True,
) -> StateProbes:
    r"""Train a linear probe per layer to read the state of the world behind each word.

    Multinomial logistic regression on the standardised residual stream. Sequences, not words, are
    split into training and test: neighbouring words of one walk are nearly the same example. Beside
    each probe stands a control probe, which learns labels that were drawn at random for every type
    of word, in the shares of the true ones; what the probe reads better than that is its

    .. math:: \text{selectivity} = \text{accuracy} - \text{control accuracy}

    Worlds have few words, and a control with four types to remember would tell nothing: a type is
    here the last ``control_words`` words, as few as vary at least as much as the labels do (by
    their entropies; 1 is the control of the paper).

    Args:
        model: A ``LanguageModel``, or a TransformerLens model whose folder says its words.
        world: Whose states they are.
        sequences: Ids of each, legal.
        label: Which of ``world.state_labels``; the first if None. Labels of several parts, squares
            of a board for instance, get a probe each, and the mean over parts is given.
        layers: -1 for the embedding, l for the residual stream after block l; all if None.
        test: Share of sequences to test on.
        places: Words to probe at most, drawn from all.
        control_words: Words that decide a control label.
        strength: Inverse of the L2 penalty (scikit-learn's ``C``).
        seed: Draws the split, the places, the control labels, and the multipliers of the bands.
        progress: Show a bar.

    Returns:
        Accuracy, control accuracy and selectivity of every layer with intervals over sequences,
        beside the accuracy of always saying the commonest label.

    Raises:
        ValueError: An unknown label or layer, a share outside (0, 1), fewer than four sequences,
            or a label that is the same everywhere.

    Example:
        >>> probe_states(net, world, walks, label="current")  # doctest: +SKIP

    References:
        Hewitt & Liang, Designing and Interpreting Probes with Control Tasks (2019),
        https://arxiv.org/abs/1909.03368; Vafa et al. (2024), https://arxiv.org/abs/2406.03689.
    """
    call = Call("probe_states", locals())
    net = model if isinstance(model, LanguageModel) else language_model(model, world)
    chosen = chosen_layers(net.name, int(net.model.cfg.n_layers), layers)
    rng = np.random.default_rng(seed)
    is_test = _split(len(sequences), test, rng)
    name, found = _places(world, sequences, label, places, control_words, rng)
    held_out = is_test[found.row]
    _require_varied(name, found.label[~held_out])
    reads: list[Read] = []
    features = _features(net, sequences, found, chosen, progress=progress)
    with tqdm(
        total=2 * len(chosen) * found.label.shape[1],
        desc="probes",
        unit="probe",
        disable=not progress,
        leave=False,
    ) as bar:
        for x in features:
            x = _standardised(x, ~held_out)
            reads.append(Read(*(_right(x, y, held_out, strength, bar) for y in (found.label, found.control))))
    data = {"world": world.digest(), "sequences": digest_json([s.tolist() for s in sequences])}
    provenance = call.record(
        net.describe(), data, seed=seed, world=world.name, label=name, layers=chosen, sequences=len(sequences)
    )
    majority = _majority(found.label, held_out)
    return probes_of(
        reads, chosen, found.row[held_out], majority, provenance, n_train=int((~held_out).sum()), seed=seed
    )


def _split(n: int, test: float, rng: np.random.Generator) -> Bool[np.ndarray, " sequence"]:
    if not 0 < test < 1 or n < 4:
        msg = f"a split needs test in (0, 1) and at least 4 sequences; got {test} of {n}."
        raise ValueError(msg)
    out = np.zeros(n, dtype=np.bool_)
    out[rng.permutation(n)[: min(max(1, round(test * n)), n - 1)]] = True
    return out


def _places(
    world: World,
    sequences: Sequence[Ids],
    label: str | None,
    most: int,
    control_words: int | None,
    rng: np.random.Generator,
) -> tuple[str, Places]:
    ids = pad(sequences)
    states = world.trace(world.initial(len(ids)), ids)[:, 1:]
    rows, columns = np.nonzero((ids != PAD) & (states[:, :, 0] >= 0))
    labels = world.state_labels(states[rows, columns])
    name = next(iter(labels)) if label is None else label
    if name not in labels:
        msg = f"{world.name} has no label {name!r}; it has {', '.join(labels)}."
        raise ValueError(msg)
    values = labels[name].reshape(len(rows), -1)
    # -1 is "none yet": before the origin, for instance.
    known = np.flatnonzero((values >= 0).all(axis=1) & ~_closing(world, ids[rows, columns]))
    if len(known) > most:
        known = np.sort(rng.choice(known, most, replace=False))
    rows, columns, values = rows[known], columns[known], values[known]
    control = _control(ids, rows, columns, values, control_words, rng)
    return name, Places(rows, columns, values, control)


def _closing(world: World, tokens: Ids) -> Bool[np.ndarray, " place"]:
    """Nothing is predicted behind ``end``, so nothing need be known there."""
    return np.zeros(len(tokens), dtype=np.bool_) if world.end is None else tokens == world.end


def _control(
    ids: Ids, rows: Ids, columns: Ids, values: Ids, words: int | None, rng: np.random.Generator
) -> Int[np.ndarray, "place part"]:
    """Return a label for every type of place, drawn from those that occur, for each part."""
    if words is not None and words < 1:
        msg = f"control_words must be at least 1; got {words}."
        raise ValueError(msg)
    enough = _entropy(np.unique(values, axis=0, return_inverse=True)[1])
    padded = np.pad(ids, ((0, 0), (ids.shape[1], 0)), constant_values=PAD)
    for k in range(1, ids.shape[1] + 1) if words is None else [words]:
        last = padded[rows[:, None], columns[:, None] + ids.shape[1] - np.arange(k)]
        kinds, kind = np.unique(last, axis=0, return_inverse=True)
        if words is not None or _entropy(kind) >= enough:
            break
    drawn = values[rng.integers(0, len(values), len(kinds))]
    return drawn[kind.reshape(-1)]


def _entropy(kinds: Ids) -> float:
    share = np.bincount(kinds.reshape(-1)) / kinds.size
    return float(-(share[share > 0] * np.log(share[share > 0])).sum())


def _features(
    net: LanguageModel, sequences: Sequence[Ids], places: Places, layers: Sequence[int], *, progress: bool
) -> list[Features]:
    """Return the residual stream at every place, one array per layer."""
    out = [np.zeros((len(places.row), int(net.model.cfg.d_model)), np.float32) for _ in layers]
    used = np.unique(places.row)
    used = used[np.argsort([len(sequences[i]) for i in used.tolist()], kind="stable")]
    starts = range(0, len(used), _ROWS_AT_ONCE)
    for start in tqdm(starts, "states", unit="batch", disable=not progress, leave=False):
        rows = used[start : start + _ROWS_AT_ONCE]
        ids = pad([sequences[i] for i in rows.tolist()])
        # Attention is causal: what fills up a row on the right is seen by no word of it.
        rectangle = net.rectangle(np.where(ids == PAD, 0, ids))
        at = np.flatnonzero(np.isin(places.row, rows))
        place = np.full(len(sequences), PAD)
        place[rows] = np.arange(len(rows))
        row = torch.from_numpy(place[places.row[at]])
        column = torch.from_numpy(places.column[at] + int(net.start_id is not None))
        sinks = {stream_name(n): _keeper(x, at, row, column) for n, x in zip(layers, out, strict=True)}
        run(opened(net.model), rectangle, sinks)
    return out


def _keeper(
    out: Features, at: Ids, row: Int[torch.Tensor, " place"], column: Int[torch.Tensor, " place"]
) -> Sink:
    def keep(resid: torch.Tensor) -> None:
        out[at] = resid[row.to(resid.device), column.to(resid.device)].float().cpu().numpy()

    return keep


def _standardised(x: Features, train: Bool[np.ndarray, " place"]) -> Features:
    spread = x[train].std(axis=0)
    return (x - x[train].mean(axis=0)) / np.where(spread > 0, spread, 1)


def _right(
    x: Features,
    labels: Int[np.ndarray, "place part"],
    held_out: Bool[np.ndarray, " place"],
    strength: float,
    bar: Any,
) -> Float[np.ndarray, " tested"]:
    """Return the share of parts that are read rightly at every test place."""
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression

    right = np.zeros(int(held_out.sum()))
    for y in labels.T:
        train = y[~held_out]
        if len(np.unique(train)) == 1:
            said = np.full(len(right), train[0])
        else:
            probe = LogisticRegression(C=strength, max_iter=_ITERATIONS, tol=1e-3)
            # Products this small gain nothing from threads, which on a busy machine wait for each
            # other a thousand times as long as one takes alone.
            with warnings.catch_warnings(), threadpool_limits(limits=1):
                # A probe that could still be trained on is a probe: its test accuracy is reported.
                warnings.simplefilter("ignore", ConvergenceWarning)
                probe.fit(x[~held_out], train)
            said = probe.predict(x[held_out])
        right += said == y[held_out]
        bar.update()
    return right / labels.shape[1]


def _majority(labels: Int[np.ndarray, "place part"], held_out: Bool[np.ndarray, " place"]) -> float:
    commonest = [np.bincount(y[~held_out]).argmax() for y in labels.T]
    return float((labels[held_out] == commonest).mean())


def _require_varied(name: str, labels: Int[np.ndarray, "place part"]) -> None:
    if not len(labels) or bool((labels == labels[0]).all()):
        msg = (
            f"the label {name!r} has one value in all {len(labels)} training places; there is "
            "nothing to be read. Give more or other sequences, or another label."
        )
        raise ValueError(msg)
