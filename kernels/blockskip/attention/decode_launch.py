"""From a checked decode call and its plan to launches of the Triton kernels. Imports triton."""

from __future__ import annotations

import contextlib
import math
from typing import NamedTuple

import torch
import triton

from ..device import View, interpreting, is_wide
from .decode import decode as decode_kernel
from .decode import reduce as reduce_kernel
from .decode_plan import DecodeCall, DecodePlan
from .launch import FAR, Launch, Lengths, Limits

REDUCE_DIMS = 64
REDUCE_SPLITS = 64
REDUCE_OPTIONS = {"num_warps": 4}


class Parts(NamedTuple):
    """What shares leave for the merge, float32, contiguous.

    acc [B, Hq, Lq, splits, D] weighted values; top, total [B, Hq, Lq, splits] scaled maximum and sum of weights.
    """

    acc: torch.Tensor
    top: torch.Tensor
    total: torch.Tensor


def decode(call: DecodeCall, plan: DecodePlan) -> tuple[torch.Tensor, torch.Tensor | None]:
    """(out, lse or None) by the split-K kernel; see `blockskip.decode`."""
    config = plan.config
    assert config is not None
    # bfloat16 is wrong in Triton's interpreter: there the kernel computes in float32 and torch rounds at the end
    upcast = interpreting() and call.q.dtype == torch.bfloat16
    q, k, v = (t.float() if upcast else t for t in (call.q, call.k, call.v))
    out = torch.empty(tuple(q.shape), dtype=q.dtype, device=q.device)
    lse = torch.empty(tuple(q.shape[:3]), dtype=torch.float32, device=q.device) if call.return_lse else None
    parts = allocate_parts(q, plan.splits)
    first = prepare(call, plan, (q, k, v, out), lse, parts)
    with torch.cuda.device(q.device) if q.is_cuda else contextlib.nullcontext():
        options = {"num_warps": config.num_warps, "num_stages": config.num_stages}
        decode_kernel[first.grid](*first.arguments, **first.constants, **options)
        if parts is not None:
            second = prepare_reduce(out, lse, parts)
            reduce_kernel[second.grid](*second.arguments, **second.constants, **REDUCE_OPTIONS)
    return out.to(call.q.dtype), lse


def allocate_parts(q: torch.Tensor, splits: int) -> Parts | None:
    """Room for the shares of q's rows; None for a single share, which needs no merge."""
    if splits == 1:
        return None
    rows = (*q.shape[:3], splits)
    shapes = ((*rows, q.shape[3]), rows, rows)
    return Parts(*(torch.empty(shape, dtype=torch.float32, device=q.device) for shape in shapes))


def prepare(call: DecodeCall, plan: DecodePlan, tensors, lse, parts: Parts | None) -> Launch:
    """The launch of the split-K kernel for these tensors (q, k, v, out)."""
    config = plan.config
    assert config is not None
    q, k, v, out = views = tuple(map(View.of, tensors))
    wide = call.group > 512 or is_wide(max(config.block_m, config.block_n), 512, *views)
    if v.strides == k.strides:
        v = v._replace(strides=None)
    constants = {
        "SIGN": int(math.copysign(1, call.scale)) if call.scale else 0,
        "GROUP": call.group,
        "HEAD_DIM": q.shape[3],
        "BLOCK_M": config.block_m,
        "BLOCK_N": config.block_n,
        "BLOCK_D": max(16, triton.next_power_of_2(q.shape[3])),
        "WIDE": wide,
    }
    # scale 0 means that all scores are 0: SIGN 0 makes them so, and the scale itself stays positive
    scale = (abs(call.scale) or 1.0) * math.log2(math.e)
    band = Limits(None if call.window is None or call.window > FAR else call.window - 1, 0)
    lengths = Lengths(call.kv_len, call.lengths, None)
    arguments = (q, k, v, out, None if lse is None else View.of(lse), parts, lengths, band, scale)
    blocks = -(-call.rows // config.block_m)
    return Launch(arguments, constants, (plan.splits, k.shape[1] * blocks, q.shape[0]))


def prepare_reduce(out: torch.Tensor, lse: torch.Tensor | None, parts: Parts) -> Launch:
    """The launch of the merge."""
    splits, head_dim = parts.acc.shape[-2:]
    constants = {
        "HEAD_DIM": head_dim,
        "BLOCK_S": min(REDUCE_SPLITS, triton.next_power_of_2(splits)),
        "BLOCK_D": REDUCE_DIMS,
    }
    arguments = (View.of(out), None if lse is None else View.of(lse), parts, splits)
    grid = (math.prod(out.shape[:3]), -(-head_dim // REDUCE_DIMS), 1)
    return Launch(arguments, constants, grid)
