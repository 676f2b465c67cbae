"""Which attention head knows the answer: query-key alignment, and whether it is real."""

from typing import TYPE_CHECKING

from mechprobe._lazy import lazy

if TYPE_CHECKING:
    from mechprobe.heads.ablate import ablate_heads as ablate_heads
    from mechprobe.heads.across_tasks import transfer as transfer
    from mechprobe.heads.grid import difficulty as difficulty
    from mechprobe.heads.options import option_robustness as option_robustness
    from mechprobe.heads.scores import qk_scores as qk_scores
    from mechprobe.heads.steer import steer_heads as steer_heads
    from mechprobe.heads.traits import describe_heads as describe_heads

_HOMES = {
    "ablate_heads": "mechprobe.heads.ablate",
    "describe_heads": "mechprobe.heads.traits",
    "difficulty": "mechprobe.heads.grid",
    "option_robustness": "mechprobe.heads.options",
    "qk_scores": "mechprobe.heads.scores",
    "steer_heads": "mechprobe.heads.steer",
    "transfer": "mechprobe.heads.across_tasks",
}
__getattr__, __dir__ = lazy(__name__, _HOMES)
