"""A launch's timeline on a GPU: which multiprocessor ran which block, from when to when, and what its warps did.

`Timeline.perfetto` writes it as a Chrome trace with a track for each multiprocessor; `traces.read_timeline` reads it.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from skiplab.text import percent

US = 1e-6
"""A Chrome trace counts in these."""


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
    """All records of one launch. clock: what a second is, for Proton counts cycles. lost: records written over."""

    kernel: str
    spans: tuple[WarpSpan, ...]
    clock: str = ""
    lost: int = 0

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
            + (f"; {self.lost:,} records lost, the first of their warps" if self.lost else "")
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
        about = {"clock": self.clock, "lost": self.lost}
        held = {"displayTimeUnit": "ns", "traceEvents": events, "otherData": about}
        path.write_text(json.dumps(held), encoding="utf-8")
        return path

    def _event(self, one: WarpSpan, first: float, thread: int) -> dict[str, Any]:
        when = {"ts": (one.start - first) / US, "dur": (one.end - one.start) / US}
        about = {"name": one.name, "cat": self.kernel, "args": {"block": one.block, "warp": one.warp}}
        return {"ph": "X", "pid": one.sm, "tid": thread, **when, **about}


def _covered(intervals: Sequence[tuple[float, float]]) -> float:
    """The length of the union of intervals, which come in order of their start."""
    covered, until = 0.0, float("-inf")
    for start, end in intervals:
        covered += max(0.0, end - max(start, until))
        until = max(until, end)
    return covered
