"""Statistics on trial: what intervals, p-values and controls promise, simulated with known truth."""

from mechprobe.study.row import PARTS as PARTS
from mechprobe.study.row import Promise as Promise
from mechprobe.study.row import Row as Row
from mechprobe.study.statistics import StudyReport as StudyReport
from mechprobe.study.statistics import study_rows as study_rows
from mechprobe.study.statistics import study_statistics as study_statistics
