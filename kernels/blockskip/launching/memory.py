"""New tensors for what launches write. Needs no Triton."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch

Strides = tuple[int, ...]
Memory = tuple[tuple[int, ...], torch.dtype] | tuple[tuple[int, ...], torch.dtype, Strides]
"""Shape and dtype of a tensor that is allocated for each call, and its strides, of dense memory, where it is not
contiguous."""


def allocate(memory: Sequence[Memory | None], device: torch.device) -> list[Any]:
    """New tensors, unwritten; None where none is asked for. Each begins at a multiple of 16 bytes, as all new do."""
    return [None if one is None else allocation(one[0], one[1], device, *one[2:])() for one in memory]


def tokens_first(shape: tuple[int, ...]) -> Strides:
    """Strides of [B, H, L, D] in memory that holds [B, L, H, D]: a token's heads beside each other."""
    _, heads, length, dim = shape
    return length * heads * dim, dim, heads * dim, 1


def allocation(
    shape: tuple[int, ...], dtype: torch.dtype, device: torch.device, strides: Strides | None = None
) -> Callable[[], torch.Tensor]:
    """Allocates such a tensor, dense, on a device that is the current one; strides None: contiguous.

    It goes past torch's dispatcher, as the code does that torch.compile generates, in less than half the time; but not
    where torch is asked for deterministic results: it may be asked to fill new memory then.
    """
    if strides is None:
        strides = tuple(math.prod(max(1, size) for size in shape[i + 1 :]) for i in range(len(shape)))
    short = getattr(torch._C._dynamo.guards, f"_empty_strided_{device.type}", None)  # pyright: ignore[reportAttributeAccessIssue]
    if short is None or torch.are_deterministic_algorithms_enabled():
        return partial(torch.empty_strided, tuple(shape), strides, dtype=dtype, device=device)
    return partial(short, tuple(shape), strides, dtype)
