"""mechprobe: where in a transformer is the answer?

Three probes over one TransformerLens model: ``logit_lens`` (what would it say after each layer),
query-key alignment of attention heads, and world-model tests. Importing this package loads neither
torch nor TransformerLens; the names below do, when they are first used.
"""

from typing import TYPE_CHECKING

from mechprobe._lazy import lazy

if TYPE_CHECKING:
    from mechprobe import tasks as tasks
    from mechprobe import worlds as worlds
    from mechprobe.heads import ablate_heads as ablate_heads
    from mechprobe.heads import describe_heads as describe_heads
    from mechprobe.heads import difficulty as difficulty
    from mechprobe.heads import option_robustness as option_robustness
    from mechprobe.heads import qk_scores as qk_scores
    from mechprobe.heads import steer_heads as steer_heads
    from mechprobe.heads import transfer as transfer
    from mechprobe.heads.head_scores import HeadScores as HeadScores
    from mechprobe.heads.selection import HeadSelection as HeadSelection
    from mechprobe.lens import Compute as Compute
    from mechprobe.lens import expressible as expressible
    from mechprobe.lens import generate_with_lens as generate_with_lens
    from mechprobe.lens import logit_lens as logit_lens
    from mechprobe.lens import vocabulary_neighbors as vocabulary_neighbors
    from mechprobe.lens.results import LensResult as LensResult
    from mechprobe.models import chat_prompt as chat_prompt
    from mechprobe.models import check_model as check_model
    from mechprobe.models import load_model as load_model
    from mechprobe.report import write_report as write_report
    from mechprobe.results import Result as Result
    from mechprobe.saved import load_result as load_result
    from mechprobe.worlds import detours as detours
    from mechprobe.worlds import evaluate_world_model as evaluate_world_model
    from mechprobe.worlds import patch_states as patch_states
    from mechprobe.worlds import probe_states as probe_states
    from mechprobe.worlds import reconstruct_map as reconstruct_map
    from mechprobe.worlds import train_sequence_model as train_sequence_model
    from mechprobe.worlds import world_by_layer as world_by_layer
    from mechprobe.worlds.metrics.results import WorldModelResult as WorldModelResult

__version__ = "0.1.0"

_HOMES = {
    "Compute": "mechprobe.lens",
    "HeadScores": "mechprobe.heads.head_scores",
    "HeadSelection": "mechprobe.heads.selection",
    "LensResult": "mechprobe.lens.results",
    "Result": "mechprobe.results",
    "WorldModelResult": "mechprobe.worlds.metrics.results",
    "ablate_heads": "mechprobe.heads",
    "chat_prompt": "mechprobe.models",
    "check_model": "mechprobe.models",
    "describe_heads": "mechprobe.heads",
    "detours": "mechprobe.worlds",
    "difficulty": "mechprobe.heads",
    "evaluate_world_model": "mechprobe.worlds",
    "expressible": "mechprobe.lens",
    "generate_with_lens": "mechprobe.lens",
    "load_model": "mechprobe.models",
    "load_result": "mechprobe.saved",
    "logit_lens": "mechprobe.lens",
    "option_robustness": "mechprobe.heads",
    "patch_states": "mechprobe.worlds",
    "probe_states": "mechprobe.worlds",
    "qk_scores": "mechprobe.heads",
    "reconstruct_map": "mechprobe.worlds",
    "steer_heads": "mechprobe.heads",
    "train_sequence_model": "mechprobe.worlds",
    "transfer": "mechprobe.heads",
    "vocabulary_neighbors": "mechprobe.lens",
    "world_by_layer": "mechprobe.worlds",
    "write_report": "mechprobe.report",
    "tasks": "",
    "worlds": "",
}
__all__ = [*_HOMES, "__version__"]
__getattr__, __dir__ = lazy(__name__, _HOMES)
