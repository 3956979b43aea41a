"""Timing a callable on this device: raw samples, and flags for what makes them doubtful.

On CUDA three ways: `graph` (replay of a CUDA graph over rotated inputs: what a served model sees), `eager` (events
around single calls, L2 flushed: with the host's share), `warm` (replay on one input: what the L2 can give at best).
On a CPU `cpu`: perf_counter around single calls over rotated inputs.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import cycle
from typing import Any, NamedTuple, TypeVar

import numpy as np
import torch

from skiplab.machine import clocks, cpu_use, last_cache_bytes, others_share
from skiplab.measure.rotation import ROTATION, ArgsSets, size_of, stir
from skiplab.measure.samples import Cancelled, Samples, Way, in_turn, is_bimodal
from skiplab.workload import Problem

T = TypeVar("T")
MAX_SECONDS = 15.0
THROTTLE_RETRIES = 2
# NVML's reasons that slow a kernel: software power cap and thermal, hardware slowdown, thermal, power brake.
THROTTLE_BITS = 0x4 | 0x8 | 0x20 | 0x40 | 0x80
BUSY = 0.05  # share of the cores that other programs used meanwhile
REPLAY_MS = 5.0  # length of a graph's sample
OTHER_SAMPLES = 100  # of the ways that only stand beside `graph`
COOL_S = 1.0  # pause before throttled samples are taken again
LAUNCH_BOUND = 1.10  # eager over graph


def never() -> bool:
    """Nobody asks to stop."""
    return False


@dataclass(frozen=True)
class TimeLimits:
    """How long a point is timed at most, how often a throttled GPU is tried again, and who may stop it."""

    budget_s: float = MAX_SECONDS
    retries: int = THROTTLE_RETRIES
    cancelled: Callable[[], bool] = never


@dataclass(frozen=True)
class Built:
    """What a contender built for a workload, and its arguments. read: bytes of them that a call reads; None: all."""

    call: Any
    workload: Problem
    arguments: Sequence[Any]
    read: int | None


class Rotated(NamedTuple):
    """A callable, and the arguments that its calls take in turn; read: see `rotate`."""

    fn: Callable[..., Any]
    args_sets: ArgsSets
    read: int | None = None


@dataclass(frozen=True)
class Repeat:
    """Runs a callable once more in a way in which it was timed: `run()` gives the result for `args`."""

    way: str
    args: Sequence[Any]
    run: Callable[[], Any]


@dataclass(frozen=True)
class Timing:
    """`samples_ns` of one call each, in order, by `method` (cpu, graph or eager); CUDA's other ways in `others`.

    repeats: whoever refills their arguments sees whether what was timed computes, or remembers. parts_ns: where a
    call's time goes, by name; peak_bytes: the most memory meanwhile; both where they were looked at.
    """

    samples_ns: tuple[int, ...]
    method: str
    flags: tuple[str, ...] = ()
    others: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    clocks: Mapping[str, Any] = field(default_factory=dict)
    repeats: tuple[Repeat, ...] = ()
    parts_ns: Mapping[str, int] = field(default_factory=dict)
    peak_bytes: int | None = None


def time_callable(
    fn: Callable[..., torch.Tensor],
    args_sets: ArgsSets,
    device: str,
    *,
    read: int | None = None,
    budget_s: float = MAX_SECONDS,
    retries: int = THROTTLE_RETRIES,
    cancelled: Callable[[], bool] = never,
) -> Timing:
    """Time `fn(*args)` over the argument sets in turn (`read`: see `rotate`), alone; as `time_together`."""
    return time_together([Rotated(fn, args_sets, read)], device, TimeLimits(budget_s, retries, cancelled))[0]


def time_together(several: Sequence[Rotated], device: str, limits: TimeLimits) -> tuple[Timing, ...]:
    """Time callables over their argument sets, their samples taken in turn; raises Cancelled between samples.

    Each stops at 10 samples, 0.5 s of measured time and a relative standard error of the median under 0.5 % (or one
    that no longer falls); at `budget_s` seconds of its own at most, and then with the flag `unconverged`. While the GPU
    throttles, all samples are taken again, `retries` times at most.
    """
    ready = []
    for one in several:
        if limits.cancelled():
            raise Cancelled
        one.fn(*one.args_sets[0])
        ready.append(_ready_on_cuda(one, device) if torch.device(device).type == "cuda" else _ready_on_cpu(one))

    taken, clocked, doubts = cooled(lambda: _samples(ready, limits), device, limits.retries)
    return tuple(
        _timing(one, prepared, samples, clocked, doubts, device)
        for one, prepared, samples in zip(several, ready, taken, strict=True)
    )


@dataclass(frozen=True)
class _Ready:
    """A callable that waits to be timed: its ways in the order in which they are taken, of which `method` counts."""

    method: str
    ways: Mapping[str, Way]
    repeats: tuple[Repeat, ...]
    flags: tuple[str, ...] = ()


def _samples(ready: Sequence[_Ready], limits: TimeLimits) -> list[dict[str, Samples]]:
    """The samples of each by way: one way after the other, and in each of them all that have it in turn."""
    taken: list[dict[str, Samples]] = [{} for _ in ready]
    for way in dict.fromkeys(way for one in ready for way in one.ways):
        having = [index for index, one in enumerate(ready) if way in one.ways]
        samples = in_turn([ready[index].ways[way] for index in having], limits.budget_s, limits.cancelled)
        for index, its in zip(having, samples, strict=True):
            taken[index][way] = its
    return taken


def _timing(
    one: Rotated,
    ready: _Ready,
    samples: Mapping[str, Samples],
    clocked: Mapping[str, Any],
    doubts: tuple[str, ...],
    device: str,
) -> Timing:
    values, converged = samples[ready.method]
    others = {way: its.values for way, its in samples.items() if way != ready.method}
    size = size_of(one.args_sets[0])
    flags = {
        "unconverged": not converged,
        "launch-bound": "eager" in others and np.median(others["eager"]) > LAUNCH_BOUND * np.median(values),
        "l2-resident": len(one.args_sets) * min(size, one.read or size) < ROTATION * last_cache_bytes(device),
        "bimodal": is_bimodal(values),
    }
    seen = (*ready.flags, *doubts, *(name for name, doubted in flags.items() if doubted))
    return Timing(values, ready.method, seen, others, clocked, ready.repeats)


def _repeated_calls(way: str, one: Rotated) -> tuple[Repeat, ...]:
    """Repeats of the calls on the first arguments, which were timed most often, and on some others."""
    chosen = {0, random.randrange(len(one.args_sets))}
    return tuple(Repeat(way, one.args_sets[i], partial(one.fn, *one.args_sets[i])) for i in sorted(chosen))


def _ready_on_cpu(one: Rotated) -> _Ready:
    return _Ready("cpu", {"cpu": Way(_cpu_sampler(one))}, _repeated_calls("cpu", one))


def _cpu_sampler(one: Rotated) -> Callable[[], int]:
    sets = cycle(one.args_sets)

    def sample() -> int:
        args = next(sets)
        stir(args)
        start = time.perf_counter_ns()
        one.fn(*args)
        return time.perf_counter_ns() - start

    return sample


def _ready_on_cuda(one: Rotated, device: str) -> _Ready:
    """Ready for graph, eager and warm samples; where it cannot be captured, for eager ones alone."""
    flags = ("allocates",) if _allocates(one.fn, one.args_sets[0]) else ()
    graph, single = _capture(one.fn, one.args_sets), _capture(one.fn, one.args_sets[:1])
    eager = Way(_eager_sampler(one, device), most=OTHER_SAMPLES)
    calls = _repeated_calls("eager", one)
    if graph is None or single is None:
        return _Ready("eager", {"eager": eager}, calls, flags)
    warm = _replay(single.graph, 1, leads=True)._replace(most=OTHER_SAMPLES)
    ways = {"eager": eager, "graph": _replay(graph.graph, len(one.args_sets)), "warm": warm}
    return _Ready("graph", ways, (graph.repeat("graph"), single.repeat("warm"), *calls), flags)


def cooled(take: Callable[[], T], device: str, retries: int) -> tuple[T, dict[str, Any], tuple[str, ...]]:
    """What `take` gives on a GPU that was not throttled, tried so often; the clocks, and the flag where it always was.

    On a CPU the share of the cores that other programs used stands for the clocks.
    """
    if torch.device(device).type != "cuda":
        use = cpu_use()
        taken = take()
        others = others_share(use, cpu_use())
        return taken, {"others_share": round(others, 3)}, ("busy",) if others > BUSY else ()
    while True:
        before = clocks(device)
        taken = take()
        after = clocks(device)
        throttled = after.get("throttle_reasons", 0) & THROTTLE_BITS
        if not throttled or retries < 1:
            return taken, {"before": before, "after": after}, ("throttled",) if throttled else ()
        retries -= 1
        time.sleep(COOL_S)


def _allocates(fn: Callable[..., Any], args: Sequence[torch.Tensor]) -> bool:
    """Whether a call takes device memory beyond its result."""
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    out = fn(*args)
    torch.cuda.synchronize()
    result = out.untyped_storage().nbytes() if isinstance(out, torch.Tensor) else 0
    return torch.cuda.max_memory_allocated() - before > result + (1 << 20)


class _Captured(NamedTuple):
    """A CUDA graph of calls, all their arguments, and the last call's result.

    A replay reads, and may write, the memory of all arguments: while the graph lives they must not be freed.
    """

    graph: torch.cuda.CUDAGraph
    args_sets: ArgsSets
    out: Any

    def repeat(self, way: str) -> Repeat:
        return Repeat(way, self.args_sets[-1], self.run)

    def run(self) -> Any:
        self.graph.replay()
        torch.cuda.synchronize()
        return self.out


def _capture(fn: Callable[..., Any], args_sets: ArgsSets) -> _Captured | None:
    """A CUDA graph of one call on each set of arguments; None if the callable cannot be captured."""
    graph = torch.cuda.CUDAGraph()
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        fn(*args_sets[0])
    torch.cuda.current_stream().wait_stream(stream)
    try:
        with torch.cuda.graph(graph):
            for args in args_sets:
                out = None  # its memory is the next one's
                out = fn(*args)
    except RuntimeError:  # a call that waits for the device or allocates on the host: eager times stand alone
        torch.cuda.synchronize()
        return None
    captured = _Captured(graph, tuple(args_sets), out)
    captured.run()
    return captured


def _replay(graph: torch.cuda.CUDAGraph, calls: int, leads: bool = False) -> Way:
    """Samples of a graph of so many calls, replayed long enough for the event clock (steps of 0.5 µs).

    leads: whether a replay that is not timed goes before, so that its input is in the L2 whoever ran last.
    """
    start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)

    def replay(times: int) -> float:
        if leads:
            graph.replay()
        start.record()
        for _ in range(times):
            graph.replay()
        end.record()
        end.synchronize()
        return start.elapsed_time(end)

    times = max(1, round(REPLAY_MS / max(replay(1), 1e-3)))
    return Way(lambda: round(replay(times) * 1e6 / (times * calls)), times * calls)


def _eager_sampler(one: Rotated, device: str) -> Callable[[], int]:
    """A sampler of single calls between two events, with the L2 overwritten before each."""
    flush = torch.empty(max(1, 2 * last_cache_bytes(device)), dtype=torch.uint8, device=device)
    start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    sets = cycle(one.args_sets)

    def sample() -> int:
        args = next(sets)
        stir(args)
        flush.zero_()
        torch.cuda.synchronize()  # else the flush hides what the host costs
        start.record()
        one.fn(*args)
        end.record()
        end.synchronize()
        return round(start.elapsed_time(end) * 1e6)

    return sample
