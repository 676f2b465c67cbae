"""What a call of the metrics asks for, checked before any model runs."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from mechprobe.models import Model
from mechprobe.provenance import Json, digest_json
from mechprobe.worlds.acceptance import Acceptance, Epsilon
from mechprobe.worlds.arrays import Ids
from mechprobe.worlds.base import World
from mechprobe.worlds.loaded import language_model
from mechprobe.worlds.network import LanguageModel
from mechprobe.worlds.pairs import Mode, Pairs, draw_different, draw_same, pairs_of
from mechprobe.worlds.policy import own_sequences
from mechprobe.worlds.predictor import Predictor
from mechprobe.worlds.predictors import callable_model
from mechprobe.worlds.suffixes import Sampling

PrefixKind = Literal["random_walk", "on_policy"]
Subject = Predictor | Model | Callable[[Ids], Any]

MODES: tuple[Mode, ...] = ("corrected", "vafa2024", "exact")
# Words of prefix and suffix together in the published code.
PUBLISHED_TOKENS = 128
# Fewer of a model's own sequences may meet in no state, or always in the same.
OWN_SEQUENCES = 60
# Of the next-token test, at most, where none are given.
HELD_OUT_SEQUENCES = 1000


@dataclass(frozen=True, slots=True)
class Request:
    """Settings of one evaluation.

    Attributes:
        n: Pairs to draw for each test.
        suffixes: Suffixes drawn for each pair (M).
        k: Longest boundary string.
        acceptance: Which words a model accepts.
        mode: Whose definitions.
        max_tokens: Words of prefix and suffix together.
        seed: Of everything drawn.
    """

    n: int
    suffixes: int
    k: int
    acceptance: Acceptance
    mode: Mode
    max_tokens: int
    seed: int

    @property
    def published(self) -> bool:
        """Whether to do as the published code does."""
        return self.mode == "vafa2024"

    @property
    def sampling(self) -> Sampling:
        """How suffixes are found."""
        samples = None if self.mode == "exact" else self.suffixes
        return Sampling(
            self.acceptance, samples, self.k, self.max_tokens, self.published, self.seed
        )

    def recorded(self, world: World) -> dict[str, object]:
        """Return what a record says of the settings that do not say so themselves."""
        return {"world": world.name, "acceptance": self.acceptance.label,
                "max_tokens": self.max_tokens}  # fmt: skip

    def rng(self, stage: int) -> np.random.Generator:
        """Return a generator for one stage of the run."""
        return np.random.default_rng([self.seed, stage])


def checked(
    world: World,
    n: int,
    suffixes: int,
    k: int,
    acceptance: Acceptance,
    mode: str,
    max_tokens: int | None,
    seed: int,
) -> Request:
    """Return the settings of a call.

    Raises:
        ValueError: One is out of range, or does not go with the mode.
        TypeError: ``acceptance`` is no acceptance.
    """
    for name, value in {"n": n, "suffixes": suffixes, "k": k}.items():
        if value < 1:
            msg = f"{name} must be at least 1; found {value}."
            raise ValueError(msg)
    known = next((m for m in MODES if m == mode), None)
    if known is None:
        msg = f"there is no mode {mode!r}; the modes are {', '.join(MODES)}."
        raise ValueError(msg)
    if not isinstance(acceptance, Acceptance):
        msg = (
            f"acceptance must be Epsilon(0.01), TopK(k) or TopP(p); found "
            f"{type(acceptance).__name__}."
        )
        raise TypeError(msg)
    if known == "vafa2024" and not isinstance(acceptance, Epsilon):
        msg = (
            f"mode='vafa2024' knows a threshold only; {acceptance.label} goes with 'corrected' and "
            "'exact'."
        )
        raise ValueError(msg)
    published = known == "vafa2024" and world.end is not None
    most = max_tokens or (PUBLISHED_TOKENS if published else world.max_length)
    return Request(n, suffixes, k, acceptance, known, most, seed)


def as_predictor(model: Subject, world: World) -> Predictor:
    """Return what was passed as a predictor of the world's words.

    Raises:
        TypeError: It is no predictor, no TransformerLens model and no function.
        ValueError: As ``language_model``.
    """
    if isinstance(model, Predictor):
        mine = getattr(model, "world", world)
        if mine is not world and mine.digest() != world.digest():
            msg = (
                f"{model.name} predicts the words of {mine.name}, and {world.name} was to be "
                "tested; pass the world that it was made for."
            )
            raise ValueError(msg)
        return model
    if isinstance(model, Model):
        return language_model(model, world)
    return callable_model(model, world)


def as_network(model: object, world: World) -> LanguageModel:
    """Return what was passed as a model whose inside can be reached.

    Raises:
        TypeError: It is an oracle, a function, or anything else without layers.
        ValueError: It predicts another world or is read at a layer already, or as
            ``language_model``.
    """
    if not isinstance(model, LanguageModel | Model):
        called = getattr(model, "name", None) or getattr(model, "__name__", None)
        msg = (
            f"{called or 'what was passed'} is {type(model).__name__} and has no layers to look "
            "into; pass a TransformerLens model, or what language_model or load_sequence_model "
            "returned."
        )
        raise TypeError(msg)
    net = model if isinstance(model, LanguageModel) else language_model(model, world)
    as_predictor(net, world)
    if net.reading is not None:
        msg = f"{net.name} is read at a layer already; pass the model that it is a layer of."
        raise ValueError(msg)
    return net


def about(predictor: Predictor) -> dict[str, Json]:
    """Return what a record says of a predictor: all of a model, the name of anything else."""
    if isinstance(predictor, LanguageModel):
        return predictor.describe()
    return {"name": predictor.name, "class": type(predictor).__qualname__}


def require_room(predictor: Predictor, request: Request) -> None:
    """Refuse a model whose context is too short, before anything runs.

    Raises:
        ValueError: It is.
    """
    if isinstance(predictor, LanguageModel):
        predictor.require_room(request.max_tokens - 1)


def drawn_pairs(
    predictor: Predictor,
    world: World,
    request: Request,
    prefixes: PrefixKind | str | Sequence[Ids],
) -> tuple[Pairs, Pairs]:
    """Return pairs of prefixes of one state, and of two.

    Raises:
        ValueError: An unknown kind of prefixes, or no pair is left.
    """
    rng = request.rng(0)
    if isinstance(prefixes, str) and prefixes == "random_walk":
        same = draw_same(world, request.n, rng, published=request.published)
        different = draw_different(world, request.n, rng, published=request.published)
    elif isinstance(prefixes, str) and prefixes == "on_policy":
        own = own_sequences(
            predictor, world, max(request.n, OWN_SEQUENCES), request.acceptance,
            seed=request.seed, max_tokens=world.max_length,
        )  # fmt: skip
        same, different = pairs_of(world, own, request.n, rng)
    elif isinstance(prefixes, str):
        msg = (
            f"there are no prefixes {prefixes!r}; pass 'random_walk', 'on_policy', or sequences "
            "of ids whose beginnings are to be used."
        )
        raise ValueError(msg)
    else:
        same, different = pairs_of(world, list(prefixes), request.n, rng)
    return same.require("compression"), different.require("distinction")


def named(sequences: str | Sequence[Ids] | None) -> str | None:
    """Return what to record of sequences: how many, and their digest."""
    if sequences is None or isinstance(sequences, str):
        return sequences
    return f"{len(sequences)} sequences, sha256 {digest_json([s.tolist() for s in sequences])}"


def held_out_walks(world: World, request: Request, given: Sequence[Ids] | None) -> list[Ids]:
    """Return what the next-token test reads: the given sequences, or random walks."""
    if given is not None:
        return list(given)
    return world.random_walks(min(request.n, HELD_OUT_SEQUENCES), request.rng(1))
