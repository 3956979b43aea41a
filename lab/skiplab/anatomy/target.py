"""Compiling for a GPU that need not be present: Triton compiles for any NVIDIA architecture."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any, cast

from blockskip.gpu import MULTIPROCESSORS_ASSUMED, shared_bytes

from skiplab.machine.capability import MULTIPROCESSORS, compilable_capability


@contextlib.contextmanager
def compiling_for(arch: Any) -> Iterator[None]:
    """Inside the block Triton compiles for this compute capability.

    ValueError for one that is not known, and where TRITON_INTERPRET is set: kernels are not compiled then.
    """
    from blockskip.launching.primitives import interpreting
    from triton.runtime import driver

    capability = compilable_capability(arch)
    if interpreting():
        raise ValueError("TRITON_INTERPRET: is set, so kernels are not compiled; unset it before Triton is imported")
    before = driver._active
    driver.set_active(cast(Any, _PretendDriver(capability)))
    try:
        yield
    finally:
        driver._active = before


class _PretendDriver:
    """The part of a Triton driver that compiling needs."""

    def __init__(self, capability: tuple[int, int]):
        from triton.backends.compiler import GPUTarget

        number = capability[0] * 10 + capability[1]
        self.target = GPUTarget("cuda", number, 32)
        self.device = -number
        self.utils = SimpleNamespace(get_device_properties=lambda device: _properties(capability))

    def get_current_target(self):
        return self.target

    def get_current_device(self) -> int:
        """A device number that no GPU has: Triton caches compiled kernels and their target by it."""
        return self.device

    def get_current_stream(self, device=None) -> int:
        return 0

    def get_active_torch_device(self):
        import torch

        return torch.device("cuda", 0)

    def get_device_interface(self):
        import torch

        return torch.cuda


def _properties(capability: tuple[int, int]) -> dict[str, int]:
    """What Triton's driver knows of a GPU of that capability, with the multiprocessors of an H100."""
    return {
        "max_shared_mem": shared_bytes(capability),
        "max_num_regs": MULTIPROCESSORS[capability].registers,
        "multiprocessor_count": MULTIPROCESSORS_ASSUMED,
        "warpSize": 32,
    }
