"""A launch's timeline on a GPU: which multiprocessor ran which block, from when to when, and what its warps did.

Triton's Proton records it from inside the kernel (`attention_timeline`, `record_timeline`: they need a GPU) and writes
a Chrome trace, of which `read_timeline` makes values. `Timeline.perfetto` writes them as a trace with a track for each
multiprocessor.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from skiplab.replay.fresh import run_fresh
from skiplab.text import percent
from skiplab.workload import Workload

_PLACE = re.compile(r"(?P<kernel>.*) Core(?P<core>\d+) CTA(?P<cta>\d+)")
_WARP = re.compile(r"warp (?P<warp>\d+)")
US = 1e-6
"""A Chrome trace counts in these."""
NEEDS_GPU = "timeline: Proton records it from inside a kernel that runs on a CUDA GPU, and torch sees none here"


@dataclass(frozen=True)
class WarpSpan:
    """What a warp of a block did on a multiprocessor: a scope of the kernel, from `start` to `end` in seconds."""

    sm: int
    block: int
    warp: int
    name: str
    start: float
    end: float


@dataclass(frozen=True)
class Block:
    """A block's stay on its multiprocessor, from its first record to its last."""

    sm: int
    block: int
    start: float
    end: float


@dataclass(frozen=True)
class Timeline:
    """All records of one launch. clock: what a second is: Proton counts cycles, and says at which frequency."""

    kernel: str
    spans: tuple[WarpSpan, ...]
    clock: str = ""

    @property
    def blocks(self) -> tuple[Block, ...]:
        """The stay of every block, by multiprocessor and start."""
        stays: dict[tuple[int, int], list[WarpSpan]] = {}
        for one in self.spans:
            stays.setdefault((one.sm, one.block), []).append(one)
        made = (Block(*key, min(s.start for s in own), max(s.end for s in own)) for key, own in stays.items())
        return tuple(sorted(made, key=lambda one: (one.sm, one.start)))

    @property
    def sms(self) -> tuple[int, ...]:
        return tuple(sorted({one.sm for one in self.spans}))

    @property
    def seconds(self) -> float:
        """From the first record to the last."""
        return max(one.end for one in self.spans) - min(one.start for one in self.spans)

    @property
    def busy(self) -> float:
        """The share of all multiprocessors' time in which a block was there: 1 for a load that is balanced."""
        total = sum(_covered([(one.start, one.end) for one in self.blocks if one.sm == sm]) for sm in self.sms)
        return total / (len(self.sms) * self.seconds)

    def __str__(self) -> str:
        longest = max(one.end - one.start for one in self.blocks)
        return (
            f"{self.kernel}: {len(self.blocks):,} blocks on {len(self.sms):,} multiprocessors, which have one for "
            f"{percent(self.busy)} of the time; the longest block takes {percent(longest / self.seconds)} of it"
        )

    def perfetto(self, path: Path | str) -> Path:
        """Write a Chrome trace for ui.perfetto.dev: a process is a multiprocessor, a thread a warp of a block."""
        events: list[dict[str, Any]] = [
            {"ph": "M", "name": "process_name", "pid": sm, "args": {"name": f"SM {sm}"}} for sm in self.sms
        ]
        events += [{"ph": "M", "name": "process_sort_index", "pid": sm, "args": {"sort_index": sm}} for sm in self.sms]
        warps = {(one.sm, one.block, one.warp) for one in self.spans}
        threads = {key: number for number, key in enumerate(sorted(warps))}
        for (sm, block, warp), number in threads.items():
            named = {"name": f"block {block}, warp {warp}"}
            events.append({"ph": "M", "name": "thread_name", "pid": sm, "tid": number, "args": named})
        first = min(one.start for one in self.spans)
        events += [self._event(one, first, threads[one.sm, one.block, one.warp]) for one in self.spans]
        path = Path(path)
        path.write_text(json.dumps({"displayTimeUnit": "ns", "traceEvents": events}), encoding="utf-8")
        return path

    def _event(self, one: WarpSpan, first: float, thread: int) -> dict[str, Any]:
        when = {"ts": (one.start - first) / US, "dur": (one.end - one.start) / US}
        about = {"name": one.name, "cat": self.kernel, "args": {"block": one.block}}
        return {"ph": "X", "pid": one.sm, "tid": thread, **when, **about}


def _covered(intervals: Sequence[tuple[float, float]]) -> float:
    """The length of the union of intervals, which come in order of their start."""
    covered, until = 0.0, float("-inf")
    for start, end in intervals:
        covered += max(0.0, end - max(start, until))
        until = max(until, end)
    return covered


def read_timeline(path: Path | str) -> dict[str, Timeline]:
    """The timelines in a Chrome trace that Proton wrote, by kernel; ValueError for a file that is none."""
    path = Path(path)
    try:
        held = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path.name}: is no JSON, and Proton's traces are: {error}") from None
    events = held.get("traceEvents") if isinstance(held, Mapping) else None
    if not isinstance(events, list):
        raise ValueError(f"{path.name}: has no traceEvents, which Proton's traces have")
    spans: dict[str, list[WarpSpan]] = {}
    clocks = set()
    for event in events:
        place, warp = _PLACE.fullmatch(str(event.get("pid"))), _WARP.match(str(event.get("tid")))
        if event.get("ph") != "X" or place is None or warp is None:
            continue
        start, long = float(event["ts"]) * US, float(event["dur"]) * US
        one = WarpSpan(int(place["core"]), int(place["cta"]), int(warp["warp"]), event["name"], start, start + long)
        spans.setdefault(place["kernel"], []).append(one)
        clocks.add(event.get("args", {}).get("Frequency (MHz)"))
    if not spans:
        raise ValueError(f"{path.name}: holds no record from inside a kernel (of a multiprocessor, a block and a warp)")
    clock = " and ".join(f"cycles at {one:g} MHz" for one in sorted(filter(None, clocks)))
    return {kernel: Timeline(kernel, tuple(own), clock) for kernel, own in spans.items()}


def why_no_timeline() -> str | None:
    """None if a timeline can be recorded here, else the reason."""
    import torch

    return None if torch.cuda.is_available() else NEEDS_GPU


def record_timeline(call: Callable[[], Any]) -> dict[str, Timeline]:
    """The timelines of the kernels that a call launches, by kernel, from the scopes of Proton's in their source.

    Those are `enter_scope` and `exit_scope` of `triton.profiler.language`; without this call they are not compiled in,
    and cost nothing. With it kernels are compiled anew, and run slower than they do. Of our own kernel:
    `attention_timeline`. ValueError without a GPU.
    """
    if (reason := why_no_timeline()) is not None:
        raise ValueError(reason)
    from skiplab.replay.scoped import recorded_trace

    with TemporaryDirectory() as folder:
        return read_timeline(recorded_trace(call, Path(folder)))


def attention_timeline(
    workload: Workload, config: Sequence[int] | None = None, cancelled: Callable[[], bool] = lambda: False
) -> Timeline:
    """The timeline of our prefill kernel on this machine's GPU, in a process of its own. ValueError without a GPU.

    config: its tiles, None for those that the call takes.
    """
    if (reason := why_no_timeline()) is not None:
        raise ValueError(reason)
    with TemporaryDirectory() as folder:
        request = {"axes": workload.axes(), "config": config and list(config), "folder": folder}
        written = run_fresh("skiplab.replay.scoped", request, cancelled, interpret=False)
        timelines = read_timeline(written["trace"])
    return max(timelines.values(), key=lambda one: len(one.spans))
