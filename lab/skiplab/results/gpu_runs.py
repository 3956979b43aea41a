"""Recording the run files behind the GPU's tables in data/RESULTS.md: `skiplab runs` makes them anew, by `topics`."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from multiprocessing import get_context
from pathlib import Path
from typing import Any, cast

import torch
from pebble import ProcessPool

from skiplab.machine import device_name
from skiplab.measure import Point
from skiplab.measure.serving import begin_child
from skiplab.store import slug
from skiplab.store.keys import without_index
from skiplab.sweep import AnySweep, Where, run_sweep
from skiplab.tuning.compiling import COMPILE_S

COMPILED = ("blockskip", "flex", "fa4", "ffpa", "humming")
"""Beginnings of the names of those whose kernels are compiled when they are first called."""


def of_contenders(topics: Mapping[str, AnySweep], names: Sequence[str]) -> dict[str, AnySweep]:
    """The topics that have some of these contenders, with these alone, in the topics' order.

    ValueError for a name that none of them has.
    """
    there = {name for sweep in topics.values() for name in sweep.contenders}
    if unknown := [name for name in names if name not in there]:
        raise ValueError(f"--contender: got {unknown[0]!r}; these topics have {', '.join(sorted(there))}")
    cut = {topic: tuple(name for name in sweep.contenders if name in names) for topic, sweep in topics.items()}
    return {topic: replace(cast(Any, topics[topic]), contenders=kept) for topic, kept in cut.items() if kept}


def record(
    topics: Mapping[str, AnySweep], folder: Path, end: float, retries: int, where: Where, parts: bool = False
) -> str:
    """Run the sweeps until `end` on the monotonic clock; return the topic that was interrupted, '' if all are done.

    parts: whether the sweeps have but some of their topics' contenders: each is then a run of its own, for a file's
    rows are of the contenders that its header names (`file_name`).
    """
    start = f"{datetime.now(UTC).date().isoformat()}-{slug(device_name(where.device))}"
    for name, plain in topics.items():
        sweep = replace(cast(Any, plain), device=where.device)
        path = folder / f"{start}-{file_name(name, sweep.contenders if parts else ())}"
        stop = {"cancelled": lambda: time.monotonic() > end, "retries": retries}
        run = run_sweep(sweep, path, topic=name, **stop, **where.options)
        if not {point.key for point in sweep.points()} <= {without_index(row["point"]) for row in run.rows}:
            return name
    return ""


def file_name(topic: str, contenders: Sequence[str] = ()) -> str:
    """A topic's run file behind its date and device; contenders: those of a part, as `declared.topic` looks for it."""
    return f"{topic}-of-{slug('-'.join(contenders))}.jsonl" if contenders else f"{topic}.jsonl"


def compile_first(points: Iterable[Point]) -> None:
    """Call each contender that compiles once, in parallel processes, so that the compilers' caches hold its kernels."""
    slow_first = sorted(
        (p for p in points if p.contender.startswith(COMPILED)), key=lambda p: "blockskip" in p.contender
    )
    workers = max(1, min(14, (os.cpu_count() or 2) - 2))
    with ProcessPool(workers, initializer=begin_child, initargs=(os.getpid(),), context=get_context("spawn")) as pool:
        futures = {point: pool.schedule(call_once, args=(point,), timeout=COMPILE_S) for point in slow_first}
        for point, future in futures.items():
            if error := future.exception():  # its row will say the same
                problem = f"{type(error).__name__}: {str(error)[:200]}"
                print(f"{point.contender}, {point.workload.size}: {problem}", file=sys.stderr)


def call_once(point: Point) -> None:
    """Call a point once, if it is supported."""
    entry, workload = point.entry, point.workload
    if entry.refusal(workload, point.device) is None:
        arguments = entry.prepare(workload, workload.inputs(point.device, 0))
        entry.build(workload, arguments)(*arguments)
        if point.device != "cpu":
            torch.cuda.synchronize()
