"""New tensors for what launches write. Needs no Triton."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch

Memory = tuple[tuple[int, ...], torch.dtype]
"""Shape and dtype of a tensor that is allocated for each call."""


def allocate(memory: Sequence[Memory | None], device: torch.device) -> list[Any]:
    """New tensors, unwritten; None where none is asked for. Each begins at a multiple of 16 bytes, as all new do."""
    return [None if one is None else torch.empty(one[0], dtype=one[1], device=device) for one in memory]


def allocation(shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> Callable[[], torch.Tensor]:
    """Allocates such a tensor, dense, on a device that is the current one.

    It goes past torch's dispatcher, as the code does that torch.compile generates, in less than half the time; but not
    where torch is asked for deterministic results: it may be asked to fill new memory then.
    """
    strides = tuple(math.prod(max(1, size) for size in shape[i + 1 :]) for i in range(len(shape)))
    short = getattr(torch._C._dynamo.guards, f"_empty_strided_{device.type}", None)  # pyright: ignore[reportAttributeAccessIssue]
    if short is None or torch.are_deterministic_algorithms_enabled():
        return partial(torch.empty_strided, tuple(shape), strides, dtype=dtype, device=device)
    return partial(short, tuple(shape), strides, dtype)
