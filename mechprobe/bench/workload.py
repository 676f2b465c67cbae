"""What is measured: fixed seeded token ids, every layer, every position."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

TOP_K = 10
SEED = 0
_SHAPE = re.compile(r"([1-9]\d*)x([1-9]\d*)")
_WORLD = re.compile(r"(compression|distinction):([1-9]\d*)x([1-9]\d*)")
_GENERATION = re.compile(r"([1-9]\d*)\+([1-9]\d*)")
# Prompts of heads come in pairs (every theory is asked about twice) and in one length.
_HEADS = re.compile(r"(\d*[02468])x200(?:\+([1-9]\d*))?")

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


@dataclass(frozen=True, slots=True)
class Workload:
    """Prompts of equal length, so that no contender pads.

    Attributes:
        name: ``"8x256"``: prompts x tokens.
        prompts: How many prompts.
        tokens: Tokens of each.
    """

    name: str
    prompts: int
    tokens: int

    def draw(self, d_vocab: int, tokenizer: Any) -> npt.NDArray[np.int64]:
        """Return ids ``[prompt, token]``, one more per prompt than is read: the last target.

        Args:
            d_vocab: Without a tokenizer, ids are drawn evenly from ``0..d_vocab - 1``.
            tokenizer: The model's, or None.
        """
        rng = np.random.default_rng(SEED)
        if tokenizer is None:
            return rng.integers(0, d_vocab, (self.prompts, self.tokens + 1))
        rows = [self._text(rng, tokenizer) for _ in range(self.prompts)]
        return np.array(rows, dtype=np.int64)

    def _text(self, rng: np.random.Generator, tokenizer: Any) -> list[int]:
        ids: list[int] = []
        while len(ids) <= self.tokens:
            order = rng.permutation(len(_SENTENCES)).tolist()
            text = "".join(f" {_SENTENCES[i]}" for i in order)
            ids += tokenizer(text, add_special_tokens=False)["input_ids"]
        return ids[: self.tokens + 1]


def save_ids(file: Path, drawn: npt.NDArray[np.int64]) -> None:
    """Write what ``Workload.draw`` gave."""
    # Into an open file: to a name numpy adds its own ending.
    with file.open("wb") as out:
        np.save(out, drawn)


def read_ids(file: Path) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Return prompt ids and the id that follows each of them, ``[prompt, pos]`` both."""
    drawn: npt.NDArray[np.int64] = np.load(file)
    return drawn[:, :-1].copy(), drawn[:, 1:].copy()


def lens_workload(name: str) -> Workload:
    """Return the workload called ``name``.

    Raises:
        ValueError: It is not ``"<prompts>x<tokens>"``.
    """
    shape = _SHAPE.fullmatch(name)
    if shape is None:
        msg = f"workload {name!r} is not '<prompts>x<tokens>' (two positive integers), as '8x256'."
        raise ValueError(msg)
    return Workload(name, int(shape[1]), int(shape[2]))


def generation_workload(name: str) -> tuple[Workload, int]:
    """Return the prompt, and how many tokens follow it, of the workload called ``name``.

    Raises:
        ValueError: It is not ``"<tokens>+<tokens generated>"``.
    """
    shape = _GENERATION.fullmatch(name)
    if shape is None:
        msg = f"workload {name!r} is not '<tokens>+<tokens generated>' (two positive integers), as '128+32'."
        raise ValueError(msg)
    return Workload(name, 1, int(shape[1])), int(shape[2])


@dataclass(frozen=True, slots=True)
class HeadsWorkload:
    """Questions about theories.

    Attributes:
        prompts: How many prompts, an even number.
        shots: Worked examples that every prompt begins with, the same for all.
    """

    prompts: int
    shots: int


def heads_workload(name: str) -> HeadsWorkload:
    """Return the workload of heads called ``name``.

    Raises:
        ValueError: It is neither ``"<even number>x200"`` nor ``"<even number>x200+<shots>"``.
    """
    found = _HEADS.fullmatch(name)
    if found is None or not int(found[1]):
        msg = (
            f"workload {name!r}: heads are timed on '<even number>x200', or behind shared worked "
            "examples on '<even number>x200+<their number>'; choose '32x200' or '32x200+5'."
        )
        raise ValueError(msg)
    return HeadsWorkload(int(found[1]), int(found[2] or 0))


@dataclass(frozen=True, slots=True)
class WorldWorkload:
    """A metric, how many pairs and how many suffixes of each."""

    metric: str
    pairs: int
    suffixes: int


def world_workload(name: str) -> WorldWorkload:
    """Return the workload called ``name``.

    Raises:
        ValueError: It is not ``"compression:100x30"`` or ``"distinction:100x30"``.
    """
    found = _WORLD.fullmatch(name)
    if found is None:
        msg = f"workload {name!r} is not '<compression or distinction>:<pairs>x<suffixes>'."
        raise ValueError(msg)
    return WorldWorkload(found[1], int(found[2]), int(found[3]))
