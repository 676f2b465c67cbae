"""Models to look into: one that keeps all it knows at the last word, and random ones."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers as tf

WORDS = tuple("abcdefghijkl")
EPSILON = 0.01


def save_bigram(folder: Path, n_layers: int = 3) -> Path:
    """Write a GPT-2 whose attention adds nothing and whose positions are all alike.

    All that it knows of a sequence, in every layer, stands at its last word.
    """
    torch.manual_seed(1)
    config = tf.GPT2Config(
        vocab_size=len(WORDS), n_embd=32, n_layer=n_layers, n_head=4, n_positions=64,
        bos_token_id=0, eos_token_id=0, tie_word_embeddings=False,
    )  # fmt: skip
    model: Any = tf.GPT2LMHeadModel(config)
    with torch.no_grad():
        model.transformer.wpe.weight.zero_()
        for block in model.transformer.h:
            block.attn.c_proj.weight.zero_()
            block.attn.c_proj.bias.zero_()
            block.mlp.c_fc.weight.mul_(20)
            block.mlp.c_proj.weight.mul_(20)
        model.lm_head.weight.mul_(40)
    model.save_pretrained(folder)
    return folder


def bigram(folder: Path) -> tuple[Any, Any]:
    """Return such a model and its world: after a word comes what the model accepts after it."""
    from mechprobe.models import load_model
    from mechprobe.worlds import Automaton, language_model

    model = load_model(save_bigram(folder), device="cpu")
    with torch.no_grad():
        logits = model.original_model(torch.arange(len(WORDS))[:, None]).logits[:, -1]
    probs = logits.double().softmax(-1).numpy()
    allowed = {w: {v: v for v, p in zip(WORDS, row, strict=True) if p > EPSILON}
               for w, row in zip(WORDS, probs, strict=True)}  # fmt: skip
    assert np.abs(np.log(probs / EPSILON)).min() > 1e-3, "no word lies on the threshold"
    begin = {"begin": {w: w for w in WORDS}}
    world = Automaton({**begin, **allowed}, max_length=20, name="bigrams")
    vocabulary = {w: i for i, w in enumerate(WORDS)}
    return language_model(model, world, vocabulary, name="bigram"), world


def dyck_net(tiny: Callable[..., Any], architecture: str, **options: Any) -> Any:
    """Return a tiny random model as a predictor of brackets, its ids in another order."""
    from mechprobe.worlds import Dyck, language_model

    world = Dyck(8, 3, max_length=40)
    words = {word: 200 - 7 * i for i, word in enumerate(world.tokens)}
    return language_model(tiny(architecture), world, words, **options)
