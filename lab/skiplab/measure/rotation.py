"""Rotating arguments: copies that timed calls use in turn, too many for the cache to hold, refilled in place."""

from __future__ import annotations

import copy
import dataclasses
import random
from collections.abc import Iterator, Sequence
from typing import Any

import torch

from skiplab.machine import last_cache_bytes

ROTATION = 5  # inputs in rotation fill the last cache this many times
SMALL, LINE = 1 << 16, 64  # bytes
ROTATION_LIMIT = {"cuda": 8 << 30, "cpu": 256 << 20}  # bytes; of a GPU's free memory half at most

ArgsSets = Sequence[Sequence[Any]]


def rotate(args: Sequence[Any], device: str, read: int | None = None, among: int = 1) -> list[tuple[Any, ...]]:
    """Copies of the arguments, so many that a round of calls reads `ROTATION` times the last cache, if memory allows.

    read: the bytes of them that a call reads, if not all: keys outside a window are never fetched. among: how many
    callables' arguments share the memory.
    """
    size = size_of(args)
    wanted = -(-ROTATION * last_cache_bytes(device) // max(1, min(size, read or size)))
    copies = max(1, min(wanted, _room(device, among) // max(1, size)))
    return [tuple(args), *zip(*(_clones(one, copies - 1) for one in args), strict=True)]


def _clones(argument: Any, count: int) -> Sequence[Any]:
    """So many copies. A small tensor's in a CPU's memory adjoin: one by one, tens of thousands take half a second."""
    if not isinstance(argument, torch.Tensor) or argument.device.type != "cpu" or not _adjoins(argument):
        return [clone(argument) for _ in range(count)]
    return argument.expand(count, *argument.shape).contiguous().unbind()


def _adjoins(tensor: torch.Tensor) -> bool:
    """Whether copies of it, one behind the other, are laid out as it is, and begin at lines of the cache."""
    plain = type(tensor) is torch.Tensor and tensor.is_contiguous() and not tensor.requires_grad
    return plain and tensor.nbytes <= SMALL and tensor.nbytes % LINE == 0


def _room(device: str, among: int) -> int:
    kind = torch.device(device).type
    if kind != "cuda":
        return ROTATION_LIMIT[kind] // among
    kept = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)  # by torch, for whoever asks next
    return min(ROTATION_LIMIT[kind], (torch.cuda.mem_get_info(device)[0] + kept) // 2 // among)


def size_of(argument: Any) -> int:
    """Bytes of a tensor, of a packed weight, of a module's parameters and buffers, or of all in a sequence."""
    return sum(tensor.nbytes for tensor in tensors_of(argument))


def clone(argument: Any) -> Any:
    """A copy of one of a contender's arguments, in memory of its own."""
    if hasattr(argument, "clone"):
        return argument.clone()
    if isinstance(argument, tuple):
        copies = [None if item is None else clone(item) for item in argument]
        make: Any = type(argument)
        return make(*copies) if hasattr(argument, "_fields") else make(copies)
    return copy.deepcopy(argument)


def stir(args: Sequence[Any]) -> None:
    """Change one element of each float tensor among the arguments, in place, so that no two calls have the same result.

    A result cached by address, version or content is then wrong for the next call.
    """
    for one in args:
        if isinstance(one, torch.Tensor) and one.is_floating_point() and one.numel():
            element = one[tuple(map(random.randrange, one.shape))]
            drawn = element.new_full((), random.gauss()).float()  # rounded as the element; float8 has no arithmetic
            element.copy_(torch.where(element.float() == drawn, drawn + 1, drawn))


def refill(args: Sequence[Any], fresh: Sequence[Any]) -> None:
    """Copy fresh arguments into the memory of others of the same kinds and shapes; the objects stay the same."""
    for target, source in zip(tensors_of(args), tensors_of(fresh), strict=True):
        target.copy_(source)


def tensors_of(argument: Any) -> Iterator[torch.Tensor]:
    """The tensors of an argument, of a packed weight, of a module, or of all in a sequence, always in one order."""
    if isinstance(argument, torch.nn.Module):
        yield from (*(one.data for one in argument.parameters()), *argument.buffers())
    elif isinstance(argument, torch.Tensor):
        yield argument
    elif isinstance(argument, tuple | list):
        for item in argument:
            yield from tensors_of(item)
    elif dataclasses.is_dataclass(argument):
        for field in dataclasses.fields(argument):
            yield from tensors_of(getattr(argument, field.name))
