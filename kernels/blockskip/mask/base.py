"""Masks: which keys a query may see. The one place that says what `window` means.

A mask is an immutable value: it can be hashed, compared, printed, written as text (`spec`) and read back. It holds no
L x L tensor, but for `dense`. Masks combine with `&`, `|` and `~`. What is made of a mask is kept: see `kept`.

Positions: query row i of a call stands at position `q_start + i`, keys at 0..kv_len-1. `dense` and `mask_mod` alone
look at the call's row i instead of the position, as FlexAttention does.
"""

from __future__ import annotations

import functools
import itertools
import operator
from collections.abc import Callable, Hashable, Iterator
from dataclasses import dataclass, fields
from typing import Any, ClassVar

import numpy as np
import torch

from ..arguments import integer
from .kept import OWNED_BYTES, Store, kept_by_mask
from .spec import from_spec

Keep = Callable[[Any, Any, Any, Any, Any], torch.Tensor]
"""keep(q_pos, k_pos, batch, head, q_row) -> bool tensor, broadcast: a mask bound to a device."""


class Mask:
    """Base of all masks. Subclasses are frozen dataclasses."""

    def keep(self, q_pos, k_pos, batch: Any = 0, head: Any = 0, q_row=None) -> torch.Tensor:
        """bool tensor, the broadcast of `q_pos` and `k_pos` (ints or int tensors): which pairs are kept.

        `q_row` is the call's row, which `dense` and `mask_mod` look at; it defaults to `q_pos` (a call with q_start 0).
        """
        _check_indices(q_pos=q_pos, k_pos=k_pos, batch=batch, head=head, q_row=0 if q_row is None else q_row)
        q_pos, k_pos = _tensor(q_pos), _tensor(k_pos)
        row = q_pos if q_row is None else _tensor(q_row)
        device = q_pos.device if q_pos.device.type != "cpu" else k_pos.device
        kept = bound(self, device)(q_pos, k_pos, batch, head, row)
        return torch.broadcast_tensors(kept, q_pos, k_pos)[0]  # broadcast_shapes would import sympy

    def dense(self, q_len: int, kv_len: int, q_start: int | None = None, batch=0, head=0, device=None):
        """bool [q_len, kv_len]: the whole mask, element by element. `q_start` defaults to kv_len - q_len."""
        q_len, kv_len = integer("q_len", q_len, 0), integer("kv_len", kv_len, 0)
        q_start = None if q_start is None else integer("q_start", q_start)
        self.check_shape(q_len, kv_len)
        start = kv_len - q_len if q_start is None else q_start
        device = torch.device(device or "cpu")
        rows = torch.arange(q_len, dtype=torch.int64, device=device)[:, None]
        keys = torch.arange(kv_len, dtype=torch.int64, device=device)[None]
        return self.keep(rows + start, keys, batch, head, rows)

    def mod(self, q_start: int = 0, device=None) -> Callable:
        """FlexAttention's `mask_mod(b, h, q_idx, kv_idx)` of this mask, for a call that starts at `q_start`."""
        q_start, keep = integer("q_start", q_start), bound(self, torch.device(device or "cpu"))

        def mask_mod(b, h, q_idx, kv_idx):
            return keep(q_idx + q_start, kv_idx, b, h, q_idx)

        return mask_mod

    def spec(self):
        """Text that `Mask.from_spec` reads back; `(text, [tensors])` where the mask holds tensors.

        Raises ValueError for a mask_mod: a function has no text.
        """
        tensors: list[torch.Tensor] = []
        text = self._text(tensors)
        return (text, tensors) if tensors else text

    @staticmethod
    def from_spec(spec) -> Mask:
        """The mask that `spec` describes: text, or a pair (text, tensors). Only mask names and numbers are read."""
        return from_spec(spec)

    def refresh(self) -> None:
        """Forgets what was made of this mask, and of others that hold the same `dense` or `mask_mod` objects.

        Needed where data that a mask_mod's function reads has changed, or a dense mask's tensor in a way that torch
        does not see (`.data`, NumPy, a kernel of one's own); a mask of numbers has nothing to forget.
        """
        for leaf in self.leaves():
            leaf.__dict__["_refreshed"] = leaf.__dict__.get("_refreshed", 0) + 1

    @property
    def version(self) -> tuple:
        """A value that changes whenever the mask's contents may have; () for a mask of numbers, which never change."""
        return () if self.is_value else tuple(leaf._version for leaf in self.leaves())

    @functools.cached_property
    def is_value(self) -> bool:
        """Whether equal masks always mean the same: true for masks of numbers, not for a tensor's or a function's."""
        return all(leaf._is_value for leaf in self.leaves())

    @functools.cached_property
    def is_of_positions(self) -> bool:
        """Whether, for any query, the mask is known from its edges alone, and from the query's position alone."""
        return all(leaf._is_of_positions for leaf in self.leaves())

    @property
    def owned(self) -> Store:
        """The store of what was made of this object; it goes with the object, and is new for each `version`."""
        version, store = self.version, self.__dict__.get("_owned")
        if store is None or store.version != version:
            store = self.__dict__["_owned"] = Store(OWNED_BYTES, version)
        return store

    def __getstate__(self) -> dict[str, Any]:
        """The fields alone: a copy owns nothing."""
        return {field.name: getattr(self, field.name) for field in fields(self)}  # pyright: ignore[reportArgumentType]

    @property
    def varies(self) -> tuple[bool, bool]:
        """Whether the mask differs between batches, and between heads."""
        leaves = list(self.leaves())
        return any(m._varies[0] for m in leaves), any(m._varies[1] for m in leaves)

    def leaves(self) -> Iterator[Mask]:
        """The masks that this one is composed of, itself if it is not composed."""
        yield self

    def check_shape(self, q_len: int, kv_len: int) -> None:
        """Raises ValueError where a tensor inside the mask does not fit the call."""
        for leaf in self.leaves():
            leaf.check(q_len, kv_len)

    _varies = (False, False)
    _is_value = True
    _is_of_positions = True
    _version: Hashable = None

    def __and__(self, other: Mask) -> Mask:
        return _combine(And, self, other)

    def __or__(self, other: Mask) -> Mask:
        return _combine(Or, self, other)

    def __invert__(self) -> Mask:
        return Not(self)

    # What a tile map needs to know of a leaf: where its answer can change along the keys as the query moves.
    def slopes(self) -> tuple[int, ...]:
        """Edges that move with the query: c for an edge at k = q + c."""
        return ()

    def steps(self, q_lo: int, q_hi: int) -> list[tuple[np.ndarray, np.ndarray]]:
        """Edges that stand still: (starts, values), at k = values[i] for queries starts[i] <= q < starts[i + 1]."""
        return []

    # How a leaf merges with another into a simpler mask: None where it does not.
    is_everything = False

    def intersection(self, other: Mask) -> Mask | None:
        return None

    def union(self, other: Mask) -> Mask | None:
        return None

    @property
    def extent(self) -> tuple[int, int]:
        """How many batches and heads the mask tells apart by a tensor; 1 where it does not."""
        return 1, 1

    def for_batch(self, batch: int) -> Mask:
        """The mask of one batch, as a mask of batch 0; the same object each time."""
        return _of_batch(self, batch) if self.varies[0] else self

    def _for_batch(self, batch: int) -> Mask:
        raise TypeError(f"{type(self).__name__} is the same for all batches")

    def check(self, q_len: int, kv_len: int) -> None:
        """Raises ValueError where this mask cannot serve a call of this size."""

    def _bind(self, device: torch.device) -> Keep:
        raise TypeError(f"{type(self).__name__} is not a mask")

    def _text(self, tensors: list[torch.Tensor]) -> str:
        return repr(self)


def _tensor(x) -> torch.Tensor:
    """int64: narrower ones compare wrongly with large limits. A number comes on the CPU: it goes with any tensor."""
    return x.long() if isinstance(x, torch.Tensor) else torch.tensor(x, dtype=torch.int64, device="cpu")


@kept_by_mask(lambda mask: 0)  # views, and functions
def _of_batch(mask: Mask, batch: int) -> Mask:
    return mask._for_batch(batch)


def bound(mask: Mask, device: torch.device) -> Keep:
    """The mask's element-wise function with its tensors on `device`."""
    return mask._bind(device)


@dataclass(frozen=True, repr=False)
class Several(Mask):
    """What And and Or have in common: masks, and an operator between them."""

    masks: tuple[Mask, ...]
    symbol: ClassVar[str]
    combine: ClassVar[Callable]

    def leaves(self):
        return itertools.chain.from_iterable(m.leaves() for m in self.masks)

    def _for_batch(self, batch):
        return type(self)(tuple(m.for_batch(batch) for m in self.masks))

    def _bind(self, device):
        combine, keeps = type(self).combine, [m._bind(device) for m in self.masks]

        def keep(q, k, batch, head, row):
            kept = keeps[0](q, k, batch, head, row)
            for one in keeps[1:]:
                kept = combine(kept, one(q, k, batch, head, row))
            return kept

        return keep

    def _text(self, tensors):
        return f" {self.symbol} ".join(_wrapped(m, m._text(tensors)) for m in self.masks)

    def __repr__(self):
        return f" {self.symbol} ".join(_wrapped(m, repr(m)) for m in self.masks)


@dataclass(frozen=True, repr=False)
class And(Several):
    """Kept by every one of `masks`."""

    symbol = "&"
    combine = operator.and_


@dataclass(frozen=True, repr=False)
class Or(Several):
    """Kept by any one of `masks`."""

    symbol = "|"
    combine = operator.or_


@dataclass(frozen=True, repr=False)
class Not(Mask):
    """Kept where `mask` is not."""

    mask: Mask

    def _for_batch(self, batch):
        return Not(self.mask.for_batch(batch))

    def leaves(self):
        return self.mask.leaves()

    def __invert__(self):
        return self.mask

    def _bind(self, device):
        keep = self.mask._bind(device)
        return lambda q, k, batch, head, row: ~keep(q, k, batch, head, row)

    def _text(self, tensors):
        return "~" + _wrapped(self.mask, self.mask._text(tensors))

    def __repr__(self):
        return "~" + _wrapped(self.mask, repr(self.mask))


def _check_indices(**indices: Any) -> None:
    """TypeError for what is no whole number, and no tensor of such."""
    for name, value in indices.items():
        if not isinstance(value, torch.Tensor):
            integer(name, value)
        elif value.is_floating_point() or value.is_complex() or value.dtype == torch.bool:
            raise TypeError(f"{name}: given a tensor of {value.dtype}; ints are needed")


def _wrapped(mask: Mask, text: str) -> str:
    return f"({text})" if isinstance(mask, Several) else text


def _combine(kind: type[And] | type[Or], *masks: Mask) -> Mask:
    """And/Or of masks, flattened, duplicates dropped, bands merged into one where the result is a band."""
    if not all(isinstance(m, Mask) for m in masks):
        return NotImplemented
    parts: list[Mask] = []
    for mask in itertools.chain.from_iterable(m.masks if isinstance(m, kind) else (m,) for m in masks):
        if mask in parts:
            continue
        for i, other in enumerate(parts):
            merged = other.intersection(mask) if kind is And else other.union(mask)
            if merged is not None:
                parts[i] = merged
                break
        else:
            parts.append(mask)
    everything = [m for m in parts if m.is_everything]
    if everything and len(parts) > 1:
        parts = everything if kind is Or else [m for m in parts if m not in everything]
    return parts[0] if len(parts) == 1 else kind(tuple(parts))
