"""The float64 result that a contender's is compared with, and the tolerance; of attention, on some query rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import scaled_dot_product_attention

from skiplab.workload import DecodeWorkload, Workload

AnyHeads = Workload | DecodeWorkload
ALL_ROWS_UP_TO = 4096
SAMPLED_ROWS = 256
ROW_CHUNK = 256
TILE_BORDERS = (16, 32, 64, 128)  # tile heights whose borders are among the sampled rows


@dataclass(frozen=True)
class Truth:
    """The rows to compare, the float64 result for them [batch, q_heads, rows, head_dim], and the tolerance.

    before_rounding: the same of keys and values before they became float8; None where they did not.
    """

    rows: torch.Tensor
    out: torch.Tensor
    tolerance: float
    before_rounding: torch.Tensor | None = None


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


def truth(workload: AnyHeads, device: str, seed: int, deviation: float, sampled: bool | None) -> Truth:
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
    parts = [_whole(one, given, rows) for one, given in workload.sequences(inputs)]
    outs, tolerances = zip(*parts, strict=True)
    plain = workload.before_rounding
    before = None if plain is None else _truth(plain, version, device, seed, deviation, sampled).out
    return Truth(rows, torch.cat(outs), max(tolerances), before)


def _whole(workload: AnyHeads, inputs: Sequence[torch.Tensor], rows: torch.Tensor) -> tuple[torch.Tensor, float]:
    """The float64 result of these query rows, for one mask, and its tolerance."""
    given = _Given.of(workload, inputs)
    exact, own = [], []
    for chunk in rows.split(ROW_CHUNK):
        exact_rows, own_rows = _rows(workload, given, chunk)
        exact.append(exact_rows)
        own.append(own_rows)
    out = torch.cat(exact, dim=2)
    torch_error = (torch.cat(own, dim=2).double() - out).abs().max().item()
    rounding = torch.finfo(workload.torch_dtype).eps / 2 * out.abs().max().item()
    return out, 2 * torch_error + rounding + _score_rounding(workload, given)


@dataclass(frozen=True)
class _Given:
    """A workload's inputs as torch computes with them: keys and values in q's dtype, which holds every float8.

    k_scales, v_scales: of each of their heads. sinks: [q_heads] in q's dtype, or None.
    """

    q: torch.Tensor
    k: torch.Tensor
    v: torch.Tensor
    k_scales: Sequence[float]
    v_scales: Sequence[float]
    sinks: torch.Tensor | None

    @classmethod
    def of(cls, workload: AnyHeads, inputs: Sequence[torch.Tensor]) -> _Given:
        named = dict(zip(workload.input_names, inputs, strict=True))
        q, k, v = (named[name] for name in ("q", "k", "v"))
        ones = [1.0] * workload.kv_heads
        k_scales, v_scales = (named[name].tolist() if name in named else ones for name in ("k_scale", "v_scale"))
        return cls(q, k.to(q.dtype), v.to(q.dtype), k_scales, v_scales, named.get("sinks"))


def _score_rounding(workload: AnyHeads, given: _Given) -> float:
    """How far one float32 rounding of the largest possible score can move a result.

    Scores are at most |q| |k| / sqrt(D) (Cauchy-Schwarz); weights that move by e^d, |d| small, move their mean of the
    values by at most 2 |d| max |v|. Where few rows are compared torch's own error may be small by luck.
    """
    k, v = (x[:, :, : workload.keys] for x in (given.k, given.v))
    longest = [x.float().norm(dim=-1).max().item() for x in (given.q, k)]
    score = longest[0] * longest[1] * max(given.k_scales) * workload.head_dim**-0.5
    return 2 * torch.finfo(torch.float32).eps / 2 * score * v.abs().max().item() * max(given.v_scales)


def _rows(workload: AnyHeads, given: _Given, rows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Attention of some query rows: in float64, and by torch in the workload's dtype."""
    q = given.q
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
        k, v = (x[:, head : head + 1, keys].expand(-1, workload.group, -1, -1) for x in (given.k, given.v))
        sinks = None if given.sinks is None else given.sinks[group]
        seen_here = keep[:, group] if keep.shape[1] > 1 else keep
        scale = workload.head_dim**-0.5 * given.k_scales[head]
        outs = _one_head(q[:, group][:, :, rows], k, v, seen_here, scale, sinks)
        parts.append([out * given.v_scales[head] for out in outs])
    exact, own = (torch.cat(outs, dim=1) for outs in zip(*parts, strict=True))
    return exact, own


def _one_head(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, keep: torch.Tensor, scale: float, sinks: torch.Tensor | None
) -> tuple[torch.Tensor, torch.Tensor]:
    """The query heads of one key/value head: in float64, and by torch. Rows that see nothing give 0.

    A sink is a key more, of which the score is given, with a value of zeros.
    """
    blind = ~keep.any(dim=-1, keepdim=True)
    bias = torch.zeros_like(keep, dtype=q.dtype).masked_fill_(~keep, -torch.inf)
    if sinks is not None:
        k, v = (torch.nn.functional.pad(x, (0, 0, 0, 1)) for x in (k, v))
        column = sinks.view(1, -1, 1, 1).expand(*bias.shape[:1], -1, bias.shape[2], 1)
        bias = torch.cat([bias.expand(-1, len(sinks), -1, -1), column], dim=-1)
    with sdpa_kernel(SDPBackend.MATH):
        own = scaled_dot_product_attention(q, k, v, attn_mask=bias, scale=scale).masked_fill(blind, 0)
    scores = (q.double() @ k.double().mT).mul_(scale).add_(bias)
    return scores.softmax(dim=-1).masked_fill_(blind, 0) @ v.double(), own


def _kept(workload: AnyHeads, rows: torch.Tensor) -> torch.Tensor:
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
