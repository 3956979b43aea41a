"""What is measured, and what comes of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from statistics import median
from typing import Any

import numpy as np

from skiplab.contenders import Contender, with_config
from skiplab.machine import device_kind
from skiplab.operations import workload_of
from skiplab.workload import Problem

OTHER_DEVICE = "other-device"
"""The flag of a row whose workload was begun on another device of the same kind."""


@dataclass(frozen=True)
class Point:
    """One setting of a sweep: a workload, who solves it, with which tile config, on which torch device."""

    workload: Problem
    contender: str
    config: tuple[int, ...] | None = None
    device: str = "cpu"

    @property
    def entry(self) -> Contender:
        """The contender, with the point's config; ValueError for an unknown one, or one that takes no config."""
        return with_config(self.contender, self.config, self.workload.operation)

    @property
    def key(self) -> str:
        """Stable and readable; equal points have equal keys, whichever GPU of a machine they are measured on."""
        config = "" if self.config is None else f" {self.config}"
        return f"{self.contender}{config} | {self.workload.key()} | {device_kind(self.device)}"


@dataclass(frozen=True)
class WorkDone:
    """FLOPs and bytes of one call; `executed_flops` is None where a peer's own tiles are not known.

    `bytes` are what the contender's skip mode moves, its mask included; `minimal_bytes` are q, k, v and out once.
    """

    useful_flops: int
    executed_flops: int | None
    dense_flops: int
    bytes: int
    minimal_bytes: int


@dataclass(frozen=True)
class Measurement:
    """What came of a point. `samples_ns` is empty unless the status is `ok`; error is the largest absolute one.

    snr_db: the result's signal-to-noise ratio in decibel, where keys and values were rounded to 8 bits. parts_ns: where
    a call's time goes, by name; peak_bytes: the most memory it took; both where that was looked at. node: which machine
    of a cluster the point's device is in; empty for this machine. together: the contenders whose samples were taken in
    turn with this one's.
    """

    point: Point
    status: str
    error_text: str = ""
    error: float | None = None
    tolerance: float | None = None
    method: str | None = None
    samples_ns: tuple[int, ...] = ()
    other_samples: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    flags: tuple[str, ...] = ()
    work: WorkDone | None = None
    clocks: Mapping[str, Any] = field(default_factory=dict)
    label: str = ""
    device_name: str = ""
    plan: Mapping[str, Any] = field(default_factory=dict)
    parts_ns: Mapping[str, int] = field(default_factory=dict)
    peak_bytes: int | None = None
    node: str = ""
    together: tuple[str, ...] = ()
    snr_db: float | None = None

    @property
    def median_ns(self) -> float:
        """Median of the samples; nan without any."""
        return float(median(self.samples_ns)) if self.samples_ns else float("nan")

    @property
    def iqr_ns(self) -> float:
        """Interquartile range of the samples; nan without any."""
        if not self.samples_ns:
            return float("nan")
        low, high = np.percentile(self.samples_ns, (25, 75))
        return float(high - low)

    def row(self) -> dict[str, Any]:
        """The measurement as a run file's row (`data/README.md` has the schema)."""
        point = self.point
        return {
            "key": point.key, "point": point.key, "axes": point.workload.axes(), "contender": point.contender,
            "label": self.label or point.contender, "config": point.config and list(point.config),
            "torch_device": point.device, "device": self.device_name, "status": self.status,
            "error_text": self.error_text, "error": self.error, "tolerance": self.tolerance, "method": self.method,
            "samples_ns": list(self.samples_ns),
            "other_samples_ns": {name: list(samples) for name, samples in self.other_samples.items()},
            "flags": list(self.flags), "work": self.work and asdict(self.work), "clocks": dict(self.clocks),
            "plan": dict(self.plan), **({"parts_ns": dict(self.parts_ns)} if self.parts_ns else {}),
            **({} if self.snr_db is None else {"snr_db": self.snr_db}),
            **({} if self.peak_bytes is None else {"peak_bytes": self.peak_bytes}),
            **({"node": self.node} if self.node else {}),
            **({"together": list(self.together)} if self.together else {}),
        }  # fmt: skip

    @classmethod
    def from_row(cls, row: Mapping[str, Any]) -> Measurement:
        """The measurement that `row()` wrote."""
        config = row.get("config")
        point = Point(
            workload_of(row["axes"]), row["contender"], tuple(config) if config else None, row["torch_device"]
        )
        return cls(
            point, row["status"], row["error_text"], row["error"], row["tolerance"], row["method"],
            tuple(row["samples_ns"]),
            {name: tuple(samples) for name, samples in row["other_samples_ns"].items()},
            tuple(row["flags"]), WorkDone(**row["work"]) if row["work"] else None, row["clocks"],
            row["label"], row["device"], row["plan"], row.get("parts_ns", {}), row.get("peak_bytes"),
            row.get("node", ""), tuple(row.get("together", ())), row.get("snr_db"),
        )  # fmt: skip
