"""The lab's operations, one table: an entry here, and a file of the same name in each package that plays a role.

`modules_of(__name__)` gives such a package its files: `contenders`, `measure`, `sweep`, `figures`, `report`, `cli` and
`widgets.sweep` ask for theirs so, and name no operation. CONTRIBUTING says what each file must hold.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from types import MappingProxyType
from typing import Any

from skiplab.operations import attention, decode, linear, model
from skiplab.operations.base import Baseline, Operation, Predicted
from skiplab.workload.problem import Problem

OPERATIONS: Mapping[str, Operation] = MappingProxyType({
    one.name: one for one in (attention.OPERATION, decode.OPERATION, linear.OPERATION, model.OPERATION)
})  # fmt: skip
DEFAULT_OPERATION = next(iter(OPERATIONS))
"""Meant where none is named: by a call, and by a run file's header from before there were others."""

__all__ = [
    "DEFAULT_OPERATION",
    "OPERATIONS",
    "Baseline",
    "Operation",
    "Predicted",
    "modules_of",
    "operation_of",
    "workload_of",
]


def modules_of(package: str) -> dict[str, Any]:
    """The package's own module for each operation, by the operation's name: call it with `__name__`."""
    return {name: import_module(f"{package}.{name}") for name in OPERATIONS}


def operation_of(name: Any) -> Operation:
    """The operation of that name; ValueError lists those there are."""
    if name not in OPERATIONS:
        raise ValueError(f"operation: got {name!r}; allowed are {', '.join(OPERATIONS)}")
    return OPERATIONS[name]


def workload_of(axes: Mapping[str, Any]) -> Problem:
    """The workload that `axes()` of any of them described; ValueError for an unknown operation."""
    return operation_of(axes.get("operation")).workload.from_axes(axes)
