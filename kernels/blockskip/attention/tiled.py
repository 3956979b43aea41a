"""Attention in PyTorch over the tile map: the default on a CPU.

The row blocks of a sliding window all look alike, so a strided view of the keys serves many of them in one call, and
nothing is copied. On a CPU a call is torch's own flash kernel, which keeps scores, softmax and sums in float32 and
gives the log-sum-exp; elsewhere a few lines of matrix products.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch

from ..mask import Mask
from .ring import unrolled
from .tileplan import Bias, Group, Plan, Span, plan

PLAIN_SCORES = 1 << 24  # scores that one step of the plain form holds: 64 MiB
PLAIN_KEYS = 4096


class Unit(NamedTuple):
    """Heads that share a plan; q, out [heads, q_len, D], k, v [heads, kv_len, D], lse [heads, q_len]."""

    plan: Plan
    q: torch.Tensor
    k: torch.Tensor
    v: torch.Tensor
    out: torch.Tensor
    lse: torch.Tensor


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
) -> tuple[torch.Tensor, torch.Tensor]:
    """out [B, Hq, Lq, D] in q's dtype, lse float32 [B, Hq, Lq] (natural log); arguments as in `blockskip.attention`.

    Keys from kv_len on are never read. ring: of k and v only what the mask leaves is read, and copied where it passes
    their last slot. Memory beyond the result: a float32 copy of a batch entry's q, k and v where
    the products run in float32, and what the mask itself holds.
    """
    out = torch.empty(q.shape, dtype=q.dtype, device=q.device)
    lse = torch.empty(q.shape[:-1], dtype=torch.float32, device=q.device)
    for unit in _units(q, k, v, out, lse, mask, q_start, kv_len):
        _attend(unit, mask, scale, ring)
    return out, lse


def _units(q, k, v, out, lse, mask: Mask, q_start: int, kv_len: int) -> Iterator[Unit]:
    batches, q_heads, q_len, _ = q.shape
    group = q_heads // k.shape[1]
    by_batch, by_head = mask.varies
    at_once = 1 if by_head else q_heads if group == 1 else group
    for b in range(batches):
        for h in range(0, q_heads, at_once):
            chosen = plan(mask, q_len, kv_len, q_start, b if by_batch else 0, h if by_head else 0, q.device)
            heads = slice(h, h + at_once)
            kv_heads = heads if group == 1 else slice(h // group, h // group + 1)
            yield Unit(chosen, q[b, heads], k[b, kv_heads], v[b, kv_heads], out[b, heads], lse[b, heads])


def _attend(unit: Unit, mask: Mask, scale: float, ring: bool) -> None:
    chosen = unit.plan
    for first, end in chosen.unseen:
        unit.out[:, first:end] = 0
        unit.lse[:, first:end] = float("-inf")
    q = _ready(unit.q)
    first, end = chosen.first_key, chosen.end_key
    used = (unrolled(x, first, end) if ring else x[:, first:end] for x in (unit.k, unit.v))
    k, v = (_ready(x).expand(len(q), -1, -1) for x in used)
    step = _flash if q.device.type == "cpu" else _plain
    for group in chosen.groups:
        rows = _rows(q, group)
        parts = [step(rows, _keys(k, group, s), _keys(v, group, s), chosen.bias(mask, group, s), scale) for s in group.spans]
        out, lse = _merge(parts)
        _rows(unit.out, group).copy_(out)
        _rows(unit.lse, group).copy_(lse)


def _ready(x: torch.Tensor) -> torch.Tensor:
    """`x` in the dtype of the products, its last dimension dense and its rows apart."""
    x = x.to(_product_dtype(x.dtype, x.device))
    return x if x.stride(-1) == 1 and x.stride(-2) >= x.shape[-1] else x.contiguous()


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

    Heads come first so that a core stays with one head and finds most of a block's keys in its own cache: measured on
    an AMD EPYC (AVX2, one thread), 155 ms against 189 ms with blocks first (8 heads, D 128, window 512, L 4096).
    """
    head, key, dim = x.stride()
    size = (len(x), group.blocks, span.keys, x.shape[-1])
    return x.as_strided(size, (head, span.step * key, key, dim), x.storage_offset() + span.first * key)


def _flash(q, k, v, bias: Bias | None, scale: float) -> tuple[torch.Tensor, torch.Tensor]:
    out, lse = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(
        q, k, v, attn_mask=None if bias is None else bias.values, scale=scale
    )
    if bias is not None and bias.blind is not None:
        lse = lse.masked_fill(bias.blind, float("-inf"))  # torch says 0 for a row that sees nothing
    return out, lse


def _plain(q, k, v, bias: Bias | None, scale: float) -> tuple[torch.Tensor, torch.Tensor]:
    """The same on any device; long problems in pieces."""
    keys = k.shape[-2]
    if q.shape[1] > 1 and q[..., 0].numel() * keys > PLAIN_SCORES:
        halves = zip(q.chunk(2, 1), k.chunk(2, 1), v.chunk(2, 1), strict=True)
        out, lse = zip(*(_plain(*half, bias, scale) for half in halves), strict=True)
        return torch.cat(out, 1), torch.cat(lse, 1)
    if bias is None and keys > PLAIN_KEYS:
        pieces = zip(k.split(PLAIN_KEYS, -2), v.split(PLAIN_KEYS, -2), strict=True)
        return _merge([_plain(q, *piece, bias=None, scale=scale) for piece in pieces])
    scores = (q.float() @ k.float().mT).mul_(scale)
    if bias is not None:
        scores += bias.values
    top = scores.amax(-1, keepdim=True)
    top = top.masked_fill(top == float("-inf"), 0)
    weights = scores.sub_(top).exp_()
    total = weights.sum(-1, keepdim=True)
    out = (weights @ v.float()) / total.masked_fill(total == 0, 1)
    return out, (top + total.log()).squeeze(-1)


def _merge(parts: list[tuple[torch.Tensor, torch.Tensor]]) -> tuple[torch.Tensor, torch.Tensor]:
    """One result from those over disjoint keys."""
    if len(parts) == 1:
        return parts[0]
    lse = torch.stack([part[1] for part in parts]).logsumexp(0)
    finite = lse.masked_fill(lse == float("-inf"), 0)
    out = sum(part.float() * (own - finite).exp().unsqueeze(-1) for part, own in parts)
    assert isinstance(out, torch.Tensor)
    return out, lse
