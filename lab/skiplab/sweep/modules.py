"""The sweep of each operation."""

from __future__ import annotations

from collections.abc import Mapping

from skiplab.operations import modules_of
from skiplab.sweep.grid import AnySweep

SWEEPS: Mapping[str, type[AnySweep]] = {name: module.SWEEP for name, module in modules_of("skiplab.sweep").items()}
