"""A band's limits and a call's lengths as kernel arguments, and the jitted functions that read them. Imports triton."""

from __future__ import annotations

from typing import NamedTuple

import torch
import triton
import triton.language as tl

from ..mask import Band, Mask

FAR = 1 << 30
"""Farther than any key. Limits are cut off here, so that the sum of a limit and a position fits 32 bits."""


class Lengths(NamedTuple):
    """How many keys there are, and where the first query stands.

    Where the true number stands on the device, `pointer` is int32 [B] and kv_len its upper bound; else pointer is None.
    q_start None: the queries are the last positions. first: int32 [B], the slot of the first key, or None where that is
    0; then there is a pointer, too, and kv_len is the number of slots. items: the list of packed sequences' items, see
    `sequences.item_at`, which say how many keys each has; None for batches.
    """

    kv_len: int
    pointer: torch.Tensor | None
    q_start: int | None
    first: torch.Tensor | None = None
    items: torch.Tensor | None = None


class Limits(NamedTuple):
    """A band's limits: -right <= q - k <= left; None is no limit."""

    left: int | None
    right: int | None


def limits_of(mask: Mask) -> Limits:
    """The limits of a band; for any other mask none."""
    if not isinstance(mask, Band):
        return Limits(None, None)
    if mask.is_nothing:
        return Limits(-FAR, FAR)  # the first visible key lies beyond all keys
    return Limits(_limit(mask.left), _limit(mask.right))


def _limit(distance: int | None) -> int | None:
    return None if distance is None or distance >= FAR else max(distance, -FAR)


@triton.jit
def first_slot(lengths, batch):
    """The slot of a batch's first key; asked where `lengths.first` is not None."""
    return tl.minimum(tl.maximum(tl.load(lengths.first + batch), 0), lengths.kv_len)


@triton.jit
def keys_of(lengths, batch):
    """The number of keys of a batch."""
    kv_len = lengths.kv_len
    if lengths.pointer is not None:
        most = kv_len
        if lengths.first is not None:
            most -= first_slot(lengths, batch)  # pyright: ignore
        kv_len = tl.minimum(tl.maximum(tl.load(lengths.pointer + batch), 0), most)
    return kv_len


@triton.jit
def lengths_of(lengths, batch, q_len):
    """(number of keys, position of the first query) of a batch."""
    kv_len = keys_of(lengths, batch)  # pyright: ignore
    q_start = kv_len - q_len
    if lengths.q_start is not None:
        q_start = lengths.q_start
    return kv_len, q_start


@triton.jit
def band_limits(first_q, last_q, kv_len, band, BLOCK_N: tl.constexpr):
    """Tiles (visited from, unmasked from, unmasked to, visited to) for the query positions first_q..last_q."""
    low = first_q * 0
    low_full = low
    high = kv_len
    high_full = kv_len // BLOCK_N
    if band.left is not None:
        low = tl.maximum(first_q - band.left, 0)
        low_full = tl.cdiv(tl.maximum(last_q - band.left, 0), BLOCK_N)
    if band.right is not None:
        high = tl.maximum(tl.minimum(last_q + band.right + 1, kv_len), 0)
        high_full = tl.minimum(tl.maximum(first_q + band.right + 1, 0) // BLOCK_N, high_full)
    begin = low // BLOCK_N
    end = tl.where(high > low, tl.cdiv(high, BLOCK_N), begin)
    low_full = tl.minimum(tl.maximum(low_full, begin), end)
    high_full = tl.minimum(tl.maximum(high_full, low_full), end)
    return begin, low_full, high_full, end


@triton.jit
def band_keeps(q_pos, keys, kv_len, band):
    """bool [BLOCK_M, BLOCK_N]: -right <= q - k <= left, real keys only."""
    keep = (keys < kv_len)[None, :] & (q_pos == q_pos)[:, None]
    if band.left is not None:
        keep &= q_pos[:, None] - keys[None, :] <= band.left
    if band.right is not None:
        keep &= keys[None, :] - q_pos[:, None] <= band.right
    return keep
