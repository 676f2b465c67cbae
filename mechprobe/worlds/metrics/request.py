"""What a call of the metrics asks for, checked before any model runs."""

from dataclasses import dataclass

import numpy as np

from mechprobe.worlds.automata.base import World
from mechprobe.worlds.metrics.pairs import Mode
from mechprobe.worlds.metrics.suffixes import Sampling
from mechprobe.worlds.predictors.acceptance import Acceptance, Epsilon
from mechprobe.worlds.predictors.network import LanguageModel
from mechprobe.worlds.predictors.predictor import Predictor

MODES: tuple[Mode, ...] = ("corrected", "vafa2024", "exact")
# Words of prefix and suffix together in the published code.
PUBLISHED_TOKENS = 128


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
        return Sampling(self.acceptance, samples, self.k, self.max_tokens, self.published, self.seed)

    def recorded(self, world: World) -> dict[str, object]:
        """Return what a record says of the settings that do not say so themselves."""
        return {"world": world.name, "acceptance": self.acceptance.label, "max_tokens": self.max_tokens}

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
        msg = f"acceptance must be Epsilon(0.01), TopK(k) or TopP(p); found {type(acceptance).__name__}."
        raise TypeError(msg)
    if known == "vafa2024" and not isinstance(acceptance, Epsilon):
        msg = f"mode='vafa2024' knows a threshold only; {acceptance.label} goes with 'corrected' and 'exact'."
        raise ValueError(msg)
    published = known == "vafa2024" and world.end is not None
    most = max_tokens or (PUBLISHED_TOKENS if published else world.max_length)
    return Request(n, suffixes, k, acceptance, known, most, seed)


def require_room(predictor: Predictor, request: Request) -> None:
    """Refuse a model whose context is too short, before anything runs.

    Raises:
        ValueError: It is.
    """
    if isinstance(predictor, LanguageModel):
        predictor.require_room(request.max_tokens - 1)
