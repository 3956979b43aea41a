"""A problem to solve: shapes, dtype and mask. Who solves it is a contender; how fast is a measurement.

Three operations, a file each: attention of a prompt (`Workload`), of a few new tokens over a cache (`DecodeWorkload`),
and a quantised linear layer (`LinearWorkload`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from skiplab.workload.attention import Workload
from skiplab.workload.decode import DecodeWorkload
from skiplab.workload.linear import LinearWorkload
from skiplab.workload.models import LINEARS, MODELS, HeadShape
from skiplab.workload.problem import DTYPES

OPERATIONS = ("attention", "decode", "linear")

__all__ = [
    "DTYPES", "LINEARS", "MODELS", "OPERATIONS", "AnyWorkload", "DecodeWorkload", "HeadShape", "LinearWorkload",
    "Workload", "workload_of",
]  # fmt: skip

AnyWorkload = Workload | DecodeWorkload | LinearWorkload


def workload_of(axes: Mapping[str, Any]) -> AnyWorkload:
    """The workload that `axes()` of any of them described; ValueError for an unknown operation."""
    classes = {one.operation: one for one in (Workload, DecodeWorkload, LinearWorkload)}
    if axes.get("operation") not in classes:
        raise ValueError(f"operation: got {axes.get('operation')!r}; allowed are {', '.join(OPERATIONS)}")
    return classes[axes["operation"]].from_axes(axes)
