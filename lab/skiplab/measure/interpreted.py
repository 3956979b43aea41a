"""A user's kernel checked in Triton's interpreter: `python -m skiplab.measure.interpreted`, JSON on its input.

A process of its own: the interpreter has to be chosen before Triton is imported.
"""

from __future__ import annotations

import json
import sys
from typing import Any

import blockskip.launching.interpreter  # noqa: F401 - whatever the user's kernel imports

from skiplab.contenders.source import KernelSource, load_source
from skiplab.measure.verify import check


def checked(request: dict[str, Any]) -> list[list[Any]]:
    """The rows of a check: the workload's axes, then the fields of `CheckRow` behind it."""
    load_source(KernelSource(request["name"], request["source"]))
    report = check(request["name"], "cpu", request["dtypes"], request["seed"], request["operation"])
    return [[row.workload.axes(), row.deviation, row.status, row.error, row.tolerance, row.text] for row in report.rows]


if __name__ == "__main__":
    print(json.dumps(checked(json.load(sys.stdin))))
