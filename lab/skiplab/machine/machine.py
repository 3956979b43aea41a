"""What this machine is and how fast it can go at best; the data sheets of known GPUs."""

from __future__ import annotations

import csv
import os
import platform
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch

from skiplab.paths import data_path


@dataclass(frozen=True)
class Machine:
    """A device and its roofs: `bandwidth_gbps` in 1e9 bytes/s, `tflops` of a dense `dtype` product in 1e12 FLOP/s.

    `cache_mb` (MiB) is the L2 of a GPU, the last level of a CPU. `source` is `data sheet` or `measured`.
    """

    name: str
    kind: str
    bandwidth_gbps: float
    tflops: float
    dtype: str = "bfloat16"
    compute_capability: str | None = None
    sms: int | None = None
    l2_mb: float = 0.0
    source: str = "data sheet"

    def roof(self) -> dict[str, Any]:
        """The roofs as a run's header holds them."""
        return asdict(self)


@lru_cache(maxsize=1)
def known_gpus() -> dict[str, Machine]:
    """Data-sheet machines of `data/machines/gpus.csv`, by name."""
    with data_path("machines", "gpus.csv").open(encoding="utf-8", newline="") as file:
        return {
            row["name"]: Machine(
                name=row["name"], kind="cuda", bandwidth_gbps=float(row["memory_bandwidth_gbps"]),
                tflops=float(row["bf16_dense_tflops"]), compute_capability=row["compute_capability"],
                sms=int(row["sms"]), l2_mb=float(row["l2_mb"]),
            )
            for row in csv.DictReader(file)
        }  # fmt: skip


def default_device() -> str:
    """`cuda` where torch sees one, else `cpu`."""
    return "cuda" if torch.cuda.is_available() else "cpu"


def device_kind(device: str) -> str:
    """The device without its index: `cuda` for `cuda:1`."""
    return device.partition(":")[0]


def device_name(device: str) -> str:
    """The name that figures print: the GPU's own, or the CPU's with its number of threads."""
    if torch.device(device).type == "cuda":
        return torch.cuda.get_device_name(device) if torch.cuda.is_available() else f"{device}, which is not here"
    threads = torch.get_num_threads()
    return f"{cpu_name()}, {threads} thread{'s' if threads > 1 else ''}"


@lru_cache(maxsize=1)
def cpu_name() -> str:
    """The CPU's model name."""
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text(encoding="utf-8", errors="replace").splitlines():
            if line.lower().startswith(("model name", "hardware")):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def last_cache_bytes(device: str) -> int:
    """Bytes of the last cache before memory: a GPU's L2, a CPU's largest level; 0 when it is not known."""
    if torch.device(device).type == "cuda":
        return torch.cuda.get_device_properties(device).L2_cache_size
    sizes = [path.read_text().strip() for path in Path("/sys/devices/system/cpu/cpu0/cache").glob("index*/size")]
    units = {"K": 1 << 10, "M": 1 << 20, "G": 1 << 30}
    return max((int(size[:-1]) * units[size[-1]] for size in sizes if size[-1:] in units), default=0)


def describe(device: str | None = None) -> dict[str, Any]:
    """The identity of a device for a run's header; no host name, no path."""
    device = device or default_device()
    if torch.device(device).type != "cuda":
        return {
            "name": device_name(device), "kind": "cpu", "architecture": platform.machine(),
            "capability": torch.backends.cpu.get_cpu_capability(), "cores": available_cores(),
            "cache_mb": last_cache_bytes(device) / 2**20, "memory_gb": round(_memory_bytes() / 1e9, 1),
        }  # fmt: skip
    properties = torch.cuda.get_device_properties(device)
    return {
        "name": properties.name, "kind": "cuda", "compute_capability": f"{properties.major}.{properties.minor}",
        "sms": properties.multi_processor_count, "memory_gb": round(properties.total_memory / 1e9, 1),
        "l2_mb": properties.L2_cache_size / 2**20, **nvml_identity(device),
    }  # fmt: skip


@dataclass(frozen=True)
class CpuUse:
    """Seconds of CPU time since start: of all programs, of this process and its threads, and the clock."""

    everybody: float
    own: float
    clock: float


def cpu_use() -> CpuUse | None:
    """CPU use until now; None without `/proc/stat`. The difference of two of them gives the share of other programs."""
    stat = Path("/proc/stat")
    if not stat.exists():
        return None
    user, nice, system, _idle, _wait, interrupt, soft, *_ = map(int, stat.read_text().split("\n", 1)[0].split()[1:])
    own = os.times()
    everybody = (user + nice + system + interrupt + soft) / os.sysconf("SC_CLK_TCK")
    return CpuUse(everybody, own.user + own.system, time.perf_counter())


def others_share(before: CpuUse | None, after: CpuUse | None) -> float:
    """The share of the cores' time between the two that other programs used, 0 to 1; 0 where it is not known."""
    if before is None or after is None:
        return 0.0
    others = (after.everybody - before.everybody) - (after.own - before.own)
    return max(0.0, others / max(after.clock - before.clock, 1e-9) / (os.cpu_count() or 1))


def available_cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def free_bytes(device: str) -> int | None:
    """Bytes that this process could still take on the device, what torch keeps for it included; None: not known."""
    if torch.device(device).type == "cuda":
        return torch.cuda.mem_get_info(device)[0] + torch.cuda.memory_reserved(device)
    info = Path("/proc/meminfo")
    for line in info.read_text().splitlines() if info.exists() else ():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    return None


def _memory_bytes() -> int:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") if hasattr(os, "sysconf") else 0


def _nvml(device: str) -> tuple[Any, Any] | None:
    """The NVML module and the device's handle, or None where pynvml is not installed or has no driver."""
    try:
        import pynvml  # type: ignore[import-not-found]

        pynvml.nvmlInit()
        uuid = str(torch.cuda.get_device_properties(device).uuid)
        return pynvml, pynvml.nvmlDeviceGetHandleByUUID(uuid if uuid.startswith("GPU-") else f"GPU-{uuid}")
    except ImportError:
        return None
    except pynvml.NVMLError:
        return None


def nvml_identity(device: str) -> dict[str, Any]:
    """Driver, power limit, maximum clocks and ECC, as far as NVML reports them; {} without NVML."""
    opened = _nvml(device)
    if opened is None:
        return {}
    nvml, handle = opened
    questions = {
        "driver": lambda: nvml.nvmlSystemGetDriverVersion(),
        "power_limit_w": lambda: nvml.nvmlDeviceGetPowerManagementLimit(handle) / 1000,
        "max_sm_mhz": lambda: nvml.nvmlDeviceGetMaxClockInfo(handle, nvml.NVML_CLOCK_SM),
        "max_memory_mhz": lambda: nvml.nvmlDeviceGetMaxClockInfo(handle, nvml.NVML_CLOCK_MEM),
        "ecc": lambda: bool(nvml.nvmlDeviceGetEccMode(handle)[0]),
        "mig": lambda: bool(nvml.nvmlDeviceGetMigMode(handle)[0]),
    }
    return _answers(nvml, questions)


def clocks(device: str) -> dict[str, Any]:
    """SM and memory clock in MHz, temperature in C, throttle reasons (bits); {} on a CPU and without NVML."""
    opened = _nvml(device) if torch.device(device).type == "cuda" else None
    if opened is None:
        return {}
    nvml, handle = opened
    questions = {
        "sm_mhz": lambda: nvml.nvmlDeviceGetClockInfo(handle, nvml.NVML_CLOCK_SM),
        "memory_mhz": lambda: nvml.nvmlDeviceGetClockInfo(handle, nvml.NVML_CLOCK_MEM),
        "temperature_c": lambda: nvml.nvmlDeviceGetTemperature(handle, nvml.NVML_TEMPERATURE_GPU),
        "throttle_reasons": lambda: nvml.nvmlDeviceGetCurrentClocksThrottleReasons(handle),
    }
    return _answers(nvml, questions)


def _answers(nvml: Any, questions: dict[str, Callable[[], Any]]) -> dict[str, Any]:
    """The driver's answers; queries that this GPU does not support are left out."""
    answers = {}
    for name, ask in questions.items():
        try:
            answers[name] = ask()
        except nvml.NVMLError:
            continue
    return answers


@lru_cache(maxsize=8)
def this_machine(device: str | None = None, dtype: str = "bfloat16") -> Machine:
    """This device with its roofs, each measured once in this process; see `measured_machine`."""
    return _measured(device or default_device(), dtype, _kept_rate)


@dataclass(frozen=True)
class Probe:
    """A plain operation whose rate is one of a device's roofs: `call(*args)` takes `amount` bytes or FLOPs."""

    call: Callable[..., torch.Tensor]
    args: tuple[torch.Tensor, ...]
    amount: int


def copy_probe(device: str) -> Probe:
    """A copy far larger than the caches; its bytes are counted twice, as read and as written."""
    source = _large(device)
    return Probe(lambda source, target: target.copy_(source), (source, torch.empty_like(source)), 2 * source.nbytes)


def read_probe(device: str) -> Probe:
    """A sum over far more bytes than the caches hold: like decoding and quantised linear layers, it mostly reads."""
    source = _large(device)
    return Probe(torch.sum, (source,), source.nbytes)


def product_probe(device: str, dtype: str) -> Probe:
    """A square product of normal numbers."""
    size = 8192 if torch.device(device).type == "cuda" else 768
    numbers = (torch.randn(size, size, dtype=torch.float32, device=device) for _ in range(2))
    a, b = (x.to(getattr(torch, dtype)) for x in numbers)
    return Probe(torch.mm, (a, b), 2 * size**3)


def _large(device: str) -> torch.Tensor:
    elements = (1 << 27) if torch.device(device).type == "cuda" else (1 << 24)
    return torch.zeros(elements, dtype=torch.int64, device=device)


def product_dtypes(device: str, dtype: str) -> tuple[str, ...]:
    """The dtypes whose products count as a roof of `dtype`.

    On a CPU float32 counts too: a kernel may compute a bf16 problem in float32, which is faster on many CPUs.
    """
    return (dtype,) if torch.device(device).type == "cuda" else tuple(sorted({dtype, "float32"}))


def measured_machine(device: str | None = None, dtype: str = "bfloat16") -> Machine:
    """This device with its roofs, measured now: the better of a large copy and a large read, and a product.

    It takes about a second on a CPU. `skiplab roofs` measures the same with samples, and keeps them in a file.
    """
    return _measured(device or default_device(), dtype, _rate)


def _measured(device: str, dtype: str, rate: Callable[..., float]) -> Machine:
    """rate: that of a probe, from what makes it, and its arguments."""
    products = [rate(product_probe, device, name) for name in product_dtypes(device, dtype)]
    bandwidth = max(rate(probe, device) for probe in (copy_probe, read_probe))
    return machine_here(device, bandwidth / 1e9, max(products) / 1e12, dtype)


def machine_here(device: str, bandwidth_gbps: float, tflops: float, dtype: str) -> Machine:
    """This device with roofs that were measured on it."""
    kind = torch.device(device).type
    capability = torch.cuda.get_device_capability(device) if kind == "cuda" else None
    return Machine(
        name=device_name(device), kind=kind, bandwidth_gbps=bandwidth_gbps, tflops=tflops, dtype=dtype,
        compute_capability=capability and f"{capability[0]}.{capability[1]}",
        sms=torch.cuda.get_device_properties(device).multi_processor_count if kind == "cuda" else None,
        l2_mb=last_cache_bytes(device) / 2**20, source="measured",
    )  # fmt: skip


SETTLED = 8
"""Calls that are no faster than the fastest, after which none is looked for."""


def _rate(make: Callable[..., Probe], device: str, *dtype: str) -> float:
    probe = make(device, *dtype)
    return probe.amount / _best_seconds(lambda: probe.call(*probe.args), device)


_kept_rate = lru_cache(maxsize=32)(_rate)


def _best_seconds(fn: Callable[[], object], device: str, budget_s: float = 0.4) -> float:
    """The fastest of the calls that fit the budget, after a warm-up: a roof is the best rate seen.

    On a CPU, whose clock rises at once, calls end early: when `SETTLED` in a row were no faster by a hundredth.
    """
    on_gpu = torch.device(device).type == "cuda"
    synchronize = torch.cuda.synchronize if on_gpu else (lambda: None)
    fn()
    synchronize()
    best, slower, end = float("inf"), 0, time.perf_counter() + budget_s
    while time.perf_counter() < end and (on_gpu or slower < SETTLED):
        start = time.perf_counter()
        fn()
        synchronize()
        took = time.perf_counter() - start
        slower = 0 if took < 0.99 * best else slower + 1
        best = min(best, took)
    return best
