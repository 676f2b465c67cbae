"""What a contender is, whatever is benchmarked."""

from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy.typing as npt

Arrays = dict[str, npt.NDArray[Any]]


class AbsentError(Exception):
    """A contender cannot run here; the message says why."""


class Contender(Protocol):
    """One way to do the work, loaded and ready."""

    outputs: str
    model: Any

    def take(self, file: Path) -> None:
        """Read the input that all contenders share."""

    def forward(self) -> None:
        """Run the model's body alone, no unembedding, in the batches that ``run`` forms."""

    def run(self) -> Any:
        """Do the work that is timed."""

    def arrays(self, result: Any) -> Arrays:
        """Return what ``run`` gave as arrays that can be compared; empty for floors."""

    def n_bytes(self, result: Any) -> int:
        """Return the size of what ``run`` gave."""


@runtime_checkable
class Draws(Protocol):
    """The contender that makes the input."""

    def draw(self, work: str, file: Path) -> None:
        """Write the input of a workload, for all contenders."""
