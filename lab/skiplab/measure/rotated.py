"""Timing a call that is a function of its arguments: calls in turn on copies of them, in memory of their own."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from skiplab.contenders.base import Solver
from skiplab.measure.rotation import rotate
from skiplab.measure.timing import TimeLimits, Timing, time_callable
from skiplab.workload import Problem


def timed(
    call: Solver, workload: Problem, arguments: Sequence[Any], device: str, read: int | None, limits: TimeLimits
) -> Timing:
    """read: the bytes of its arguments that a call reads; None for all of them."""
    return time_callable(
        call, rotate(arguments, device, read), device, read=read, budget_s=limits.budget_s, retries=limits.retries,
        cancelled=limits.cancelled,
    )  # fmt: skip
