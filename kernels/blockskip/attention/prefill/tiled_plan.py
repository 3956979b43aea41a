"""The plan of the tiled implementation: row blocks of the same shape are computed together, over spans of keys.

It depends on the mask and the lengths alone, never on q, k or v, and is kept with the mask.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import torch

from ...mask import Band, Mask, kept_by_mask
from ...tilemap import TileMap
from ..pieces import Bias

TILE_KEYS = 64
NARROW_ROWS = 64  # rows of a block: few waste little at a window's two edges
WIDE_ROWS = 256  # many read each key less often, and make larger products
WIDE_KEYS = 1536  # visited keys a row from which WIDE_ROWS pay
GROUP_ROWS = 4096  # rows of one call: bounds what it holds before that is copied out
BULK_KEYS = 1024  # a run of full tiles this long is worth a call of its own, without a mask
SPAN_KEYS = 2048  # longest span with a mask: bounds the mask's memory
GAP_TILES = 1  # empty tiles that are cheaper to compute than a second call and its merge
FAR = 1 << 40  # beyond all positions
OBJECT_BYTES = 512  # about what a group or span takes
BIAS_BYTES = 4 << 20  # masks that a plan holds; beyond, they are built when they are needed


@dataclass(frozen=True)
class Span:
    """`keys` keys from `first` on; `first` counts from the plan's first key and moves by `step` a block of the group.

    masked: some of its elements are dropped. bias: which ones; None for an unmasked span, and for a masked one whose
    bias exceeds the plan's memory, so that each call builds it.
    """

    first: int
    keys: int
    masked: bool
    bias: Bias | None
    step: int = 0


@dataclass(frozen=True)
class Group:
    """`blocks` blocks of `height` rows from `row` on, whose spans differ only in where they begin.

    backwards: the spans' biases have each block's rows in reverse order, see `_Biases.slid`.
    """

    row: int
    height: int
    blocks: int
    spans: tuple[Span, ...]
    backwards: bool = False


@dataclass(frozen=True)
class TiledPlan:
    """The groups of one tile map, in row order; `unseen` are the (first, end) rows without any key.

    `rows` is what a block of the map has. Keys outside [first_key, end_key) are never read. Holds no mask, which may
    own the plan.
    """

    rows: int
    at: Coordinates
    first_key: int
    end_key: int
    groups: tuple[Group, ...]
    unseen: tuple[tuple[int, int], ...]

    @property
    def nbytes(self) -> int:
        """Its approximate size in memory."""
        spans = [span for group in self.groups for span in group.spans]
        held = (span.bias.values.untyped_storage() for span in spans if span.bias is not None)
        biases = {storage.data_ptr(): storage.nbytes() for storage in held}
        return OBJECT_BYTES * (1 + len(self.groups) + len(spans)) + sum(biases.values())

    def bias(self, mask: Mask, group: Group, span: Span) -> Bias | None:
        """The bias of a group's span under the plan's mask, built now if the plan does not hold it."""
        if not span.masked or span.bias is not None:
            return span.bias
        return Bias.of(_kept(mask, self.at, group.row, group.height, self.first_key + span.first, span.keys))


class Coordinates(NamedTuple):
    """Where a plan's elements stand: the first query's position, the batch and head, and the device."""

    q_start: int
    batch: int
    head: int
    device: torch.device


@kept_by_mask(lambda plan: plan.nbytes)
def make_tiled_plan(
    mask: Mask, q_len: int, kv_len: int, q_start: int, batch: int, head: int, device: torch.device
) -> TiledPlan:
    """The plan for the tile map of one batch and head. Masks are built on `device`."""

    def tiles(rows: int) -> TileMap:
        return TileMap.build(mask, q_len, kv_len, rows, TILE_KEYS, q_start=q_start, batch=batch, head=head)

    at = Coordinates(q_start, batch, head, device)
    tilemap = tiles(NARROW_ROWS)
    if tilemap.visited_pairs > WIDE_KEYS * q_len and q_len > NARROW_ROWS:
        tilemap = tiles(WIDE_ROWS)
    if not len(tilemap.runs):
        return TiledPlan(tilemap.block_m, at, 0, 0, (), ((0, q_len),))
    first_key = int(tilemap.runs[:, 0].min()) * TILE_KEYS
    end_key = min(int(tilemap.runs[:, 1].max()) * TILE_KEYS, kv_len)
    biases = _Biases(mask, at, q_len, kv_len, first_key)
    groups: list[Group] = []
    unseen = []
    for index in range(tilemap.rows):
        row = index * tilemap.block_m
        height = min(tilemap.block_m, q_len - row)
        runs = tilemap.runs[tilemap.run_start[index] : tilemap.run_start[index + 1]].tolist()
        columns = list(_columns(runs))
        backwards = len(columns) > 1 and biases.slides
        spans = biases.slid(row, height, columns) if backwards else tuple(biases.spans(row, height, columns))
        if not spans:
            unseen.append((row, row + height))
            continue
        block = Group(row, height, 1, spans, backwards)
        joined = _join(groups[-1], block) if groups else None
        if joined is None:
            groups.append(block)
        else:
            groups[-1] = joined
    return TiledPlan(tilemap.block_m, at, first_key, end_key, tuple(groups), tuple(unseen))


def _columns(runs: list[list[int]]) -> Iterator[tuple[int, int, bool]]:
    """Cuts a row's runs into spans (first column, end column, masked)."""
    longest, bulk = SPAN_KEYS // TILE_KEYS, BULK_KEYS // TILE_KEYS
    start = end = -1
    masked = False
    for first, last, state in runs:
        if state == 2 and last - first >= bulk:
            if start >= 0:
                yield start, end, masked
            yield first, last, False
            start = -1
            continue
        if start >= 0 and first - end <= GAP_TILES and last - start <= longest:
            masked |= state == 1 or first > end
            end = last
            continue
        if start >= 0:
            yield start, end, masked
        while last - first > longest:
            yield first, first + longest, True
            first += longest
        start, end, masked = first, last, state == 1
    if start >= 0:
        yield start, end, masked


class _Biases:
    """Makes the spans of row blocks, with equal biases held once, up to BIAS_BYTES in all."""

    def __init__(self, mask: Mask, at: Coordinates, q_len: int, kv_len: int, first_key: int):
        self.mask, self.at, self.q_len, self.kv_len, self.first_key = mask, at, q_len, kv_len, first_key
        self.held: dict[tuple, Bias] = {}
        self.free = BIAS_BYTES
        self.slides = isinstance(mask, Band) and at.device.type == "cpu"  # elsewhere scores of long spans are held

    def spans(self, row: int, height: int, columns: list[tuple[int, int, bool]]) -> Iterator[Span]:
        for start, end, masked in columns:
            first, keys = self._keys(start, end)
            if not masked:
                yield Span(first - self.first_key, keys, False, None)
                continue
            kept = _kept(self.mask, self.at, row, height, first, keys)
            if kept.any():  # a tile called partial may be empty, or full
                bias = None if kept.all() else self._share(kept)
                yield Span(first - self.first_key, keys, not kept.all(), bias)

    def slid(self, row: int, height: int, columns: list[tuple[int, int, bool]]) -> tuple[Span]:
        """One span for all keys of a band's rows, however many, so that no merge is needed.

        A band's bias depends on k - q alone. With the rows in reverse order, k - q grows by 1 along rows and keys
        both: each bias is a view of one line of numbers with strides (1, 1).
        """
        first, keys = self._keys(columns[0][0], columns[-1][1])
        last_q = self.at.q_start + row + height - 1
        key = "slid", first - last_q, height, keys
        if key not in self.held:
            line, lowest = self._line
            values = line.as_strided((height, keys), (1, 1), first - last_q - lowest)
            self.held[key] = Bias(values, self._blind(last_q, height, first, keys))
        return (Span(first - self.first_key, keys, True, self.held[key]),)

    def _keys(self, start: int, end: int) -> tuple[int, int]:
        """(first, number) of the keys of columns start .. end - 1."""
        first = start * TILE_KEYS
        return first, min(end * TILE_KEYS, self.kv_len) - first

    @functools.cached_property
    def _line(self) -> tuple[torch.Tensor, int]:
        """(a bias by k - q, the lowest k - q)."""
        lowest = self.first_key - (self.at.q_start + self.q_len - 1)
        away = torch.arange(lowest, self.kv_len - self.at.q_start, dtype=torch.int64, device=self.at.device)
        return Bias.of(self.mask.keep(-away, 0)[None]).values[0], lowest

    def _blind(self, last_q: int, height: int, first: int, keys: int) -> torch.Tensor | None:
        """bool [height]: which rows, in reverse order, see none of these keys; None where each sees some."""
        assert isinstance(self.mask, Band)
        q = last_q - torch.arange(height, dtype=torch.int64, device=self.at.device)
        low = q - q - FAR if self.mask.left is None else q - self.mask.left
        high = q - q + FAR if self.mask.right is None else q + self.mask.right
        blind = low.clamp(min=first) > high.clamp(max=first + keys - 1)
        return blind if blind.any() else None

    def _share(self, kept: torch.Tensor) -> Bias | None:
        key = (kept.shape[1], np.packbits(kept.cpu().numpy()).tobytes())
        size = kept.numel() * 4
        if key not in self.held and size <= self.free:
            self.free -= size
            self.held[key] = Bias.of(kept)
        return self.held.get(key)


def _kept(mask: Mask, at: Coordinates, row: int, height: int, first: int, keys: int) -> torch.Tensor:
    """bool [height, keys]: the mask's elements."""
    rows = torch.arange(row, row + height, dtype=torch.int64, device=at.device)[:, None]
    k_pos = torch.arange(first, first + keys, dtype=torch.int64, device=at.device)[None]
    return mask.keep(rows + at.q_start, k_pos, at.batch, at.head, rows)


def _join(group: Group, block: Group) -> Group | None:
    """`group` extended by `block`, or None if their shapes differ."""
    rows = group.blocks * group.height
    if (
        block.height != group.height
        or block.row != group.row + rows
        or rows + block.height > GROUP_ROWS
        or len(block.spans) != len(group.spans)
        or block.backwards != group.backwards
    ):
        return None
    spans = []
    for old, new in zip(group.spans, block.spans, strict=True):
        step = new.first - old.first if group.blocks == 1 else old.step
        alike = old.keys == new.keys and old.masked == new.masked and old.bias is new.bias
        known = not old.masked or old.bias is not None
        if not (alike and known and step >= 0 and new.first == old.first + group.blocks * step):
            return None
        spans.append(replace(old, step=step))
    return replace(group, blocks=group.blocks + 1, spans=tuple(spans))
