"""QK-scores at one size of one axis. Runs inside a worker process only."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from mechprobe.bench.contender import Contender
from mechprobe.bench.heads_contenders import Mechprobe
from mechprobe.models import load_model
from mechprobe.models.packaged import NAME, packaged_model

_PER_LAYER, _D_HEAD = 8, 64


class Prompts(Mechprobe):
    """More and more prompts of one length."""

    def draw(self, work: str, file: Path) -> None:
        """Write the questions."""
        super().draw(f"{work}x200", file)


class Heads(Mechprobe):
    """The same prompts in random models of more and more layers of 8 heads."""

    def __init__(self, model: str) -> None:
        self.source = packaged_model()[0] if model == NAME else Path(model)

    def draw(self, work: str, file: Path) -> None:
        """Make the model, with the tokenizer of the one that was named, and write the questions."""
        folder = file.parent / f"{work} heads"
        _save_random(self.source, int(work) // _PER_LAYER, folder)
        self.model: Any = load_model(folder)
        super().draw("4x200", file)


def _save_random(source: Path, n_layers: int, folder: Path) -> None:
    from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

    tokenizer: Any = AutoTokenizer.from_pretrained(source)
    width = _PER_LAYER * _D_HEAD
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=width, intermediate_size=width,
        num_hidden_layers=n_layers, num_attention_heads=_PER_LAYER, max_position_embeddings=4096,
        tie_word_embeddings=True,
    )  # fmt: skip
    torch.manual_seed(0)
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


CONTENDERS: dict[str, Callable[[str], Contender]] = {
    "heads/prompts": Prompts,
    "heads/heads": Heads,
}
