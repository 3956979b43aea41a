"""A made-up run of a whole model on a GPU that is not here."""

from __future__ import annotations

from skiplab.measure import Measurement, Point
from skiplab.measure.model import plan_and_work
from skiplab.store import Run
from skiplab.workload import ModelWorkload


def h200_run() -> Run:
    """Of Gemma 4 31B: a prompt of 2,048 tokens and steps of one and four behind it, taken apart, on an H200."""
    calls = (("prefill", 2048, 0), ("decode", 1, 2048), ("decode", 4, 2048))
    rows = []
    for phase, tokens, depth in calls:
        work = ModelWorkload(phase, tokens, depth, "gemma4-31b")
        point = Point(work, "blockskip", device="cuda")
        _, done = plan_and_work(point.entry, work, (), ())
        shares = {"qkv": 30, "gate+up": 50, "attention sliding": 10, "pointwise": 8, "gaps": 2}
        took = {name: share * 1_000_000 for name, share in shares.items()}
        rows.append(
            Measurement(
                point, "ok", label="ours", samples_ns=(sum(took.values()),), parts_ns=took, work=done, method="graph",
                device_name="NVIDIA H200", flags=("throttled",) if phase == "prefill" else (),
            ).row()
        )  # fmt: skip
    roof = {"bandwidth_gbps": 4300.0, "tflops": 790.0}
    device = {"name": "NVIDIA H200", "kind": "cuda"}
    return Run({"run_id": "made-up", "operation": "model", "device": device, "roof": roof}, tuple(rows))
