"""The most memory that something takes while it runs."""

from __future__ import annotations

import os
from pathlib import Path

import torch

STATUS, RESET = Path("/proc/self/status"), Path("/proc/self/clear_refs")
PEAK_OF_PROCESS = "5"
"""What Linux takes for: forget the process' peak."""


def begin_peak(device: str) -> bool:
    """Forget earlier peaks; whether that can be done: of a CPU's memory Linux alone can."""
    if torch.device(device).type == "cuda":
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        return True
    try:
        RESET.write_text(PEAK_OF_PROCESS)
    except OSError:
        return False
    return True


def peak_bytes(device: str) -> int | None:
    """The peak since `begin_peak`: on a GPU what torch allocated, on a CPU the whole process; None: not known."""
    if torch.device(device).type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    for line in STATUS.read_text().splitlines() if STATUS.exists() and os.access(STATUS, os.R_OK) else ():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    return None
