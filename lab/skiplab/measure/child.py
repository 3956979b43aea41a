"""Points measured in a child process, which a crash or a timeout ends."""

from __future__ import annotations

import os
import pickle
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch

from skiplab.contenders import Contender
from skiplab.contenders.source import source_of
from skiplab.machine import Machine, device_name
from skiplab.measure.failure import Failure, failure
from skiplab.measure.point import Measurement, Point
from skiplab.measure.serving import Task
from skiplab.measure.shipping import dumps
from skiplab.measure.timing import MAX_SECONDS, THROTTLE_RETRIES, Cancelled

START_S = 120.0  # what a child may take to start, and beside the timing to import, compile and check
END_S = 5.0  # what an ended one may take to be gone
POLL_S = 0.05
KEEPER = Path(__file__).with_name("keeper.py")


@dataclass(frozen=True)
class Order:
    """A point to measure, as a child takes it: a `Task` in bytes, its row where there is no answer, and the limit.

    It can be sent to another machine, and needs nothing of what a notebook has defined here.
    """

    task: bytes
    blank: Measurement
    limit_s: float


class Child:
    """One child process in which points are measured, one at a time; it is kept warm between points.

    A crash, an illegal access and a timeout end the child, not the sweep: they are rows, and the next point starts a
    fresh child. It dies with this process, and what its kernels started dies with it. Use it as a context manager.
    """

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None
        self._connection: Connection | None = None

    def __enter__(self) -> Child:
        return self

    def __exit__(self, *exception: object) -> None:
        self._end()

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

        A user's kernel goes there by its module's name; by its source, where a notebook, a script or a file defines it;
        by value, where a function made it. One that cannot be pickled is a row that says so: it is never called in this
        process.
        """
        order = order_of(
            point, seed, budget_s, check, machine=machine, retries=retries, timeout_s=timeout_s,
            device_name=device_name(point.device),
        )  # fmt: skip
        return self.take(order, cancelled) if isinstance(order, Order) else order

    def take(self, order: Order, cancelled: Callable[[], bool] = lambda: False) -> Measurement:
        """What came of an order, crashes and timeouts too; raises Cancelled when asked to stop."""
        kills = oom_kills()
        try:
            answer, usable = self._answer(order.task, order.limit_s, cancelled)
        except _Silent as error:
            status, text = error.status, str(error)
            if self._end() == -signal.SIGKILL and status == "crashed" and oom_kills() > kills:
                status, text = "out-of-memory", "the system ended the child process, since memory was out"
            return replace(order.blank, status=status, error_text=text)
        except BaseException:  # Cancelled, Ctrl-C
            self._end()
            raise
        if not usable:
            self._end()
        if isinstance(answer, Failure):
            return replace(order.blank, status=answer.status, error_text=answer.text)
        return answer

    def _answer(self, task: bytes, limit_s: float, cancelled: Callable[[], bool]) -> tuple[Measurement | Failure, bool]:
        """The child's answer to a task, and whether it can take another; raises _Silent if it does not answer."""
        if self._process is None or self._process.poll() is not None:
            self._end()
            self._start()
            self._receive(START_S, cancelled)
        assert self._connection is not None
        try:
            self._connection.send((sys.path, task))
        except OSError:
            raise self._death() from None
        return self._receive(limit_s, cancelled)

    def _start(self) -> None:
        self._connection, theirs = Pipe()
        with theirs:
            command = [sys.executable, "-P", str(KEEPER), str(os.getpid()), str(theirs.fileno())]
            self._process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, pass_fds=(theirs.fileno(),), process_group=0
            )
        with suppress(OSError):  # who reads next sees that it died
            self._connection.send(sys.path)

    def _receive(self, limit_s: float, cancelled: Callable[[], bool]) -> Any:
        """The child's next message."""
        assert self._process is not None and self._connection is not None
        end = time.monotonic() + limit_s
        try:
            while True:
                if cancelled():
                    raise Cancelled
                ended = self._process.poll() is not None  # asked first: its last words may be on their way
                if self._connection.poll(0 if ended else POLL_S):
                    message = self._connection.recv_bytes()
                    break
                if ended:
                    raise self._death()
                if time.monotonic() > end:
                    raise _Silent("timeout", f"no result after {limit_s:g} s; the child was ended")
        except (EOFError, OSError):
            raise self._death() from None
        return pickle.loads(message)

    def _death(self) -> _Silent:
        """How the child ended, as text."""
        assert self._process is not None
        try:
            code = self._process.wait(END_S)
        except subprocess.TimeoutExpired:
            return _Silent("crashed", "the child process closed its connection; it was ended")
        if code >= 0:
            return _Silent("crashed", f"the child process died with exit code {code}")
        return _Silent("crashed", f"the child process died of signal {-code} ({signal.strsignal(-code)})")

    def _end(self) -> int | None:
        """End the child, if there is one, and all that it started; return its exit code."""
        process, connection, self._process, self._connection = self._process, self._connection, None, None
        if process is None or connection is None:
            return None
        process.terminate()  # its keeper: it waits until the child is gone, and what it held of a GPU is free
        with suppress(subprocess.TimeoutExpired):
            process.wait(END_S)
        with suppress(ProcessLookupError, PermissionError):  # PermissionError: macOS, of a group that is gone
            os.killpg(process.pid, signal.SIGKILL)
        connection.close()
        return process.wait()


def order_of(
    point: Point,
    seed: int,
    budget_s: float,
    check: bool = True,
    *,
    machine: Machine | None,
    retries: int,
    device_name: str,
    timeout_s: float | None = None,
) -> Order | Measurement:
    """The point as an order; the row of a user's kernel that cannot be sent."""
    entry = point.entry
    blank = Measurement(point, "crashed", label=entry.label, device_name=device_name)
    options = {"seed": seed, "budget_s": budget_s, "check": check, "machine": machine, "retries": retries}
    try:
        task = dumps(_task(point, entry, options))
    except Exception as error:  # a kernel may hold anything
        return replace(blank, error_text=_unsendable(entry, error))
    return Order(task, blank, timeout_s or START_S + point.workload.untimed_s + 4 * budget_s)


def _task(point: Point, entry: Contender, options: Mapping[str, Any]) -> Task:
    """The task with the kernel as the child can have it."""
    threads, source = torch.get_num_threads(), source_of(entry)
    if entry.is_own or (source is not None and not source.module):
        return Task(point, source, None, threads, options)
    return Task(point, None, entry, threads, options)


class _Silent(Exception):
    """The child gave no answer: the status that follows, and the reason."""

    def __init__(self, status: str, text: str) -> None:
        super().__init__(text)
        self.status = status


def oom_kills() -> int:
    """The number of processes that the system has killed for lack of memory; 0 if unknown (Linux reports it)."""
    with suppress(OSError):
        for line in Path("/proc/vmstat").read_text().splitlines():
            if line.startswith("oom_kill "):
                return int(line.split()[1])
    return 0


def _unsendable(entry: Contender, error: Exception) -> str:
    return (
        f"{entry.name} cannot be sent to a child process ({failure(error).text}): build what it holds inside `build`, "
        "put it into a module of its own, or measure with isolate=False"
    )
