"""Is a measured time impossible? No call is faster than the roofs of its machine allow."""

from __future__ import annotations

from skiplab.contenders import is_cuda
from skiplab.machine import Machine, device_name, known_gpus, measured_machine, this_machine
from skiplab.machine.roofline import bound_of
from skiplab.measure.point import WorkDone
from skiplab.workload import Problem

MEASURED_ROOF_MARGIN = 1.1  # a measured roof is the best seen, not the best there is


def is_impossible(seconds: float, work: WorkDone, workload: Problem, device: str, machine: Machine | None) -> bool:
    """Whether the time is below what the data sheet of a known GPU allows, else below this device's measured roofs.

    On a CPU the caches may hold everything, so only the products count. A roof that was measured on a busy machine is
    too low, so it is measured again before a point is called impossible.
    """
    moved = work.minimal_bytes if is_cuda(device) else 0
    sheet = _data_sheet(device_name(device)) if is_cuda(device) else None
    if sheet is not None:
        return seconds < bound_of(work.useful_flops, moved, sheet).seconds

    def beats(roof: Machine) -> bool:
        return seconds * MEASURED_ROOF_MARGIN < bound_of(work.useful_flops, moved, roof).seconds

    return beats(machine or this_machine(device, workload.dtype)) and beats(measured_machine(device, workload.dtype))


def _data_sheet(name: str) -> Machine | None:
    """The data sheet of a GPU; a driver says `NVIDIA H100 80GB HBM3` for what it calls `NVIDIA H100 SXM`."""
    if name in known_gpus():
        return known_gpus()[name]
    model = " ".join(name.split()[:2])
    return next((gpu for gpu in known_gpus().values() if gpu.name.startswith(f"{model} ")), None)
