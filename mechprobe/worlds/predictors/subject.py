"""What users pass as a model of a world, as what can be asked."""

from collections.abc import Callable
from typing import Any

from mechprobe.models import Model
from mechprobe.provenance import Json
from mechprobe.worlds.automata.arrays import Ids
from mechprobe.worlds.automata.base import World
from mechprobe.worlds.predictors.callables import callable_model
from mechprobe.worlds.predictors.loaded import language_model
from mechprobe.worlds.predictors.network import LanguageModel
from mechprobe.worlds.predictors.predictor import Predictor

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
    return {"name": predictor.name, "class": type(predictor).__qualname__}
