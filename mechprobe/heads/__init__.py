"""Which attention head knows the answer: query-key alignment, and whether it is real."""

from mechprobe.heads.ablate import ablate_heads as ablate_heads
from mechprobe.heads.difficulty import difficulty as difficulty
from mechprobe.heads.options import option_robustness as option_robustness
from mechprobe.heads.scores import qk_scores as qk_scores
from mechprobe.heads.steer import steer_heads as steer_heads
from mechprobe.heads.traits import describe_heads as describe_heads
from mechprobe.results import transfer_of as transfer  # noqa: F401
