"""Finds the configurations with which a GPU runs our kernels fastest: `skiplab tune`.

Candidates are compiled in parallel, without the GPU, and dropped where they spill or do not fit. What is left is
checked and timed, one after the other, into an ordinary run file; `tuning.files` makes `configs/<device>.json` of any
such run.
"""

from __future__ import annotations

import math
import os
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from statistics import median
from typing import Any, cast

import torch
from blockskip.gpu import Gpu

from skiplab.contenders import is_cuda
from skiplab.machine import device_kind, this_machine
from skiplab.measure import Child, Measurement, Point
from skiplab.store import Run, RunWriter
from skiplab.store.keys import without_index
from skiplab.sweep import default_path, ending, row_key, row_of, run_header, usable
from skiplab.tuning.base import AnyTuning, Candidate, TuningModule
from skiplab.tuning.compiling import Compiled, Job, compile_all
from skiplab.tuning.modules import MODULES
from skiplab.tuning.winners import rankings
from skiplab.workload import Problem

SPILL_BYTES = 64
"""A few spilled registers may pay, and the clock decides that; what spills more is not timed."""
RACE = 1.25
"""Times the fastest: a candidate that was slower on the first workload of a race (`TuningModule.race_of`) is not timed
on the others."""
FINALISTS = 3
FINAL_BUDGETS = 4

Take = Callable[..., Measurement]


def tune(
    tuning: AnyTuning,
    path: Path | str | None = None,
    *,
    jobs: int | None = None,
    spills: int = SPILL_BYTES,
    limit_s: float = 480.0,
    cancelled: Callable[[], bool] = lambda: False,
    say: Callable[[str], None] = print,
    progress: bool = True,
) -> Run:
    """Compile, check and time the candidates; the run file (default: in `runs_directory()`) is continued if it exists.

    jobs: processes that compile, as many as processors by default. spills: bytes that a candidate's thread may spill.
    limit_s: seconds for all; what has been measured by then is kept. Raises Cancelled when that ends, or it is
    cancelled, before anything is timed; ValueError without a GPU to time on.
    """
    if device_kind(tuning.device) == "cpu":
        raise ValueError(
            f"device: got {tuning.device}, where there is nothing to tune: PyTorch does {tuning.operation} there, "
            "in pieces that fit any CPU's caches; tuning times kernels on a GPU"
        )
    if not (usable(tuning.device) and is_cuda(tuning.device)):
        raise ValueError(
            f"device: tuning times kernels on a GPU, and torch sees no {tuning.device} here that is one; "
            "without one, make the configurations of a run: skiplab tune --from-run RUN"
        )
    start = time.monotonic()
    path = path or default_path(cast(Any, tuning), "tune")
    device = torch.cuda.get_device_properties(tuning.device)
    gpu = Gpu(device.name, (device.major, device.minor), device.multi_processor_count)

    def stop() -> bool:
        return cancelled() or time.monotonic() - start > limit_s

    kept = prune(tuning, gpu, jobs or len(os.sched_getaffinity(0)), spills, say, cancelled=stop, progress=progress)
    with Child() as child:
        done = measure_all(tuning, path, gpu, kept, child.measure, cancelled=stop, progress=progress)
    if time.monotonic() - start > limit_s:
        say(f"Stopped after {limit_s:g} s; what was measured is kept, and the same command goes on.")
    return done


Kept = Mapping[Problem, Mapping[Candidate, Compiled | None]]
"""For each workload the candidates to time, the default first, and what they compiled to."""


def prune(
    tuning: AnyTuning,
    gpu: Gpu,
    workers: int,
    spills: int,
    say: Callable[[str], None],
    *,
    cancelled: Callable[[], bool] = lambda: False,
    progress: bool = True,
) -> Kept:
    """The candidates of each workload that compile, fit and do not spill; the default always comes first."""
    module = MODULES[tuning.operation]
    first: dict[Any, Problem] = {}
    jobs: dict[Problem, list[Job]] = {}
    for w in tuning.workloads():
        shared = first.setdefault(module.same_kernel(w), w)
        jobs[w] = [Job(gpu.capability, shared, one) for one in tuning.candidates(w, gpu)]
    kernels = list(dict.fromkeys(job for several in jobs.values() for job in several))
    compiled = compile_all(kernels, workers, cancelled, progress)
    refusals = {job: one.refusal(gpu.capability, spills) for job, one in compiled.items()}
    refused = Counter(text for text in refusals.values() if text)
    counts = ", ".join(f"{count} {text}" for text, count in refused.items())
    say(f"{len(jobs)} workloads, {len(compiled)} kernels compiled; left out: {counts or 'none'}")
    return {
        w: {_default(module, w, several, gpu): None}
        | {job.candidate: compiled[job] for job in several if not refusals[job]}
        for w, several in jobs.items()
    }


def _default(module: TuningModule, w: Problem, several: Sequence[Job], gpu: Gpu) -> Candidate:
    return module.default(module.class_of(w.axes(), several[0].candidate, gpu.sms), gpu)


def measure_all(
    tuning: AnyTuning,
    path: Path | str,
    gpu: Gpu,
    kept: Kept,
    take: Take,
    *,
    cancelled: Callable[[], bool] = lambda: False,
    progress: bool = True,
) -> Run:
    """Check and time these candidates, then the best of each class again, for longer; rows go into the run file.

    take: `Child.measure`, or a function with its signature. A candidate that was slow on the first workload of a race
    is not timed on the others.
    """
    from tqdm.auto import tqdm

    module, machine = MODULES[tuning.operation], this_machine(tuning.device, tuning.dtype)
    classes = {w: module.class_of(w.axes(), next(iter(kept[w])), gpu.sms) for w in kept}
    with RunWriter(path, run_header(cast(Any, tuning), "tune", machine)) as writer:
        times = _recorded(writer.run, kept, tuning.device)
        races: dict[Any, list[Problem]] = {}
        for w, one in classes.items():
            races.setdefault(module.race_of(one), []).append(w)
        bar = tqdm(total=sum(map(len, kept.values())), unit="point", desc="measured", disable=not progress)

        def measured(w: Problem, candidate: Candidate, budget_s: float) -> float:
            point = Point(w, *candidate, tuning.device)
            taken = take(point, tuning.seed, budget_s, machine=machine, retries=0, cancelled=cancelled)
            writer.append(_row(taken, kept[w].get(candidate)))
            return taken.median_ns

        with ending(writer):
            with bar:
                for race in races.values():
                    for w in race:
                        earlier = [times[one] for one in race if one is not w]
                        for number, candidate in enumerate(kept[w]):
                            if candidate not in times[w] and (number == 0 or not _is_slow(candidate, earlier)):
                                times[w][candidate] = measured(w, candidate, tuning.budget_s)
                            bar.update()
            for w, candidate in _finalists(writer.run, kept, classes):
                measured(w, candidate, FINAL_BUDGETS * tuning.budget_s)
        return replace(writer.run, source="measured")


Times = dict[Candidate, float]


def _recorded(run: Run, kept: Kept, device: str) -> dict[Problem, Times]:
    """The medians (nan for failures) of these kernels that the run holds already."""
    rows = {without_index(row["key"]): row for row in run.rows}
    keys = {(w, one): row_key(Point(w, *one, device)) for w in kept for one in kept[w]}
    medians: dict[Problem, Times] = {w: {} for w in kept}
    for (w, one), key in keys.items():
        if key in rows:
            medians[w][one] = median(rows[key]["samples_ns"] or [math.nan])
    return medians


def _is_slow(candidate: Candidate, others: Sequence[Times]) -> bool:
    """Whether it was timed (or failed) on other workloads of the race, and far from the fastest on all of them."""
    seen = [times for times in others if candidate in times]
    best = [min((ns for ns in times.values() if ns == ns), default=math.nan) for times in seen]
    return bool(seen) and not any(times[candidate] <= RACE * least for times, least in zip(seen, best, strict=True))


def _finalists(run: Run, kept: Kept, classes: Mapping[Problem, Any]) -> list[tuple[Problem, Candidate]]:
    """The workloads of each class with its best candidates and the default."""
    best = {one: list(ranking.scores)[:FINALISTS] for one, ranking in rankings([run]).items()} if run.rows else {}
    return [
        (w, one)
        for w, several in kept.items()
        for one in dict.fromkeys((next(iter(several)), *best.get(classes[w], ())))
    ]


def _row(taken: Measurement, compiled: Compiled | None) -> dict[str, Any]:
    """The measurement's row; its contender is named with the sizes, so that tables and figures tell them apart."""
    candidate = Candidate(taken.point.contender, taken.point.config)
    facts = {} if compiled is None else {key: value for key, value in asdict(compiled).items() if key != "problem"}
    label = candidate.sizes or taken.label or candidate.contender
    return {
        **row_of(taken), "contender": str(candidate), "label": label, "plan": {**taken.plan, **facts},
    }  # fmt: skip
