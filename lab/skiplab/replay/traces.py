"""Reads Chrome traces of timelines: those that `Timeline.perfetto` writes, and Proton's own."""

from __future__ import annotations

import json
import math
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
    for number, event in enumerate(events):
        try:
            found = _span(event)
        except ValueError as error:
            raise ValueError(f"{path.name}: traceEvents[{number}]: {error}") from None
        if found is not None:
            kernel, one, clock = found
            spans.setdefault(kernel, []).append(one)
            clocks.add(clock)
    if not spans:
        raise ValueError(f"{path.name}: holds no record from inside a kernel (of a multiprocessor, a block and a warp)")
    about = held.get("otherData") or {}
    if not isinstance(about, Mapping):
        raise ValueError(f"{path.name}: otherData: got {about!r}; allowed is an object")
    clock = about.get("clock") or " and ".join(
        f"cycles, counted as if at {one:g} MHz" for one in sorted(filter(None, clocks))
    )
    return {kernel: Timeline(kernel, tuple(own), clock, about.get("lost", 0)) for kernel, own in spans.items()}


def _span(event: Any) -> tuple[str, WarpSpan, float | None] | None:
    """The kernel, what a warp of it did, and the MHz that its times are counted at, where it says so.

    None for an event that is no record of such; ValueError for one that is no event, or lacks what a record has.
    """
    if not isinstance(event, Mapping):
        raise ValueError(f"got {event!r:.40}; allowed are objects")
    if event.get("ph") != "X":
        return None
    about = event.get("args") or {}
    if not isinstance(about, Mapping):
        raise ValueError(f"args: got {about!r:.40}; allowed is an object")
    place, warp = _PLACE.fullmatch(str(event.get("pid"))), _WARP.match(str(event.get("tid")))
    if place is not None and warp is not None:
        kernel, where = place["kernel"], (int(place["core"]), int(place["cta"]), int(warp["warp"]))
    elif type(event.get("pid")) is int and {"block", "warp"} <= about.keys():
        kernel, where = str(event.get("cat")), (event["pid"], _whole(about, "block"), _whole(about, "warp"))
    else:
        return None
    start, long = _number(event, "ts") * US, _number(event, "dur") * US
    clock = None if about.get("Frequency (MHz)") is None else _number(about, "Frequency (MHz)")
    return kernel, WarpSpan(*where, str(event.get("name")), start, start + long), clock


def _number(held: Mapping[str, Any], name: str) -> float:
    value: Any = held.get(name)
    if type(value) not in (int, float) or not math.isfinite(value):
        raise ValueError(f"{name}: got {value!r:.40}; allowed are numbers")
    return float(value)


def _whole(held: Mapping[str, Any], name: str) -> int:
    value: Any = held[name]
    if type(value) is not int:
        raise ValueError(f"{name}: got {value!r:.40}; allowed are whole numbers")
    return value
