"""Work x machine -> the least time that the roofs allow, and a prediction for each operation.

One formula, `roof_seconds`: a run's frame takes it for `bound_ms`, figures and widgets for what they predict.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeVar

import blockskip as bs
import numpy as np

from skiplab.machine.machine import Machine
from skiplab.workload import DecodeWorkload, LinearWorkload, Workload

Numbers = TypeVar("Numbers", float, np.ndarray)


@dataclass(frozen=True)
class Bound:
    """The least time in seconds, and which roof sets it: `memory` or `compute`."""

    seconds: float
    limited_by: str


@dataclass(frozen=True)
class Prediction:
    """A time in seconds that no one measured; `source` says for which machine."""

    seconds: float
    limited_by: str
    source: str


def roof_seconds(flops: Numbers, moved_bytes: Numbers, machine: Machine) -> tuple[Numbers, Numbers]:
    """FLOPs / rate and bytes / bandwidth, the least seconds that compute and memory take; of numbers or of arrays."""
    return flops / (machine.tflops * 1e12), moved_bytes / (machine.bandwidth_gbps * 1e9)


def bound_of(flops: float, moved_bytes: float, machine: Machine) -> Bound:
    """The longer of the two."""
    compute, memory = roof_seconds(flops, moved_bytes, machine)
    return Bound(max(compute, memory), "compute" if compute >= memory else "memory")


def bound(work: bs.Work, machine: Machine) -> Bound:
    """No implementation is faster than this: the useful FLOPs at the full rate, the bytes at the full bandwidth."""
    return bound_of(work.useful_flops, work.bytes, machine)


def predict(workload: Workload, skip: str, machine: Machine, block_m: int = 128, block_n: int = 64) -> Prediction:
    """The time of a kernel that reaches the roofs on what its skip mode executes and moves: optimistic, on purpose.

    It leaves out launches, tails of the grid and what softmax costs beside the products; figures that show it say so.
    """
    work = workload.work(skip, block_m, block_n)
    return _prediction(bound_of(work.executed_flops, work.bytes, machine), machine)


def predict_decode(workload: DecodeWorkload, machine: Machine, splits: int | None = None) -> Prediction:
    """The time of a decode step that reaches the roofs; `splits`: what so many shares write and read is counted too."""
    return _prediction(bound(workload.work(splits or 1), machine), machine)


def predict_linear(workload: LinearWorkload, machine: Machine) -> Prediction:
    """The time of a quantised linear layer that reaches the roofs on the packed weight, activations and output."""
    return _prediction(bound(workload.work(), machine), machine)


def _prediction(least: Bound, machine: Machine) -> Prediction:
    return Prediction(least.seconds, least.limited_by, f"predicted for {machine.name}")
