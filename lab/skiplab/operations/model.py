"""A whole model: prompts, and steps behind them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar

from msgspec import Meta

from skiplab.operations.base import LARGEST, Baseline, Count, Operation, Predicted, RowAxes, Said
from skiplab.workload.model import PHASES, ModelWorkload

Phase = Annotated[str, Meta(pattern=f"^({'|'.join(PHASES)})$")]
NotNegative = Annotated[int, Meta(ge=0, le=LARGEST)]


class Axes(RowAxes, tag_field="operation", tag="model", gc=False):
    """The axes of a model that reads a prompt, or a step. config: of a model that `data/models` does not have."""

    operation: ClassVar[str] = "model"
    phase: Annotated[Phase, Said("prefill or decode")]
    q_len: Annotated[Count, Said("tokens of the prompt, or of a step")]
    depth: Annotated[NotNegative, Said("tokens before it")] = 0
    model: Annotated[str | None, Said("name in `data/models`, or its own")] = None
    bits: Annotated[Count | None, Said("of a code")] = None
    group_size: Annotated[Count | None, Said("codes with one scale")] = None
    dtype: Annotated[str | None, Said("of activations")] = None
    steps: Annotated[Count | None, Said("timed one behind the other (decode)")] = None
    by_kind: Annotated[
        bool, Said("one layer of each kind was timed, run four times in a row, and the samples are sums with its count")
    ] = False
    config: Annotated[str | None, Said("the text of its config.json, where `data/models` has none of that name")] = None


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
