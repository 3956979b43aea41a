"""The float64 result that a contender's is compared with, and the tolerance; of attention, on some query rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import scaled_dot_product_attention

from skiplab.workload import DecodeWorkload, Workload

ALL_ROWS_UP_TO = 4096
SAMPLED_ROWS = 256
ROW_CHUNK = 256
TILE_BORDERS = (16, 32, 64, 128)  # tile heights whose borders are among the sampled rows


@dataclass(frozen=True)
class Truth:
    """The rows to compare, the float64 result for them [batch, q_heads, rows, head_dim], and the tolerance."""

    rows: torch.Tensor
    out: torch.Tensor
    tolerance: float


def sampled_rows(q_len: int, count: int = SAMPLED_ROWS) -> torch.Tensor:
    """Sorted query rows: the first and last, both sides of tile borders near start, middle and end, the rest even."""
    rows = {0, q_len - 1}
    for tile in TILE_BORDERS:
        tiles = max(1, q_len // tile)
        for border in {tile, (tiles // 2) * tile, tiles * tile}:
            rows |= {border - 1, border}
    rows = {row for row in rows if 0 <= row < q_len}
    even = (
        torch.linspace(0, q_len - 1, min(count, q_len), dtype=torch.float32, device="cpu")
        .round()
        .to(torch.int64)
        .tolist()
    )
    for row in even[:: max(1, -(-len(even) // max(1, count - len(rows))))]:
        rows.add(row)
    return torch.tensor(sorted(rows), dtype=torch.int64, device="cpu")


def truth(workload: Workload | DecodeWorkload, device: str, seed: int, deviation: float, sampled: bool | None) -> Truth:
    """The truth for `workload.inputs(device, seed, deviation)`; cached, since several contenders need the same.

    sampled: whether only some rows are compared; None: if there are more than `ALL_ROWS_UP_TO`.
    """
    sampled = workload.q_len > ALL_ROWS_UP_TO if sampled is None else sampled
    return _truth(workload, workload.mask.version, device, seed, deviation, sampled)


@lru_cache(maxsize=2)
def _truth(workload, version, device: str, seed: int, deviation: float, sampled: bool) -> Truth:
    """version: of the mask, part of the cache's key, since its contents may change."""
    inputs = workload.inputs(device, seed, deviation)
    rows = sampled_rows(workload.q_len) if sampled else torch.arange(workload.q_len, dtype=torch.int64, device="cpu")
    exact, own = [], []
    for chunk in rows.split(ROW_CHUNK):
        exact_rows, own_rows = _rows(workload, inputs, chunk)
        exact.append(exact_rows)
        own.append(own_rows)
    out = torch.cat(exact, dim=2)
    torch_error = (torch.cat(own, dim=2).double() - out).abs().max().item()
    rounding = torch.finfo(workload.torch_dtype).eps / 2 * out.abs().max().item()
    return Truth(rows, out, 2 * torch_error + rounding + _score_rounding(workload, inputs))


def _score_rounding(workload: Workload | DecodeWorkload, inputs: Sequence[torch.Tensor]) -> float:
    """How far one float32 rounding of the largest possible score can move a result.

    Scores are at most |q| |k| / sqrt(D) (Cauchy-Schwarz); weights that move by e^d, |d| small, move their mean of the
    values by at most 2 |d| max |v|. Where few rows are compared torch's own error may be small by luck.
    """
    q, k, v = (x if x is inputs[0] else x[:, :, : workload.keys] for x in inputs)
    longest = [x.float().norm(dim=-1).max().item() for x in (q, k)]
    score = longest[0] * longest[1] * workload.head_dim**-0.5
    return 2 * torch.finfo(torch.float32).eps / 2 * score * v.abs().max().item()


def _rows(
    workload: Workload | DecodeWorkload, inputs: Sequence[torch.Tensor], rows: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Attention of some query rows: in float64, and by torch in the workload's dtype."""
    q, k, v = inputs
    rows = rows.to(q.device)
    keep = _kept(workload, rows)
    seen = keep.any(dim=0).any(dim=0).any(dim=0).nonzero()
    if not len(seen):
        shape = workload.batch, workload.q_heads, len(rows), workload.head_dim
        zeros = torch.zeros(shape, dtype=torch.float64, device=q.device)
        return zeros, zeros.to(q.dtype)
    # Keys outside this range are masked for every row: their weight is exactly 0.
    keys = slice(int(seen[0]), int(seen[-1]) + 1)
    keep = keep[..., keys]
    parts = []
    for head in range(workload.kv_heads):  # one at a time: float64 scores of all heads at once may not fit
        group = slice(head * workload.group, (head + 1) * workload.group)
        k_head, v_head = (x[:, head : head + 1, keys].expand(-1, workload.group, -1, -1) for x in (k, v))
        parts.append(_one_head(q[:, group][:, :, rows], k_head, v_head, keep[:, group] if keep.shape[1] > 1 else keep))
    exact, own = (torch.cat(outs, dim=1) for outs in zip(*parts, strict=True))
    return exact, own


def _one_head(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, keep: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """The query heads of one key/value head: in float64, and by torch. Rows that see nothing give 0."""
    blind = ~keep.any(dim=-1, keepdim=True)
    with sdpa_kernel(SDPBackend.MATH):
        own = scaled_dot_product_attention(q, k, v, attn_mask=keep).masked_fill(blind, 0)
    scores = (q.double() @ k.double().mT) * q.shape[-1] ** -0.5
    weights = scores.masked_fill_(~keep, float("-inf")).softmax(dim=-1).masked_fill_(blind, 0)
    return weights @ v.double(), own


def _kept(workload: Workload | DecodeWorkload, rows: torch.Tensor) -> torch.Tensor:
    """bool [batch or 1, q_heads or 1, rows, kv_len]: which keys those query rows see."""
    by_batch, by_head = workload.mask.varies
    q_pos = (workload.first_position + rows)[:, None]
    k_pos = torch.arange(workload.keys, dtype=torch.int64, device=rows.device)[None, :]
    return torch.stack([
        torch.stack([
            workload.mask.keep(q_pos, k_pos, batch, head, q_row=rows[:, None]).expand(len(rows), workload.keys)
            for head in range(workload.q_heads if by_head else 1)
        ])
        for batch in range(workload.batch if by_batch else 1)
    ])  # fmt: skip
