"""A point checked, timed, and checked again, in this process."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace

import numpy as np
import torch

from skiplab.contenders import Contender, Planned, Unsupported, is_cuda
from skiplab.machine import Machine, device_name
from skiplab.measure.point import Measurement, Point, WorkDone
from skiplab.measure.work import is_impossible, plan_and_work
from skiplab.timing import MAX_SECONDS, THROTTLE_RETRIES, Cancelled, rotate, time_callable
from skiplab.verify import Check, verify
from skiplab.workload import AnyWorkload, DecodeWorkload

FRESH_SEED = 7919  # added to the seed for the check after timing


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
    plan, work = plan_and_work(entry, workload, inputs, arguments)
    read, limits = _read(entry, workload, work), {"budget_s": budget_s, "retries": retries}
    timing = time_callable(fn, rotate(arguments, device, read), device, read=read, **limits, cancelled=cancelled)
    after = verify(workload, entry, device, seed + FRESH_SEED, fn=fn, sampled=True) if check else None
    if after is not None and not after.passed:
        return _wrong(blank, replace(after, problem=f"on a fresh seed after timing: {after.problem}"))
    plan = {**plan, **(fn.plan if isinstance(fn, Planned) else {})}
    measurement = replace(
        blank, status="ok", method=timing.method, samples_ns=timing.samples_ns, other_samples=timing.others,
        work=work, clocks=timing.clocks, plan=plan,
        error=before and before.error, tolerance=before and before.tolerance,
    )  # fmt: skip
    impossible = is_impossible(measurement.median_ns / 1e9, work, workload, device, machine)
    doubts = {"impossible": impossible, "tuned-elsewhere": plan.get("origin") == "elsewhere", "unchecked": not check}
    return replace(measurement, flags=(*timing.flags, *(name for name, doubted in doubts.items() if doubted)))


def _read(entry: Contender, workload: AnyWorkload, work: WorkDone) -> int | None:
    """The bytes of its arguments that a call reads, None for all of them: of a cache with a window, the window's."""
    windowed = isinstance(workload, DecodeWorkload) and workload.window is not None
    return work.minimal_bytes if windowed and not entry.whole_cache else None


def _wrong(blank: Measurement, result: Check) -> Measurement:
    error = result.error if np.isfinite(result.error) else None
    return replace(blank, status="wrong", error_text=result.problem, error=error, tolerance=result.tolerance)
