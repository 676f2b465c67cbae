"""Measure mechprobe against its peers and against what the machine allows, in one run.

Ratios within one run mean something; seconds alone belong to one machine on one day.
"""

from mechprobe.bench.generation_bench import run_generation_bench as run_generation_bench
from mechprobe.bench.growth import run_growth_bench as run_growth_bench
from mechprobe.bench.growth_report import GrowthReport as GrowthReport
from mechprobe.bench.growth_report import GrowthRow as GrowthRow
from mechprobe.bench.growth_report import Law as Law
from mechprobe.bench.heads_bench import run_heads_bench as run_heads_bench
from mechprobe.bench.lens_bench import run_lens_bench as run_lens_bench
from mechprobe.bench.report import BenchReport as BenchReport
from mechprobe.bench.report import BenchRow as BenchRow
from mechprobe.bench.world_bench import run_world_bench as run_world_bench
