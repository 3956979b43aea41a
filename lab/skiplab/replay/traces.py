"""Reads Chrome traces of timelines: those that `Timeline.perfetto` writes, and Proton's own."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from skiplab.replay.timeline import US, Timeline, WarpSpan

_PLACE = re.compile(r"(?P<kernel>.*) Core(?P<core>\d+) CTA(?P<cta>\d+)")
_WARP = re.compile(r"warp (?P<warp>\d+)")


def read_timeline(path: Path | str) -> dict[str, Timeline]:
    """The timelines in a trace, by kernel; ValueError for a file that is none.

    One that Proton wrote counts cycles as if each took a nanosecond, and `clock` says so.
    """
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
        if (found := _span(event)) is not None:
            kernel, one = found
            spans.setdefault(kernel, []).append(one)
            clocks.add(event.get("args", {}).get("Frequency (MHz)"))
    if not spans:
        raise ValueError(f"{path.name}: holds no record from inside a kernel (of a multiprocessor, a block and a warp)")
    about = held.get("otherData") or {}
    clock = about.get("clock") or " and ".join(
        f"cycles, counted as if at {one:g} MHz" for one in sorted(filter(None, clocks))
    )
    return {kernel: Timeline(kernel, tuple(own), clock, about.get("lost", 0)) for kernel, own in spans.items()}


def _span(event: Mapping[str, Any]) -> tuple[str, WarpSpan] | None:
    """The kernel and what a warp of it did; None for an event that is no record of such."""
    if event.get("ph") != "X":
        return None
    place, warp = _PLACE.fullmatch(str(event.get("pid"))), _WARP.match(str(event.get("tid")))
    about = event.get("args") or {}
    if place is not None and warp is not None:
        kernel, where = place["kernel"], (int(place["core"]), int(place["cta"]), int(warp["warp"]))
    elif type(event.get("pid")) is int and {"block", "warp"} <= about.keys():
        kernel, where = str(event.get("cat")), (event["pid"], about["block"], about["warp"])
    else:
        return None
    start, long = float(event["ts"]) * US, float(event["dur"]) * US
    return kernel, WarpSpan(*where, event["name"], start, start + long)
