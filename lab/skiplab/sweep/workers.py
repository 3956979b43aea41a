"""Workers, which measure points, each on a device of its own."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from skiplab.machine import Machine, device_name
from skiplab.measure import Child, Measurement, Point
from skiplab.measure.checked import measure_together
from skiplab.measure.child import Order, order_of
from skiplab.measure.timing import TimeLimits

Cancel = Callable[[], bool]


class WorkerLost(ConnectionError):
    """A worker can take no more points, unless it is revived; the text says why."""


class Worker(Protocol):
    """Measures points on its `device`, one or several of a workload at a time; all calls come from one thread.

    node: which machine of a cluster the device is in; empty for this machine.
    """

    device: str
    node: str

    def measure(self, points: Sequence[Point], cancelled: Cancel) -> list[Measurement]:
        """What came of points, timed together, as of `measure_together`: of one point always a measurement.

        Crashes and timeouts too. Raises Cancelled when asked to stop, else WorkerLost.
        """
        ...

    def revive(self, cancelled: Cancel) -> bool:
        """Whether it can measure again after it was lost. May take a while, and find another device of its node."""
        ...

    def close(self) -> None:
        """Release its resources; it may be lost already, or never have measured."""
        ...


@dataclass(frozen=True)
class MeasureSettings:
    """How points are measured: with which seed, how long, how often a throttled GPU is tried again; and the roofs."""

    seed: int
    budget_s: float
    retries: int
    machine: Machine

    @property
    def limits(self) -> TimeLimits:
        return TimeLimits(self.budget_s, self.retries)


class Here:
    """Measures in this process, which a crash would end."""

    node = ""

    def __init__(self, device: str, settings: MeasureSettings):
        self.device, self._settings = device, settings

    def measure(self, points: Sequence[Point], cancelled: Cancel) -> list[Measurement]:
        s = self._settings
        return measure_together(points, replace(s.limits, cancelled=cancelled), s.seed, machine=s.machine)

    def revive(self, cancelled: Cancel) -> bool:
        """It is never lost."""
        return True

    def close(self) -> None:
        """Nothing to release."""


class InChild:
    """Measures in a child process, which a crash or a timeout ends; the next points start another."""

    node = ""

    def __init__(self, device: str, settings: MeasureSettings):
        self.device, self._settings, self._child = device, settings, Child()

    def measure(self, points: Sequence[Point], cancelled: Cancel) -> list[Measurement]:
        s = self._settings
        order = order_of(points, s.limits, s.seed, machine=s.machine, device_name=device_name(self.device))
        try:
            return self._child.take(order, cancelled) if isinstance(order, Order) else order
        except OSError as error:
            raise WorkerLost(f"no child process can be started for {self.device}: {error}") from error

    def revive(self, cancelled: Cancel) -> bool:
        """It is lost where this machine starts no more processes."""
        return False

    def close(self) -> None:
        self._child.__exit__()
