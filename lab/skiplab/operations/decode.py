"""Attention of a few new tokens over a cache."""

from __future__ import annotations

from typing import Annotated, ClassVar

from skiplab.operations import attention
from skiplab.operations.base import Baseline, Count, Operation, Predicted, RowAxes, Said, Share
from skiplab.workload.decode import DecodeWorkload


class Axes(RowAxes, tag_field="operation", tag="decode", gc=False):
    """The axes of a decode step."""

    operation: ClassVar[str] = "decode"
    q_len: Annotated[Count, Said("new tokens")]
    kv_len: Annotated[Count, Said("keys in the cache")]
    batch: Annotated[Count, Said("sequences at once")]
    mask: Annotated[str | None, Said("text that `Mask.from_spec` reads")] = None
    q_heads: Annotated[Count | None, Said("query heads")] = None
    kv_heads: Annotated[Count | None, Said("key and value heads")] = None
    head_dim: Annotated[Count | None, Said("head size")] = None
    dtype: Annotated[str | None, Said("of queries, keys and values")] = None
    window: Annotated[Count | None, Said("null: none")] = None
    buffer: Annotated[Count | None, Said("slots of the cache")] = None
    kv_dtype: Annotated[
        str | None,
        Said(
            "of keys and values where it is not `dtype`: `float8_e4m3fn`, with a float32 scale for each of their heads"
        ),
    ] = None
    ragged: Annotated[
        Share | None,
        Said(
            "where sequences have different numbers of keys, which stand on the device: the share of `kv_len` that the "
            "shortest has; the others lie evenly between it and `kv_len`"
        ),
    ] = None


OPERATION = Operation(
    name="decode",
    title="decode steps",
    workload=DecodeWorkload,
    axes=Axes,
    filed=("q_heads", "kv_heads", "head_dim", "dtype"),
    varying=("kv_len", "window", "buffer", "q_len"),
    columns=(
        "q_len",
        "kv_len",
        "window",
        "mask",
        "batch",
        "q_heads",
        "kv_heads",
        "head_dim",
        "dtype",
        "buffer",
        "kv_dtype",
        "ragged",
    ),
    optional=("kv_dtype", "ragged"),
    tokens=("q_len", "batch"),
    baseline=Baseline("sdpa", "SDPA", "blockskip"),
    subject=lambda axes: f"decode, {attention.heads(axes)}",
    headings={"q_len": "queries", "kv_len": "keys", "kv_dtype": "keys as", "ragged": "shortest has"},
    phrases={**attention.OPERATION.phrases, "kv_len": lambda n: f"{n:.0f} keys"},
    examples=(DecodeWorkload(256), DecodeWorkload(256, 64)),
    without_window="all",
    defaults={"buffer": "kv_len"},
    predicted=(Predicted("blockskip", lambda workload: "blockskip at the roofs"),),
)
