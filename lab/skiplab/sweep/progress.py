"""How far a sweep is, device by device."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from skiplab.measure import Point


@dataclass(frozen=True)
class OnDevice:
    """What one device has measured, and the points that it is at: several of a workload are measured together."""

    done: int = 0
    now: tuple[Point, ...] = ()

    def __str__(self) -> str:
        return f"{self.done}, now {_named(self.now)}" if self.now else f"{self.done}"

    def without(self, points: Sequence[Point]) -> OnDevice:
        """The same, but at none of these points."""
        return replace(self, now=tuple(point for point in self.now if point not in points))


@dataclass(frozen=True)
class Progress:
    """Points measured since the sweep began or went on, of how many, and what each device does, by its name.

    begins: the points that a device begins now; none where one has ended.
    """

    total: int
    done: int = 0
    begins: tuple[Point, ...] = ()
    devices: Mapping[str, OnDevice] = field(default_factory=dict)

    def begun(self, device: str, points: Sequence[Point]) -> Progress:
        """The progress once a device has begun points, which another one may have lost."""
        others = {name: one.without(points) for name, one in self.devices.items()}
        devices = {**others, device: replace(others.get(device, OnDevice()), now=tuple(points))}
        return replace(self, begins=tuple(points), devices=devices)

    def ended(self, device: str, point: Point) -> Progress:
        """The progress once a device has measured a point."""
        one = self.devices[device]
        left = replace(one, done=one.done + 1).without([point])
        return replace(self, done=self.done + 1, begins=(), devices={**self.devices, device: left})

    def __str__(self) -> str:
        """What is measured now; of several devices each with its count."""
        if len(self.devices) > 1:
            return "; ".join(f"{name}: {one}" for name, one in sorted(self.devices.items()))
        return ", ".join(_named(one.now) for one in self.devices.values() if one.now)

    @property
    def counts(self) -> str:
        """Points by device, in words."""
        return ", ".join(f"{name} {one.done}" for name, one in sorted(self.devices.items()))


def _named(points: Sequence[Point]) -> str:
    """Points of one workload in words."""
    return f"{' + '.join(point.contender for point in points)}, {points[0].workload.size}"
