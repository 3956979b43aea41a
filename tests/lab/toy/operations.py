"""Numbers, doubled."""

from __future__ import annotations

from typing import ClassVar

from skiplab.operations.base import Baseline, Count, Operation, Predicted, RowAxes
from skiplab.workload.toy import ToyWorkload


class Axes(RowAxes, tag_field="operation", tag="toy", gc=False):
    operation: ClassVar[str] = "toy"
    width: Count
    rows: Count
    manner: str | None = None
    dtype: str | None = None


OPERATION = Operation(
    name="toy",
    title="doubled numbers",
    workload=ToyWorkload,
    axes=Axes,
    filed=("manner", "dtype"),
    varying=("width", "rows"),
    columns=("width", "rows", "manner", "dtype"),
    tokens=("rows",),
    baseline=Baseline("twice", "adding", "Our doubling"),
    subject=lambda axes: f"doubled numbers, {axes['dtype']}",
    headings={"width": "numbers"},
    phrases={"width": lambda n: f"{n:.0f} numbers", "rows": lambda n: f"{n:.0f} rows"},
    predicted=(Predicted("blockskip", lambda workload: "at the roofs"),),
    examples=(ToyWorkload(8),),
    derived={"numbers": lambda column: column["rows"] * column["width"]},
)
