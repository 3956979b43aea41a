"""Compiling for a GPU that need not be present: Triton compiles for any NVIDIA architecture."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any, cast

from skiplab.machine.capability import compilable_capability


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

    def get_current_target(self):
        return self.target

    def get_current_device(self) -> int:
        """A device number that no GPU has: Triton caches compiled kernels and their target by it."""
        return self.device

    def get_current_stream(self, device=None) -> int:
        return 0
