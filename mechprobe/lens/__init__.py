"""The lens: what the model would say after every layer, and what it could say at all."""

from typing import TYPE_CHECKING

from mechprobe._lazy import lazy

if TYPE_CHECKING:
    from mechprobe.lens.compute import Compute as Compute
    from mechprobe.lens.generate import generate_with_lens as generate_with_lens
    from mechprobe.lens.lens import logit_lens as logit_lens
    from mechprobe.lens.results import Expressibility as Expressibility
    from mechprobe.lens.results import LensResult as LensResult
    from mechprobe.lens.results import VocabularyNeighbors as VocabularyNeighbors
    from mechprobe.lens.vocabulary import expressible as expressible
    from mechprobe.lens.vocabulary import vocabulary_neighbors as vocabulary_neighbors

_HOMES = {
    "Compute": "mechprobe.lens.compute",
    "Expressibility": "mechprobe.lens.results",
    "LensResult": "mechprobe.lens.results",
    "VocabularyNeighbors": "mechprobe.lens.results",
    "expressible": "mechprobe.lens.vocabulary",
    "generate_with_lens": "mechprobe.lens.generate",
    "logit_lens": "mechprobe.lens.lens",
    "vocabulary_neighbors": "mechprobe.lens.vocabulary",
}
__getattr__, __dir__ = lazy(__name__, _HOMES)
