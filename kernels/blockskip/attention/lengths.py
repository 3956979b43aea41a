"""How many keys a call has, and where they begin: the checks of kv_len and kv_start.

Errors name the argument, what was given and what is allowed.
"""

from __future__ import annotations

from typing import Any

import torch

from ..arguments import flag, integer, tensor
from ..launching.guards import GuardedInt

LARGEST_POSITION = 1 << 29
"""q_start and the number of keys stay below, so that differences of positions fit a 32-bit int."""


def check_kv_len(kv_len: Any, q, k, ring: bool = False) -> tuple[int, torch.Tensor | None]:
    """(the number of keys, None), or (the most there can be, their number int32 [B] on the device).

    A ring may have been given more keys than it has slots.
    """
    flag("ring", ring)
    slots = k.shape[2]
    most, what = (LARGEST_POSITION, "the largest position") if ring else (slots, "k's length")
    if kv_len is None:
        return slots, None
    if not isinstance(kv_len, torch.Tensor):
        if type(kv_len) is not GuardedInt:
            kv_len = integer("kv_len", kv_len)
        if not 1 <= kv_len <= most:
            raise ValueError(f"kv_len: given {kv_len}; must be from 1 to {what} {most}")
        return kv_len, None  # pyright: ignore[reportReturnType] - guarded or not, it is used as an int
    _check_counts("kv_len", kv_len, q)
    return most, each_batch(kv_len, q)


def check_kv_start(kv_start: Any, q, ring: bool) -> torch.Tensor | None:
    """The slots of the first keys, int32 [B]; None where there are none given."""
    if kv_start is None:
        return None
    tensor("kv_start", kv_start)
    _check_counts("kv_start", kv_start, q)
    if ring:
        raise ValueError("kv_start: given with ring=True, whose slots hold the last positions; leave it out")
    return each_batch(kv_start, q)


def _check_counts(name: str, counts: torch.Tensor, q) -> None:
    if counts.dtype != torch.int32:
        raise TypeError(f"{name}: given a tensor of {counts.dtype}; int32 is needed")
    if counts.device != q.device:
        raise ValueError(f"{name}: is on {counts.device}; must be on q's {q.device}")
    if tuple(counts.shape) not in ((), (q.shape[0],)):
        raise ValueError(f"{name}: given shape {tuple(counts.shape)}; [] or [{q.shape[0]}] is needed")


def keys_from(kv_start: Any, kv_len: Any, k: Any) -> Any:
    """kv_len as a tensor where kv_start is one: an int is then the most, and None all slots from there on."""
    if not (isinstance(kv_start, torch.Tensor) and isinstance(k, torch.Tensor) and k.ndim == 4):
        return kv_len
    if isinstance(kv_len, torch.Tensor):
        return kv_len
    most, _ = check_kv_len(kv_len, k, k)
    return (k.shape[2] - kv_start).clamp(0, most)


def each_batch(counts: torch.Tensor, q: torch.Tensor) -> torch.Tensor:
    """A kv_len or kv_start tensor [] or [B] as a contiguous [B]."""
    if counts.ndim == 1 and counts.is_contiguous():
        return counts
    return counts.expand(q.shape[0]).contiguous()
