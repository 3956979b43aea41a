"""Keys and values of what a decoder has read: a ring for layers with a window, a flat buffer that grows for others.

A prompt is written in chunks, at positions that the host knows; a step of a few tokens behind each row's length, which
stands on the device, so that a CUDA graph replays it.
"""

from __future__ import annotations

from dataclasses import dataclass

import blockskip as bs
import torch
from blockskip.attention.decode.plan import LONGEST_QUERY
from torch import Tensor

from skiplab.model.config import LayerSpec, ModelSpec

GROWTH = 2048
"""Positions that a flat buffer grows by."""
RING_UNIT = 16
"""A ring's slots are a multiple of this."""


@dataclass(eq=False)
class LayerCache:
    """Of one layer: k, v [batch, kv_heads, slots, head_dim]. In a ring position p lies in slot p % slots."""

    k: Tensor
    v: Tensor
    window: int | None

    @classmethod
    def empty(cls, layer: LayerSpec, batch: int, capacity: int, dtype: torch.dtype, device: torch.device) -> LayerCache:
        """Zeros: what is masked inside a tile is still multiplied, so it has to be finite."""
        slots = capacity if layer.window is None else ring_slots(layer.window)
        shape = (batch, layer.kv_heads, slots, layer.head_dim)
        k, v = (torch.zeros(shape, dtype=dtype, device=device) for _ in range(2))
        return cls(k, v, layer.window)

    @property
    def ring(self) -> bool:
        return self.window is not None

    @property
    def slots(self) -> int:
        return self.k.shape[2]

    def grow(self, capacity: int) -> None:
        """A flat buffer of that many slots, with what this one holds."""
        for name in ("k", "v"):
            old = getattr(self, name)
            new = old.new_zeros((*old.shape[:2], capacity, old.shape[3]))
            new[:, :, : old.shape[2]] = old
            setattr(self, name, new)

    def extend(self, k: Tensor, v: Tensor, start: int, lengths: Tensor | None) -> tuple[Tensor, Tensor, int]:
        """Writes a chunk of a prompt, [batch, kv_heads, tokens, head_dim], which begins at position `start`.

        lengths: of each row's prompt, where they differ. Returns (k, v, kv_len): what the chunk's queries see, at its
        end, the chunk itself.
        """
        end = start + k.shape[2]
        if self.window is None:
            self.k[:, :, start:end], self.v[:, :, start:end] = k, v  # past a row's length nobody reads
            return self.k, self.v, end
        before = min(start, self.window - 1)
        seen = torch.arange(start - before, start, dtype=torch.int64, device=k.device) % self.slots
        keys, values = (torch.cat([old[:, :, seen], new], 2) if before else new for old, new in self._pairs(k, v))
        self._write_ring(k, v, start, lengths)
        return keys, values, before + k.shape[2]

    def _write_ring(self, k: Tensor, v: Tensor, start: int, lengths: Tensor | None) -> None:
        """Each row's last positions of a chunk; what lies behind a row's length must not overwrite what it sees."""
        end, count = start + k.shape[2], min(k.shape[2], self.slots)
        ends = torch.full((1, 1), end, dtype=torch.int64, device=k.device)
        if lengths is not None:
            ends = lengths[:, None].long().clamp(max=end)
        positions = ends - count + torch.arange(count, dtype=torch.int64, device=k.device)  # [batch or 1, count]
        slots = positions % self.slots
        for buffer, new in self._pairs(k, v):
            if lengths is None:
                _put(buffer, slots, new[:, :, -count:])
                continue
            there = (positions >= start)[:, None, :, None]
            written = torch.where(there, _get(new, (positions - start).clamp(min=0)), _get(buffer, slots))
            _put(buffer, slots, written)

    def append(self, k: Tensor, v: Tensor, lengths: Tensor) -> None:
        """Writes a step's tokens behind each row's length, int32 [batch], on the device."""
        positions = lengths[:, None].long() + torch.arange(k.shape[2], dtype=torch.int64, device=k.device)
        slots = positions % self.slots if self.ring else positions
        for buffer, new in self._pairs(k, v):
            _put(buffer, slots, new)

    def _pairs(self, k: Tensor, v: Tensor) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
        return (self.k, k), (self.v, v)


def _wide(slots: Tensor, like: Tensor) -> Tensor:
    """int64 [batch or 1, tokens] as an index along a buffer's slots."""
    batch, heads, _, head_dim = like.shape
    return slots[:, None, :, None].expand(batch, heads, -1, head_dim)


def _put(buffer: Tensor, slots: Tensor, values: Tensor) -> None:
    buffer.scatter_(2, _wide(slots, buffer), values)


def _get(buffer: Tensor, slots: Tensor) -> Tensor:
    return buffer.gather(2, _wide(slots, buffer))


def ring_slots(window: int) -> int:
    """Enough that a step of LONGEST_QUERY tokens overwrites nothing that its first query sees."""
    return -(-(window + LONGEST_QUERY - 1) // RING_UNIT) * RING_UNIT


@dataclass(frozen=True)
class Chunk:
    """A part of prompts, from position `start` on; positions: int64 [1, T].

    lengths: int32 [B], of the whole prompts; None where they are all as long.
    """

    start: int
    lengths: Tensor | None
    positions: Tensor

    def attend(self, q: Tensor, k: Tensor, v: Tensor, layer: LayerSpec, cache: LayerCache, options: dict) -> Tensor:
        k, v, kv_len = cache.extend(k, v, self.start, self.lengths)
        return bs.attention(q, k, v, layer.mask, kv_len=kv_len, **options)


@dataclass(frozen=True)
class Step:
    """A few tokens behind what each row holds. lengths: int32 [B], before them; positions: int64 [B, T]."""

    lengths: Tensor
    positions: Tensor

    def attend(self, q: Tensor, k: Tensor, v: Tensor, layer: LayerSpec, cache: LayerCache, options: dict) -> Tensor:
        cache.append(k, v, self.lengths)
        ends = self.lengths + q.shape[2]
        return bs.decode(q, cache.k, cache.v, kv_len=ends, window=layer.window, ring=cache.ring, **options)


@dataclass(eq=False)
class Cache:
    """Of all layers. lengths: int32 [batch] on the device, how many tokens each row holds; counts: the same, here."""

    layers: tuple[LayerCache, ...]
    lengths: Tensor
    counts: list[int]
    growth: int

    @classmethod
    def empty(
        cls, spec: ModelSpec, batch: int, capacity: int, dtype: torch.dtype, device: torch.device, growth: int
    ) -> Cache:
        """With room for `capacity` positions, rounded up to whole steps of growth."""
        rounded = _rounded(capacity, growth)
        layers = tuple(LayerCache.empty(layer, batch, rounded, dtype, device) for layer in spec.layers)
        return cls(layers, torch.zeros(batch, dtype=torch.int32, device=device), [0] * batch, growth)

    @property
    def batch(self) -> int:
        return len(self.counts)

    @property
    def capacity(self) -> int | None:
        """Positions that there is room for; None where every layer is a ring."""
        return next((layer.slots for layer in self.layers if not layer.ring), None)

    @property
    def nbytes(self) -> int:
        return sum(layer.k.nbytes + layer.v.nbytes for layer in self.layers)

    def reserve(self, positions: int) -> bool:
        """Makes room for that many; whether buffers were replaced for it, one layer after the other."""
        if self.capacity is None or positions <= self.capacity:
            return False
        for layer in self.layers:
            if not layer.ring:
                layer.grow(_rounded(positions, self.growth))
        return True

    def begin(self, counts: list[int]) -> None:
        """The lengths of prompts that have been written."""
        self.counts = list(counts)
        self.lengths.copy_(torch.tensor(counts, dtype=torch.int32, device="cpu"))


def _rounded(positions: int, growth: int) -> int:
    return -(-positions // growth) * growth
