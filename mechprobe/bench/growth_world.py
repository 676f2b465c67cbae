"""Street grids of one size, in CPU seconds of one thread. Runs inside a worker process only."""

from collections.abc import Callable
from math import isqrt
from pathlib import Path
from time import process_time
from typing import Any

import numpy as np
import torch

from mechprobe.bench.contender import Arrays, Contender
from mechprobe.worlds import StreetMap, boundary, evaluate_world_model, true_automaton
from mechprobe.worlds.metrics.pairs import draw_different
from mechprobe.worlds.streets.distances import hop_distances

_SEED = 0
_PAIRS, _DEPTH = 1000, 5
_METRIC_PAIRS = 100


class _Grid:
    """A plain grid: an irregular one takes longer to draw than anything here to run."""

    clock = staticmethod(process_time)
    outputs = ""

    def __init__(self, model: str) -> None:  # noqa: ARG002
        torch.set_num_threads(1)
        self.model: Any = torch.nn.Identity()

    def draw(self, work: str, file: Path) -> None:  # noqa: ARG002
        """Make the grid."""
        self.world = StreetMap.grid(isqrt(int(work)), longer=0.0, missing=0.0)

    def take(self, file: Path) -> None:
        """Everything is there already."""

    def forward(self) -> None:
        """Do what comes before the work; there is no model."""

    def run(self) -> Arrays:
        """Do the work that is timed."""
        raise NotImplementedError

    def arrays(self, result: Arrays) -> Arrays:
        """Return what ``run`` gave."""
        return result

    def n_bytes(self, result: Arrays) -> int:
        """Return the size of what ``run`` gave."""
        return sum(values.nbytes for values in result.values())


class Distances(_Grid):
    """The fewest streets between all crossings."""

    outputs = "fewest streets between any two crossings"

    def run(self) -> Arrays:
        """Search from all crossings at once."""
        return {"hops": hop_distances(self.world.table)}


class Boundaries(_Grid):
    """Exact boundaries of as many pairs of states in larger and larger worlds."""

    outputs = f"boundaries of {_PAIRS} pairs of states, words up to {_DEPTH}"

    def forward(self) -> None:
        """Draw the pairs."""
        rng = np.random.default_rng(_SEED)
        self.pairs = draw_different(self.world, _PAIRS, rng, published=False)

    def run(self) -> Arrays:
        """Tell the states of each pair apart."""
        apart = boundary(self.world, self.pairs.states1, self.pairs.states2, _DEPTH)
        return {"strings": apart.strings, "pair": apart.pair, "lengths": apart.lengths}


class Metrics(_Grid):
    """All metrics of a predictor that knows the map, on as many pairs."""

    outputs = f"all metrics of the true automaton, {_METRIC_PAIRS} pairs each"

    def forward(self) -> None:
        """Have the distances, which an axis of their own shows."""
        self.distances = self.world.distances

    def run(self) -> Arrays:
        """Call the public function."""
        found = evaluate_world_model(
            true_automaton(self.world), self.world, n=_METRIC_PAIRS, seed=_SEED, baselines=False,
            progress=False,
        )  # fmt: skip
        return {str(name): v.values for name, v in found.data.items() if v.dtype.kind in "biuf"}


CONTENDERS: dict[str, Callable[[str], Contender]] = {
    "world/distances": Distances,
    "world/boundaries": Boundaries,
    "world/metrics": Metrics,
}
