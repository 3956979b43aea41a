"""Sweeps: axes -> points -> measurements -> a run file; each operation has a file, with its class as `SWEEP`.

grid.py: what the sweeps share; asked.py: axes from text; running.py: measures one, here or by cluster.py; again.py:
repeats one. The functions `sweep`, `sweep_decode`, `sweep_linear` and `sweep_model` make a sweep of their arguments and
run it.
"""

from __future__ import annotations

from skiplab.sweep.again import other_kernels, repeated, rerun, sweep_of
from skiplab.sweep.asked import sweep_at
from skiplab.sweep.attention import DEFAULT_CONTENDERS, Sweep, mask_text, sweep
from skiplab.sweep.decode import DecodeSweep, sweep_decode
from skiplab.sweep.grid import AnySweep, interleaved, usable
from skiplab.sweep.header import default_path, run_header
from skiplab.sweep.linear import LinearSweep, sweep_linear
from skiplab.sweep.model import ModelSweep, sweep_model
from skiplab.sweep.modules import SWEEPS
from skiplab.sweep.progress import Progress
from skiplab.sweep.running import Where, ending, own_device, row_key, row_of, run_sweep

__all__ = [
    "DEFAULT_CONTENDERS", "SWEEPS", "AnySweep", "DecodeSweep", "LinearSweep", "ModelSweep", "Progress", "Sweep",
    "Where", "default_path", "ending", "interleaved", "mask_text", "other_kernels", "own_device", "repeated", "rerun",
    "row_key", "row_of", "run_header", "run_sweep", "sweep", "sweep_at", "sweep_decode", "sweep_linear", "sweep_model",
    "sweep_of", "usable",
]  # fmt: skip
