"""A GPU that is not there, for host code that asks torch for one on its way to a launch which nobody runs."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import SimpleNamespace
from typing import Any

import torch
from blockskip.gpu import MULTIPROCESSORS_ASSUMED, shared_bytes
from torch.overrides import TorchFunctionMode

from skiplab.anatomy.target import compiling_for
from skiplab.machine.capability import MULTIPROCESSORS, compilable_capability, sm_name

_CUDA = re.compile(r"cuda(:\d+)?")
DEVICE = torch.device("cuda", 0)
MEMORY_ASSUMED = 80 << 30
L2_ASSUMED = 50 << 20


@contextlib.contextmanager
def pretended_gpu(arch: Any) -> Iterator[None]:
    """Inside the block kernels are compiled for this compute capability, and where torch sees no GPU it says it does.

    Then `torch.cuda` tells of a GPU of that capability with the multiprocessors of an H100, tensors that are made on
    `cuda` lie in the CPU's memory, and all tensors say that they are on it. What only a GPU can do (events, streams,
    graphs) raises as before. The kernels of this package are planned as they are without a GPU.
    """
    with compiling_for(arch):
        if torch.cuda.is_available():
            yield
            return
        with _replaced(torch.cuda, _answers(compilable_capability(arch))), _OnCpu():
            yield


class _OnCpu(TorchFunctionMode):
    """CUDA devices in calls of torch are the CPU; tensors say that they are on a GPU."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        asked = getattr(getattr(func, "__self__", None), "__name__", "") if func.__name__ == "__get__" else ""
        if asked == "is_cuda":
            return True
        if asked == "device":
            return DEVICE
        if func is torch.Tensor.cuda:
            return args[0]
        if func is torch.device:
            return func(*args, **(kwargs or {}))
        return func(*map(_on_cpu, args), **{name: _on_cpu(one, name) for name, one in (kwargs or {}).items()})


def _on_cpu(value: Any, name: str = "") -> Any:
    """The CPU in the place of what names a CUDA device; a whole number does where it is named `device`."""
    if isinstance(value, torch.device):
        return torch.device("cpu") if value.type == "cuda" else value
    if isinstance(value, str) and _CUDA.fullmatch(value):
        return "cpu"
    return "cpu" if name == "device" and type(value) is int else value


def _answers(capability: tuple[int, int]) -> Mapping[str, Callable[..., Any]]:
    """What `torch.cuda` says of a GPU of that capability, by the name of the function."""
    one = MULTIPROCESSORS[capability]
    properties = SimpleNamespace(
        name=f"a GPU of {sm_name(capability)}, not there", major=capability[0], minor=capability[1],
        multi_processor_count=MULTIPROCESSORS_ASSUMED, total_memory=MEMORY_ASSUMED, L2_cache_size=L2_ASSUMED,
        warp_size=32, max_threads_per_multi_processor=32 * one.warps, regs_per_multiprocessor=one.registers,
        shared_memory_per_multiprocessor=one.shared_bytes, shared_memory_per_block=48 << 10,
        shared_memory_per_block_optin=shared_bytes(capability),
    )  # fmt: skip
    stream = SimpleNamespace(cuda_stream=0, synchronize=lambda: None)
    said = {
        "is_available": True, "is_initialized": True, "init": None, "device_count": 1, "current_device": 0,
        "set_device": None, "synchronize": None, "get_device_capability": capability,
        "get_device_name": properties.name, "get_device_properties": properties, "current_stream": stream,
        "default_stream": stream, "mem_get_info": (MEMORY_ASSUMED, MEMORY_ASSUMED), "empty_cache": None,
        "device": contextlib.nullcontext(), "is_current_stream_capturing": False,
    }  # fmt: skip
    return {name: _saying(value) for name, value in said.items()}


def _saying(value: Any) -> Callable[..., Any]:
    return lambda *given, **named: value


@contextlib.contextmanager
def _replaced(module: Any, functions: Mapping[str, Any]) -> Iterator[None]:
    before: Sequence[tuple[str, Any]] = [(name, getattr(module, name)) for name in functions]
    for name, function in functions.items():
        setattr(module, name, function)
    try:
        yield
    finally:
        for name, function in before:
            setattr(module, name, function)
