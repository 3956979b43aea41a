"""Attention of a prompt."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar

import blockskip as bs

from skiplab.operations.base import Baseline, Count, Operation, Position, Predicted, RowAxes, Said
from skiplab.workload.attention import Workload


class Axes(RowAxes, tag_field="operation", tag="attention", gc=False):
    """The axes of a prompt's attention. Optional axes that every row of a file has (`filed`) may lack in a frame."""

    operation: ClassVar[str] = "attention"
    q_len: Annotated[Count, Said("queries, the tokens of the prompt")]
    kv_len: Annotated[Count, Said("keys")]
    batch: Annotated[Count, Said("sequences at once")]
    mask: Annotated[str | None, Said("text that `Mask.from_spec` reads")] = None
    q_heads: Annotated[Count | None, Said("query heads")] = None
    kv_heads: Annotated[Count | None, Said("key and value heads")] = None
    head_dim: Annotated[Count | None, Said("head size")] = None
    dtype: Annotated[str | None, Said("of queries, keys and values")] = None
    window: Annotated[Count | None, Said("null: none")] = None
    q_start: Annotated[Position | None, Said("null: the queries are the last positions")] = None
    buffer: Annotated[
        Count | None,
        Said(
            "where the prompt stands at the start of a cache of so many slots: `q_start` 0, `kv_len` all slots; those "
            "behind the prompt hold numbers and are masked off"
        ),
    ] = None
    packed: Annotated[
        str | None,
        Said(
            "where the queries are of several prompts behind each other, each of which sees itself alone: how many, of "
            "what lengths, and under which window; `mask` has them all"
        ),
    ] = None
    kv_dtype: Annotated[
        str | None,
        Said(
            "of keys and values where it is not `dtype`: `float8_e4m3fn`, with a float32 scale for each of their heads"
        ),
    ] = None
    sinks: Annotated[bool | None, Said("whether each query head has a learned logit that joins the softmax")] = None


def heads(axes: Mapping[str, Any]) -> str:
    """`32/16 heads of 256, bfloat16`."""
    return f"{axes['q_heads']}/{axes['kv_heads']} heads of {axes['head_dim']}, {axes['dtype']}"


def _subject(axes: Mapping[str, Any]) -> str:
    buffer = f", in a buffer of {axes['buffer']:,} keys" if "buffer" in axes else ""
    packed = ", packed prompts" if "packed" in axes else ""
    batch = f", batch {axes['batch']}" if axes.get("batch", 1) > 1 else ""
    return f"attention, {heads(axes)}{batch}{buffer}{packed}"


OPERATION = Operation(
    name="attention",
    title="a prompt's attention",
    workload=Workload,
    axes=Axes,
    filed=("mask", "q_heads", "kv_heads", "head_dim", "dtype"),
    varying=("q_len", "window"),
    columns=("q_len", "kv_len", "window", "mask", "batch", "q_heads", "kv_heads", "head_dim", "dtype", "buffer",
             "packed", "kv_dtype", "sinks"),
    optional=("kv_dtype", "sinks"),
    tokens=("q_len", "batch"),
    baseline=Baseline("sdpa", "dense + mask", "blockskip"),
    subject=_subject,
    headings={"q_len": "prompt length", "kv_dtype": "keys as"},
    phrases={
        "q_len": lambda n: f"{n:.0f} tokens" if n > 1 else "1 token",
        "window": lambda n: f"window {n:.0f}",
    },
    examples=(Workload(256), Workload(256, mask=bs.sliding_window(64))),
    defaults={"buffer": "kv_len"},
    predicted=(
        Predicted("sdpa", lambda workload: "dense + mask", {"skip": "none"}),
        Predicted("blockskip", lambda workload: "blockskip", {"skip": "map"}),
    ),
    predicted_flops="executed_flops",
)  # fmt: skip
