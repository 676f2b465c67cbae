"""Measure mechprobe against its peers and against what the machine allows, in one run.

Ratios within one run mean something; seconds alone belong to one machine on one day.
"""

from mechprobe.bench.kinds import KINDS as KINDS
from mechprobe.bench.kinds import run_bench as run_bench
from mechprobe.bench.report import BenchReport as BenchReport
from mechprobe.bench.report import BenchRow as BenchRow
