"""Masks made of numbers: what each keeps, and where its edges run."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch

from ..arguments import integer
from .base import Mask
from .kept import kept_by_mask

LONGEST_TABLE = 1 << 22
"""Positions up to which documents are looked up by position: a table of 16 MiB at most. A search takes several reads
for each element of a compiled kernel, which counts where FlexAttention computes with our masks."""


@dataclass(frozen=True, repr=False)
class Band(Mask):
    """Keeps -right <= q - k <= left; None is no limit on that side."""

    left: int | None
    right: int | None

    def __post_init__(self):
        for name in ("left", "right"):
            if (limit := getattr(self, name)) is not None:
                object.__setattr__(self, name, integer(name, limit))

    @property
    def is_everything(self) -> bool:
        return self.left is None and self.right is None

    @property
    def is_nothing(self) -> bool:
        return self.left is not None and self.right is not None and -self.right > self.left

    @property
    def window(self) -> int | None:
        """The number of keys a query sees, for a sliding window (right == 0); else None."""
        return self.left + 1 if self.right == 0 and self.left is not None and self.left >= 0 else None

    def slopes(self):
        return (() if self.left is None else (-self.left,)) + (() if self.right is None else (self.right + 1,))

    def _bind(self, device):
        left, right = self.left, self.right

        def keep(q, k, batch, head, row):
            back = q - k
            if left is None and right is None:
                return back == back
            kept = [back <= left] if left is not None else []
            kept += [back >= -right] if right is not None else []
            return kept[0] if len(kept) == 1 else kept[0] & kept[1]

        return keep

    def intersection(self, other):
        if not isinstance(other, Band):
            return None
        return Band(_tightest(self.left, other.left), _tightest(self.right, other.right))

    def union(self, other):
        """The band of both where they overlap or touch; None where keys between them stay out."""
        if not isinstance(other, Band):
            return None
        if self.is_nothing or other.is_nothing:
            return other if self.is_nothing else self
        for a, b in ((self, other), (other, self)):
            if a.right is not None and b.left is not None and -a.right > b.left + 1:
                return None
        left = None if self.left is None or other.left is None else max(self.left, other.left)
        right = None if self.right is None or other.right is None else max(self.right, other.right)
        return Band(left, right)

    def __invert__(self):
        if self.left is None and self.right is not None:
            return Band(-self.right - 1, None)
        if self.right is None and self.left is not None:
            return Band(None, -self.left - 1)
        return super().__invert__()

    def __repr__(self):
        if (self.left, self.right) == (None, 0):
            return "causal()"
        return f"sliding_window({self.window})" if self.window else f"band({self.left}, {self.right})"


@dataclass(frozen=True, repr=False)
class PrefixLM(Mask):
    """Causal, and every query sees the first `prefix` keys."""

    prefix: int

    def slopes(self):
        return (1,)

    def steps(self, q_lo, q_hi):
        return [_still(q_lo, self.prefix)]

    def _bind(self, device):
        prefix = self.prefix
        return lambda q, k, batch, head, row: (q >= k) | (k < prefix)

    def __repr__(self):
        return f"prefix_lm({self.prefix})"


@dataclass(frozen=True, repr=False)
class Sink(Mask):
    """Every query sees the keys 0..count-1."""

    count: int

    def steps(self, q_lo, q_hi):
        return [_still(q_lo, self.count)]

    def _bind(self, device):
        count = self.count
        return lambda q, k, batch, head, row: (k < count) & (q == q)

    def __repr__(self):
        return f"sink({self.count})"


@dataclass(frozen=True, repr=False)
class Chunked(Mask):
    """A query sees the keys of its own chunk of `size` positions."""

    size: int

    def steps(self, q_lo, q_hi):
        starts = np.arange(q_lo // self.size, (q_hi - 1) // self.size + 1, dtype=np.int64) * self.size
        return [(starts, starts), (starts, starts + self.size)]

    def _bind(self, device):
        size = self.size
        return lambda q, k, batch, head, row: _floor_div(q, size) == _floor_div(k, size)

    def __repr__(self):
        return f"chunked({self.size})"


@dataclass(frozen=True, repr=False)
class Document(Mask):
    """A query sees the keys of its own packed document; a position beyond the last document sees nothing."""

    lengths: tuple[int, ...]

    def steps(self, q_lo, q_hi):
        ends = np.cumsum(np.asarray((0, *self.lengths), dtype=np.int64))
        starts = np.concatenate(([min(q_lo, -1)], ends))
        low = np.concatenate(([0], ends[:-1], ends[-1:]))
        high = np.concatenate(([0], ends[1:], ends[-1:]))
        return [(starts, low), (starts, high)]

    def _bind(self, device):
        total = sum(self.lengths)
        document = _look_up(self, device) if total <= LONGEST_TABLE else _search(self, device)

        def keep(q, k, batch, head, row):
            q, k = q.long(), k.long()
            return (document(q) == document(k)) & (q >= 0) & (q < total) & (k >= 0) & (k < total)

        return keep

    def _text(self, tensors):
        return f"document({list(self.lengths)})"

    def __repr__(self):
        if len(self.lengths) <= 4:
            return self._text([])
        return f"document({len(self.lengths)} documents, {sum(self.lengths)} positions)"


@dataclass(frozen=True, repr=False)
class Dilated(Mask):
    """Keeps (q - k) % stride == 0."""

    stride: int

    _is_of_positions = False

    def _bind(self, device):
        stride = self.stride
        return lambda q, k, batch, head, row: (q - k) % stride == 0

    def __repr__(self):
        return f"dilated({self.stride})"


def _look_up(mask: Document, device: torch.device) -> Callable[[torch.Tensor], torch.Tensor]:
    """Which document a position is in, by a table of all positions; any document for one beyond them."""
    table = _document_table(mask, device)
    return lambda position: table[position.clamp(0, len(table) - 1)]


def _search(mask: Document, device: torch.device) -> Callable[[torch.Tensor], torch.Tensor]:
    """The same in the memory of the lengths: halving, in plain indexing, which compiled FlexAttention can read."""
    ends = _document_ends(mask, device)
    steps = [1 << bit for bit in reversed(range(len(ends).bit_length()))]

    def document(position: torch.Tensor) -> torch.Tensor:
        index = position - position
        for step in steps:
            further = index + step
            passed = ends[(further - 1).clamp(max=len(ends) - 1)] <= position
            index = torch.where(passed & (further <= len(ends)), further, index)
        return index

    return document


@kept_by_mask(lambda table: table.nbytes)
def _document_table(mask: Document, device: torch.device) -> torch.Tensor:
    """int32 [positions]: the document of each."""
    lengths = torch.tensor(mask.lengths, dtype=torch.int64, device="cpu")
    documents = torch.arange(len(lengths), dtype=torch.int32, device="cpu")
    return torch.repeat_interleave(documents, lengths).to(device)


@kept_by_mask(lambda ends: ends.nbytes)
def _document_ends(mask: Document, device: torch.device) -> torch.Tensor:
    """int64 [documents]: the position after the last of each."""
    return torch.tensor(mask.lengths, dtype=torch.int64, device="cpu").cumsum(0).to(device)


def _still(q_lo: int, value: int) -> tuple[np.ndarray, np.ndarray]:
    return np.array([q_lo], dtype=np.int64), np.array([value], dtype=np.int64)


def _floor_div(x, size: int):
    # torch.compile lowers a Python-style `//` on tensors through floor division too; named for what it must be
    return torch.div(x, size, rounding_mode="floor")


def _tightest(a: int | None, b: int | None) -> int | None:
    return b if a is None else a if b is None else min(a, b)
