"""Which attention head knows the answer: query-key alignment, and whether it is real."""

from typing import TYPE_CHECKING

from mechprobe._lazy import lazy

if TYPE_CHECKING:
    from mechprobe.heads.ablate import ablate_heads as ablate_heads
    from mechprobe.heads.across_tasks import Transfer as Transfer
    from mechprobe.heads.across_tasks import transfer as transfer
    from mechprobe.heads.by_difficulty import Difficulty as Difficulty
    from mechprobe.heads.by_difficulty import difficulty_of as difficulty_of
    from mechprobe.heads.grid import difficulty as difficulty
    from mechprobe.heads.head_scores import HeadScores as HeadScores
    from mechprobe.heads.interventions import HeadAblation as HeadAblation
    from mechprobe.heads.interventions import HeadSteering as HeadSteering
    from mechprobe.heads.options import option_robustness as option_robustness
    from mechprobe.heads.results import HeadTraits as HeadTraits
    from mechprobe.heads.results import OptionRobustness as OptionRobustness
    from mechprobe.heads.scores import qk_scores as qk_scores
    from mechprobe.heads.selection import HeadSelection as HeadSelection
    from mechprobe.heads.steer import steer_heads as steer_heads
    from mechprobe.heads.traits import describe_heads as describe_heads

_HOMES = {
    "Difficulty": "mechprobe.heads.by_difficulty",
    "HeadAblation": "mechprobe.heads.interventions",
    "HeadScores": "mechprobe.heads.head_scores",
    "HeadSelection": "mechprobe.heads.selection",
    "HeadSteering": "mechprobe.heads.interventions",
    "HeadTraits": "mechprobe.heads.results",
    "OptionRobustness": "mechprobe.heads.results",
    "Transfer": "mechprobe.heads.across_tasks",
    "ablate_heads": "mechprobe.heads.ablate",
    "describe_heads": "mechprobe.heads.traits",
    "difficulty": "mechprobe.heads.grid",
    "difficulty_of": "mechprobe.heads.by_difficulty",
    "option_robustness": "mechprobe.heads.options",
    "qk_scores": "mechprobe.heads.scores",
    "steer_heads": "mechprobe.heads.steer",
    "transfer": "mechprobe.heads.across_tasks",
}
__getattr__, __dir__ = lazy(__name__, _HOMES)
