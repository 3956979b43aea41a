"""Workers, which measure points one at a time, each on a device of its own."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

from skiplab.measure import Child, Measurement, Point, measure

Cancel = Callable[[], bool]


class WorkerLost(ConnectionError):
    """A worker can take no more points, unless it is revived; the text says why."""


class Worker(Protocol):
    """Measures points on its `device`, one at a time; all calls come from one thread.

    node: which machine of a cluster the device is in; empty for this machine.
    """

    device: str
    node: str

    def measure(self, point: Point, cancelled: Cancel) -> Measurement:
        """What came of a point, crashes and timeouts too; raises Cancelled when asked to stop, else WorkerLost."""
        ...

    def revive(self, cancelled: Cancel) -> bool:
        """Whether it can measure again after it was lost. May take a while, and find another device of its node."""
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

    node = ""

    def __init__(self, device: str, settings: MeasureSettings):
        self.device, self._settings = device, settings

    def measure(self, point: Point, cancelled: Cancel) -> Measurement:
        s = self._settings
        return measure(point, s.seed, s.budget_s, **s.options, cancelled=cancelled)

    def revive(self, cancelled: Cancel) -> bool:
        """It is never lost."""
        return True

    def close(self) -> None:
        """Nothing to release."""


class InChild:
    """Measures in a child process, which a crash or a timeout ends; the next point starts another."""

    node = ""

    def __init__(self, device: str, settings: MeasureSettings):
        self.device, self._settings, self._child = device, settings, Child()

    def measure(self, point: Point, cancelled: Cancel) -> Measurement:
        s = self._settings
        try:
            return self._child.measure(point, s.seed, s.budget_s, **s.options, cancelled=cancelled)
        except OSError as error:
            raise WorkerLost(f"no child process can be started for {self.device}: {error}") from error

    def revive(self, cancelled: Cancel) -> bool:
        """It is lost where this machine starts no more processes."""
        return False

    def close(self) -> None:
        self._child.__exit__()
