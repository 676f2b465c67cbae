"""Results: one labelled dataset and its provenance, saved as netCDF."""

from mechprobe.results.base import Result as Result
from mechprobe.results.lens import LensResult as LensResult
from mechprobe.results.load import load_result as load_result
from mechprobe.results.vocabulary import Expressibility as Expressibility
from mechprobe.results.vocabulary import VocabularyNeighbors as VocabularyNeighbors
