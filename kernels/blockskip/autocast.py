"""Switches torch.autocast off inside this library's calls, so that dtypes are those of the contract."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

import torch
from torch.amp import is_autocast_available

P = ParamSpec("P")
R = TypeVar("R")


def autocasts(t: Any) -> bool:
    """Whether autocast is on for operations on this tensor's device."""
    # the device's name takes as long as all else here
    if t.is_cuda:
        return torch.is_autocast_enabled("cuda")
    if t.is_cpu:
        return torch.is_autocast_enabled("cpu")
    kind = t.device.type
    return is_autocast_available(kind) and torch.is_autocast_enabled(kind)


def without_autocast(call: Callable[P, R]) -> Callable[P, R]:
    """`call` with autocast off for the device of its first argument: a tensor, or arguments that begin with one.

    Anything that says whether it is on a GPU (`is_cuda`), as rounded activations do, counts as a tensor.
    """

    @functools.wraps(call)
    def plain(*args: P.args, **kwargs: P.kwargs) -> R:
        first: Any = args[0]
        if isinstance(first, tuple):
            first = first[0]
        if not hasattr(first, "is_cuda") or not autocasts(first):
            return call(*args, **kwargs)
        with torch.autocast(first.device.type, enabled=False):
            return call(*args, **kwargs)

    return plain
