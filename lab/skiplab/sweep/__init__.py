"""Sweeps: axes -> points -> measurements -> a run file; each operation has a file, with its class as `SWEEP`.

grid.py: what the sweeps share; running.py: measures one, here or by cluster.py. The functions
`sweep`, `sweep_decode`, `sweep_linear` and `sweep_model` make a sweep of their arguments and run it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from skiplab.operations import modules_of, operation_of
from skiplab.sweep.attention import DEFAULT_CONTENDERS, Sweep, mask_text, sweep
from skiplab.sweep.decode import DecodeSweep, sweep_decode
from skiplab.sweep.grid import AnySweep, usable
from skiplab.sweep.header import default_path, run_header
from skiplab.sweep.linear import LinearSweep, sweep_linear
from skiplab.sweep.model import ModelSweep, sweep_model
from skiplab.sweep.progress import Progress
from skiplab.sweep.running import Where, ending, own_device, row_key, run_sweep

SWEEPS: Mapping[str, type[AnySweep]] = {name: module.SWEEP for name, module in modules_of(__name__).items()}

__all__ = [
    "DEFAULT_CONTENDERS", "SWEEPS", "AnySweep", "DecodeSweep", "LinearSweep", "ModelSweep", "Progress", "Sweep",
    "Where", "default_path", "ending", "mask_text", "own_device", "row_key", "run_header", "run_sweep", "sweep",
    "sweep_decode", "sweep_linear", "sweep_model", "sweep_of", "usable",
]  # fmt: skip


def sweep_of(operation: str, parameters: dict[str, Any]) -> AnySweep:
    """The sweep that a run's header describes; ValueError for an unknown operation."""
    return SWEEPS[operation_of(operation).name].from_parameters(parameters)
