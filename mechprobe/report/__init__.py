"""Saved results on one page that can be mailed, archived and opened without Python."""

from mechprobe.report.write import write_report as write_report
