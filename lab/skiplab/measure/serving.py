"""The measuring child process: its start, and what it does with the points that the lab sends."""

from __future__ import annotations

import ctypes
import os
import pickle
import signal
import sys
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from threading import RLock
from typing import Any

import torch

from skiplab.contenders import Contender
from skiplab.contenders.base import REGISTRY
from skiplab.contenders.source import KernelSource, load_source
from skiplab.measure.checked import measure_together
from skiplab.measure.failure import attempt
from skiplab.measure.point import Measurement, Point
from skiplab.measure.timing import TimeLimits

PR_SET_PDEATHSIG = 1  # linux/prctl.h


@dataclass(frozen=True)
class Task:
    """Points to measure together, with their users' contenders, torch's thread count, limits and options.

    sources: those of users' kernels that have one; entries: by value, those that have none or that can be imported; the
    lab's own are in neither.
    """

    points: tuple[Point, ...]
    sources: tuple[KernelSource, ...]
    entries: tuple[Contender, ...]
    threads: int
    limits: TimeLimits
    options: Mapping[str, Any]


def serve(lab: Connection, keeper: int) -> None:
    """Say that the child is ready, then answer each `Task` until the lab hangs up.

    An answer is measurements or a Failure, and whether the child can take another task; before it, None after each
    stage of the work.
    """
    begin_child(keeper)
    with suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("1000")  # when memory is out the kernel ends this, not the lab
    own_id = os.getpid()

    def stage() -> None:
        if os.getpid() == own_id:
            lab.send(None)

    stage()
    while True:
        try:
            sys.path[:], task = lab.recv()
        except (EOFError, OSError):
            return
        answer = attempt(lambda task=task: _taken(task, stage))
        if os.getpid() != own_id:
            os._exit(0)  # a kernel forked, and this is the copy
        lab.send((answer, is_usable()))


def _taken(task_bytes: bytes, stage: Callable[[], None]) -> list[Measurement]:
    task: Task = pickle.loads(task_bytes)  # imports the contenders' modules
    torch.set_num_threads(task.threads)
    for source in task.sources:
        load_source(source)
    for entry in task.entries:
        REGISTRY.add(entry)
    return measure_together(task.points, task.limits, stage=stage, **task.options)


def is_usable() -> bool:
    """Whether CUDA still works, if this process uses it: after an illegal access every CUDA call fails."""
    try:
        if torch.cuda.is_initialized():
            torch.cuda.synchronize()
    except RuntimeError:
        return False
    return True


def begin_child(parent: int) -> None:
    """Set up a child process: it ignores Ctrl-C, dies with its parent, and has its own lock for progress bars."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    die_with(parent)
    bars_of_one_process()


def die_with(parent: int) -> None:
    """Have the kernel kill this process when the thread that started it ends, even by kill -9. Linux alone has this."""
    if sys.platform != "linux":
        return
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it was gone before
        os._exit(1)


def bars_of_one_process() -> None:
    """Make progress bars use a thread lock: tqdm's default, a semaphore, would outlive a killed child."""
    from tqdm import tqdm

    tqdm.set_lock(RLock())
