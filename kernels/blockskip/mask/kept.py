"""Caches of what is made from masks (tile maps, plans, device tables): their owners, lifetimes and size limits.

A mask of numbers alone is a value: its entries in host memory are shared by all equal masks, up to `SHARED_BYTES`.
Entries of a mask with a tensor or a function depend on their contents, and device memory must not outlive its use: both
belong to the mask object, up to `OWNED_BYTES` each, and are freed with it, or when `Mask.version` changes.
"""

from __future__ import annotations

import copy
import functools
import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import TYPE_CHECKING, Any, TypeVar

import torch

from ..graph_pools import outside_graph_pools

if TYPE_CHECKING:
    from .base import Mask

SHARED_BYTES = 64 << 20
OWNED_BYTES = 256 << 20

F = TypeVar("F", bound=Callable)


class Store:
    """An LRU cache of values by key, up to `limit` bytes; the newest value stays, whatever its size."""

    def __init__(self, limit: int, version: Hashable = ()) -> None:
        self.version = version
        self.nbytes = 0
        self._limit = limit
        self._held: OrderedDict[Hashable, tuple[Any, int]] = OrderedDict()
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._held)

    def find(self, key: Hashable) -> Any:
        """The value of the key, or None."""
        with self._lock:
            entry = self._held.get(key)
            if entry is None:
                return None
            self._held.move_to_end(key)
            return entry[0]

    def put(self, key: Hashable, value: Any, nbytes: int) -> Any:
        """Stores `value`; returns it, or the value that another thread has stored meanwhile."""
        with self._lock:
            if key in self._held:
                return self._held[key][0]
            self._held[key] = value, nbytes
            self.nbytes += nbytes
            while self.nbytes > self._limit and len(self._held) > 1:
                self.nbytes -= self._held.popitem(last=False)[1][1]
            return value

    def clear(self) -> None:
        with self._lock:
            self._held.clear()
            self.nbytes = 0


SHARED = Store(SHARED_BYTES)
"""One for the process: what was made of masks of numbers, in host memory."""


def kept_by_mask(nbytes: Callable[[Any], int]) -> Callable[[F], F]:
    """Decorates fn(mask, *key) to cache its results, each counted as `nbytes(result)` bytes.

    Where a `torch.device` in the key is not the CPU, results lie on it. No result may refer to a mask that owns it:
    the cycle would keep device memory until Python's collector comes by.
    """

    def decorate(fn: F) -> F:
        @functools.wraps(fn)
        def found(mask: Mask, *key: Any) -> Any:
            device = next((x for x in key if isinstance(x, torch.device) and x.type != "cpu"), None)
            shares = mask.is_value and device is None
            store, name = (SHARED, (fn, mask, *key)) if shares else (mask.owned, (fn, *key))
            result = store.find(name)
            if result is None:
                # a copy has nothing of its own: the shared store keeps no mask that owns device memory
                subject = copy.deepcopy(mask) if shares else mask
                make = functools.partial(fn, subject, *key)
                result = make() if device is None else outside_graph_pools(make, device)
                result = store.put((fn, subject, *key) if shares else name, result, nbytes(result))
            return result

        return found  # pyright: ignore[reportReturnType]

    return decorate
