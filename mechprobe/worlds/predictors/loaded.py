"""A loaded model, or a folder that holds one, as a predictor of a world's words."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mechprobe.models import Model, alone, branching, load_model, require_readable, window
from mechprobe.models.identity import source_of
from mechprobe.models.protocol import model_name
from mechprobe.worlds.automata.base import World
from mechprobe.worlds.predictors.network import LanguageModel
from mechprobe.worlds.predictors.vocabulary import TOKENS_FILE, stored_vocabulary, word_ids


@alone
def language_model(
    model: Model,
    world: World,
    vocabulary: Mapping[str, int] | None = None,
    *,
    start_id: int | None = None,
    cached: bool | None = None,
    name: str | None = None,
) -> LanguageModel:
    """Return a TransformerLens model as a predictor of a world's words.

    Args:
        model: A ``TransformerBridge`` or ``HookedTransformer``.
        world: Whose words it predicts.
        vocabulary: The model's id of every word of the world; None reads ``tokens.json`` in the
            folder that ``load_model`` loaded the model from.
        start_id: An id that the model was trained to find before every sequence.
        cached: Keep keys and values from word to word; None wherever the model can.
        name: What tables and figures call it.

    Returns:
        A predictor. Batches of unequal sequences are padded where the model takes positions and
        split by length where it does not; models that keep no cache are read again at every word.

    Raises:
        ValueError: No vocabulary, a word of the world that it lacks, ids outside the model's, two
            words with one id, or a cache asked of a model that keeps none.

    Example:
        >>> net = language_model(mp.load_model(folder), world)  # doctest: +SKIP
    """
    require_readable(model)
    called = name or _called(model)
    known = stored_vocabulary(model, called) if vocabulary is None else vocabulary
    ids = word_ids(int(model.cfg.d_vocab), world, known)
    able = branching(model) and window(model) is None
    if cached and not able:
        msg = f"{called} keeps no cache whose rows can be repeated; leave cached=None."
        raise ValueError(msg)
    keeps = able if cached is None else cached
    return LanguageModel(called, model, world, ids, start_id, keeps)


@alone
def load_sequence_model(
    folder: str | Path, world: World, *, device: str | None = None, name: str | None = None
) -> LanguageModel:
    """Load a model of a world's sequences: a Hugging Face folder with a ``tokens.json``.

    Args:
        folder: Holds ``config.json``, ``model.safetensors`` and ``tokens.json`` (word to id).
        world: Whose words it predicts.
        device: As ``load_model``.
        name: What tables and figures call it; the folder's name if None.

    Returns:
        A predictor.

    Raises:
        FileNotFoundError: No such folder, no model or no ``tokens.json`` in it.
        ValueError: As ``language_model``.

    Example:
        >>> net = load_sequence_model("street_grid_6x6", world)  # doctest: +SKIP
    """
    where = Path(folder).expanduser()
    if where.is_dir() and not (where / TOKENS_FILE).exists():
        msg = (
            f"{where.name} holds no {TOKENS_FILE}, which gives the id of every word; load the "
            "model with load_model and pass language_model(model, world, vocabulary)."
        )
        raise FileNotFoundError(msg)
    model = load_model(str(where), device=device)
    return language_model(model, world, name=name)


def _called(model: Any) -> str:
    source = source_of(model)
    return source.name if source else model_name(model)
