"""Where a call's time goes, by the names that it gives its parts (`torch.profiler.record_function`)."""

from __future__ import annotations

import json
import tempfile
from bisect import bisect_right
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile, record_function

CALL = "skiplab call"
POINTWISE, GAPS = "pointwise", "gaps"
"""What runs outside of all names, and when nothing runs."""
RUNS = ("kernel", "gpu_memcpy", "gpu_memset")
LAUNCHES = ("cuda_runtime", "cuda_driver")

Event = Mapping[str, Any]


def profiled(call: Callable[[], Any], names: Collection[str], device: str) -> dict[str, float]:
    """Microseconds by name of one call, and of what is `POINTWISE`; on a CPU also of `GAPS`, Python's own time.

    On a GPU the kernels' own time counts, wherever on the host's clock they ran.
    """
    cuda = torch.device(device).type == "cuda"
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if cuda else [])]
    with profile(activities=activities) as profiler:
        with record_function(CALL):
            call()
        if cuda:
            torch.cuda.synchronize(device)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "trace.json"
        profiler.export_chrome_trace(str(path))
        events = json.loads(path.read_text(encoding="utf-8"))["traceEvents"]
    return (kernels_by_name if cuda else ranges_by_name)(events, names)


def ranges_by_name(events: Iterable[Event], names: Collection[str]) -> dict[str, float]:
    """Of a trace without a GPU: the ranges of those names, operators outside of them, and the rest of the call."""
    timed = [one for one in events if one.get("ph") == "X"]
    begin, end = _call(timed)
    ranges = _ranges(timed, names)
    found = defaultdict[str, float](float)
    for start, stop, name in ranges:
        found[name] += stop - start
    reached = begin
    for one in sorted((one for one in timed if one.get("cat") == "cpu_op"), key=lambda one: (one["ts"], -one["dur"])):
        start, stop = one["ts"], one["ts"] + one["dur"]
        if start >= reached and stop <= end and _name_at(ranges, start) is None:  # outermost ones alone
            found[POINTWISE] += one["dur"]
            reached = stop
    found[GAPS] = max(end - begin - sum(found.values()), 0.0)
    return dict(found)


def kernels_by_name(events: Iterable[Event], names: Collection[str]) -> dict[str, float]:
    """Of a trace with a GPU: each kernel, copy and fill by the range in which the host launched it.

    One that starts before the one ahead has ended waits for it: its time counts from then on.
    """
    timed = [one for one in events if one.get("ph") == "X"]
    begin, end = _call(timed)
    ranges = _ranges(timed, names)
    launched = {
        one["args"]["correlation"]: one["ts"]
        for one in timed
        if one.get("cat") in LAUNCHES and "correlation" in one.get("args", {})
    }
    found, reached = defaultdict[str, float](float), 0.0
    for one in sorted((one for one in timed if one.get("cat") in RUNS), key=lambda one: one["ts"]):
        at = launched.get(one.get("args", {}).get("correlation"))
        if at is not None and begin <= at <= end:
            ended = one["ts"] + one["dur"]
            found[_name_at(ranges, at) or POINTWISE] += max(ended - max(one["ts"], reached), 0.0)
            reached = max(reached, ended)
    return dict(found)


def _call(events: Iterable[Event]) -> tuple[float, float]:
    """From when to when the call took, on the host."""
    for one in events:
        if one.get("cat") == "user_annotation" and one["name"] == CALL:
            return one["ts"], one["ts"] + one["dur"]
    raise RuntimeError("the profiler did not record the call")


def _ranges(events: Iterable[Event], names: Collection[str]) -> list[tuple[float, float, str]]:
    """(start, stop, name) of the host's ranges of those names, in order; none lies in another."""
    chosen = (one for one in events if one.get("cat") == "user_annotation" and one["name"] in names)
    return sorted((one["ts"], one["ts"] + one["dur"], one["name"]) for one in chosen)


def _name_at(ranges: list[tuple[float, float, str]], at: float) -> str | None:
    index = bisect_right(ranges, at, key=lambda one: one[0]) - 1
    return ranges[index][2] if index >= 0 and at < ranges[index][1] else None
