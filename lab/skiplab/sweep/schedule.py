"""Which worker measures which point: one after the other, or several workers side by side.

Points of one workload go to one device, so that contenders are compared on the same one and share their float64
reference. A worker gets one point at a time, or all of a workload, to be timed in turn; whoever of those fails is
measured once more, alone. A lost worker's points go to another worker; a point at which two were lost is a row that
says so.
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

    together: whether the points of a workload are timed together. homes: by a workload's key the device on which some
    of its points were measured before: its others go there, too. starting: called with the worker that begins, and
    with the points. losing: called with what is said of a lost worker.
    """

    points: Sequence[Point]
    workers: Sequence[Worker]
    cancelled: Cancel
    starting: Callable[[Worker, Sequence[Point]], None] = lambda worker, points: None
    losing: Callable[[str], None] = lambda text: None
    homes: Mapping[str, Home] | None = None
    together: bool = False

    def groups(self) -> list[tuple[Point, ...]]:
        """The points as they go to workers: those of a workload together, in the order of the first ones; or each."""
        if not self.together:
            return [(point,) for point in self.points]
        groups: dict[str, list[Point]] = {}
        for point in self.points:
            groups.setdefault(point.workload.key(), []).append(point)
        return list(map(tuple, groups.values()))


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
        self._groups = dispatch.groups()
        self._owners = {key: at[home] for key, home in (dispatch.homes or {}).items() if home in at}
        self._losses: Counter[Point] = Counter()
        self._lost_at: dict[str, set[Worker]] = {}

    def __len__(self) -> int:
        return sum(map(len, self._groups))

    def next_for(self, worker: Worker, alive: Collection[Worker]) -> tuple[Point, ...]:
        """The first points that this worker may measure, on its device; none if there are none now.

        A workload at which it was lost is for others, as long as one of those alive was not lost there.
        """
        for index, group in enumerate(self._groups):
            key = group[0].workload.key()
            lost = self._lost_at.get(key, frozenset())
            if (worker not in lost or lost >= set(alive)) and self._owners.setdefault(key, worker) is worker:
                del self._groups[index]
                return tuple(replace(point, device=worker.device) for point in group)
        return ()

    def answered(self, points: Sequence[Point], measurements: Sequence[Measurement]) -> Sequence[Measurement]:
        """The measurements of these points; those that have none are next, each alone."""
        done = {one.point.key for one in measurements}
        self._put_back([point for point in points if point.key not in done])
        return measurements

    def take_back(self, worker: Worker, points: Sequence[Point], error: WorkerLost) -> list[Measurement]:
        """Let others begin what was a lost worker's, its points first; rows of those that were tried often enough."""
        self._owners = {key: owner for key, owner in self._owners.items() if owner is not worker}
        self._lost_at.setdefault(points[0].workload.key(), set()).add(worker)
        self._losses.update(replace(point, device="") for point in points)
        given_up = [point for point in points if self._losses[replace(point, device="")] >= ATTEMPTS]
        self._put_back([point for point in points if point not in given_up])
        text = f"its worker was lost, {ATTEMPTS} times: {error}"
        return [Measurement(one, "crashed", text, label=one.entry.label, node=worker.node) for one in given_up]

    def _put_back(self, points: Sequence[Point]) -> None:
        self._groups[:0] = [(point,) for point in points]


def _in_turn(dispatch: Dispatch, waiting: _Waiting) -> Generator[Measurement, None, None]:
    (worker,) = dispatch.workers
    revivals = 0
    try:
        while points := waiting.next_for(worker, [worker]):
            dispatch.starting(worker, points)
            if dispatch.cancelled():
                raise Cancelled
            try:
                yield from waiting.answered(points, worker.measure(points, dispatch.cancelled))
            except WorkerLost as error:
                dispatch.losing(f"{worker.device}: {error}")
                yield from waiting.take_back(worker, points, error)
                revivals += 1
                if revivals > REVIVALS or not worker.revive(dispatch.cancelled):
                    raise _none_left(waiting, error) from error
    finally:
        worker.close()


def _none_left(waiting: _Waiting, error: WorkerLost | None) -> WorkerLost:
    return WorkerLost(f"no worker is left, and {len(waiting)} points are not measured: {error}")


@dataclass(frozen=True)
class _Job:
    """What a worker does now: its points; none where it is revived."""

    worker: Worker
    points: tuple[Point, ...]


class _Threads:
    """A thread for each worker: a child process dies with the thread that started it."""

    def __init__(self, dispatch: Dispatch):
        self.stop, self._dispatch = threading.Event(), dispatch
        self._threads = {worker: ThreadPoolExecutor(1, "skiplab-measure") for worker in dispatch.workers}
        self.running: dict[Future[Any], _Job] = {}

    def begin(self, worker: Worker, points: tuple[Point, ...]) -> None:
        """Measure points, or revive the worker."""
        thread = self._threads[worker]
        if points:
            self._dispatch.starting(worker, points)
            future = thread.submit(worker.measure, points, self._stopped)
        else:
            future = thread.submit(worker.revive, self._stopped)
        self.running[future] = _Job(worker, points)

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
                if points := waiting.next_for(worker, alive):
                    threads.begin(worker, points)
            idle = [worker for worker in idle if worker not in {job.worker for job in threads.running.values()}]
            if not threads.running:
                break
            for job, future in threads.ended():
                try:
                    result = future.result()
                except WorkerLost as error:
                    lost = error
                    dispatch.losing(f"{job.worker.device}: {error}")
                    yield from waiting.take_back(job.worker, job.points, error)
                    revivals[job.worker] += 1
                    if revivals[job.worker] <= REVIVALS and not threads.stop.is_set():
                        threads.begin(job.worker, ())
                except BaseException as error:
                    problem = problem or error  # what stops the others, which are then cancelled
                    threads.stop.set()
                else:
                    if job.points or result:
                        idle.append(job.worker)
                    if job.points:
                        yield from waiting.answered(job.points, result)
    finally:
        threads.close()
    if problem is not None:
        raise problem
    if waiting:
        raise _none_left(waiting, lost)
