"""What is measured: fixed seeded token ids, every layer, every position."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

TOP_K = 10
SEED = 0


@dataclass(frozen=True, slots=True)
class Shape:
    """How the workloads of a benchmark are named.

    Attributes:
        pattern: Of a name, as a regular expression; each group is one of its sizes.
        form: The same for people.
    """

    pattern: str
    form: str

    def read(self, name: str) -> tuple[int, ...]:
        """Return the sizes in a name; of a size that is left out, 0.

        Raises:
            ValueError: The name has another form.
        """
        found = re.fullmatch(self.pattern, name)
        if found is None:
            msg = f"workload {name!r} is not {self.form}."
            raise ValueError(msg)
        return tuple(int(size or 0) for size in found.groups())


LENS = Shape(r"([1-9]\d*)x([1-9]\d*)", "'<prompts>x<tokens>' (two positive integers), as '8x256'")
GENERATION = Shape(
    r"([1-9]\d*)\+([1-9]\d*)", "'<tokens>+<tokens generated>' (two positive integers), as '128+32'"
)
# Prompts of heads come in pairs (every theory is asked about twice) and in one length.
HEADS = Shape(
    r"([1-9]\d*[02468]|[2468])x200(?:\+([1-9]\d*))?",
    "'<even number>x200', or behind shared worked examples '<even number>x200+<their number>', as '32x200+5'",
)
WORLD = Shape(
    r"(?:compression|distinction):([1-9]\d*)x([1-9]\d*)",
    "'<compression or distinction>:<pairs>x<suffixes>', as 'compression:100x30'",
)

# Plain English, shuffled by sentence. Ids drawn at random would do for times, not for comparing
# ranks: a random next token lies among the 25,000 least likely ones, where a third of all cells
# have another id within 1e-4, and float32 itself misses 0.9 % of the exact ranks (text: 0.2 %).
_SENTENCES = (
    "The harbour was quiet when the first boats came in with the morning tide.",
    "She had counted eleven of them before the fog closed over the water again.",
    "In 1869 the railway reached the coast, and within ten years the village was a town.",
    "Water boils at a lower temperature in the mountains because the air is thinner there.",
    "Nobody could say who had left the letter on the kitchen table, or why it was not signed.",
    "To make the dough, mix the flour with salt, add warm water and knead it for ten minutes.",
    "The capital of France is Paris, and the capital of Italy is Rome.",
    "If every cat is an animal and Tom is a cat, then Tom is an animal.",
    "Prices rose by three percent last year, while wages stayed almost where they were.",
    "He opened the window, looked at the old lighthouse and laughed for the first time in weeks.",
    "A program that never stops is not always wrong; a server is meant to wait for its next call.",
    "Whales are mammals: they breathe air, feed their young with milk and keep their blood warm.",
    "The committee will meet on Tuesday at nine, or on Thursday if the chair is still away.",
    "Once there was a king who promised half of his land to whoever could tell him the truth.",
    "Light from the nearest star takes more than four years to arrive.",
    "They sold the house, the garden and the two apple trees, but they kept the piano.",
)


def draw_ids(prompts: int, tokens: int, d_vocab: int, tokenizer: Any) -> npt.NDArray[np.int64]:
    """Return ids ``[prompt, token]``, one more per prompt than is read: the last target.

    Args:
        prompts: How many prompts.
        tokens: Tokens of each, so that no contender pads.
        d_vocab: Without a tokenizer, ids are drawn evenly from ``0..d_vocab - 1``.
        tokenizer: The model's, or None.
    """
    rng = np.random.default_rng(SEED)
    if tokenizer is None:
        return rng.integers(0, d_vocab, (prompts, tokens + 1))
    return np.array([_text(rng, tokens, tokenizer) for _ in range(prompts)], dtype=np.int64)


def _text(rng: np.random.Generator, tokens: int, tokenizer: Any) -> list[int]:
    ids: list[int] = []
    while len(ids) <= tokens:
        order = rng.permutation(len(_SENTENCES)).tolist()
        text = "".join(f" {_SENTENCES[i]}" for i in order)
        ids += tokenizer(text, add_special_tokens=False)["input_ids"]
    return ids[: tokens + 1]


def save_ids(file: Path, drawn: npt.NDArray[np.int64]) -> None:
    """Write what ``draw_ids`` gave."""
    # Into an open file: to a name numpy adds its own ending.
    with file.open("wb") as out:
        np.save(out, drawn)


def read_ids(file: Path) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Return prompt ids and the id that follows each of them, ``[prompt, pos]`` both."""
    drawn: npt.NDArray[np.int64] = np.load(file)
    return drawn[:, :-1].copy(), drawn[:, 1:].copy()
