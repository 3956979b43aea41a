"""A quantised linear layer."""

from __future__ import annotations

from typing import Annotated, ClassVar

from skiplab.operations.base import Baseline, Count, Operation, Predicted, RowAxes, Said
from skiplab.workload.linear import LinearWorkload, bits_per_weight


class Axes(RowAxes, tag_field="operation", tag="linear", gc=False):
    """The axes of a quantised linear layer."""

    operation: ClassVar[str] = "linear"
    out_features: Annotated[Count, Said("outputs")]
    in_features: Annotated[Count, Said("inputs")]
    rows: Annotated[Count, Said("of activations")]
    bits: Annotated[Count, Said("of a code")]
    group_size: Annotated[Count, Said("codes with one scale")]
    dtype: Annotated[str | None, Said("of activations")] = None
    symmetric: Annotated[bool, Said("no zero points")] = False


OPERATION = Operation(
    name="linear",
    title="quantised linear layers",
    workload=LinearWorkload,
    axes=Axes,
    filed=("dtype",),
    varying=("out_features", "in_features", "rows", "bits", "group_size"),
    columns=("rows", "out_features", "in_features", "bits", "group_size", "symmetric", "dtype"),
    tokens=("rows",),
    baseline=Baseline("bf16", "the float weight", "blockskip"),
    subject=lambda axes: f"quantised linear layers, {axes['dtype']}",
    headings={"out_features": "outputs", "in_features": "inputs", "group_size": "group size"},
    phrases={
        "out_features": lambda n: f"{n:.0f} outputs",
        "in_features": lambda n: f"{n:.0f} inputs",
        "rows": lambda n: f"{n:.0f} row{'s' if n > 1 else ''}",
        "bits": lambda n: f"int{n:.0f}",
        "group_size": lambda n: f"groups of {n:.0f}",
    },
    examples=(LinearWorkload(256, 256), LinearWorkload(256, 256, rows=16)),
    predicted=(Predicted("blockskip", lambda workload: f"int{workload.bits} at the roofs"),),
    derived={
        "bits_per_weight": lambda column: bits_per_weight(column["bits"], column["group_size"], column["symmetric"])
    },
)
