"""The measurements of a widget's session as a run."""

from __future__ import annotations

from skiplab.machine import default_device, describe, this_machine
from skiplab.measure import Measurement
from skiplab.store import Run


def run_of(measurements: list[Measurement], dtype: str) -> Run:
    """Measurements of this session as a run, so that figures take them like any other."""
    device = default_device()
    header = {"run_id": "this session", "device": describe(device), "roof": this_machine(device, dtype).roof()}
    return Run(header, tuple(item.row() for item in measurements), source="measured")
