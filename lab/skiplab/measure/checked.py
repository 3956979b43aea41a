"""Points checked, timed, and checked again, in this process: one, or several whose samples are taken in turn."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, TypeVar

import numpy as np
import torch

from skiplab.contenders import Contender, Planned, is_cuda
from skiplab.machine import Machine, device_name
from skiplab.measure.failure import Failure, attempt
from skiplab.measure.impossible import is_impossible
from skiplab.measure.modules import MODULES
from skiplab.measure.point import Measurement, Point, WorkDone
from skiplab.measure.rotation import refill, tensors_of
from skiplab.measure.samples import Cancelled
from skiplab.measure.timing import MAX_SECONDS, THROTTLE_RETRIES, Built, Repeat, TimeLimits, Timing
from skiplab.measure.verify import Check, compare, expected_of, same_bits, verify
from skiplab.workload import Problem

T = TypeVar("T")
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
    limits = TimeLimits(budget_s, retries, cancelled)
    return measure_together([point], limits, seed, check, machine=machine)[0]


def measure_together(
    points: Sequence[Point],
    limits: TimeLimits,
    seed: int = 0,
    check: bool = True,
    *,
    machine: Machine | None = None,
    stage: Callable[[], None] = lambda: None,
) -> list[Measurement]:
    """As `measure`, of several points of one workload on one device, whose samples are taken in turn.

    Of one point there is always a measurement. Of several there are those that are `ok` or `unsupported`: whoever fails
    beside others is to be measured alone, for only then it is the one to blame. stage: called between the parts of the
    work, each of which may take as long as a point.
    """
    trial = _Trial(limits.cancelled, seed, check, machine, stage)
    begun = [trial.tried(point, partial(trial.built, point)) for point in points]
    built = [one for one in begun if isinstance(one, _Checked)]
    measurements = [one for one in begun if isinstance(one, Measurement)]
    timings = trial.tried(built[0].point, partial(_timings, built, limits)) if built else ()
    if not isinstance(timings, Measurement):
        for one, timing in zip(built, timings, strict=True):
            beside = _beside(one, built, timings)
            measurements.append(trial.tried(one.point, partial(trial.judged, one, timing, beside)))
    elif len(points) == 1:  # else it is not known whose failure it was
        measurements.append(timings)
    kept = [one for one in measurements if len(points) == 1 or one.status in ("ok", "unsupported")]
    return sorted(kept, key=lambda one: points.index(one.point))


@dataclass(frozen=True)
class _Checked:
    """A point whose contender was right: what it built, its plan and work, and what the check found."""

    blank: Measurement
    entry: Contender
    built: Built
    plan: dict[str, Any]
    work: WorkDone
    found: Check | None

    @property
    def point(self) -> Point:
        return self.blank.point


@dataclass(frozen=True)
class _Trial:
    """How points are checked; each failure becomes a measurement."""

    cancelled: Callable[[], bool]
    seed: int
    check: bool
    machine: Machine | None
    stage: Callable[[], None]

    def tried(self, point: Point, call: Callable[[], T]) -> T | Measurement:
        """The call's result on the point's device, or the point's measurement where it fails."""
        there = is_cuda(point.device) and torch.cuda.is_available()
        scope = torch.cuda.device(point.device) if there else nullcontext()

        def scoped() -> T:
            with scope, torch.no_grad():
                return call()

        taken = attempt(scoped, self.cancelled)
        self.stage()
        return (
            replace(_blank(point), status=taken.status, error_text=taken.text) if isinstance(taken, Failure) else taken
        )

    def built(self, point: Point) -> _Checked | Measurement:
        """The contender's call, checked; the measurement where it is not supported or wrong."""
        blank, entry = _blank(point), point.entry
        workload, device = point.workload, point.device
        reason = _refusal(entry, workload, device)
        if reason is not None:
            return replace(blank, status="unsupported", error_text=reason)
        inputs = workload.inputs(device, self.seed)
        arguments = entry.prepare(workload, inputs)
        fn = entry.build(workload, arguments)
        found = verify(workload.checked, entry, device, self.seed, fn=fn) if self.check else None
        if found is not None and not found.passed:
            return _wrong(blank, found)
        if self.cancelled():
            raise Cancelled
        part = MODULES[workload.operation]
        plan, work = part.plan_and_work(entry, workload, inputs, arguments)
        built = Built(fn, workload, arguments, part.read_bytes(entry, workload, work))
        return _Checked(blank, entry, built, plan, work, found)

    def judged(self, one: _Checked, timing: Timing, together: tuple[str, ...]) -> Measurement:
        """The measurement of a timing, after the timed memory was checked on a fresh seed."""
        workload, device = one.point.workload, one.point.device
        if self.check:
            seed = self.seed + FRESH_SEED
            stale = verify_repeats(workload.checked, one.entry, device, seed, timing.repeats)
            if stale is not None:
                return _wrong(one.blank, stale)
        fn = one.built.call
        plan = {**one.plan, **(fn.plan if isinstance(fn, Planned) else {})}
        json.dumps(plan, allow_nan=False)  # what a run file cannot hold is the contender's failure, here and not there
        measurement = replace(
            one.blank, status="ok", method=timing.method, samples_ns=timing.samples_ns, other_samples=timing.others,
            work=one.work, clocks=timing.clocks, plan=plan, parts_ns=timing.parts_ns, peak_bytes=timing.peak_bytes,
            error=one.found and one.found.error, tolerance=one.found and one.found.tolerance,
            snr_db=one.found and one.found.snr_db, together=together,
        )  # fmt: skip
        impossible = is_impossible(measurement.median_ns / 1e9, one.work, workload, device, self.machine)
        doubts = {
            "impossible": impossible, "tuned-elsewhere": plan.get("origin") == "elsewhere", "unchecked": not self.check,
        }  # fmt: skip
        return replace(measurement, flags=(*timing.flags, *(name for name, doubted in doubts.items() if doubted)))


def _blank(point: Point) -> Measurement:
    return Measurement(point, "unsupported", label=point.entry.label, device_name=device_name(point.device))


def _refusal(entry: Contender, workload: Problem, device: str) -> str | None:
    if os.environ.get("TRITON_INTERPRET") == "1":
        return "TRITON_INTERPRET=1 is set: a time from Triton's interpreter says nothing, so none is taken"
    if is_cuda(device) and not torch.cuda.is_available():
        return "torch sees no CUDA device on this machine"
    return entry.refusal(workload, device)


def _timings(several: Sequence[_Checked], limits: TimeLimits) -> Sequence[Timing]:
    point = several[0].point
    return MODULES[point.workload.operation].timed([one.built for one in several], point.device, limits)


def _beside(one: _Checked, several: Sequence[_Checked], timings: Sequence[Timing]) -> tuple[str, ...]:
    """The contenders whose samples were taken in turn with this one's: those that are timed by the same method."""
    methods = {id(other): timing.method for other, timing in zip(several, timings, strict=True)}
    return tuple(
        other.point.contender for other in several if other is not one and methods[id(other)] == methods[id(one)]
    )


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
