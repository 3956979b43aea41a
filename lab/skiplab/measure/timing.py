"""Timing a callable on this device: raw samples, and flags for what makes them doubtful.

On CUDA three ways: `graph` (replay of a CUDA graph over rotated inputs: what a served model sees), `eager` (events
around single calls, L2 flushed: with the host's share), `warm` (replay on one input: what the L2 can give at best).
On a CPU `cpu`: perf_counter around single calls over rotated inputs.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import cycle
from typing import Any, NamedTuple, TypeVar

import numpy as np
import torch

from skiplab.machine import clocks, cpu_use, last_cache_bytes, others_share
from skiplab.measure.rotation import ROTATION, ArgsSets, size_of, stir

T = TypeVar("T")
MIN_SAMPLES = 10
MIN_SECONDS = 0.5
TARGET_ERROR = 0.005  # relative standard error of the median
MAX_SECONDS = 15.0
THROTTLE_RETRIES = 2
# NVML's reasons that slow a kernel: software power cap and thermal, hardware slowdown, thermal, power brake.
THROTTLE_BITS = 0x4 | 0x8 | 0x20 | 0x40 | 0x80
BUSY = 0.05  # share of the cores that other programs used meanwhile
REPLAY_MS = 5.0  # length of a graph's sample
OTHER_SAMPLES = 100  # of the ways that only stand beside `graph`
COOL_S = 1.0  # pause before throttled samples are taken again
LAUNCH_BOUND = 1.10  # eager over graph


class Cancelled(Exception):
    """The caller asked to stop."""


@dataclass(frozen=True)
class TimeLimits:
    """How long a point is timed at most, how often a throttled GPU is tried again, and who may stop it."""

    budget_s: float = MAX_SECONDS
    retries: int = THROTTLE_RETRIES
    cancelled: Callable[[], bool] = lambda: False


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
    cancelled: Callable[[], bool] = lambda: False,
) -> Timing:
    """Time `fn(*args)` over the argument sets in turn (`read`: see `rotate`); raises Cancelled between samples.

    Stops at 10 samples, 0.5 s of measured time and a relative standard error of the median under 0.5 % (or one that
    no longer falls); at `budget_s` seconds at most, and then with the flag `unconverged`. While the GPU throttles,
    samples are taken again, `retries` times at most.
    """
    fn(*args_sets[0])
    if torch.device(device).type == "cuda":
        timing = _time_cuda(fn, args_sets, device, budget_s, retries, cancelled)
    else:
        timing = _time_cpu(fn, args_sets, budget_s, cancelled)
    flags = [*timing.flags]
    size = size_of(args_sets[0])
    if len(args_sets) * min(size, read or size) < ROTATION * last_cache_bytes(device):
        flags.append("l2-resident")
    if is_bimodal(timing.samples_ns):
        flags.append("bimodal")
    return replace(timing, flags=tuple(flags))


def _repeated_calls(way: str, fn: Callable[..., Any], args_sets: ArgsSets) -> tuple[Repeat, ...]:
    """Repeats of the calls on the first arguments, which were timed most often, and on some others."""
    chosen = {0, random.randrange(len(args_sets))}
    return tuple(Repeat(way, args_sets[i], partial(fn, *args_sets[i])) for i in sorted(chosen))


def _time_cpu(fn: Callable[..., Any], args_sets: ArgsSets, budget_s: float, cancelled: Callable[[], bool]) -> Timing:
    sampler = _cpu_sampler(fn, args_sets)
    (samples, converged), clocked, busy = cooled(lambda: collect(sampler, budget_s, cancelled), "cpu", 0)
    flags = (*(() if converged else ("unconverged",)), *busy)
    return Timing(samples, "cpu", flags, clocks=clocked, repeats=_repeated_calls("cpu", fn, args_sets))


def _cpu_sampler(fn: Callable[..., Any], args_sets: ArgsSets) -> Callable[[], int]:
    sets = cycle(args_sets)

    def sample() -> int:
        args = next(sets)
        stir(args)
        start = time.perf_counter_ns()
        fn(*args)
        return time.perf_counter_ns() - start

    return sample


def collect(
    sample: Callable[[], int],
    budget_s: float,
    cancelled: Callable[[], bool],
    calls: int = 1,
    most: int | None = None,
) -> tuple[tuple[int, ...], bool]:
    """(samples, whether they converged), `most` at most; each in nanoseconds a call, over `calls` calls."""
    samples: list[int] = []
    measured_ns, errors = 0, []
    end = time.perf_counter() + budget_s
    while True:
        if cancelled():
            raise Cancelled
        samples.append(sample())
        measured_ns += samples[-1] * calls
        if len(samples) >= MIN_SAMPLES and len(samples) % MIN_SAMPLES == 0:
            errors.append(median_error(samples))
            stopped_falling = len(errors) > 4 and min(errors[-3:]) > 0.95 * min(errors[:-3])
            if measured_ns >= MIN_SECONDS * 1e9 and (errors[-1] < TARGET_ERROR or stopped_falling):
                return tuple(samples), True
        if time.perf_counter() > end or len(samples) == most:
            return tuple(samples), bool(errors) and errors[-1] < TARGET_ERROR


def median_error(samples: Sequence[int]) -> float:
    """Relative standard error of the median, from the interquartile range (as if normal)."""
    low, middle, high = np.percentile(samples, (25, 50, 75))
    return float(1.2533 * (high - low) / 1.349 / np.sqrt(len(samples)) / middle)


def is_bimodal(samples: Sequence[int]) -> bool:
    """Whether the samples form two groups, each of a fifth of them or more, more than 3 % of the median apart."""
    values = np.sort(np.asarray(samples, dtype=np.float64))
    count = len(values)
    if count < MIN_SAMPLES:
        return False
    cuts = np.arange(max(1, count // 5), count - max(1, count // 5) + 1)
    distances = values[cuts] - values[cuts - 1]
    cut = int(cuts[np.argmax(distances)])
    below, above = values[:cut], values[cut:]
    distance = above.mean() - below.mean()
    return bool(distance > 0.03 * np.median(values) and distance > 4 * (below.std() + above.std()))


def _time_cuda(
    fn: Callable[..., Any],
    args_sets: ArgsSets,
    device: str,
    budget_s: float,
    retries: int,
    cancelled: Callable[[], bool],
) -> Timing:
    """Graph, eager and warm samples; throttled ones are taken again, a few times at most."""
    flags: list[str] = ["allocates"] if _allocates(fn, args_sets[0]) else []
    graph = _capture(fn, args_sets)
    one = _capture(fn, args_sets[:1])
    eager = _eager_sampler(fn, args_sets, device)

    def take() -> tuple[tuple[int, ...], bool, str, dict[str, tuple[int, ...]]]:
        single, single_ok = collect(eager, budget_s, cancelled, most=OTHER_SAMPLES)
        if graph is None or one is None:
            return single, single_ok, "eager", {}
        replay, calls = _replay_sampler(graph.graph, len(args_sets))
        samples, converged = collect(replay, budget_s, cancelled, calls)
        replay, calls = _replay_sampler(one.graph, 1)
        warm, _ = collect(replay, budget_s, cancelled, calls, most=OTHER_SAMPLES)
        return samples, converged, "graph", {"eager": single, "warm": warm}

    (samples, converged, method, others), clocked, throttled = cooled(take, device, retries)
    flags += throttled
    if not converged:
        flags.append("unconverged")
    if method == "graph" and np.median(others["eager"]) > LAUNCH_BOUND * np.median(samples):
        flags.append("launch-bound")
    graphs = () if graph is None or one is None else (graph.repeat("graph"), one.repeat("warm"))
    repeats = (*graphs, *_repeated_calls("eager", fn, args_sets))
    return Timing(samples, method, tuple(flags), others, clocked, repeats)


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


def _replay_sampler(graph: torch.cuda.CUDAGraph, calls: int) -> tuple[Callable[[], int], int]:
    """A sampler that replays the graph long enough for the event clock (steps of 0.5 µs), and its calls a sample."""
    start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)

    def replay(times: int) -> float:
        start.record()
        for _ in range(times):
            graph.replay()
        end.record()
        end.synchronize()
        return start.elapsed_time(end)

    times = max(1, round(REPLAY_MS / max(replay(1), 1e-3)))
    return lambda: round(replay(times) * 1e6 / (times * calls)), times * calls


def _eager_sampler(fn: Callable[..., Any], args_sets: ArgsSets, device: str) -> Callable[[], int]:
    """A sampler of single calls between two events, with the L2 overwritten before each."""
    flush = torch.empty(max(1, 2 * last_cache_bytes(device)), dtype=torch.uint8, device=device)
    start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    sets = cycle(args_sets)

    def sample() -> int:
        args = next(sets)
        stir(args)
        flush.zero_()
        torch.cuda.synchronize()  # else the flush hides what the host costs
        start.record()
        fn(*args)
        end.record()
        end.synchronize()
        return round(start.elapsed_time(end) * 1e6)

    return sample
