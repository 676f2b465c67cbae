"""The lens at one size of one axis. Runs inside a worker process only."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from mechprobe.bench.contender import AbsentError, Arrays, Contender
from mechprobe.bench.lens_contenders import Mechprobe
from mechprobe.bench.workload import TOP_K
from mechprobe.kernels.readout import Readout, readout
from mechprobe.lens import logit_lens

# Of the embedded model: what is read where only the vocabulary grows.
_ENTRIES, _ROWS, _D_MODEL = 31, 128, 576


class Tokens(Mechprobe):
    """One prompt, longer and longer."""

    def draw(self, work: str, file: Path) -> None:
        """Write the ids of the prompt."""
        super().draw(f"1x{work}", file)


class Prompts(Mechprobe):
    """More and more prompts of one length."""

    def draw(self, work: str, file: Path) -> None:
        """Write the ids of the prompts."""
        super().draw(f"{work}x64", file)


class Layers(Mechprobe):
    """One prompt, read after more and more layers, from the last one down."""

    def draw(self, work: str, file: Path) -> None:
        """Write the ids of the prompt."""
        last = int(self.model.cfg.n_layers) - 1
        self.layers = list(range(last + 1 - int(work), last + 1))
        if self.layers[0] < -1:
            msg = f"the model has {last + 2} layers to read, the embedding included"
            raise AbsentError(msg)
        super().draw("1x128", file)

    def run(self) -> Any:
        """Call the lens."""
        return logit_lens(
            self.model, self.ids, positions=None, layers=self.layers, top_k=TOP_K,
            targets=self.targets, progress=False,
        )  # fmt: skip


class Vocabulary:
    """The kernel alone, random rows and weights: no model has so many vocabularies."""

    outputs = "top-10, entropy, KL, rank and log-prob of target, as tensors"
    rows: Float[Tensor, "entry row d_model"]
    W_U: Float[Tensor, "d_model d_vocab"]

    def __init__(self, model: str) -> None:  # noqa: ARG002
        self.model: Any = torch.nn.Identity()

    def draw(self, work: str, file: Path) -> None:  # noqa: ARG002
        """Draw rows, weights and targets."""
        generator = torch.Generator().manual_seed(0)
        self.rows = torch.randn(_ENTRIES, _ROWS, _D_MODEL, generator=generator)
        self.W_U = torch.randn(_D_MODEL, int(work), generator=generator) / _D_MODEL**0.5
        self.targets = torch.randint(int(work), (_ROWS, 1), generator=generator)

    def take(self, file: Path) -> None:
        """Everything is there already."""

    def forward(self) -> None:
        """Do nothing: there is no model."""

    def run(self) -> Readout:
        """Read the rows."""
        return readout(self.rows, self.W_U, k=TOP_K, targets=self.targets)

    def arrays(self, result: Readout) -> Arrays:
        """Return what is cheap to check."""
        return {"entropy": result.entropy.numpy()}

    def n_bytes(self, result: Readout) -> int:
        """Return the size of the readout."""
        return sum(getattr(result, name).nbytes for name in result.__dataclass_fields__)


CONTENDERS: dict[str, Callable[[str], Contender]] = {
    "lens/tokens": Tokens,
    "lens/prompts": Prompts,
    "lens/layers": Layers,
    "lens/vocabulary": Vocabulary,
}
