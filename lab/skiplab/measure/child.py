"""Points measured in a child process, which a crash or a timeout ends."""

from __future__ import annotations

import importlib
import signal
from collections.abc import Callable
from dataclasses import replace
from threading import RLock
from typing import Any

import torch

from skiplab.machine import Machine, device_name
from skiplab.measure.checked import measure
from skiplab.measure.point import Measurement, Point
from skiplab.timing import MAX_SECONDS, THROTTLE_RETRIES, Cancelled

START_S = 120.0  # what a child may take to start, import, compile and check, beside the timing
POLL_S = 0.05


class Child:
    """One child process in which points are measured, one at a time; it is kept warm between points.

    A crash, an illegal access and a timeout end the child, not the sweep: they are rows, and the next point starts a
    fresh child. Use it as a context manager.
    """

    def __init__(self) -> None:
        from multiprocessing import get_context

        from pebble import ProcessPool

        self._pool = ProcessPool(max_workers=1, initializer=begin_child, context=get_context("spawn"))

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


def begin_child() -> None:
    """Ctrl-C reaches the whole process group; the parent alone decides what it means. And bars are drawn by one."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    bars_of_one_process()


def bars_of_one_process() -> None:
    """Bars, torch.compile's too, lock with a thread's lock: tqdm's own is a semaphore that outlives an ended child."""
    from tqdm import tqdm

    tqdm.set_lock(RLock())


def _in_child(module: str, threads: int, *arguments: Any, **options: Any) -> Measurement:
    torch.set_num_threads(threads)
    importlib.import_module(module)  # registers a user's kernel
    return measure(*arguments, **options)
