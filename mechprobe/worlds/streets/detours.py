"""Detours: push a model off its way, and see whether it still arrives."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from tqdm.auto import tqdm

from mechprobe.models.session import alone
from mechprobe.provenance import Call, Json, digest_json
from mechprobe.worlds.automata.arrays import PAD, Ids, States
from mechprobe.worlds.predictors.predictor import Cursor, LogProbs, Predictor
from mechprobe.worlds.predictors.subject import Subject, about, as_predictor
from mechprobe.worlds.streets.results import Detours, detours_of
from mechprobe.worlds.streets.street_map import END, WALKING, StreetMap

DetourKind = Literal["random_valid", "least_likely", "second_most_likely"]
KINDS = ("random_valid", "least_likely", "second_most_likely")
OUTCOMES = ("arrived", "illegal turn", "ended elsewhere", "not within the length")
ARRIVES, ILLEGAL, ELSEWHERE, LATE = range(4)

Uniforms = npt.NDArray[np.float64]


@alone
def detours(
    model: Subject,
    world: StreetMap,
    *,
    kind: DetourKind = "random_valid",
    p: Sequence[float | int] = (0, 0.01, 0.1, 0.5, 0.75),
    n: int = 100,
    trips: States | None = None,
    seed: int = 0,
    batch: int = 512,
    progress: bool = True,
) -> Detours:
    """Let a model drive from origin to destination, and force it onto other streets now and then.

    The model always says its most likely word. Before each word, unless the destination is
    reached, with probability p one of the legal turns from which the destination can still be
    reached in time is taken instead: one at random that is not the model's own (``random_valid``),
    the one it finds least likely, or the likeliest that is not its own. A trip succeeds if every
    word is legal and the last is ``end`` at the destination, within ``world.max_length`` words.

    All trips and all p run side by side, with the same draws: a trip that is pushed at one p is
    pushed at the same words at any higher one, as long as it is the same trip. Beside the model
    stands a navigator who always knows a shortest way: what can be reached at all.

    Args:
        model: A predictor, a TransformerLens model whose folder says its words, or a function of
            ids ``[n, length]`` (see ``callable_model``).
        world: Streets.
        kind: Which turn is forced.
        p: Probabilities of a detour.
        n: Trips.
        trips: Origins and destinations as states ``[n, 3]``, in place of ``n`` drawn ones.
        seed: Draws trips and detours.
        batch: Rows read side by side.
        progress: Show a bar.

    Returns:
        Share of trips that succeed at each p, with its interval, and why others do not.

    Raises:
        ValueError: p outside 0..1, no trips, trips that do not start as walks or cannot arrive, or
            an unknown kind.

    Example:
        >>> detours(net, world, n=200).data["success"]  # doctest: +SKIP

    References:
        Vafa et al. (2024), https://arxiv.org/abs/2406.03689, section 3 and table 2.
    """
    call = Call("detours", locals())
    _check(world, kind, p, batch)
    predictor = as_predictor(model, world)
    rng = np.random.default_rng(seed)
    given = trips is not None
    if trips is None:
        if n < 1:
            msg = f"n must be at least 1 trip; got {n}."
            raise ValueError(msg)
        trips = world.sample_states(rng, n, published=True)
    _check_trips(world, trips)
    draws = rng.random((len(trips), world.max_length, 2))
    shares = np.array(p, dtype=np.float64)
    n_rows, drivers = len(p) * len(trips), (predictor, Navigator(world))
    with tqdm(
        total=len(drivers) * n_rows, desc="detours", unit="trip", disable=not progress, leave=False
    ) as bar:
        found = [_drive(each, world, trips, draws, shares, kind, batch, bar) for each in drivers]
    data: dict[str, Json] = {"world": world.digest(), "trips": digest_json(trips.tolist())}
    provenance = call.record(
        {**about(predictor), "world": world.name},
        data,
        seed=seed,
        world=world.name,
        n=len(trips),
        trips=trips if given else None,
        p=shares,
    )
    return detours_of(found[0], found[1], shares, OUTCOMES, provenance)


@dataclass(frozen=True, slots=True)
class Navigator:
    """Knows the map: every turn onto a shortest way is as likely, ``end`` at the destination."""

    world: StreetMap
    name: str = "navigator"

    def start(self, prefixes: Ids) -> "_NavigatorCursor":
        """Read prefixes ``[n, length]``, filled up with -1 on the right."""
        return _NavigatorCursor(self.world, self.world.run(self.world.initial(len(prefixes)), prefixes))


class _NavigatorCursor:
    def __init__(self, world: StreetMap, states: States) -> None:
        self._world, self._states = world, states

    @property
    def log_probs(self) -> LogProbs:
        world, (_, current, destination) = self._world, self._states.T
        left = distances_after(world, self._states)
        nearest = np.where(left >= 0, left, np.iinfo(np.int64).max).min(axis=1, keepdims=True)
        good = np.zeros((len(left), len(world.tokens)), dtype=np.bool_)
        good[:, 1 : world.first_node] = (left >= 0) & (left == nearest)
        there = current == destination
        good[there] = False
        good[:, END] = there | ~good.any(axis=1)
        with np.errstate(divide="ignore"):
            return np.log(good / good.sum(axis=1, keepdims=True)).astype(np.float32)

    def advance(self, rows: Ids, tokens: Ids) -> None:
        self._states = self._world.step(self._states[rows], tokens)


def distances_after(world: StreetMap, states: States) -> Ids:
    """Return how far the destination is after each direction, ``[n, direction]``; -1 for no way."""
    _, current, destination = states.T
    after = world.table[current]
    left = world.distances[after, destination[:, None]].astype(np.int64)
    return np.where(after >= 0, left, -1)


def _drive(
    predictor: Predictor,
    world: StreetMap,
    trips: States,
    draws: Uniforms,
    p: Uniforms,
    kind: str,
    batch: int,
    bar: Any,
) -> tuple[Ids, Ids]:
    """Return the outcome of every trip at every p, and how often it was pushed: ``[p, trip]``."""
    at, trip = np.divmod(np.arange(len(p) * len(trips)), len(trips))
    outcome, pushed = np.full(len(trip), LATE), np.zeros(len(trip), dtype=np.int64)
    for start in range(0, len(trip), batch):
        rows = slice(start, start + batch)
        found = _drive_batch(predictor, world, trips[trip[rows]], draws[trip[rows]], p[at[rows]], kind)
        outcome[rows], pushed[rows] = found
        bar.update(len(trip[rows]))
    shape = len(p), len(trips)
    return outcome.reshape(shape), pushed.reshape(shape)


def _drive_batch(
    predictor: Predictor, world: StreetMap, states: States, draws: Uniforms, p: Uniforms, kind: str
) -> tuple[Ids, Ids]:
    outcome, pushed = np.full(len(states), LATE), np.zeros(len(states), dtype=np.int64)
    cursor: Cursor = predictor.start(states[:, 1:] + world.first_node)
    going = np.arange(len(states))
    for position in range(2, world.max_length):
        log_probs = cursor.log_probs
        said = log_probs.argmax(axis=1).astype(np.int64)
        moment = draws[going, position]
        forced = _forced(world, states, log_probs, said, moment[:, 1], position, kind)
        push = (moment[:, 0] < p[going]) & (states[:, 1] != states[:, 2]) & (forced != PAD)
        pushed[going[push]] += 1
        said = np.where(push, forced, said)
        after = world.step(states, said)
        ended, legal = said == END, after[:, 0] >= 0
        outcome[going[ended]] = np.where(legal[ended], ARRIVES, ELSEWHERE)
        outcome[going[~ended & ~legal]] = ILLEGAL
        rows = np.flatnonzero(~ended & legal)
        if not len(rows):
            break
        going, states = going[rows], after[rows]
        if position + 1 < world.max_length:
            cursor.advance(rows, said[rows])
    return outcome, pushed


def _forced(
    world: StreetMap, states: States, log_probs: LogProbs, said: Ids, draw: Uniforms, position: int, kind: str
) -> Ids:
    """Return the turn that would be forced on each row, -1 where there is none."""
    left = distances_after(world, states)
    # The turn itself, the way that is left and ``end`` must fit.
    able = (left >= 0) & (left < world.max_length - 1 - position)
    own = able & (np.arange(able.shape[1]) + 1 == said[:, None])
    others = able & ~own
    if kind != "least_likely":
        # Where the model's own turn is the only one, that is what is taken.
        able = np.where(others.any(axis=1, keepdims=True), others, able)
    words = log_probs[:, 1 : world.first_node]
    if kind == "least_likely":
        chosen = np.where(able, words, np.inf).argmin(axis=1)
    elif kind == "second_most_likely":
        # Impossible turns rank below legal ones of probability 0.
        chosen = np.where(able, np.maximum(words, np.finfo(np.float32).min), -np.inf).argmax(axis=1)
    else:
        rank = (draw * able.sum(axis=1)).astype(np.int64)
        chosen = (able.cumsum(axis=1) > rank[:, None]).argmax(axis=1)
    return np.where(able.any(axis=1), chosen + 1, PAD)


def _check(world: StreetMap, kind: str, p: Sequence[float | int], batch: int) -> None:
    if not isinstance(world, StreetMap):
        msg = f"detours need streets and a destination; {type(world).__name__} has none."
        raise TypeError(msg)
    if kind not in KINDS:
        msg = f"there are no detours {kind!r}; choose one of {', '.join(KINDS)}."
        raise ValueError(msg)
    shares = np.array(p, dtype=np.float64)
    if not len(shares) or not bool(((shares >= 0) & (shares <= 1)).all()):
        msg = f"p must be probabilities in 0..1, at least one; got {list(p)}."
        raise ValueError(msg)
    if batch < 1:
        msg = f"batch must be at least 1 row; got {batch}."
        raise ValueError(msg)


def _check_trips(world: StreetMap, trips: States) -> None:
    if not len(trips) or bool((trips[:, 0] != WALKING).any()):
        msg = (
            f"trips must be states of walking, {WALKING}, origin, destination, as world.state("
            "origin, destination) gives; at least one."
        )
        raise ValueError(msg)
    hops = world.distances[trips[:, 1], trips[:, 2]]
    lost = np.flatnonzero((hops < 0) | (hops > world.max_length - 3))
    if len(lost):
        origin, destination = (world.nodes[i] for i in trips[lost[0], 1:].tolist())
        msg = (
            f"trip {lost[0]}: {destination!r} cannot be reached from {origin!r} within "
            f"{world.max_length} words on {world.name}; leave the trip out."
        )
        raise ValueError(msg)
