"""Work x machine -> the least time that the roofs allow, and a prediction.

All use one formula, `roof_seconds`: `bound_ms` of a run's frame, and the predictions of figures and widgets.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypeVar

import blockskip as bs
import numpy as np

from skiplab.machine.machine import Machine
from skiplab.operations import OPERATIONS
from skiplab.workload import Problem

Numbers = TypeVar("Numbers", float, np.ndarray)


@dataclass(frozen=True)
class Bound:
    """The least time in seconds, and which roof sets it: `memory` or `compute`."""

    seconds: float
    limited_by: str


@dataclass(frozen=True)
class Prediction:
    """A predicted time in seconds; `source` says for which machine."""

    seconds: float
    limited_by: str
    source: str


def roof_seconds(flops: Numbers, moved_bytes: Numbers, machine: Machine) -> tuple[Numbers, Numbers]:
    """The least seconds of compute and of memory, FLOPs / rate and bytes / bandwidth; for numbers or arrays."""
    return flops / (machine.tflops * 1e12), moved_bytes / (machine.bandwidth_gbps * 1e9)


def bound_of(flops: float, moved_bytes: float, machine: Machine) -> Bound:
    """The longer of the two times, as a Bound."""
    compute, memory = roof_seconds(flops, moved_bytes, machine)
    return Bound(max(compute, memory), "compute" if compute >= memory else "memory")


def bound(work: bs.Work, machine: Machine) -> Bound:
    """No implementation is faster than this: the useful FLOPs at the full rate, the bytes at the full bandwidth."""
    return bound_of(work.useful_flops, work.bytes, machine)


def predicted_parts(workload: Problem, machine: Machine, **how: Any) -> dict[str, Bound]:
    """The time at the roofs of each part of a call that runs after the one before; how: as in `predict`."""
    flops = OPERATIONS[workload.operation].predicted_flops
    return {name: bound_of(getattr(work, flops), work.bytes, machine) for name, work in workload.parts(**how).items()}


def predict(workload: Problem, machine: Machine, **how: Any) -> Prediction:
    """The time of a call that reaches the roofs on what it executes and moves: optimistic, on purpose.

    how: what the workload's `work` takes, such as `skip` of attention, or `splits` of decode, whose shares are written
    and read too. Of a call of several parts the times are added, and the longest says which roof limits it. It leaves
    out launches, tails of the grid and what softmax costs beside the products; figures that show it say so.
    """
    parts = predicted_parts(workload, machine, **how).values()
    longest = max(parts, key=lambda part: part.seconds)
    return Prediction(sum(part.seconds for part in parts), longest.limited_by, f"predicted for {machine.name}")
