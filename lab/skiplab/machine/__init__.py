"""What this machine is and how fast it can go: its identity, its roofs, and what they allow a piece of work.

`roofs.py` keeps a device's roofs in `data/machines`; `measure/roofs.py` measures them. `read_bandwidth.py` is a
kernel that only reads, and the only module here that needs Triton.
"""

from skiplab.machine.machine import (
    CpuUse,
    Machine,
    Probe,
    available_cores,
    clocks,
    copy_probe,
    cpu_name,
    cpu_use,
    default_device,
    describe,
    device_kind,
    device_name,
    free_bytes,
    known_gpus,
    last_cache_bytes,
    machine_here,
    measured_machine,
    others_share,
    product_dtypes,
    product_probe,
    read_probe,
    this_machine,
)

__all__ = [
    "CpuUse", "Machine", "Probe", "available_cores", "clocks", "copy_probe", "cpu_name", "cpu_use", "default_device",
    "describe", "device_kind", "device_name", "free_bytes", "known_gpus",
    "last_cache_bytes", "machine_here", "measured_machine", "others_share",
    "product_dtypes", "product_probe", "read_probe", "this_machine",
]  # fmt: skip
