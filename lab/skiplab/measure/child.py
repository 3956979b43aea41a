"""Points measured in a child process, which a crash or a timeout ends."""

from __future__ import annotations

import os
import pickle
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch

from skiplab.contenders import Contender
from skiplab.contenders.source import KernelSource, source_of
from skiplab.machine import Machine, device_name
from skiplab.measure.failure import Failure, failure
from skiplab.measure.point import Measurement, Point
from skiplab.measure.samples import Cancelled
from skiplab.measure.serving import Task
from skiplab.measure.shipping import dumps
from skiplab.measure.timing import MAX_SECONDS, THROTTLE_RETRIES, TimeLimits

START_S = 120.0  # what a child may take to start, and beside the timing to import, compile and check
END_S = 5.0  # what an ended one may take to be gone
POLL_S = 0.05
KEEPER = Path(__file__).with_name("keeper.py")


@dataclass(frozen=True)
class Order:
    """Points to measure together, as a child takes them: a `Task` in bytes, and their rows where there is no answer.

    limit_s: how long a child may work at one of its stages. It can be sent to another machine, and needs nothing of
    what a notebook has defined here.
    """

    task: bytes
    blanks: tuple[Measurement, ...]
    limit_s: float

    @property
    def most_s(self) -> float:
        """The most time that it takes: each point is checked, all are timed, each is checked again."""
        return (2 * len(self.blanks) + 1) * self.limit_s

    def failed(self, status: str, text: str) -> list[Measurement]:
        """What there is where no answer came: the row of a point alone; of several nothing, for one may be to blame."""
        return [replace(one, status=status, error_text=text) for one in self.blanks if len(self.blanks) == 1]


class Child:
    """One child process in which points are measured, one order at a time; it is kept warm between orders.

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
            [point], TimeLimits(budget_s, retries), seed, check, machine=machine, timeout_s=timeout_s,
            device_name=device_name(point.device),
        )  # fmt: skip
        return (self.take(order, cancelled) if isinstance(order, Order) else order)[0]

    def take(self, order: Order, cancelled: Callable[[], bool] = lambda: False) -> list[Measurement]:
        """What came of an order, as of `measure_together`; crashes and timeouts too; raises Cancelled if asked to."""
        kills = oom_kills()
        try:
            answer, usable = self._answer(order.task, order.limit_s, cancelled)
        except _Silent as error:
            status, text = error.status, str(error)
            if self._end() == -signal.SIGKILL and status == "crashed" and oom_kills() > kills:
                status, text = "out-of-memory", "the system ended the child process, since memory was out"
            return order.failed(status, text)
        except BaseException:  # Cancelled, Ctrl-C
            self._end()
            raise
        if not usable:
            self._end()
        return order.failed(answer.status, answer.text) if isinstance(answer, Failure) else answer

    def _answer(
        self, task: bytes, limit_s: float, cancelled: Callable[[], bool]
    ) -> tuple[list[Measurement] | Failure, bool]:
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
        while (answer := self._receive(limit_s, cancelled)) is None:  # a stage is done
            pass
        return answer

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
    points: Sequence[Point],
    limits: TimeLimits,
    seed: int,
    check: bool = True,
    *,
    machine: Machine | None,
    device_name: str,
    timeout_s: float | None = None,
) -> Order | list[Measurement]:
    """Points of one workload as an order; what there is where a user's kernel cannot be sent, as of `Order.failed`.

    limits: without `cancelled`, which stays here.
    """
    blanks = tuple(Measurement(one, "crashed", label=one.entry.label, device_name=device_name) for one in points)
    options = {"seed": seed, "check": check, "machine": machine}
    limit_s = timeout_s or START_S + points[0].workload.untimed_s + 4 * len(points) * limits.budget_s
    order = Order(b"", blanks, limit_s)
    sent = TimeLimits(limits.budget_s, limits.retries)
    try:
        return replace(order, task=dumps(_task(points, sent, options)))
    except Exception as error:  # a kernel may hold anything
        return order.failed("crashed", _unsendable(points[0].entry, error))


def _task(points: Sequence[Point], limits: TimeLimits, options: Mapping[str, Any]) -> Task:
    """The task with the kernels as the child can have them."""
    sources, values = list[KernelSource](), list[Contender]()
    for entry in (point.entry for point in points):
        source = source_of(entry)
        if source is not None and not source.module:
            sources.append(source)
        elif not entry.is_own:
            values.append(entry)
    return Task(tuple(points), tuple(sources), tuple(values), torch.get_num_threads(), limits, options)


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
