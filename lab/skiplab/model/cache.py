"""A decoder's cache of keys and values: a ring for layers with a window, a growing flat buffer for others.

A prompt is written in chunks, at positions that the host knows. A step of a few tokens is written behind each row's
length, which is held on the device, so that a CUDA graph can replay it. Slots are computed once for all layers of one
window.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

import torch
from blockskip.attention.decode.plan import LONGEST_QUERY
from blockskip.pointwise.call import Targets
from torch import Tensor

from skiplab.model.attention import Keys, Masks
from skiplab.model.config import LayerSpec, ModelSpec

GROWTH = 2048
"""Positions that a flat buffer grows by."""
RING_UNIT = 16
"""A ring's slots are a multiple of this."""


def ring_slots(window: int) -> int:
    """The slots of a ring: enough that a step of LONGEST_QUERY tokens overwrites no key that its first query sees."""
    return -(-(window + LONGEST_QUERY - 1) // RING_UNIT) * RING_UNIT


@dataclass(eq=False)
class LayerCache:
    """One layer's k and v [batch, kv_heads, slots, head_dim]. In a ring, position p is in slot p % slots."""

    k: Tensor
    v: Tensor
    window: int | None

    @classmethod
    def empty(cls, layer: LayerSpec, batch: int, capacity: int, dtype: torch.dtype, device: torch.device) -> LayerCache:
        """An empty cache, of zeros: masked keys inside a tile are still multiplied, so they must be finite."""
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
        """Replaces k and v by flat buffers of that many slots, with the same contents."""
        for name in ("k", "v"):
            old = getattr(self, name)
            new = old.new_zeros((*old.shape[:2], capacity, old.shape[3]))
            new[:, :, : old.shape[2]] = old
            setattr(self, name, new)


@dataclass(frozen=True)
class RingChunk:
    """The slots of a chunk of prompts in rings of one window, and what its queries see there.

    slots: of a ring. before: the positions (first, last + 1) before the chunk that some query sees; end: the position
    behind the chunk. Where rows differ in length, of each row's last positions: places int64 [B, m], where they are
    written; columns int64 [B, m], where they are in the chunk; inside bool [B, 1, m, 1], whether they are of this
    chunk, since what lies behind a row's length must not overwrite what it sees.
    """

    slots: int
    before: tuple[int, int]
    end: int
    places: Tensor | None = None
    columns: Tensor | None = None
    inside: Tensor | None = None

    @classmethod
    def of(cls, window: int, start: int, tokens: int, lengths: Tensor | None, device: torch.device) -> RingChunk:
        slots, end = ring_slots(window), start + tokens
        before = max(start - window + 1, 0), start
        if lengths is None:
            return cls(slots, before, end)
        last = torch.arange(-min(tokens, slots), 0, dtype=torch.int64, device=device)[None]
        positions = lengths[:, None].long().clamp(max=end) + last
        columns, inside = (positions - start).clamp(min=0), (positions >= start)[:, None, :, None]
        return cls(slots, before, end, positions % slots, columns, inside)

    def write(self, ring: Tensor, new: Tensor) -> Tensor:
        """Writes a chunk's keys (or values), and returns them appended to those before the chunk."""
        seen = [ring[:, :, places] for places in self._places(*self.before)]
        seen = torch.cat([*seen, new], 2) if seen else new
        if self.places is not None and self.columns is not None and self.inside is not None:
            written = torch.where(self.inside, _get(new, self.columns), _get(ring, self.places))
            _put(ring, self.places, written)
            return seen
        count = min(new.shape[2], self.slots)
        last = new[:, :, new.shape[2] - count :]
        for places in self._places(self.end - count, self.end):
            ring[:, :, places], last = (
                last[:, :, : places.stop - places.start],
                last[:, :, places.stop - places.start :],
            )
        return seen

    def _places(self, first: int, last: int) -> list[slice]:
        """The slots of the positions first..last-1, no more of them than a ring has, in their order."""
        begin, count = first % self.slots, last - first
        tail = min(count, self.slots - begin)
        return [part for part in (slice(begin, begin + tail), slice(0, count - tail)) if part.start < part.stop]


@dataclass(frozen=True)
class Chunk:
    """A part of prompts, from position `start` on; positions: int64 [1, T]. rings: by window; masks: see `Attend`."""

    start: int
    positions: Tensor
    rings: dict[int, RingChunk]
    masks: Masks = field(default_factory=dict)

    @classmethod
    def of(cls, ids: Tensor, start: int, lengths: Tensor | None, windows: Iterable[int | None]) -> Chunk:
        """lengths: int32 [B], of the whole prompts; None if all have the same length."""
        tokens, device = ids.shape[1], ids.device
        positions = torch.arange(start, start + tokens, dtype=torch.int64, device=device)[None]
        rings = {w: RingChunk.of(w, start, tokens, lengths, device) for w in windows if w is not None}
        return cls(start, positions, rings)

    @property
    def end(self) -> int:
        return self.start + self.positions.shape[1]

    def targets(self, cache: LayerCache) -> Targets:
        """Where the chunk's keys and values are written: new memory where the cache is a ring, which may be shorter."""
        if cache.window is None:  # past a row's length nobody reads
            return Targets(cache.k[:, :, self.start : self.end], cache.v[:, :, self.start : self.end])
        shape = (*cache.k.shape[:2], self.end - self.start, cache.k.shape[3])
        return Targets(cache.k.new_empty(shape), cache.v.new_empty(shape))

    def keys(self, written: Targets, cache: LayerCache) -> Keys:
        """What the chunk's queries attend to, once its targets are written."""
        if cache.window is None:
            return Keys(cache.k, cache.v, filled=self.end)
        ring = self.rings[cache.window]
        return Keys(ring.write(cache.k, written.keys), ring.write(cache.v, written.values))


@dataclass(frozen=True)
class StepTokens:
    """A few tokens behind those that each row holds. positions: int64 [B, T]. ends: int32 [B], the lengths after them.

    slots: int64 [B, T] by window, where they are written. masks: see `Attend`.
    """

    positions: Tensor
    ends: Tensor
    slots: dict[int | None, Tensor]
    masks: Masks = field(default_factory=dict)

    @classmethod
    def of(cls, ids: Tensor, lengths: Tensor, windows: Iterable[int | None]) -> StepTokens:
        tokens = torch.arange(ids.shape[1], dtype=torch.int64, device=ids.device)
        positions = lengths[:, None] + tokens
        slots = {w: positions if w is None else positions % ring_slots(w) for w in windows}
        return cls(positions, lengths + ids.shape[1], slots)

    def targets(self, cache: LayerCache) -> Targets:
        """As `Chunk.targets`."""
        return Targets(cache.k, cache.v, self.slots[cache.window])

    def keys(self, written: Targets, cache: LayerCache) -> Keys:
        """As `Chunk.keys`."""
        return Keys(cache.k, cache.v, ends=self.ends, ring=cache.ring)


def _wide(slots: Tensor, like: Tensor) -> Tensor:
    """int64 [B or 1, tokens] as an index along a buffer's slots."""
    batch, heads, _, head_dim = like.shape
    return slots[:, None, :, None].expand(batch, heads, -1, head_dim)


def _put(buffer: Tensor, slots: Tensor, values: Tensor) -> None:
    buffer.scatter_(2, _wide(slots, buffer), values)


def _get(buffer: Tensor, slots: Tensor) -> Tensor:
    return buffer.gather(2, _wide(slots, buffer))


@dataclass(eq=False)
class Cache:
    """The cache of all layers. lengths: each row's tokens, int32 [batch] on the device; counts: the same here."""

    layers: tuple[LayerCache, ...]
    lengths: Tensor
    counts: list[int]
    growth: int

    @classmethod
    def empty(
        cls, spec: ModelSpec, batch: int, capacity: int, dtype: torch.dtype, device: torch.device, growth: int
    ) -> Cache:
        """An empty cache for `capacity` positions, rounded up to whole steps of growth."""
        rounded = _rounded(capacity, growth)
        layers = tuple(LayerCache.empty(layer, batch, rounded, dtype, device) for layer in spec.layers)
        return cls(layers, torch.zeros(batch, dtype=torch.int32, device=device), [0] * batch, growth)

    @property
    def batch(self) -> int:
        return len(self.counts)

    @property
    def capacity(self) -> int | None:
        """The positions that fit; None if every layer is a ring."""
        return next((layer.slots for layer in self.layers if not layer.ring), None)

    @property
    def nbytes(self) -> int:
        return sum(layer.k.nbytes + layer.v.nbytes for layer in self.layers)

    def holds(self, batch: int, positions: int) -> bool:
        """Whether it is of that many rows, and so many positions fit."""
        return self.batch == batch and (self.capacity is None or positions <= self.capacity)

    def reserve(self, positions: int) -> bool:
        """Grows flat buffers, one layer after the other, to that many positions; returns whether any was replaced."""
        if self.capacity is None or positions <= self.capacity:
            return False
        for layer in self.layers:
            if not layer.ring:
                layer.grow(_rounded(positions, self.growth))
        return True

    def begin(self, counts: list[int]) -> None:
        """Sets the lengths, once prompts have been written."""
        self.counts = list(counts)
        self.lengths.copy_(torch.tensor(counts, dtype=torch.int32, device="cpu"))


def _rounded(positions: int, growth: int) -> int:
    return -(-positions // growth) * growth
