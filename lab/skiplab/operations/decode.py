"""Attention of a few new tokens over a cache."""

from __future__ import annotations

from typing import ClassVar

from skiplab.operations import attention
from skiplab.operations.base import Baseline, Count, Operation, Predicted, RowAxes
from skiplab.workload.decode import DecodeWorkload


class Axes(RowAxes, tag_field="operation", tag="decode", gc=False):
    """The axes of a decode step."""

    operation: ClassVar[str] = "decode"
    q_len: Count
    kv_len: Count
    batch: Count
    mask: str | None = None
    q_heads: Count | None = None
    kv_heads: Count | None = None
    head_dim: Count | None = None
    dtype: str | None = None
    window: Count | None = None
    buffer: Count | None = None


OPERATION = Operation(
    name="decode",
    title="decode steps",
    workload=DecodeWorkload,
    axes=Axes,
    filed=("q_heads", "kv_heads", "head_dim", "dtype"),
    varying=("kv_len", "window", "buffer", "q_len"),
    columns=attention.OPERATION.columns,
    tokens=("q_len", "batch"),
    baseline=Baseline("sdpa", "SDPA", "blockskip"),
    subject=lambda axes: f"decode, {attention.heads(axes)}",
    headings={"q_len": "queries", "kv_len": "keys"},
    phrases={**attention.OPERATION.phrases, "kv_len": lambda n: f"{n:.0f} keys"},
    examples=(DecodeWorkload(256), DecodeWorkload(256, 64)),
    without_window="all",
    defaults={"buffer": "kv_len"},
    predicted=(Predicted("blockskip", lambda workload: "blockskip at the roofs"),),
)
