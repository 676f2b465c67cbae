"""Statistics of choosing the best of many heads: intervals, nulls, permutations."""

from mechprobe.stats.choice import METHODS as METHODS
from mechprobe.stats.choice import Method as Method
from mechprobe.stats.choice import predict as predict
from mechprobe.stats.crossed import crossed_interval as crossed_interval
from mechprobe.stats.decisions import accuracy as accuracy
from mechprobe.stats.decisions import centred as centred
from mechprobe.stats.decisions import decisions as decisions
from mechprobe.stats.decisions import readings as readings
from mechprobe.stats.intervals import Interval as Interval
from mechprobe.stats.intervals import accuracy_interval as accuracy_interval
from mechprobe.stats.intervals import difference_interval as difference_interval
from mechprobe.stats.intervals import grouped_bootstrap as grouped_bootstrap
from mechprobe.stats.intervals import wilson_interval as wilson_interval
from mechprobe.stats.nulls import best_by_chance_quantile as best_by_chance_quantile
from mechprobe.stats.nulls import discoveries as discoveries
from mechprobe.stats.nulls import expected_best_by_chance as expected_best_by_chance
from mechprobe.stats.selection import Selected as Selected
from mechprobe.stats.selection import choose_heads as choose_heads
from mechprobe.stats.selection import select_heads as select_heads
from mechprobe.stats.split import Calibration as Calibration
from mechprobe.stats.split import Split as Split
from mechprobe.stats.split import split_groups as split_groups
