"""What users pass as a model of a world, as what can be asked."""

from collections.abc import Callable
from typing import Any

import numpy as np

from mechprobe.models import Model
from mechprobe.provenance import Json
from mechprobe.worlds.automata.arrays import PAD, Ids
from mechprobe.worlds.automata.base import World
from mechprobe.worlds.predictors.callables import callable_model
from mechprobe.worlds.predictors.loaded import language_model
from mechprobe.worlds.predictors.network import LanguageModel
from mechprobe.worlds.predictors.predictor import Predictor

# Prefixes behind which models are compared, and what stands for a word that cannot come.
_ASKED, _LEAST = 32, -30.0

Subject = Predictor | Model | Callable[[Ids], Any]


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
    rates = getattr(predictor, "rates", None)
    told: dict[str, Json] = {"name": predictor.name, "class": type(predictor).__qualname__}
    return told if rates is None else {**told, "rates": list(rates)}


def answers(predictor: Predictor, world: World, max_tokens: int) -> list[float]:
    """Return log-probabilities of all words behind fixed prefixes, by which models are told apart.

    Names do not tell: of two functions, of a model with another hook, of weights edited in place.

    Args:
        predictor: Whom to ask.
        world: Draws the prefixes, by a seed of their own.
        max_tokens: Longest prefix and word.
    """
    rng = np.random.default_rng(0)
    walks = [walk[walk != world.end][: max_tokens - 1] for walk in world.random_walks(_ASKED, rng)]
    starts = [walk[: int(rng.integers(1, len(walk) + 1))] for walk in walks if len(walk)]
    prefixes = np.full((len(starts), max(map(len, starts), default=0)), PAD)
    for row, start in zip(prefixes, starts, strict=True):
        row[: len(start)] = start
    if not starts:
        return []
    log_probs = np.asarray(predictor.start(prefixes).log_probs)
    return np.maximum(log_probs, _LEAST).astype(np.float64).round(6).ravel().tolist()
