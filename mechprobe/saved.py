"""Read any saved result back as the class that wrote it."""

from importlib import import_module
from pathlib import Path

from mechprobe.results.base import Result, read

_HOMES = {
    "mechprobe.lens.results": ("LensResult", "VocabularyNeighbors", "Expressibility"),
    "mechprobe.heads.head_scores": ("HeadScores",),
    "mechprobe.heads.selection": ("HeadSelection",),
    "mechprobe.heads.across_tasks": ("Transfer",),
    "mechprobe.heads.by_difficulty": ("Difficulty",),
    "mechprobe.heads.interventions": ("HeadAblation", "HeadSteering"),
    "mechprobe.heads.results": ("HeadTraits", "OptionRobustness"),
    "mechprobe.worlds.metrics.results": ("WorldModelResult", "WorldByLayer"),
    "mechprobe.worlds.streets.results": ("Detours", "MapReconstruction"),
    "mechprobe.worlds.inside.results": ("StateProbes", "StatePatching"),
    "mechprobe.worlds.puzzles.results": ("SeatingPuzzles",),
    "mechprobe.worlds.training.results": ("SequenceTraining",),
}


def result_classes() -> list[type[Result]]:
    """Return every class of results that a file may hold; none of them loads torch or plotly."""
    return [getattr(import_module(home), name) for home, names in _HOMES.items() for name in names]


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
    classes = result_classes()
    for cls in classes:
        if schema == cls.schema():
            return cls(data, provenance)
    known = ", ".join(cls.schema() for cls in classes)
    msg = f"{path} has schema {schema!r}; this version of mechprobe reads {known}."
    raise ValueError(msg)
