"""Read any saved result back as the class that wrote it."""

from pathlib import Path

from mechprobe.results.base import Result, read
from mechprobe.results.heads import HeadScores
from mechprobe.results.heads_causal import HeadAblation, HeadSteering
from mechprobe.results.heads_difficulty import Difficulty
from mechprobe.results.heads_selection import HeadSelection
from mechprobe.results.heads_traits import HeadTraits
from mechprobe.results.heads_transfer import Transfer
from mechprobe.results.lens import LensResult
from mechprobe.results.options import OptionRobustness
from mechprobe.results.vocabulary import Expressibility, VocabularyNeighbors
from mechprobe.results.world_detours import Detours
from mechprobe.results.world_layers import StatePatching, WorldByLayer
from mechprobe.results.world_map import MapReconstruction
from mechprobe.results.world_probes import StateProbes
from mechprobe.results.world_puzzles import SeatingPuzzles
from mechprobe.results.world_training import SequenceTraining
from mechprobe.results.worlds import WorldModelResult

_CLASSES: tuple[type[Result], ...] = (
    LensResult,
    VocabularyNeighbors,
    Expressibility,
    HeadScores,
    HeadSelection,
    Transfer,
    Difficulty,
    HeadAblation,
    HeadSteering,
    HeadTraits,
    OptionRobustness,
    SequenceTraining,
    Detours,
    MapReconstruction,
    StateProbes,
    SeatingPuzzles,
    WorldModelResult,
    WorldByLayer,
    StatePatching,
)


def load_result(path: str | Path) -> Result:
    """Read a file that ``Result.save`` wrote.

    Args:
        path: The netCDF file.

    Returns:
        The result, of the class that was saved, with identical data and provenance.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It is not a result of mechprobe, or one of a kind or version unknown here.
    """
    schema, data, provenance = read(path)
    for cls in _CLASSES:
        if schema == cls.schema():
            return cls(data, provenance)
    known = ", ".join(cls.schema() for cls in _CLASSES)
    msg = f"{path} has schema {schema!r}; this version of mechprobe reads {known}."
    raise ValueError(msg)
