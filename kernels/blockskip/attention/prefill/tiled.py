"""Attention in PyTorch over the tile map: the default on a CPU.

The row blocks of a sliding window have the same shape, so a strided view of the keys serves many of them in one call,
without copies. `pieces` does the attention of each call.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch

from ...mask import Mask
from ..caches import FLOAT8
from ..pieces import Piece, ScoreMap, attend, rows_apart
from ..ring import unrolled
from .tiled_plan import Group, Span, TiledPlan, make_tiled_plan


class Unit(NamedTuple):
    """Heads that share a plan; q, out [heads, q_len, D], k, v [heads, kv_len, D], lse [heads, q_len], sinks [heads]."""

    plan: TiledPlan
    q: torch.Tensor
    k: torch.Tensor
    v: torch.Tensor
    out: torch.Tensor
    lse: torch.Tensor
    sinks: torch.Tensor | None


def attention(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    mask: Mask,
    *,
    scale: float,
    q_start: int,
    kv_len: int,
    ring: bool = False,
    return_lse: bool = False,
    sinks: torch.Tensor | None = None,
    softcap: float | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """out [B, Hq, Lq, D] in q's dtype, lse float32 [B, Hq, Lq] (natural log); arguments as in `blockskip.attention`.

    Without return_lse, lse has whatever accuracy the products give. Keys from kv_len on are never read. ring: of
    k and v only what the mask leaves is read, and copied where it passes their last slot. Memory beyond the result: a
    float32 copy of a batch entry's q, k and v where the products run in float32 (of one KV head's where k and v are
    float8), what the mask itself holds, and with a softcap the scores of some keys (`pieces.PLAIN_SCORES`).
    """
    out = torch.empty(q.shape, dtype=q.dtype, device=q.device)
    lse = torch.empty(q.shape[:-1], dtype=torch.float32, device=q.device)
    for unit in _units(q, k, v, out, lse, sinks, mask, q_start, kv_len):
        _attend(unit, mask, ScoreMap(scale, softcap), ring, exact=return_lse)
    return out, lse


def _units(q, k, v, out, lse, sinks, mask: Mask, q_start: int, kv_len: int) -> Iterator[Unit]:
    batches, q_heads, q_len, _ = q.shape
    group = q_heads // k.shape[1]
    by_batch, by_head = mask.varies
    alone = by_head or (group == 1 and k.dtype == FLOAT8)  # whose float32 copy is the less
    at_once = 1 if alone else q_heads if group == 1 else group
    for b in range(batches):
        for h in range(0, q_heads, at_once):
            chosen = make_tiled_plan(mask, q_len, kv_len, q_start, b if by_batch else 0, h if by_head else 0, q.device)
            heads = slice(h, h + at_once)
            kv_heads = heads if group == 1 else slice(h // group, h // group + 1)
            own = None if sinks is None else sinks[heads]
            yield Unit(chosen, q[b, heads], k[b, kv_heads], v[b, kv_heads], out[b, heads], lse[b, heads], own)


def _attend(unit: Unit, mask: Mask, scoring: ScoreMap, ring: bool, exact: bool) -> None:
    chosen = unit.plan
    sinks = None if unit.sinks is None else unit.sinks[:, None, None]
    for first, end in chosen.unseen:
        unit.out[:, first:end] = 0
        unit.lse[:, first:end] = float("-inf") if unit.sinks is None else unit.sinks[:, None]
    q = _for_products(unit.q)
    first, end = chosen.first_key, chosen.end_key
    used = (unrolled(x, first, end) if ring else x[:, first:end] for x in (unit.k, unit.v))
    k, v = (_for_products(x).expand(len(q), -1, -1) for x in used)
    for group in chosen.groups:
        rows = _rows(q, group).flip(2) if group.backwards else _rows(q, group)
        pieces = [Piece(rows, _keys(k, group, s), _keys(v, group, s), chosen.bias(mask, group, s)) for s in group.spans]
        out, lse = attend(pieces, scoring, sinks, unit.out.dtype, exact)
        if group.backwards:
            out, lse = out.flip(2), lse.flip(2)
        _rows(unit.out, group).copy_(out)
        _rows(unit.lse, group).copy_(lse)


def _for_products(x: torch.Tensor) -> torch.Tensor:
    """`x` in the dtype of the products, its last dimension dense and its rows apart."""
    x = x.to(_product_dtype(x.dtype, x.device))
    return rows_apart(x)


def _product_dtype(dtype: torch.dtype, device: torch.device) -> torch.dtype:
    """float32, but bfloat16 where the processor multiplies it.

    Without such instructions float32 products are as fast and exact. Float16's are slower than float32's
    on every x86 that was tried: converting costs less.
    """
    if dtype == torch.bfloat16 and (device.type != "cpu" or torch.cpu._is_avx512_bf16_supported()):
        return dtype
    return torch.float32


def _rows(x: torch.Tensor, group: Group) -> torch.Tensor:
    """View [heads, blocks, height, ...] of the group's rows of x [heads, q_len, ...]."""
    return x[:, group.row : group.row + group.blocks * group.height].unflatten(1, (group.blocks, group.height))


def _keys(x: torch.Tensor, group: Group, span: Span) -> torch.Tensor:
    """View [heads, blocks, keys, D] of x [heads, kv_len, D]; the blocks' keys overlap.

    Heads come first, so that a core stays with one head and finds most of a block's keys in its cache (data/TUNING.md,
    "Crossovers").
    """
    head, key, dim = x.stride()
    size = (len(x), group.blocks, span.keys, x.shape[-1])
    return x.as_strided(size, (head, span.step * key, key, dim), x.storage_offset() + span.first * key)
