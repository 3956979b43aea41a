"""The properties of a GPU by which kernels are planned, and those assumed without a GPU."""

from __future__ import annotations

from functools import cache
from typing import NamedTuple

import torch

SMALLEST_CAPABILITY = (8, 0)
HOPPER = (9, 0)
"""Also what the kernels are planned for where there is no GPU: in Triton's interpreter."""
MULTIPROCESSORS_ASSUMED = 132
"""Where there is no GPU to ask: an H100's and H200's."""


class Gpu(NamedTuple):
    """Name as the driver gives it, compute capability, multiprocessors; bytes of L2 and of memory, 0 if not known."""

    name: str
    capability: tuple[int, int]
    sms: int
    l2_bytes: int = 0
    memory_bytes: int = 0

    @classmethod
    def of(cls, device: torch.device) -> Gpu:
        """The GPU of a CUDA device, `ASSUMED` for any other device."""
        return _cuda_device(device) if device.type == "cuda" else ASSUMED


ASSUMED = Gpu("assumed", HOPPER, MULTIPROCESSORS_ASSUMED)


@cache
def _cuda_device(device: torch.device) -> Gpu:
    properties = torch.cuda.get_device_properties(device)
    return Gpu(
        properties.name,
        (properties.major, properties.minor),
        properties.multi_processor_count,
        properties.L2_cache_size,
        properties.total_memory,
    )


def capability_of(device: torch.device) -> tuple[int, int] | None:
    """Compute capability of a CUDA device; None where there is no GPU."""
    return Gpu.of(device).capability if device.type == "cuda" else None


def family(capability: tuple[int, int]) -> tuple[int, int]:
    """The capability whose tables a device uses: (9, 0) from Hopper up to data-centre Blackwell, (8, 0) for others."""
    return HOPPER if HOPPER <= capability < (12, 0) else SMALLEST_CAPABILITY


def shared_bytes(capability: tuple[int, int]) -> int:
    """Shared memory that one block can have, by NVIDIA's CUDA programming guide (compute capabilities)."""
    if family(capability) == HOPPER:
        return 227 << 10
    return (163 if capability in ((8, 0), (8, 7)) else 99) << 10


def check_capability(capability: tuple[int, int]) -> None:
    """ValueError for a device that the Triton kernels do not run on."""
    if capability < SMALLEST_CAPABILITY:
        major, minor = capability
        raise ValueError(
            f"impl: 'triton' needs compute capability 8.0 or higher, this device has {major}.{minor}; use impl='tiled'"
        )
