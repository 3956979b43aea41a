"""View: a tensor as one kernel argument; and the constants that its strides require. Needs no Triton."""

from __future__ import annotations

from typing import NamedTuple

import torch

from ..gpu import HOPPER, capability_of


class View(NamedTuple):
    """A tensor as one kernel argument."""

    ptr: torch.Tensor
    shape: tuple[int, ...]
    strides: tuple[int, ...]

    @classmethod
    def of(cls, tensor: torch.Tensor) -> View:
        return cls(tensor, tuple(tensor.shape), tuple(tensor.stride()))

    @classmethod
    def broadcast(cls, tensor: torch.Tensor, dims: int) -> View:
        """A view whose first `dims` dimensions have stride 0 if their size is 1: any index reads the one entry."""
        strides = (
            0 if i < dims and size == 1 else stride
            for i, (size, stride) in enumerate(zip(tensor.shape, tensor.stride(), strict=True))
        )
        return cls(tensor, tuple(tensor.shape), tuple(strides))


def in_pieces_of_16_bytes(view: View) -> bool:
    """Whether rows are of adjoining elements and begin at multiples of 16 bytes."""
    size = view.ptr.element_size()
    return view.strides[-1] == 1 and not any(
        bytes_ % 16 for bytes_ in (view.ptr.data_ptr(), *(stride * size for stride in view.strides[:-1]))
    )


def is_wide(view: View, heads: int, rows: int, cols: int) -> bool:
    """Whether an offset inside one tile of a [B, H, L, D] tensor can pass 31 bits."""
    _, head, row, col = view.strides
    return (heads - 1) * head + (rows - 1) * row + (cols - 1) * col >= 1 << 31


def ring_kind(ring: bool, slots: int, block_n: int) -> str:
    """The constexpr RING of the kernels: "none" for a cache whose slots are positions, else see `ring_slots`."""
    return "none" if not ring else "long" if slots >= block_n else "short"


def overlaps(device: torch.device) -> bool:
    """Whether the device has programmatic dependent launch: a kernel starts before the one that it waits for ends."""
    return (capability_of(device) or (0, 0)) >= HOPPER
