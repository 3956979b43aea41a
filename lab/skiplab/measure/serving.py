"""The measuring child process: its start, and what it does with each point that the lab sends."""

from __future__ import annotations

import ctypes
import os
import pickle
import signal
import sys
from collections.abc import Mapping
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
from skiplab.measure.checked import measure
from skiplab.measure.failure import Failure, attempt
from skiplab.measure.point import Measurement, Point

PR_SET_PDEATHSIG = 1  # linux/prctl.h


@dataclass(frozen=True)
class Task:
    """A point to measure, with the user's contender, torch's thread count and options.

    source: the source of a user's kernel that has one; entry: by value, for one that has none or that can be imported;
    neither for one of the lab's own.
    """

    point: Point
    source: KernelSource | None
    entry: Contender | None
    threads: int
    options: Mapping[str, Any]


def serve(lab: Connection, keeper: int) -> None:
    """Say that the child is ready, then answer each `Task` until the lab hangs up.

    An answer is a Measurement or a Failure, and whether the child can take another task.
    """
    begin_child(keeper)
    with suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("1000")  # when memory is out the kernel ends this, not the lab
    own_id = os.getpid()
    lab.send(None)
    while True:
        try:
            sys.path[:], task = lab.recv()
        except (EOFError, OSError):
            return
        answer = attempt(lambda task=task: _taken(task))
        if os.getpid() != own_id:
            os._exit(0)  # a kernel forked, and this is the copy
        lab.send((answer, is_usable()))


def _taken(task_bytes: bytes) -> Measurement | Failure:
    task: Task = pickle.loads(task_bytes)  # imports the contender's module
    torch.set_num_threads(task.threads)
    if task.source is not None:
        load_source(task.source)
    elif task.entry is not None:
        REGISTRY.add(task.entry)
    return measure(task.point, **task.options)


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
