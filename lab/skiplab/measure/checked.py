"""A point checked, timed, and checked again, in this process."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import replace

import numpy as np
import torch

from skiplab.contenders import Contender, Planned, is_cuda
from skiplab.machine import Machine, device_name
from skiplab.measure.failure import Failure, attempt
from skiplab.measure.impossible import is_impossible
from skiplab.measure.modules import MODULES
from skiplab.measure.point import Measurement, Point
from skiplab.measure.rotation import refill, tensors_of
from skiplab.measure.timing import MAX_SECONDS, THROTTLE_RETRIES, Cancelled, Repeat, TimeLimits
from skiplab.measure.verify import Check, compare, expected_of, same_bits, verify
from skiplab.workload import Problem

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

    An exception of the contender becomes the status. Raises Cancelled when asked to stop, what the user's own Ctrl-C
    raises, and ValueError for a point that cannot be (an unknown contender). `machine` holds the roofs for the flag
    `impossible`; `retries`: how often samples of a throttled GPU are taken again.
    """
    entry = point.entry
    blank = Measurement(point, "unsupported", label=entry.label, device_name=device_name(point.device))

    def take() -> Measurement | Failure:
        reason = _refusal(entry, point.workload, point.device)
        if reason is not None:
            return Failure("unsupported", reason)
        scope = torch.cuda.device(point.device) if is_cuda(point.device) else nullcontext()
        with scope, torch.no_grad():
            return _measure(blank, entry, seed, budget_s, check, machine, retries, cancelled)

    taken = attempt(take, cancelled)
    return replace(blank, status=taken.status, error_text=taken.text) if isinstance(taken, Failure) else taken


def _refusal(entry: Contender, workload: Problem, device: str) -> str | None:
    if os.environ.get("TRITON_INTERPRET") == "1":
        return "TRITON_INTERPRET=1 is set: a time from Triton's interpreter says nothing, so none is taken"
    if is_cuda(device) and not torch.cuda.is_available():
        return "torch sees no CUDA device on this machine"
    return entry.refusal(workload, device)


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
    before = verify(workload.checked, entry, device, seed, fn=fn) if check else None
    if before is not None and not before.passed:
        return _wrong(blank, before)
    if cancelled():
        raise Cancelled
    part = MODULES[workload.operation]
    plan, work = part.plan_and_work(entry, workload, inputs, arguments)
    read, limits = part.read_bytes(entry, workload, work), TimeLimits(budget_s, retries, cancelled)
    timing = part.timed(fn, workload, arguments, device, read, limits)
    stale = verify_repeats(workload.checked, entry, device, seed + FRESH_SEED, timing.repeats) if check else None
    if stale is not None:
        return _wrong(blank, stale)
    plan = {**plan, **(fn.plan if isinstance(fn, Planned) else {})}
    json.dumps(plan, allow_nan=False)  # what a run file cannot hold is the contender's failure, here and not there
    measurement = replace(
        blank, status="ok", method=timing.method, samples_ns=timing.samples_ns, other_samples=timing.others,
        work=work, clocks=timing.clocks, plan=plan, parts_ns=timing.parts_ns, peak_bytes=timing.peak_bytes,
        error=before and before.error, tolerance=before and before.tolerance, snr_db=before and before.snr_db,
    )  # fmt: skip
    impossible = is_impossible(measurement.median_ns / 1e9, work, workload, device, machine)
    doubts = {"impossible": impossible, "tuned-elsewhere": plan.get("origin") == "elsewhere", "unchecked": not check}
    return replace(measurement, flags=(*timing.flags, *(name for name, doubted in doubts.items() if doubted)))


def verify_repeats(
    workload: Problem, entry: Contender, device: str, seed: int, repeats: Sequence[Repeat]
) -> Check | None:
    """The error found after refilling the timed memory with fresh inputs of that seed; None if there is none.

    It exposes results that were cached by address, object or shape, and graphs without kernels.
    """
    inputs = workload.inputs(device, seed)
    expected = expected_of(workload, entry, device, seed, inputs, sampled=True)
    arguments = entry.prepare(workload, inputs)
    for one in repeats:
        refill(one.args, arguments)
        result = compare(workload, one.run(), expected)
        problem = result.problem
        if not all(map(same_bits, tensors_of(one.args), tensors_of(arguments))):
            problem = "the call changed its inputs"
        if problem:
            return replace(result, problem=f"on a fresh seed after timing, in the memory timed ({one.way}): {problem}")
    return None


def _wrong(blank: Measurement, result: Check) -> Measurement:
    error = result.error if np.isfinite(result.error) else None
    return replace(blank, status="wrong", error_text=result.problem, error=error, tolerance=result.tolerance)
