"""Records that Triton's Proton wrote inside a kernel, taken from the GPU's memory and read. Imports triton.

Its passes and its memory are used, and none of its files: a Chrome trace of Proton's (Triton 3.6 and 3.7) counts cycles
as nanoseconds, and holds 64 MiB of records at most. The memory of a block is laid out as `third_party/proton` has it
(`InitializeOpConversion`, `CircularLayoutParser`): ten words of header, a word for each warp, then a ring of records
for each warp, two words each: what it is, and the clock.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from triton.profiler import language
from triton.profiler.hooks import HookManager
from triton.profiler.hooks.instrumentation import InstrumentationHook
from triton.profiler.mode import Default

from skiplab.replay.timeline import Timeline, WarpSpan

PREAMBLE = 0xDEADBEEF
HEADER_WORDS = 10
BLOCK, SM, BUFFER, BEGIN, END = 1, 2, 3, 4, 6
"""Where a header has the block's number, its multiprocessor, the size of all rings in bytes, and the times of the GPU's
timer in ns."""
SESSION = "skiplab"
WARM_S = 0.05
"""After seconds of compiling an NVIDIA H200 ran at 1,670 to 1,720 MHz, where it has 1,980."""
LONGEST = 32
NS = 1e-9
_IS_END, _SCOPE_SHIFT, _SCOPE_MASK = 1 << 31, 23, 0xFF


@dataclass(frozen=True)
class RawRecords:
    """What a launch left in memory.

    headers: uint32 [blocks, 10]. counts: words that each warp wrote, [blocks, warps]. rings: uint32 [blocks, warps,
    words], the first of each warp's ring, or all where one has run over. capacity: words that a ring holds. scopes: the
    names of the parts by their number.
    """

    kernel: str
    scopes: Mapping[int, str]
    headers: np.ndarray
    counts: np.ndarray
    rings: np.ndarray
    capacity: int


def recorded_launches(call: Callable[[], Any]) -> list[RawRecords]:
    """The records of a call's launches, in order; it is made for `WARM_S` before, to compile, until clocks are up."""
    with _recording() as hook:
        call()
        torch.cuda.synchronize()
        begun = time.monotonic()
        while time.monotonic() - begun < WARM_S:
            hook.launches.clear()  # and with them their memory
            call()
            torch.cuda.synchronize()
        hook.launches.clear()
        call()
        torch.cuda.synchronize()
        return [hook.read(*launch) for launch in hook.launches]


@contextmanager
def _recording() -> Iterator[_Hook]:
    """Inside the block kernels are compiled with their records, whichever language they are written in."""
    hook = _Hook(Default(granularity="warp", buffer_type="global", optimizations="clock32"))  # type: ignore[arg-type]
    language.enable_semantic("triton")
    HookManager.register(hook, SESSION)  # type: ignore[arg-type]
    try:
        yield hook
    finally:
        HookManager.unregister(SESSION)  # type: ignore[arg-type]
        language.disable_semantic("triton")


class _Hook(InstrumentationHook):
    """Proton's own hook, which keeps each launch's memory instead of handing it on.

    launches: (function, memory). files: by function the kernel's name and what was compiled, kept for later hooks, too:
    Triton tells of a kernel when it loads it, once.
    """

    files: ClassVar[dict[Any, tuple[str, Mapping[str, str]]]] = {}

    def __init__(self, mode: Default):
        super().__init__(mode)
        self.launches: list[tuple[Any, torch.Tensor]] = []

    def init_handle(self, module: Any, function: Any, name: str, metadata_group: Mapping[str, str], hash: str) -> None:  # type: ignore[override]
        if function:
            self.files[function] = name, metadata_group

    def enter(self, metadata: Any) -> None:
        """The memory was made before."""

    def exit(self, metadata: Any) -> None:
        if self.buffer is not None:
            self.launches.append((metadata.data["function"], self.buffer))
            self.buffer = None  # a kernel without records makes none

    def read(self, function: Any, memory: torch.Tensor) -> RawRecords:
        """What is in a launch's memory."""
        name, files = self.files[function]
        metadata = json.loads(Path(next(p for key, p in files.items() if key.endswith(".json"))).read_text())
        scopes = _scopes(next(p for key, p in files.items() if key.endswith(".ttgir")))
        size, warps = metadata["profile_scratch_size"] // 4, metadata["num_warps"]
        words = memory.view(torch.int32)
        words = words[: len(words) // size * size].view(-1, size)
        counts = words[:, HEADER_WORDS : HEADER_WORDS + warps]
        capacity = int(words[0, BUFFER]) // 4 // warps
        used = min(int(counts.max()), capacity)
        rings = words.as_strided((len(words), warps, used), (size, capacity, 1), HEADER_WORDS + warps)
        return RawRecords(name, scopes, _host(words[:, :HEADER_WORDS]), _host(counts), _host(rings), capacity)


def _host(words: torch.Tensor) -> np.ndarray:
    return words.contiguous().cpu().numpy().view(np.uint32)


def _scopes(ttgir: str) -> dict[int, str]:
    """The names of a compiled kernel's parts by their number."""
    from triton._C.libtriton import ir, nvidia, proton

    context = ir.context()
    for dialects in (ir, nvidia, proton):
        dialects.load_dialects(context)
    module = ir.parse_mlir_module(ttgir, context)
    module.context = context
    return dict(proton.get_scope_id_names(module))


def timelines_of(launches: Sequence[RawRecords]) -> dict[str, Timeline]:
    """A timeline of each launch, by its kernel's name; one that is launched again has a number behind it.

    ValueError where there are no records.
    """
    found: dict[str, Timeline] = {}
    for one in launches:
        names = (one.kernel, *(f"{one.kernel} {number}" for number in range(2, len(launches) + 1)))
        name = next(name for name in names if name not in found)
        found[name] = replace(timeline_of(one), kernel=name)
    if not found:
        raise ValueError(
            "timeline: the call launched no Triton kernel that names parts of itself "
            "(triton.profiler.language.enter_scope), and nothing was recorded"
        )
    return found


def timeline_of(raw: RawRecords) -> Timeline:
    """The spans of a launch's warps, in seconds: a block begins by the GPU's timer, and what is in it by its cycles.

    A block's first record is taken to be where the block begins.
    """
    written = [block for block in range(len(raw.headers)) if raw.headers[block, 0] == PREAMBLE]
    events = {block: _events(raw, block) for block in written}
    begins, stays = {}, []
    for block, own in events.items():
        begins[block], end = _nanoseconds(raw.headers[block])
        stays.append((end - begins[block], max((last for *_, last in own), default=0)))
    ghz, zero = _frequency(stays), min(begins.values(), default=0)
    spans = tuple(
        WarpSpan(
            int(raw.headers[block, SM]), int(raw.headers[block, BLOCK]), warp, raw.scopes.get(scope, f"scope {scope}"),
            (begins[block] - zero + first / ghz) * NS, (begins[block] - zero + last / ghz) * NS,
        )
        for block, own in events.items()
        for warp, scope, first, last in own
    )  # fmt: skip
    lost = int(np.maximum(raw.counts.astype(np.int64) - raw.capacity, 0).sum()) // 2
    return Timeline(raw.kernel, spans, f"cycles at {1000 * ghz:,.0f} MHz, by the GPU's timer", lost)


Span = tuple[int, int, int, int]
"""Warp, the scope's number, first and last cycle, counted from the block's first record."""


def _events(raw: RawRecords, block: int) -> list[Span]:
    """What the warps of a block did; a record whose other end is lost, or was never written, is left out."""
    found: list[Span] = []
    zero: int | None = None
    for warp in range(raw.counts.shape[1]):
        begun: dict[int, int] = {}
        for tag, clock in _in_order(raw, block, warp):
            scope = tag >> _SCOPE_SHIFT & _SCOPE_MASK
            zero = clock if zero is None else zero
            since = (clock - zero + (1 << 31)) % (1 << 32) - (1 << 31)  # the clock's 32 bits run over
            if not tag & _IS_END:
                begun[scope] = since
            elif scope in begun:
                found.append((warp, scope, begun.pop(scope), since))
    least = min((first for _, _, first, _ in found), default=0)
    return [(warp, scope, first - least, last - least) for warp, scope, first, last in found]


def _in_order(raw: RawRecords, block: int, warp: int) -> list[tuple[int, int]]:
    """A warp's records, the oldest first: (what it is, clock)."""
    count = int(raw.counts[block, warp])
    pairs = raw.rings[block, warp, : min(count, raw.capacity)].reshape(-1, 2)
    if count > raw.capacity:
        pairs = np.roll(pairs, -(count % raw.capacity // 2), axis=0)
    return [(int(tag), int(clock)) for tag, clock in pairs]


def _nanoseconds(header: np.ndarray) -> tuple[int, int]:
    """When the block began, and when it had done all but writing its records."""
    begin, end = (int(header[at]) | int(header[at + 1]) << 32 for at in (BEGIN, END))
    return begin, end


def _frequency(stays: Sequence[tuple[int, int]]) -> float:
    """Cycles a nanosecond, of blocks' stays in nanoseconds and cycles: the most of the longest.

    Records may cover less than the whole stay, never more; the timer's steps of 32 ns matter least in the longest.
    """
    longest = sorted((ns, cycles) for ns, cycles in stays if ns > 0 and cycles > 0)[-LONGEST:]
    if not longest:
        raise ValueError("timeline: the records hold no block that took any time")
    return max(cycles / ns for ns, cycles in longest)
