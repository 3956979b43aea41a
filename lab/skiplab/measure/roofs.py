"""Measures a device's roofs: copy, read, product, and reads of few megabytes."""

from __future__ import annotations

import platform
from collections.abc import Callable, Sequence
from dataclasses import replace

import torch

from skiplab import machine
from skiplab.machine import Probe
from skiplab.machine.roofs import Rate, Roofs
from skiplab.measure.rotation import rotate
from skiplab.measure.timing import time_callable
from skiplab.provenance import now, triton_version

READ_BYTES = tuple(size << 20 for size in (8, 16, 32, 64, 128, 256))
PRODUCTS = ("bfloat16", "float16")


def measure_roofs(
    device: str,
    *,
    budget_s: float = 1.0,
    read_bytes: Sequence[int] = READ_BYTES,
    say: Callable[[str], object] = lambda text: None,
) -> Roofs:
    """Measure copy, read, products and small reads on this device; `budget_s` seconds each at most, in each way.

    read_bytes: multiples of 1 MiB, in rising order. say: called with a description before each.
    """

    def rate(what: str, probe: Probe) -> Rate:
        say(what)
        timing = time_callable(probe.call, rotate(probe.args, device), device, budget_s=budget_s)
        return Rate(what, probe.amount, timing.method, timing.samples_ns, timing.flags, timing.clocks)

    names = sorted({name for dtype in PRODUCTS for name in machine.product_dtypes(device, dtype)})
    return Roofs(
        machine.describe(device),
        "measured",
        now(),
        rate("a copy, bytes read and written", machine.copy_probe(device)),
        rate("a sum, bytes read", machine.read_probe(device)),
        {name: rate(f"a product in {name}", machine.product_probe(device, name)) for name in names},
        tuple(_small_read(size, device, rate) for size in read_bytes),
        {
            "python": platform.python_version(), "torch": torch.__version__, "triton": triton_version(),
            "cuda": torch.version.cuda, "threads": torch.get_num_threads(), "cpu": machine.describe("cpu")["name"],
        },
    )  # fmt: skip


def _small_read(size: int, device: str, rate: Callable[[str, Probe], Rate]) -> Rate:
    """One kernel that sums so many bytes: torch's on a CPU, the fastest of `READ_PROBES` on a GPU."""
    what = f"one kernel's sum of {size >> 20} MiB"
    if torch.device(device).type != "cuda":
        return rate(what, Probe(torch.sum, (torch.ones(size // 8, dtype=torch.int64, device="cpu"),), size))
    from skiplab.machine.read_bandwidth import READ_PROBES  # it needs Triton, which is for Linux

    data = torch.ones(size // 4, dtype=torch.int32, device=device)
    rates = [replace(rate(what, Probe(probe, (data,), size)), what=f"{what}, {probe}") for probe in READ_PROBES]
    return min(rates, key=lambda one: one.median_us)
