"""Compiles candidates for a GPU that need not be present, in parallel."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import wait
from dataclasses import dataclass

from blockskip.gpu import shared_bytes

from skiplab.measure.child import POLL_S
from skiplab.measure.serving import bars_of_one_process, begin_child
from skiplab.measure.timing import Cancelled
from skiplab.tuning.base import Candidate
from skiplab.tuning.modules import MODULES
from skiplab.workload import Problem

COMPILE_S = 120.0
"""Seconds that compiling one kernel may take."""


@dataclass(frozen=True)
class Job:
    """A kernel to compile for a GPU that need not be present."""

    capability: tuple[int, int]
    workload: Problem
    candidate: Candidate


@dataclass(frozen=True)
class Compiled:
    """A job's result: registers and spilled bytes a thread, shared memory in bytes; `problem` '' if it compiled."""

    registers: int = 0
    spill_bytes: int = 0
    shared_bytes: int = 0
    problem: str = ""

    def refusal(self, capability: tuple[int, int], spills: int) -> str:
        """Why it is not worth timing; '' if it is."""
        if self.shared_bytes > shared_bytes(capability):
            return "too much shared memory"
        return self.problem or ("spills" if self.spill_bytes > spills else "")


def compile_job(job: Job) -> Compiled:
    """Compile the kernel, which leaves it in Triton's cache on disk for the timed run."""
    try:
        one = MODULES[job.workload.operation].anatomy(job.capability, job.workload, job.candidate)
    except Exception as error:  # a compiler may raise anything; the candidate is left out, and why is said
        return Compiled(problem=f"does not compile ({type(error).__name__})")
    if one is None:
        return Compiled()
    return Compiled(one.registers, one.spill_bytes, one.shared_bytes)


def compile_all(
    jobs: Sequence[Job],
    workers: int,
    cancelled: Callable[[], bool] = lambda: False,
    progress: bool = True,
) -> dict[Job, Compiled]:
    """Compile all jobs in that many processes; a compiler that crashes or takes minutes costs one candidate.

    Raises Cancelled when asked to stop, which is asked several times a second.
    """
    from multiprocessing import get_context

    from pebble import ProcessPool
    from tqdm.auto import tqdm

    bars_of_one_process()

    pool = ProcessPool(workers, initializer=begin_child, initargs=(os.getpid(),), context=get_context("spawn"))
    try:
        futures = {job: pool.schedule(compile_job, args=(job,), timeout=COMPILE_S) for job in jobs}
        compiled = {}
        for job, future in tqdm(futures.items(), unit="kernel", desc="compiled", disable=not progress):
            while not future.done():
                if cancelled():
                    raise Cancelled
                wait([future], POLL_S)
            error = future.exception()
            compiled[job] = future.result() if error is None else Compiled(problem=f"died ({type(error).__name__})")
        return compiled
    finally:
        pool.stop()
        pool.join()
