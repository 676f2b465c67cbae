"""Results: one labelled dataset and its provenance, saved as netCDF."""

from mechprobe.results.base import Result as Result
from mechprobe.results.heads import HeadScores as HeadScores
from mechprobe.results.heads_causal import HeadAblation as HeadAblation
from mechprobe.results.heads_causal import HeadSteering as HeadSteering
from mechprobe.results.heads_causal import ablation_of as ablation_of
from mechprobe.results.heads_causal import steering_of as steering_of
from mechprobe.results.heads_difficulty import Difficulty as Difficulty
from mechprobe.results.heads_difficulty import difficulty_of as difficulty_of
from mechprobe.results.heads_selection import HeadSelection as HeadSelection
from mechprobe.results.heads_traits import HeadTraits as HeadTraits
from mechprobe.results.heads_transfer import Transfer as Transfer
from mechprobe.results.heads_transfer import transfer_of as transfer_of
from mechprobe.results.lens import LensResult as LensResult
from mechprobe.results.load import load_result as load_result
from mechprobe.results.options import OptionRobustness as OptionRobustness
from mechprobe.results.vocabulary import Expressibility as Expressibility
from mechprobe.results.vocabulary import VocabularyNeighbors as VocabularyNeighbors
from mechprobe.results.world_detours import Detours as Detours
from mechprobe.results.world_layers import StatePatching as StatePatching
from mechprobe.results.world_layers import WorldByLayer as WorldByLayer
from mechprobe.results.world_map import MapReconstruction as MapReconstruction
from mechprobe.results.world_probes import StateProbes as StateProbes
from mechprobe.results.world_puzzles import SeatingPuzzles as SeatingPuzzles
from mechprobe.results.world_training import SequenceTraining as SequenceTraining
from mechprobe.results.worlds import WorldModelResult as WorldModelResult
