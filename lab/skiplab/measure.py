"""Check a point, then time it; whatever goes wrong is a row as well."""

from __future__ import annotations

import importlib
import os
import signal
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import asdict, astuple, dataclass, field, replace
from statistics import median
from typing import Any

import blockskip as bs
import numpy as np
import torch
from blockskip.attention.plan import Plan

from skiplab.contenders import Contender, Planned, Unsupported, contender, is_cuda, with_config
from skiplab.machine import Machine, device_name, known_gpus, measured_machine, this_machine
from skiplab.roofline import bound_of
from skiplab.timing import MAX_SECONDS, THROTTLE_RETRIES, Cancelled, rotate, time_callable
from skiplab.verify import Check, verify
from skiplab.workload import AnyWorkload, DecodeWorkload, LinearWorkload, Workload, workload_of

FRESH_SEED = 7919  # added to the seed for the check after timing
START_S = 120.0  # what a child may take to start, import, compile and check, beside the timing
POLL_S = 0.05
MEASURED_ROOF_MARGIN = 1.1  # a measured roof is the best seen, not the best there is


@dataclass(frozen=True)
class Point:
    """One setting of a sweep: a workload, who solves it, with which tile config, on which torch device."""

    workload: AnyWorkload
    contender: str
    config: tuple[int, ...] | None = None
    device: str = "cpu"

    @property
    def entry(self) -> Contender:
        """The contender, with the point's config; ValueError for an unknown one, or one that takes no config."""
        if isinstance(self.workload, Workload):
            return with_config(self.contender, self.config)
        if self.config is not None:
            raise ValueError(f"config: contenders of {self.workload.operation} take none; got {self.config}")
        return contender(self.contender, self.workload.operation)

    @property
    def key(self) -> str:
        """Stable and readable; equal points have equal keys."""
        config = "" if self.config is None else f" {self.config}"
        return f"{self.contender}{config} | {self.workload.key()} | {self.device}"


@dataclass(frozen=True)
class WorkDone:
    """FLOPs and bytes of one call; `executed_flops` is None where a peer's own tiles are not known.

    `bytes` are what the contender's skip mode moves, its mask included; `minimal_bytes` are q, k, v and out once.
    """

    useful_flops: int
    executed_flops: int | None
    dense_flops: int
    bytes: int
    minimal_bytes: int


@dataclass(frozen=True)
class Measurement:
    """What came of a point. `samples_ns` is empty unless the status is `ok`; error is the largest absolute one."""

    point: Point
    status: str
    error_text: str = ""
    error: float | None = None
    tolerance: float | None = None
    method: str | None = None
    samples_ns: tuple[int, ...] = ()
    other_samples: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    flags: tuple[str, ...] = ()
    work: WorkDone | None = None
    clocks: Mapping[str, Any] = field(default_factory=dict)
    label: str = ""
    device_name: str = ""
    plan: Mapping[str, Any] = field(default_factory=dict)

    @property
    def median_ns(self) -> float:
        """Median of the samples; nan without any."""
        return float(median(self.samples_ns)) if self.samples_ns else float("nan")

    @property
    def iqr_ns(self) -> float:
        """Interquartile range of the samples; nan without any."""
        if not self.samples_ns:
            return float("nan")
        low, high = np.percentile(self.samples_ns, (25, 75))
        return float(high - low)

    def row(self) -> dict[str, Any]:
        """The measurement as a run file's row (`data/README.md` has the schema)."""
        point = self.point
        return {
            "key": point.key, "point": point.key, "axes": point.workload.axes(), "contender": point.contender,
            "label": self.label or point.contender, "config": point.config and list(point.config),
            "torch_device": point.device, "device": self.device_name, "status": self.status,
            "error_text": self.error_text, "error": self.error, "tolerance": self.tolerance, "method": self.method,
            "samples_ns": list(self.samples_ns),
            "other_samples_ns": {name: list(samples) for name, samples in self.other_samples.items()},
            "flags": list(self.flags), "work": self.work and asdict(self.work), "clocks": dict(self.clocks),
            "plan": dict(self.plan),
        }  # fmt: skip

    @classmethod
    def from_row(cls, row: Mapping[str, Any]) -> Measurement:
        """The measurement that `row()` wrote."""
        config = row.get("config")
        point = Point(
            workload_of(row["axes"]), row["contender"], tuple(config) if config else None, row["torch_device"]
        )
        return cls(
            point, row["status"], row["error_text"], row["error"], row["tolerance"], row["method"],
            tuple(row["samples_ns"]),
            {name: tuple(samples) for name, samples in row["other_samples_ns"].items()},
            tuple(row["flags"]), WorkDone(**row["work"]) if row["work"] else None, row["clocks"],
            row["label"], row["device"], row["plan"],
        )  # fmt: skip


def measure(
    point: Point,
    seed: int = 0,
    budget_s: float = MAX_SECONDS,
    check: bool = True,
    *,
    machine: Machine | None = None,
    retries: int = THROTTLE_RETRIES,
    cancelled: Callable[[], bool] = lambda: False,
) -> Measurement:
    """Check a point against float64, time it (`budget_s` seconds at most), check it again on a fresh seed.

    Never raises for what the contender does: that is the status. Raises Cancelled when asked to stop, and ValueError
    for a point that cannot be (an unknown contender). `machine` holds the roofs for the flag `impossible`; `retries`:
    how often samples of a throttled GPU are taken again.
    """
    entry = point.entry
    workload, device = point.workload, point.device
    blank = Measurement(point, "unsupported", label=entry.label, device_name=device_name(device))
    reason = _refusal(entry, workload, device)
    if reason is not None:
        return replace(blank, error_text=reason)
    scope = torch.cuda.device(device) if is_cuda(device) else nullcontext()
    try:
        with scope, torch.no_grad():
            return _measure(blank, entry, seed, budget_s, check, machine, retries, cancelled)
    except Cancelled:
        raise
    except Unsupported as error:
        return replace(blank, error_text=str(error))
    except torch.OutOfMemoryError as error:
        torch.cuda.empty_cache()
        return replace(blank, status="out-of-memory", error_text=_first_line(error))
    except MemoryError as error:
        return replace(blank, status="out-of-memory", error_text=_first_line(error))
    except Exception as error:  # a peer or a user's kernel may raise anything; the row says what it was
        no_memory = "not enough memory" in str(error)  # torch's CPU allocator raises a plain RuntimeError
        return replace(blank, status="out-of-memory" if no_memory else "crashed", error_text=_first_line(error))


def _refusal(entry: Contender, workload: AnyWorkload, device: str) -> str | None:
    if os.environ.get("TRITON_INTERPRET") == "1":
        return "TRITON_INTERPRET=1 is set: a time from Triton's interpreter says nothing, so none is taken"
    if is_cuda(device) and not torch.cuda.is_available():
        return "torch sees no CUDA device on this machine"
    return entry.supports(workload, device)


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0][:300]}" if lines else type(error).__name__


def _measure(
    blank: Measurement,
    entry: Contender,
    seed: int,
    budget_s: float,
    check: bool,
    machine: Machine | None,
    retries: int,
    cancelled: Callable[[], bool],
) -> Measurement:
    workload, device = blank.point.workload, blank.point.device
    inputs = workload.inputs(device, seed)
    arguments = entry.prepare(workload, inputs)
    fn = entry.build(workload, arguments)
    before = verify(workload, entry, device, seed, fn=fn) if check else None
    if before is not None and not before.passed:
        return _wrong(blank, before)
    if cancelled():
        raise Cancelled
    limits = {"budget_s": budget_s, "retries": retries}
    timing = time_callable(fn, rotate(arguments, device), device, **limits, cancelled=cancelled)
    after = verify(workload, entry, device, seed + FRESH_SEED, fn=fn, sampled=True) if check else None
    if after is not None and not after.passed:
        return _wrong(blank, replace(after, problem=f"on a fresh seed after timing: {after.problem}"))
    plan, work = _plan_and_work(entry, workload, inputs)
    plan = {**plan, **(fn.plan if isinstance(fn, Planned) else {})}
    measurement = replace(
        blank, status="ok", method=timing.method, samples_ns=timing.samples_ns, other_samples=timing.others,
        work=work, clocks=timing.clocks, plan=plan,
        error=before and before.error, tolerance=before and before.tolerance,
    )  # fmt: skip
    impossible = is_impossible(measurement.median_ns / 1e9, work, workload, device, machine)
    doubts = {"impossible": impossible, "tuned-elsewhere": plan.get("origin") == "elsewhere", "unchecked": not check}
    return replace(measurement, flags=(*timing.flags, *(name for name, doubted in doubts.items() if doubted)))


def _wrong(blank: Measurement, result: Check) -> Measurement:
    error = result.error if np.isfinite(result.error) else None
    return replace(blank, status="wrong", error_text=result.problem, error=error, tolerance=result.tolerance)


def _plan_and_work(
    entry: Contender, workload: AnyWorkload, inputs: Sequence[torch.Tensor]
) -> tuple[dict[str, Any], WorkDone]:
    """What our own implementation says that it will do, {} for everybody else's; and the work that is in it."""
    if isinstance(workload, Workload):
        plan = plan_of(entry, workload, inputs)
        return _plan_facts(plan), work_done(entry, workload, plan)
    least = workload.work()
    moved = least.bytes
    facts: dict[str, Any] = {}
    if isinstance(workload, DecodeWorkload) and entry.name == "blockskip":
        q, k, v = inputs
        chosen = bs.explain_decode(q, k, v, kv_len=workload.kv_len, window=workload.window)
        config = chosen.config and list(astuple(chosen.config))
        facts = {"impl": chosen.impl, "config": config, "splits": chosen.splits}
        moved = workload.work(chosen.splits).bytes
    if isinstance(workload, LinearWorkload) and entry.moved is not None:
        moved = workload.moved(entry.moved(workload))
    return facts, WorkDone(least.useful_flops, least.executed_flops, least.dense_flops, moved, least.bytes)


def work_done(entry: Contender, workload: Workload, plan: Plan | None) -> WorkDone:
    """The FLOPs and bytes of the contender's call on this workload; our own kernels' tiles are those of their plan."""
    least = workload.work("bounds")  # reads no mask and no map
    skip, tile = entry.skip, entry.tile
    if plan is not None and plan.config is not None:
        skip, tile = plan.skip, (plan.queries_per_tile, plan.config.block_n)
    if skip is None or tile is None:
        return WorkDone(least.useful_flops, None, least.dense_flops, least.bytes, least.bytes)
    work = workload.work(skip, *tile)
    mask = entry.mask_bytes(workload)
    moved = full_bytes(workload, entry.repeats_heads) + mask if mask else work.bytes
    return WorkDone(work.useful_flops, work.executed_flops, work.dense_flops, moved, least.bytes)


def plan_of(entry: Contender, workload: Workload, inputs: Sequence[torch.Tensor]) -> Plan | None:
    """What our own attention says that it will do; None for everybody else's."""
    if entry.skip is None or entry.tile is not None:
        return None
    q, k, v = inputs
    config: Any = entry.config
    return bs.explain(q, k, v, workload.mask, q_start=workload.q_start, skip=entry.skip, config=config)


def _plan_facts(plan: Plan | None) -> dict[str, Any]:
    if plan is None:
        return {}
    config = plan.config and list(astuple(plan.config))
    return {
        "impl": plan.impl, "skip": plan.skip, "config": config, "packed": plan.packed, "kernel": plan.kernel,
        "splits": plan.splits, **({"origin": plan.origin.how, "tuned_on": plan.origin.device} if plan.origin else {}),
    }  # fmt: skip


def full_bytes(workload: Workload, repeats_heads: bool = False) -> int:
    """q, k, v and out once, all keys; of each query head its own where they are repeated."""
    key_heads = workload.q_heads if repeats_heads else workload.kv_heads
    elements = workload.q_len * workload.q_heads + workload.keys * key_heads
    return 2 * workload.element_bytes * workload.batch * workload.head_dim * elements


def is_impossible(seconds: float, work: WorkDone, workload: AnyWorkload, device: str, machine: Machine | None) -> bool:
    """Whether the time is below what the data sheet of a known GPU allows, else below this device's measured roofs.

    On a CPU the caches may hold everything, so there only the products count. A roof that was measured while the
    machine was busy is too low: before a point is called impossible it is measured again.
    """
    moved = work.minimal_bytes if is_cuda(device) else 0
    sheet = _data_sheet(device_name(device)) if is_cuda(device) else None
    if sheet is not None:
        return seconds < bound_of(work.useful_flops, moved, sheet).seconds

    def beats(roof: Machine) -> bool:
        return seconds * MEASURED_ROOF_MARGIN < bound_of(work.useful_flops, moved, roof).seconds

    return beats(machine or this_machine(device, workload.dtype)) and beats(measured_machine(device, workload.dtype))


def _data_sheet(name: str) -> Machine | None:
    """The data sheet of a GPU; a driver says `NVIDIA H100 80GB HBM3` for what it calls `NVIDIA H100 SXM`."""
    if name in known_gpus():
        return known_gpus()[name]
    model = " ".join(name.split()[:2])
    return next((gpu for gpu in known_gpus().values() if gpu.name.startswith(f"{model} ")), None)


class Child:
    """One child process in which points are measured, one at a time; it is kept warm between points.

    A crash, an illegal access and a timeout end the child, not the sweep: they are rows, and the next point starts a
    fresh child. Use it as a context manager.
    """

    def __init__(self) -> None:
        from multiprocessing import get_context

        from pebble import ProcessPool

        self._pool = ProcessPool(max_workers=1, initializer=ignore_interrupts, context=get_context("spawn"))

    def __enter__(self) -> Child:
        return self

    def __exit__(self, *exception: object) -> None:
        self._pool.stop()
        self._pool.join()

    def measure(
        self,
        point: Point,
        seed: int = 0,
        budget_s: float = MAX_SECONDS,
        check: bool = True,
        *,
        machine: Machine | None = None,
        retries: int = THROTTLE_RETRIES,
        cancelled: Callable[[], bool] = lambda: False,
        timeout_s: float | None = None,
    ) -> Measurement:
        """As `measure`, in the child; `cancelled` is asked every 50 ms and ends the child's process.

        A user's kernel that was defined in a notebook or a script's main module is measured in this process: a child
        cannot import it.
        """
        from concurrent.futures import TimeoutError as NotYet

        from pebble import ProcessExpired

        entry = point.entry
        if entry.module == "__main__":
            return measure(point, seed, budget_s, check, machine=machine, retries=retries, cancelled=cancelled)
        limit = timeout_s or START_S + 4 * budget_s
        threads = torch.get_num_threads()
        arguments = (entry.module, threads, point, seed, budget_s, check)
        options = {"machine": machine, "retries": retries}
        future = self._pool.schedule(_in_child, args=arguments, kwargs=options, timeout=limit)
        blank = Measurement(point, "crashed", label=entry.label, device_name=device_name(point.device))
        while True:
            if cancelled():
                future.cancel()
                raise Cancelled
            try:
                return future.result(timeout=POLL_S)
            except NotYet:
                if future.done():
                    text = f"no result after {limit:g} s; the child was ended"
                    return replace(blank, status="timeout", error_text=text)
            except ProcessExpired as error:
                return replace(blank, error_text=f"the child process died with exit code {error.exitcode}")


def measure_isolated(
    point: Point, seed: int = 0, budget_s: float = MAX_SECONDS, check: bool = True, **options: Any
) -> Measurement:
    """As `measure`, in a child process of its own; options are those of `Child.measure`."""
    with Child() as child:
        return child.measure(point, seed, budget_s, check, **options)


def ignore_interrupts() -> None:
    """Ctrl-C reaches the whole process group; the parent alone decides what it means."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _in_child(module: str, threads: int, *arguments: Any, **options: Any) -> Measurement:
    torch.set_num_threads(threads)
    importlib.import_module(module)  # registers a user's kernel
    return measure(*arguments, **options)
