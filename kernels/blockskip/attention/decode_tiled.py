"""Decode in PyTorch: the default on a CPU. Reads the keys that some query sees and no others: O(window), not O(buffer).

The query heads of a KV head are rows of one product, so keys and values are read once. On a CPU a product is torch's
own flash kernel, which keeps scores, softmax and sums in float32 and gives the log-sum-exp.
"""

from __future__ import annotations

from typing import NamedTuple

import torch

from ..mask import Band
from .ring import unrolled

PLAIN_KEYS = 4096  # keys that one step of the plain form takes: what bounds its memory


class Piece(NamedTuple):
    """Keys first .. end - 1, which all rows see, or not (`ragged`)."""

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
) -> tuple[torch.Tensor, torch.Tensor]:
    """out [B, Hq, Lq, D] in q's dtype, lse float32 [B, Hq, Lq] (natural log); arguments as in `blockskip.decode`.

    kv_lens: a batch entry's number of keys. mask: band(window - 1, 0) or band(None, 0). ring: pieces of k and v that
    pass the last slot are copied.
    """
    out = torch.zeros_like(q, memory_format=torch.contiguous_format)
    lse = torch.full(q.shape[:3], float("-inf"), dtype=torch.float32, device=q.device)
    step = _flash if q.device.type == "cpu" else _plain
    rows = (k.shape[1], -1)  # [KV heads, rows of its group]
    for b, kv_len in enumerate(kv_lens):
        pieces = _pieces(mask, q.shape[2], kv_len, q.device)
        if not pieces:
            continue
        packed = q[b].reshape(*rows, q.shape[3])
        parts = []
        for piece in pieces:
            bias = _bias(mask, piece, q.shape[2], kv_len, packed) if piece.ragged else None
            keys, values = (
                unrolled(x[b], piece.first, piece.end) if ring else x[b, :, piece.first : piece.end] for x in (k, v)
            )
            parts.append(step(packed, keys, values, bias, scale))
        merged, total = _merge(parts)
        out[b] = merged.reshape(q.shape[1:])
        lse[b] = total.reshape(q.shape[1:3])
    return out, lse


def _pieces(mask: Band, q_len: int, kv_len: int, device: torch.device) -> list[Piece]:
    """The keys that some query sees: those at both ends that not all of them see, and those between."""
    left = kv_len if mask.left is None else mask.left
    first_q, last_q = kv_len - q_len, kv_len - 1
    low, low_full = max(first_q - left, 0), max(last_q - left, 0)
    high_full = max(first_q + 1, 0)
    if low_full >= high_full:  # no key that all see
        return [Piece(low, kv_len, q_len > 1)] if kv_len else []
    step = kv_len if device.type == "cpu" else PLAIN_KEYS
    middle = [Piece(first, min(first + step, high_full), False) for first in range(low_full, high_full, step)]
    return [p for p in (Piece(low, low_full, True), *middle, Piece(high_full, kv_len, True)) if p.first < p.end]


def _bias(mask: Band, piece: Piece, q_len: int, kv_len: int, packed: torch.Tensor) -> torch.Tensor:
    """[rows, keys] in q's dtype: 0 where a row sees a key, else -inf."""
    device = packed.device
    q_pos = torch.arange(kv_len - q_len, kv_len, dtype=torch.int64, device=device)[:, None]
    keep = mask.keep(q_pos, torch.arange(piece.first, piece.end, dtype=torch.int64, device=device))
    bias = torch.zeros(keep.shape, dtype=packed.dtype, device=device).masked_fill_(~keep, float("-inf"))
    return bias.repeat(packed.shape[1] // q_len, 1)


def _flash(q, k, v, bias, scale: float) -> tuple[torch.Tensor, torch.Tensor]:
    # one row of bfloat16 goes another way inside torch, 2.5 to 3.3 times as long as two rows: it is computed twice
    twice = q.shape[-2] == 1 and q.dtype == torch.bfloat16
    if twice:
        q, bias = q.expand(-1, 2, -1), None if bias is None else bias.expand(2, -1)
    dense = (x if x.stride(-1) == 1 and x.stride(-2) >= x.shape[-1] else x.contiguous() for x in (q, k, v))
    q, k, v = (x.unsqueeze(0) for x in dense)
    out, lse = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(q, k, v, attn_mask=bias, scale=scale)
    if bias is not None:
        blind = (bias == float("-inf")).all(-1)
        lse = lse.masked_fill(blind, float("-inf"))  # torch says 0 for a row that sees nothing
    return (out[0, :, :1], lse[0, :, :1]) if twice else (out[0], lse[0])


def _plain(q, k, v, bias, scale: float) -> tuple[torch.Tensor, torch.Tensor]:
    """The same on any device."""
    scores = (q.float() @ k.float().mT).mul_(scale)
    if bias is not None:
        scores += bias
    # maximum and sum are kept apart until the end: one log-sum-exp of ten thousand rounds to a thousandth
    top = scores.amax(-1, keepdim=True)
    weights = (scores - top.masked_fill(top == float("-inf"), 0)).exp_()
    total = weights.sum(-1, keepdim=True)
    lse = (top + total.log()).squeeze(-1)
    return weights @ v.float() / total.masked_fill(total == 0, 1), lse


def _merge(parts: list[tuple[torch.Tensor, torch.Tensor]]) -> tuple[torch.Tensor, torch.Tensor]:
    """One result from those over disjoint keys."""
    if len(parts) == 1:
        return parts[0]
    lse = torch.stack([part[1] for part in parts]).logsumexp(0)
    finite = lse.masked_fill(lse == float("-inf"), 0)
    out = torch.stack([part.float() * (own - finite).exp().unsqueeze(-1) for part, own in parts]).sum(0)
    return out, lse
