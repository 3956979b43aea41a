"""A whole model: prompts, and steps behind them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar

from msgspec import Meta

from skiplab.operations.base import LARGEST, Baseline, Count, Operation, Predicted, RowAxes
from skiplab.workload.model import PHASES, ModelWorkload

Phase = Annotated[str, Meta(pattern=f"^({'|'.join(PHASES)})$")]
NotNegative = Annotated[int, Meta(ge=0, le=LARGEST)]


class Axes(RowAxes, tag_field="operation", tag="model", gc=False):
    """The axes of a model that reads a prompt, or a step. config: of a model that `data/models` does not have."""

    operation: ClassVar[str] = "model"
    phase: Phase
    q_len: Count
    depth: NotNegative = 0
    model: str | None = None
    bits: Count | None = None
    group_size: Count | None = None
    dtype: str | None = None
    steps: Count | None = None
    by_kind: bool = False
    config: str | None = None


def _subject(axes: Mapping[str, Any]) -> str:
    parts = ", one layer of each kind timed, times its count" if axes.get("by_kind") else ""
    return f"the whole of {axes['model']}, int{axes['bits']} weights, {axes['dtype']}{parts}"


OPERATION = Operation(
    name="model",
    title="whole models",
    workload=ModelWorkload,
    axes=Axes,
    filed=("model", "bits", "group_size", "dtype"),
    varying=("phase", "q_len", "depth"),
    columns=("phase", "model", "q_len", "depth", "bits", "group_size", "dtype", "by_kind"),
    tokens=("q_len",),
    baseline=Baseline("sdpa", "SDPA and float weights", "blockskip"),
    subject=_subject,
    headings={"q_len": "tokens a call", "depth": "tokens before"},
    phrases={
        "phase": str,
        "q_len": lambda n: f"{n:.0f} token{'s' * (n != 1)} a call",
        "depth": lambda n: f"behind {n:.0f}",
    },
    examples=(ModelWorkload("prefill", 256), ModelWorkload("decode", 1, 256)),
    told=("tokens_per_s", "peak_gb"),
    predicted=(
        Predicted("blockskip", lambda workload: f"int{workload.bits} at the roofs"),
        Predicted("sdpa", lambda workload: f"{workload.dtype} at the roofs", {"quantised": False}),
    ),
)
