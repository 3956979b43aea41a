"""Runs in which every text is an attack: on HTML, on attributes and scripts, and on plotly's own markup."""

from __future__ import annotations

from typing import Any

from skiplab.measure import Measurement, Point, WorkDone
from skiplab.store import Run
from skiplab.workload import DecodeWorkload, LinearWorkload, Workload

TAG = (
    "<b class='hostile'>bold</b><img class=hostile src=x onerror='window.ran=1'>\"><script>window.ran=1</script>"
    '<a class="hostile" href="javascript:window.ran=1">link</a>%{x}{{ 7 }}</script></style>'
)
FIXED = {"record", "operation", "status"}
"""Fields whose values are words that the lab knows: a run file with others is refused."""
HEADER = {
    "record": "header", "schema": 1, "run_id": "id", "operation": "", "argv": ["skiplab"], "command": "skiplab sweep",
    "parameters": {"dtype": "bfloat16", "mask": ["causal()"]}, "git": {"commit": "c"}, "source_hash": "s",
    "python": "3", "torch": "2", "triton": "3", "cpu": "c", "device": {"name": "GPU", "kind": "cuda"},
    "roof": {"tflops": 1.0, "bandwidth_gbps": 100.0, "name": "GPU"}, "start": "2026-01-01", "end": "2026-01-02",
}  # fmt: skip
WORKLOADS = {
    "attention": [Workload(q_len) for q_len in (256, 512)],
    "decode": [DecodeWorkload(kv_len) for kv_len in (256, 512)],
    "linear": [LinearWorkload(*shape) for shape in ((256, 256), (512, 256))],
}
NAMES = {"attention": ("blockskip", "sdpa"), "decode": ("blockskip", "sdpa"), "linear": ("blockskip", "bf16")}


def run(operation: str) -> Run:
    """Points of known contenders and of one that is an attack itself; the last failed."""
    rows = [_row(workload, name) for workload in WORKLOADS[operation] for name in (*NAMES[operation], TAG)]
    rows.append({**_row(WORKLOADS[operation][0], "failed"), "status": "crashed", "samples_ns": [], "point": "failed"})
    header = {**_attacked(HEADER, FIXED), "operation": operation, TAG: {TAG: [TAG]}}
    fixed = {*FIXED, "contender", "point", *(["dtype"] if operation == "linear" else [])}  # a weight's size needs it
    return Run(header, tuple(_attacked(row, fixed) for row in rows))


def _row(workload: Any, contender: str) -> dict[str, Any]:
    measurement = Measurement(
        Point(workload, contender), "ok", "why", 1e-3, 2e-3, "cpu", tuple(range(1_000_000, 1_000_010)),
        work=WorkDone(10**9, 2 * 10**9, 4 * 10**9, 10**6, 10**6), flags=("allocates",), device_name="GPU",
    )  # fmt: skip
    return {"record": "point", **measurement.row(), "plan": {"impl": "triton", "kernel": {"name": "k"}}}


def _attacked(value: Any, fixed: set[str]) -> Any:
    """The value with `TAG` for every string in it, however deep, but for those of the fixed names."""
    if isinstance(value, dict):
        return {key: item if key in fixed else _attacked(item, fixed) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_attacked(item, fixed) for item in value]
    return TAG if isinstance(value, str) else value
