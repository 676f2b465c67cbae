"""What a contender is, whatever is benchmarked."""

from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy.typing as npt

Arrays = dict[str, npt.NDArray[Any]]


class AbsentError(Exception):
    """A contender cannot run here; the message says why."""


class Contender:
    """One way to do the work, loaded and ready; as it stands, one that gives nothing.

    Attributes:
        outputs: What it computes, for the table.
        model: Whose weights it reads.
        clock: Seconds, before and after.
    """

    outputs = "none"
    model: Any = None
    clock = staticmethod(perf_counter)

    def __init__(self, model: str) -> None:
        raise NotImplementedError(model)

    def draw(self, work: str, file: Path) -> None:
        """Write the input of a workload, for all contenders: mechprobe's alone does."""

    def take(self, file: Path) -> None:
        """Read the input that all contenders share."""
        raise NotImplementedError(file)

    def around(self) -> AbstractContextManager[Any]:
        """Return what is opened before the clock starts."""
        return nullcontext()

    def forward(self) -> None:
        """Run the model's body alone, no unembedding, in the batches that ``run`` forms."""
        raise NotImplementedError

    def run(self) -> Any:
        """Do the work that is timed; as it stands, the forward pass: a floor."""
        self.forward()

    def arrays(self, result: Any) -> Arrays:  # noqa: ARG002
        """Return what ``run`` gave as arrays that can be compared; empty for floors."""
        return {}

    def n_bytes(self, result: Any) -> int:  # noqa: ARG002
        """Return the size of what ``run`` gave."""
        return 0
