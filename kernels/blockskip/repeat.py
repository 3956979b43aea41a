"""Calls that are repeated: what was made ready for one serves every later call of its kind.

Checking a call, planning it and gathering its launches' arguments is most of what a call costs the host. All of that is
decided by a call's kind: shapes, strides, dtypes and alignments of its tensors, the mask, and its numbers and words. Of
a number of keys that grows from token to token, the plan takes little: see `ByKeys`.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Hashable
from functools import lru_cache
from types import NoneType
from typing import Any

import torch

from .config import TileConfig
from .mask import Band, Mask

TENSORS = (torch.Tensor, torch.nn.Parameter)
WORDS = frozenset((bool, int, float, str, NoneType, TileConfig))
"""What a number or word must be for two that are equal, and of one type, to mean the same."""
PLACE_BYTES = 4096  # of a place among what a mask owns; the tables are counted there themselves
ALIGNMENT = 16
"""Bytes: Triton compiles apart for tensors that begin at a multiple of it."""


GROWING = "grows"
"""The word in the place of a number of keys that is told apart by `ByKeys`; no number of keys itself, nor none."""


class ByKeys:
    """What is ready for calls that are alike but for their number of keys: one for all numbers of a sort.

    sort(number): all that a call's checks, plan and compiled kernel take of that number; None where it is none that is
    kept. What is ready is given the number itself afresh. Sorts are few: a plan's number of shares, and a bit or two.
    number None: the call's kind says how many keys there are, and sort is not needed.
    """

    def __init__(self, sort: Callable[[int], Hashable] | None = None) -> None:
        # the layers of a model ask for the same number one after the other
        self._sort = lru_cache(maxsize=64)(sort or (lambda number: None))
        self._ready: dict[Hashable, Any] = {}

    def __len__(self) -> int:
        return len(self._ready)

    def find(self, number: int | None) -> Any:
        """What is ready for this number of keys, or None."""
        return self._ready.get(() if number is None else self._sort(number))

    def put(self, number: int | None, ready: Any) -> None:
        sort = () if number is None else self._sort(number)
        if sort is not None:
            self._ready[sort] = ready


def place_of(tensors: tuple, words: tuple, impl: str, mask: Any = None, tables: bool = False) -> list[Any]:
    """Where the ready launches of calls of this kind are kept: [what to call], or [] until a call fills it.

    tensors: the first is one whose device the call runs on; any may be None. words: the operation's name and all other
    arguments. tables: whether launches hold tables even of a band, as those of every other mask may; tables belong to
    the mask, and so does their place. A call that is not the Triton kernels', or whose kind cannot be told, gets a list
    that nobody else sees.
    """
    first, types = tensors[0], tuple(map(type, words))
    if type(first) not in TENSORS or first.is_nested or not WORDS.issuperset(types):
        return []
    if impl != "triton" and not (impl == "auto" and first.is_cuda):
        return []
    # a CUDA graph takes another plan; without CUDA it is this variable that allows the kernels
    where = torch.cuda.is_current_stream_capturing() if first.is_cuda else os.environ.get("TRITON_INTERPRET")
    key: list[Any] = [where, types, words]
    for t in tensors:
        if type(t) in TENSORS:
            wrong = t.is_neg() or (t.requires_grad and torch.is_grad_enabled())  # an error, so never found
            key += t.dtype, t.device, t.shape, t.stride(), t.data_ptr() % ALIGNMENT == 0, wrong
        elif t is None:
            key.append(None)
        else:
            return []
    if not tables and (mask is None or type(mask) is Band):
        return _places(None if mask is None else (mask.left, mask.right), *key)
    if not isinstance(mask, Mask):
        return []
    store, name = mask.owned, (place_of, *key)
    place = store.find(name)
    return store.put(name, [], PLACE_BYTES) if place is None else place


@lru_cache(maxsize=256)
def _places(*key: Any) -> list[Any]:
    return []


def forget() -> None:
    """Empties all places but those that masks own; a test that changes a table of the library calls it."""
    _places.cache_clear()
