"""Which id of a model stands for which word of a world."""

import json
from collections.abc import Mapping
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

from mechprobe.models.identity import source_of
from mechprobe.worlds.automata.base import World

TOKENS_FILE = "tokens.json"


def stored_vocabulary(model: Any, name: str) -> Mapping[str, int]:
    """Return the vocabulary that lies beside the weights of a loaded model.

    Raises:
        ValueError: There is none, or it is no map from words to ids.
    """
    source = source_of(model)
    file = source.folder / TOKENS_FILE if source and source.folder else None
    if file is None or not file.exists():
        msg = (
            f"the words of {name} are not known: there is no {TOKENS_FILE} beside its weights. "
            "Pass vocabulary={word: id of the model}."
        )
        raise ValueError(msg)
    found = json.loads(file.read_text())
    if not isinstance(found, dict) or not all(type(i) is int for i in found.values()):
        msg = f'{TOKENS_FILE} of {name} must map words to integer ids, {{"end": 1, ...}}.'
        raise ValueError(msg)
    return found


def word_ids(d_vocab: int, world: World, vocabulary: Mapping[str, int]) -> Int[Tensor, " token"]:
    """Return the model's id of each word of a world.

    Args:
        d_vocab: Ids that the model knows.
        world: Gives the words.
        vocabulary: Word to id of the model.

    Raises:
        ValueError: A word is missing, an id is outside the model's, or two words have one id.
    """
    missing = [word for word in world.tokens if word not in vocabulary]
    if missing:
        shown = ", ".join(repr(w) for w in missing[:5]) + (", ..." if len(missing) > 5 else "")
        msg = (
            f"the model's vocabulary lacks {len(missing)} of the {len(world.tokens)} words of "
            f"{world.name}: {shown}. Pass the vocabulary it was trained with, or its own world."
        )
        raise ValueError(msg)
    ids = [int(vocabulary[word]) for word in world.tokens]
    outside = [w for w, i in zip(world.tokens, ids, strict=True) if not 0 <= i < d_vocab]
    if outside:
        msg = (
            f"the vocabulary gives {outside[0]!r} the id {vocabulary[outside[0]]}; the model's "
            f"ids are 0..{d_vocab - 1}."
        )
        raise ValueError(msg)
    if len(set(ids)) < len(ids):
        twice = next(i for n, i in enumerate(ids) if i in ids[:n])
        words = [w for w, i in zip(world.tokens, ids, strict=True) if i == twice]
        msg = f"the words {words[0]!r} and {words[1]!r} have one id, {twice}; ids must differ."
        raise ValueError(msg)
    return torch.tensor(ids)
