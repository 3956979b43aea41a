"""Which worker measures which point: one after the other, or several workers side by side.

Points of one workload go to one device, so that contenders are compared on the same one and share their float64
reference. A lost worker's point goes to another worker; a point at which two were lost is a row that says so.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Collection, Generator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, replace
from typing import Any

from skiplab.measure import Measurement, Point
from skiplab.measure.timing import Cancelled
from skiplab.sweep.workers import Cancel, Worker, WorkerLost

ATTEMPTS = 2
REVIVALS = 2  # of one worker: a broken machine is left alone after them

Home = tuple[str, str]
"""A device by node and name, `cuda` as the `cuda:0` that it is."""


def home_of(device: str, node: str = "") -> Home:
    return node, f"{device}:0" if device == "cuda" else device


@dataclass(frozen=True)
class Dispatch:
    """Points for workers.

    homes: by a workload's key the device on which some of its points were measured before: its others go there, too.
    starting: called with each point, and the worker that begins it. losing: called with what is said of a lost worker.
    """

    points: Sequence[Point]
    workers: Sequence[Worker]
    cancelled: Cancel
    starting: Callable[[Worker, Point], None] = lambda worker, point: None
    losing: Callable[[str], None] = lambda text: None
    homes: Mapping[str, Home] | None = None


def measured(dispatch: Dispatch) -> Generator[Measurement, None, None]:
    """The points' measurements as they come, each on its worker's device.

    Raises Cancelled when asked to stop, after yielding what is done; WorkerLost when no worker is left.
    """
    waiting = _Waiting(dispatch)
    if len(dispatch.workers) > 1:
        yield from _side_by_side(dispatch, waiting)
    else:
        yield from _in_turn(dispatch, waiting)


class _Waiting:
    """The points that nobody measures yet; those of one workload are for the worker that began it."""

    def __init__(self, dispatch: Dispatch):
        at = {home_of(worker.device, worker.node): worker for worker in reversed(dispatch.workers)}
        self._points = [(point.workload.key(), point) for point in dispatch.points]
        self._owners = {key: at[home] for key, home in (dispatch.homes or {}).items() if home in at}
        self._losses: Counter[Point] = Counter()
        self._lost_at: dict[str, set[Worker]] = {}

    def __len__(self) -> int:
        return len(self._points)

    def next_for(self, worker: Worker, alive: Collection[Worker]) -> Point | None:
        """The first point that this worker may measure, on its device; None if there is none now.

        A workload at which it was lost is for others, as long as one of those alive was not lost there.
        """
        for index, (key, point) in enumerate(self._points):
            lost = self._lost_at.get(key, frozenset())
            if (worker not in lost or lost >= set(alive)) and self._owners.setdefault(key, worker) is worker:
                del self._points[index]
                return replace(point, device=worker.device)
        return None

    def take_back(self, worker: Worker, point: Point, error: WorkerLost) -> Measurement | None:
        """Let others begin what was a lost worker's, its point first; a row, if that was tried often enough."""
        self._owners = {key: owner for key, owner in self._owners.items() if owner is not worker}
        self._lost_at.setdefault(point.workload.key(), set()).add(worker)
        self._losses[plain := replace(point, device="")] += 1
        if self._losses[plain] < ATTEMPTS:
            self._points.insert(0, (point.workload.key(), point))
            return None
        text = f"its worker was lost, {ATTEMPTS} times: {error}"
        return Measurement(point, "crashed", text, label=point.entry.label, node=worker.node)


def _in_turn(dispatch: Dispatch, waiting: _Waiting) -> Generator[Measurement, None, None]:
    (worker,) = dispatch.workers
    revivals = 0
    try:
        while (point := waiting.next_for(worker, [worker])) is not None:
            dispatch.starting(worker, point)
            if dispatch.cancelled():
                raise Cancelled
            try:
                yield worker.measure(point, dispatch.cancelled)
            except WorkerLost as error:
                dispatch.losing(f"{worker.device}: {error}")
                given_up, revivals = waiting.take_back(worker, point, error), revivals + 1
                if given_up is not None:
                    yield given_up
                if revivals > REVIVALS or not worker.revive(dispatch.cancelled):
                    raise _none_left(waiting, error) from error
    finally:
        worker.close()


def _none_left(waiting: _Waiting, error: WorkerLost | None) -> WorkerLost:
    return WorkerLost(f"no worker is left, and {len(waiting)} points are not measured: {error}")


@dataclass(frozen=True)
class _Job:
    """What a worker does now: a point, or None where it is revived."""

    worker: Worker
    point: Point | None


class _Threads:
    """A thread for each worker: a child process dies with the thread that started it."""

    def __init__(self, dispatch: Dispatch):
        self.stop, self._dispatch = threading.Event(), dispatch
        self._threads = {worker: ThreadPoolExecutor(1, "skiplab-measure") for worker in dispatch.workers}
        self.running: dict[Future[Any], _Job] = {}

    def begin(self, worker: Worker, point: Point | None) -> None:
        """Measure a point, or revive the worker."""
        thread = self._threads[worker]
        if point is None:
            future = thread.submit(worker.revive, self._stopped)
        else:
            self._dispatch.starting(worker, point)
            future = thread.submit(worker.measure, point, self._stopped)
        self.running[future] = _Job(worker, point)

    def _stopped(self) -> bool:
        return self.stop.is_set() or self._dispatch.cancelled()

    def ended(self) -> list[tuple[_Job, Future[Any]]]:
        """The jobs that have ended; waits for the first."""
        return [(self.running.pop(one), one) for one in wait(self.running, return_when=FIRST_COMPLETED).done]

    def close(self) -> None:
        self.stop.set()
        for worker, thread in self._threads.items():
            thread.submit(worker.close)
        for thread in self._threads.values():
            thread.shutdown()


def _side_by_side(dispatch: Dispatch, waiting: _Waiting) -> Generator[Measurement, None, None]:
    threads, idle = _Threads(dispatch), list(dispatch.workers)
    revivals: Counter[Worker] = Counter()
    problem: BaseException | None = None
    lost: WorkerLost | None = None
    try:
        while True:
            alive = {*idle, *(job.worker for job in threads.running.values())}
            for worker in idle if not threads.stop.is_set() else ():
                if (point := waiting.next_for(worker, alive)) is not None:
                    threads.begin(worker, point)
            idle = [worker for worker in idle if worker not in {job.worker for job in threads.running.values()}]
            if not threads.running:
                break
            for job, future in threads.ended():
                try:
                    result = future.result()
                except WorkerLost as error:
                    assert job.point is not None
                    lost = error
                    dispatch.losing(f"{job.worker.device}: {error}")
                    result = waiting.take_back(job.worker, job.point, error)
                    revivals[job.worker] += 1
                    if revivals[job.worker] <= REVIVALS and not threads.stop.is_set():
                        threads.begin(job.worker, None)
                except BaseException as error:
                    problem = problem or error  # what stops the others, which are then cancelled
                    threads.stop.set()
                    continue
                else:
                    if job.point is not None or result:
                        idle.append(job.worker)
                if isinstance(result, Measurement):
                    yield result
    finally:
        threads.close()
    if problem is not None:
        raise problem
    if waiting:
        raise _none_left(waiting, lost)
