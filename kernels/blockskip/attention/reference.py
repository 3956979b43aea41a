"""Attention as its definition says it: every score, every weight. The yardstick of the other implementations."""

from __future__ import annotations

from typing import Any

import torch

from ..mask import Mask
from .ring import positions


def attention(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    mask: Mask,
    *,
    scale: float,
    q_start: int | torch.Tensor,
    kv_len: int | torch.Tensor,
    ring: bool = False,
    sinks: torch.Tensor | None = None,
    softcap: float | None = None,
    compute_dtype: torch.dtype | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """out [B, Hq, Lq, D] in q's dtype, lse float32 [B, Hq, Lq] (natural log); arguments as in `blockskip.attention`.

    q_start, kv_len: ints, or int tensors [] or [B] on q's device, which are not read back.
    compute_dtype: what everything is computed in; if None float64, which what it judges has not, and float32 where the
    device has none (Apple's). A row that sees no key gives 0 and -inf, or its head's sink.
    """
    dtype = compute_dtype or (torch.float32 if q.device.type == "mps" else torch.float64)
    # the position of every slot; [B or 1, 1, 1, Lkv] of a ring's
    keys = torch.arange(k.shape[2], dtype=torch.int64, device=q.device)
    if ring:
        keys = positions(_per_batch(kv_len, q.device), k.shape[2], q.device)
    if isinstance(kv_len, int):
        k, v, keys = k[:, :, :kv_len], v[:, :, :kv_len], keys[..., :kv_len]
    used = (keys >= 0) & (keys < _per_batch(kv_len, q.device))  # [B or 1, 1, 1, Lkv]
    kept = _kept(mask, q, keys.clamp(min=0), q_start) & used  # [B or 1, Hq or 1, Lq, Lkv]
    seen = kept.any(-2, keepdim=True).mT  # what no query sees may hold NaN, and 0 * NaN is NaN
    k, v = (x.to(dtype).repeat_interleave(q.shape[1] // x.shape[1], 1).masked_fill(~seen, 0) for x in (k, v))
    scores = q.to(dtype) @ k.mT * scale
    if softcap is not None:
        scores = softcap * torch.tanh(scores / softcap)
    scores = scores.masked_fill(~kept, float("-inf"))
    if sinks is not None:  # a key that all see, whose value is 0
        scores = torch.cat([scores, sinks.to(dtype)[:, None, None].expand(*scores.shape[:3], 1)], -1)
        v = torch.nn.functional.pad(v, (0, 0, 0, 1))
    row_max = scores.amax(-1, keepdim=True)
    row_max = row_max.masked_fill(row_max == float("-inf"), 0)
    weights = (scores - row_max).exp()
    row_sum = weights.sum(-1, keepdim=True)
    out = weights @ v / row_sum.masked_fill(row_sum == 0, 1)
    return out.to(q.dtype), (row_max + row_sum.log()).squeeze(-1).float()


def _kept(mask: Mask, q: torch.Tensor, keys: torch.Tensor, q_start: int | torch.Tensor) -> torch.Tensor:
    batches, heads, rows, _ = q.shape
    by_batch, by_head = mask.varies
    batch: Any = torch.arange(batches, dtype=torch.int64, device=q.device).view(-1, 1, 1, 1) if by_batch else 0
    head: Any = torch.arange(heads, dtype=torch.int64, device=q.device).view(-1, 1, 1) if by_head else 0
    row = torch.arange(rows, dtype=torch.int64, device=q.device)[:, None]
    return mask.keep(row + _per_batch(q_start, q.device), keys, batch, head, row)


def _per_batch(value: int | torch.Tensor, device: torch.device) -> torch.Tensor:
    """[B or 1, 1, 1, 1]."""
    return torch.as_tensor(value, dtype=torch.int64, device=device).reshape(-1, 1, 1, 1)
