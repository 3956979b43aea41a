"""Decode in PyTorch: the default on a CPU. Reads the keys that some query sees and no others: O(window), not O(buffer).

The query heads of a KV head are rows of one product, so keys and values are read once: see `pieces`.
"""

from __future__ import annotations

import itertools
from typing import NamedTuple

import torch

from ...mask import Band
from ..pieces import Bias, Piece, ScoreMap, attend, rows_apart
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
    sinks: torch.Tensor | None = None,
    softcap: float | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """out [B, Hq, Lq, D] in q's dtype, lse float32 [B, Hq, Lq] (natural log); arguments as in `blockskip.decode`.

    kv_lens: a batch entry's number of keys. mask: band(window - 1, 0) or band(None, 0). ring: pieces of k and v that
    pass the last slot are copied. Without return_lse, lse has whatever accuracy the products give.
    """
    scoring, found, first = ScoreMap(scale, softcap), [], 0
    for kv_len, run in itertools.groupby(kv_lens):
        at = slice(first, first + len(list(run)))
        keys = _Keys(k[at], v[at], _key_ranges(mask, q.shape[2], kv_len), kv_len, ring)
        found.append(_same_length(q[at], keys, mask, scoring, sinks, return_lse))
        first = at.stop
    outs, lses = zip(*found, strict=True)
    return (outs[0], lses[0]) if len(found) == 1 else (torch.cat(outs), torch.cat(lses))


class _Keys(NamedTuple):
    """k, v [n, Hkv, slots, D] of batch entries with as many keys, and which of them some query sees."""

    k: torch.Tensor
    v: torch.Tensor
    ranges: list[KeyRange]
    kv_len: int
    ring: bool

    def of(self, x: torch.Tensor, keys: KeyRange) -> torch.Tensor:
        """x, which is k or v, as [n, Hkv, keys, D]."""
        return rows_apart(unrolled(x, keys.first, keys.end) if self.ring else x[:, :, keys.first : keys.end])


def _same_length(
    q: torch.Tensor, keys: _Keys, mask: Band, scoring: ScoreMap, sinks: torch.Tensor | None, exact: bool
) -> tuple[torch.Tensor, torch.Tensor]:
    """(out, lse) of batch entries that have as many keys, in one product a piece."""
    if not keys.ranges:
        lse = q.new_full(q.shape[:3], float("-inf"), dtype=torch.float32)
        if sinks is not None:
            lse.copy_(sinks[:, None])
        return torch.zeros_like(q, memory_format=torch.contiguous_format), lse
    rows = (q.shape[0], keys.k.shape[1], -1)  # [n, KV heads, rows of its group]
    if sinks is not None:
        sinks = sinks[:, None].expand(q.shape[1:3]).reshape(rows[1:])
    packed = q.reshape(*rows, q.shape[3])
    # torch takes 2.5 to 3.3 times as long for one row of bfloat16 as for two, so the one row is computed twice
    twice = packed.shape[2] == 1 and q.dtype == torch.bfloat16 and q.device.type == "cpu"
    given = rows_apart(packed.expand(-1, -1, 2, -1) if twice else packed)
    pieces = []
    for each in keys.ranges:
        bias = _bias(mask, each, q.shape[2], keys.kv_len, packed) if each.ragged else None
        pieces.append(Piece(given, keys.of(keys.k, each), keys.of(keys.v, each), bias))
    out, lse = (x[:, :, : packed.shape[2]] for x in attend(pieces, scoring, sinks, q.dtype, exact))
    return out.reshape(q.shape).to(q.dtype).contiguous(), lse.reshape(q.shape[:3]).contiguous()


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
    return Bias.of(kept.repeat(packed.shape[2] // q_len, 1))
