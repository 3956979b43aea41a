"""Runs of one operation on one device: each point over the runs that hold it, and its last time over its first."""

from skiplab.compare.comparison import FAILURES, Comparison, compare, together
from skiplab.compare.facts import differences
from skiplab.compare.interval import ratio_interval
from skiplab.compare.points import MARGIN, VERDICTS, Pair, TimedPoint, Unpaired

__all__ = [
    "FAILURES", "MARGIN", "VERDICTS", "Comparison", "Pair", "TimedPoint", "Unpaired", "compare", "differences",
    "ratio_interval", "together",
]  # fmt: skip
