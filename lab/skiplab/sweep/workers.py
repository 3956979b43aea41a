"""Workers that measure a sweep's points: one, or several in parallel, each on a device of its own.

A worker is anything that measures a point and says when it is lost. Points of one workload go to one worker, so that
contenders are compared on the same device and share their float64 reference.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, replace
from itertools import groupby
from typing import Any, Protocol

from skiplab.machine import device_name
from skiplab.measure import Child, Measurement, Point, measure
from skiplab.measure.timing import Cancelled

Cancel = Callable[[], bool]


class WorkerLost(ConnectionError):
    """A worker can take no more points; the text says why."""


class Worker(Protocol):
    """Measures points on its `device`, one at a time; all calls come from one thread."""

    device: str

    def measure(self, point: Point, cancelled: Cancel) -> Measurement:
        """What came of a point, crashes and timeouts too; raises Cancelled when asked to stop, else WorkerLost."""
        ...

    def close(self) -> None:
        """Release its resources; it may be lost already, or never have measured."""
        ...


@dataclass(frozen=True)
class MeasureSettings:
    """The options of measuring: seed, seconds, the roofs, and how often a throttled GPU is tried again."""

    seed: int
    budget_s: float
    options: dict[str, Any]


class Here:
    """Measures in this process, which a crash would end."""

    def __init__(self, device: str, settings: MeasureSettings):
        self.device, self._settings = device, settings

    def measure(self, point: Point, cancelled: Cancel) -> Measurement:
        s = self._settings
        return measure(point, s.seed, s.budget_s, **s.options, cancelled=cancelled)

    def close(self) -> None:
        """Nothing to release."""


class InChild:
    """Measures in a child process, which a crash or a timeout ends; the next point starts another."""

    def __init__(self, device: str, settings: MeasureSettings):
        self.device, self._settings, self._child = device, settings, Child()

    def measure(self, point: Point, cancelled: Cancel) -> Measurement:
        s = self._settings
        try:
            return self._child.measure(point, s.seed, s.budget_s, **s.options, cancelled=cancelled)
        except OSError as error:
            raise WorkerLost(f"no child process can be started for {self.device}: {error}") from error

    def close(self) -> None:
        self._child.__exit__()


def measured(
    points: Sequence[Point], workers: Sequence[Worker], cancelled: Cancel, starting: Callable[[Point], None]
) -> Generator[Measurement, None, None]:
    """The points' measurements as they come, each on its worker's device. starting: called with each point first.

    If a worker is lost, its current point becomes `crashed`, and other workers take over its remaining points.
    Raises Cancelled when asked to stop, after yielding what is done; WorkerLost when no worker is left.
    """
    groups = [list(group) for _, group in groupby(points, key=lambda point: point.workload.key())]
    if len(workers) > 1:
        yield from _side_by_side(groups, workers, cancelled, starting)
        return
    (worker,) = workers
    try:
        for point in points:
            starting(point)
            if cancelled():
                raise Cancelled
            yield worker.measure(replace(point, device=worker.device), cancelled)
    finally:
        worker.close()


@dataclass(frozen=True)
class _Task:
    """A worker's current point, and those that it will do next."""

    worker: Worker
    point: Point
    rest: list[Point]


def _side_by_side(
    groups: list[list[Point]], workers: Sequence[Worker], cancelled: Cancel, starting: Callable[[Point], None]
) -> Generator[Measurement, None, None]:
    """Each worker in a thread of its own: a child process dies with the thread that started it."""
    waiting, idle = deque(groups), list(workers)
    running: dict[Future[Measurement], _Task] = {}
    stop = threading.Event()
    threads = {worker: ThreadPoolExecutor(1, "skiplab-measure") for worker in workers}
    problem: BaseException | None = None
    lost: WorkerLost | None = None

    def begin(worker: Worker, group: list[Point]) -> None:
        point = replace(group[0], device=worker.device)
        starting(point)
        future = threads[worker].submit(worker.measure, point, lambda: stop.is_set() or cancelled())
        running[future] = _Task(worker, point, group[1:])

    try:
        while True:
            while idle and waiting and not stop.is_set():
                begin(idle.pop(0), waiting.popleft())
            if not running:
                break
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                task = running.pop(future)
                try:
                    taken = future.result()
                except WorkerLost as error:
                    lost, taken = error, _lost(task, error)
                    waiting.extendleft([task.rest] if task.rest else [])
                except BaseException as error:
                    problem = problem or error  # what stops the others, which are then cancelled
                    stop.set()
                    continue
                else:
                    if task.rest and not stop.is_set():
                        begin(task.worker, task.rest)
                    else:
                        idle.append(task.worker)
                yield taken
    finally:
        stop.set()
        for worker, thread in threads.items():
            thread.submit(worker.close)
        for thread in threads.values():
            thread.shutdown()
    if problem is not None:
        raise problem
    if waiting:
        raise WorkerLost(f"no worker is left, and {sum(map(len, waiting))} points are not measured: {lost}")


def _lost(task: _Task, error: WorkerLost) -> Measurement:
    point = task.point
    text = f"its worker was lost: {error}"
    return Measurement(point, "crashed", text, label=point.entry.label, device_name=device_name(point.device))
