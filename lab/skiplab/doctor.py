"""What this machine has, what is missing, and what to do about it."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import platform
import shutil
from dataclasses import dataclass

import torch
from blockskip.linear.cpu import numba_is_missing

from skiplab.contenders import Contender, contenders
from skiplab.machine import available_cores, default_device, describe, this_machine
from skiplab.measure.failure import Failure, attempt
from skiplab.operations import OPERATIONS
from skiplab.paths import data_path, runs_directory
from skiplab.provenance import triton_version
from skiplab.workload import Problem

PEERS = {
    "fa3-fwd": "fa3_fwd", "ffpa-attn": "ffpa_attn", "flash-attn-4": "flash_attn", "flashinfer": "flashinfer",
    "gemlite": "gemlite", "humming-kernels": "humming", "transformers": "transformers",
}  # fmt: skip
"""Optional packages that contenders come from, and the modules in them."""


@dataclass(frozen=True)
class Finding:
    """One line of the report: what was examined, `ok`, `note` or `missing`, and what that means or what to do."""

    what: str
    state: str
    text: str


def examine(device: str | None = None) -> list[Finding]:
    """Look at everything that the lab uses; takes a few seconds, since the roofs are measured."""
    device = device or default_device()
    return [
        _software(),
        _gpu(),
        _cpu(),
        _roof(device),
        _compiler(),
        _numba(),
        _interpreter(),
        _peers(),
        _cluster(),
        _widgets(),
        _data(),
    ]


@dataclass(frozen=True)
class Usable:
    """A contender on a device: its operation, its name, what it is, and why it cannot run there (None: it can)."""

    operation: str
    name: str
    summary: str
    reason: str | None


def usable_contenders(device: str) -> list[Usable]:
    """Every contender of every operation, and whether it supports an example of the operation; nothing is run."""
    usable = []
    for operation in OPERATIONS:
        for name, entry in contenders(operation).items():
            reasons = dict.fromkeys(_reason(entry, workload, device) for workload in OPERATIONS[operation].examples)
            reason = None if None in reasons else "; ".join(text for text in reasons if text)
            usable.append(Usable(operation, name, entry.summary, reason))
    return usable


def _reason(entry: Contender, workload: Problem, device: str) -> str | None:
    answer = attempt(lambda: entry.refusal(workload, device))
    return answer.text if isinstance(answer, Failure) else answer


def _software() -> Finding:
    return Finding(
        "software", "ok", f"Python {platform.python_version()}, torch {torch.__version__}, triton {triton_version()}"
    )


def _gpu() -> Finding:
    if not torch.cuda.is_available():
        return Finding("GPU", "note", "none that torch sees: everything runs on the CPU, GPUs are predicted")
    major, minor = torch.cuda.get_device_capability()
    name = f"{torch.cuda.get_device_name()} (compute capability {major}.{minor})"
    if major < 8:
        return Finding("GPU", "missing", f"{name}: the Triton kernels need 8.0 or later")
    return Finding("GPU", "ok", name)


def _cpu() -> Finding:
    identity = describe("cpu")
    threads, cores = torch.get_num_threads(), available_cores()
    text = f"{identity['name']} on {cores} cores, {identity['capability']}, {identity['memory_gb']} GB memory"
    if threads > cores:
        return Finding("CPU", "missing", f"{text}: more threads than cores; set OMP_NUM_THREADS={cores}")
    return Finding("CPU", "ok", text)


def _roof(device: str) -> Finding:
    roof = this_machine(device)
    return Finding(
        "roofs",
        "ok",
        f"measured on {roof.name}: memory {roof.bandwidth_gbps:.3g} GB/s, product {roof.tflops:.3g} TFLOP/s",
    )


def _compiler() -> Finding:
    compiler = next((name for name in ("g++", "c++", "clang++") if shutil.which(name)), None)
    if compiler:
        return Finding("C++ compiler", "ok", f"{compiler}: FlexAttention can be compiled on the CPU")
    return Finding("C++ compiler", "note", "none: FlexAttention on the CPU is left out (Debian: apt install g++)")


def _numba() -> Finding:
    reason = numba_is_missing()
    if reason is not None:
        return Finding("numba", "missing", f"{reason}; int4 and int8 layers on the CPU are PyTorch's, ten times slower")
    return Finding(
        "numba", "ok", f"{importlib.metadata.version('numba')}: int4 and int8 layers on the CPU are compiled"
    )


def _interpreter() -> Finding:
    if os.environ.get("TRITON_INTERPRET") == "1":
        return Finding("TRITON_INTERPRET", "missing", "it is set: nothing is timed until it is unset")
    triton, numpy = triton_version(), importlib.metadata.version("numpy")
    if triton is not None and _disagree(triton, numpy):
        text = (
            f"not set; the interpreter of triton {triton} fails with numpy {numpy}. Kernels that skiplab runs in it "
            "are spared; for your own scripts: pip install 'triton>=3.7', where torch allows it, else 'numpy<2.4'"
        )
        return Finding("TRITON_INTERPRET", "note", text)
    return Finding("TRITON_INTERPRET", "ok", "not set")


def _disagree(triton: str, numpy: str) -> bool:
    from blockskip.launching.interpreter import disagrees  # which imports Triton: there is none everywhere

    return disagrees(triton, numpy)


def _peers() -> Finding:
    there = [name for name, module in PEERS.items() if importlib.util.find_spec(module) is not None]
    absent = [name for name in PEERS if name not in there]
    if not absent:
        return Finding("peers", "ok", f"{', '.join(there)}: compared with where a GPU is")
    return Finding("peers", "note", f"not installed, and so left out: {', '.join(absent)} (they need a GPU)")


def _cluster() -> Finding:
    if importlib.util.find_spec("ray") is None:
        return Finding("Ray", "note", "not installed: --cluster needs it, pip install 'skiplab[cluster]'")
    return Finding("Ray", "ok", f"{importlib.metadata.version('ray')}: --cluster measures on the GPUs of many machines")


def _widgets() -> Finding:
    needed = ("cloudpickle", "jupyterlab", "ipywidgets", "anywidget", "plotly", "pebble", "psutil")
    missing = [name for name in needed if importlib.util.find_spec(name) is None]
    if missing:
        return Finding("lab's packages", "missing", f"{', '.join(missing)}: pip install {' '.join(missing)}")
    return Finding("lab's packages", "ok", "all there")


def _data() -> Finding:
    if not data_path("machines", "gpus.csv").exists():
        return Finding("data", "missing", "data/machines/gpus.csv is not there: the installation is broken")
    runs = runs_directory().resolve()
    if not os.access(next(path for path in (runs, *runs.parents) if path.exists()), os.W_OK):
        return Finding("data", "note", f"{runs.name} cannot be written: name a file with `skiplab sweep --run FILE`")
    return Finding("data", "ok", f"{len(list(data_path('runs').glob('*.jsonl')))} stored runs")
