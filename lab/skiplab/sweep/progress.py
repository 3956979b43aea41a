"""How far a sweep is, device by device."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from skiplab.measure import Point


@dataclass(frozen=True)
class OnDevice:
    """What one device has measured, and the point that it is at; None for one that has nothing to do."""

    done: int = 0
    now: Point | None = None

    def __str__(self) -> str:
        return f"{self.done}" if self.now is None else f"{self.done}, now {_named(self.now)}"


@dataclass(frozen=True)
class Progress:
    """Points measured since the sweep began or went on, of how many, and what each device does, by its name.

    begins: the point that a device begins now; None where one has ended.
    """

    total: int
    done: int = 0
    begins: Point | None = None
    devices: Mapping[str, OnDevice] = field(default_factory=dict)

    def begun(self, device: str, point: Point) -> Progress:
        """The progress once a device has begun a point, which another one may have lost."""
        others = {name: replace(one, now=None if one.now == point else one.now) for name, one in self.devices.items()}
        devices = {**others, device: replace(others.get(device, OnDevice()), now=point)}
        return replace(self, begins=point, devices=devices)

    def ended(self, device: str) -> Progress:
        """The progress once a device has measured its point."""
        done = self.devices[device].done + 1
        return replace(self, done=self.done + 1, begins=None, devices={**self.devices, device: OnDevice(done)})

    def __str__(self) -> str:
        """What is measured now; of several devices each with its count."""
        if len(self.devices) > 1:
            return "; ".join(f"{name}: {one}" for name, one in sorted(self.devices.items()))
        return ", ".join(_named(one.now) for one in self.devices.values() if one.now is not None)

    @property
    def counts(self) -> str:
        """Points by device, in words."""
        return ", ".join(f"{name} {one.done}" for name, one in sorted(self.devices.items()))


def _named(point: Point) -> str:
    return f"{point.contender}, {point.workload.size}"
