"""Decode in PyTorch: the default on a CPU. Reads the keys that some query sees and no others: O(window), not O(buffer).

The query heads of a KV head are rows of one product, so keys and values are read once: see `pieces`.
"""

from __future__ import annotations

from typing import NamedTuple

import torch

from ...mask import Band
from ..pieces import Bias, Piece, attend, rows_apart
from ..ring import unrolled


class KeyRange(NamedTuple):
    """Keys first .. end - 1; `ragged`: not every row sees all of them."""

    first: int
    end: int
    ragged: bool


def decode(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    mask: Band,
    *,
    scale: float,
    kv_lens: list[int],
    ring: bool = False,
    return_lse: bool = False,
) -> tuple[torch.Tensor, torch.Tensor]:
    """out [B, Hq, Lq, D] in q's dtype, lse float32 [B, Hq, Lq] (natural log); arguments as in `blockskip.decode`.

    kv_lens: a batch entry's number of keys. mask: band(window - 1, 0) or band(None, 0). ring: pieces of k and v that
    pass the last slot are copied. Without return_lse, lse has whatever accuracy the products give.
    """
    out = torch.zeros_like(q, memory_format=torch.contiguous_format)
    lse = torch.full(q.shape[:3], float("-inf"), dtype=torch.float32, device=q.device)
    rows = (k.shape[1], -1)  # [KV heads, rows of its group]
    for b, kv_len in enumerate(kv_lens):
        ranges = _key_ranges(mask, q.shape[2], kv_len)
        if not ranges:
            continue
        packed = q[b].reshape(*rows, q.shape[3])
        pieces = []
        for keys in ranges:
            bias = _bias(mask, keys, q.shape[2], kv_len, packed) if keys.ragged else None
            k_piece, v_piece = (
                unrolled(x[b], keys.first, keys.end) if ring else x[b, :, keys.first : keys.end] for x in (k, v)
            )
            pieces.append((k_piece, v_piece, bias))
        merged, merged_lse = _attend(packed, pieces, scale, q.dtype, return_lse)
        out[b] = merged.reshape(q.shape[1:])
        lse[b] = merged_lse.reshape(q.shape[1:3])
    return out, lse


def _key_ranges(mask: Band, q_len: int, kv_len: int) -> list[KeyRange]:
    """The ranges of keys that some query sees: ragged ones at both ends, and those between, which all queries see."""
    left = kv_len if mask.left is None else mask.left
    first_q, last_q = kv_len - q_len, kv_len - 1
    low, low_full = max(first_q - left, 0), max(last_q - left, 0)
    high_full = max(first_q + 1, 0)
    if low_full >= high_full:  # no key that all see
        return [KeyRange(low, kv_len, q_len > 1)] if kv_len else []
    ranges = KeyRange(low, low_full, True), KeyRange(low_full, high_full, False), KeyRange(high_full, kv_len, True)
    return [keys for keys in ranges if keys.first < keys.end]


def _bias(mask: Band, keys: KeyRange, q_len: int, kv_len: int, packed: torch.Tensor) -> Bias:
    device = packed.device
    q_pos = torch.arange(kv_len - q_len, kv_len, dtype=torch.int64, device=device)[:, None]
    kept = mask.keep(q_pos, torch.arange(keys.first, keys.end, dtype=torch.int64, device=device))
    return Bias.of(kept.repeat(packed.shape[1] // q_len, 1))


def _attend(
    q: torch.Tensor, pieces, scale: float, dtype: torch.dtype, exact: bool
) -> tuple[torch.Tensor, torch.Tensor]:
    """(out [heads, rows, D], lse [heads, rows]) of q [heads, rows, D] over pieces (k, v, bias)."""
    # torch takes 2.5 to 3.3 times as long for one row of bfloat16 as for two, so the one row is computed twice
    twice = q.shape[1] == 1 and q.dtype == torch.bfloat16 and q.device.type == "cpu"
    rows = _dense(q.expand(-1, 2, -1) if twice else q)
    results = attend([Piece(rows, _dense(k), _dense(v), bias) for k, v, bias in pieces], scale, dtype, exact)
    out, lse = (x[0, :, : q.shape[1]] for x in results)
    return out, lse


def _dense(x: torch.Tensor) -> torch.Tensor:
    """[1, heads, rows, D], its last dimension dense and its rows apart."""
    return rows_apart(x).unsqueeze(0)
