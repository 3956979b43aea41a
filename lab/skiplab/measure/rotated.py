"""Timing calls that are functions of their arguments: in turn on copies of them, in memory of their own."""

from __future__ import annotations

from collections.abc import Sequence

from skiplab.measure.rotation import rotate
from skiplab.measure.timing import Built, Rotated, TimeLimits, Timing, time_together


def timed(several: Sequence[Built], device: str, limits: TimeLimits) -> tuple[Timing, ...]:
    """The timings of what contenders built for one workload, their samples taken in turn."""
    among = len(several)
    calls = [Rotated(one.call, rotate(one.arguments, device, one.read, among), one.read) for one in several]
    return time_together(calls, device, limits)
