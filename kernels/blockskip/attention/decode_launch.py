"""From a checked decode call and its plan to launches of the Triton kernels. Imports triton."""

from __future__ import annotations

import contextlib
import functools
import math
from typing import NamedTuple

import torch

from ..device import View, interpreting, is_wide, overlaps, ring_kind
from ..dispatch import DISPATCHER, Launch
from .decode import decode as decode_kernel
from .decode import reduce as reduce_kernel
from .decode_plan import DecodeCall, DecodePlan, power_of_two
from .launch import FAR, Lengths, Limits

REDUCE_DIMS = 64
REDUCE_SPLITS = 64
REDUCE_OPTIONS = {"num_warps": 2}


class Parts(NamedTuple):
    """What shares leave for the merge, float32, contiguous.

    acc [B, Hq, Lq, splits, D] weighted values; top, total [B, Hq, Lq, splits] scaled maximum and sum of weights.
    arrived: int32 counters, one a KV head and batch entry, by which the last program knows itself; None: `reduce`.
    All are None for a single share, which needs no merge.
    """

    acc: torch.Tensor | None
    top: torch.Tensor | None
    total: torch.Tensor | None
    arrived: torch.Tensor | None


def decode(call: DecodeCall, plan: DecodePlan) -> tuple[torch.Tensor, torch.Tensor | None]:
    """(out, lse or None) by the split-K kernel; see `blockskip.decode`."""
    config = plan.config
    assert config is not None
    # bfloat16 is wrong in Triton's interpreter: there the kernel computes in float32 and torch rounds at the end
    upcast = interpreting() and call.q.dtype == torch.bfloat16
    q, k, v = (t.float() if upcast else t for t in (call.q, call.k, call.v))
    out = torch.empty(tuple(q.shape), dtype=q.dtype, device=q.device)
    lse = torch.empty(tuple(q.shape[:3]), dtype=torch.float32, device=q.device) if call.return_lse else None
    options = {"num_warps": config.num_warps, "num_stages": config.num_stages}
    with torch.cuda.device(q.device) if q.is_cuda else contextlib.nullcontext():
        parts = allocate_parts(call, plan)
        overlap = overlaps(q.device)
        first = prepare(call, plan, (q, k, v, out), lse, parts, overlap)
        DISPATCHER.launch(decode_kernel, first, **options)
        if plan.splits > 1 and not plan.fused:
            second = prepare_reduce(out, lse, parts, overlap)
            options = REDUCE_OPTIONS | ({"launch_pdl": True} if overlap else {})
            DISPATCHER.launch(reduce_kernel, second, **options)
    return out.to(call.q.dtype), lse


def allocate_parts(call: DecodeCall, plan: DecodePlan) -> Parts:
    """Room for the shares of q's rows."""
    if plan.splits == 1:
        return Parts(None, None, None, None)
    device = call.q.device
    rows = (*call.q.shape[:3], plan.splits)
    shapes = ((*rows, call.q.shape[3]), rows, rows)
    acc, top, total = (torch.empty(shape, dtype=torch.float32, device=device) for shape in shapes)
    return Parts(acc, top, total, _counters(call.q.shape[0] * call.k.shape[1], device) if plan.fused else None)


def _counters(count: int, device: torch.device) -> torch.Tensor:
    """int32 zeros; the kernel leaves them so.

    One stream's launches follow each other and share theirs. A CUDA graph may replay beside anything: it gets its own,
    set to zero in the graph.
    """
    if device.type != "cuda" or torch.cuda.is_current_stream_capturing():
        return torch.zeros(count, dtype=torch.int32, device=device)
    return _stream_counters(power_of_two(count), device, torch.cuda.current_stream(device).cuda_stream)


@functools.cache
def _stream_counters(count: int, device: torch.device, stream: int) -> torch.Tensor:
    return torch.zeros(count, dtype=torch.int32, device=device)


def prepare(call: DecodeCall, plan: DecodePlan, tensors, lse, parts: Parts, overlap: bool = False) -> Launch:
    """The launch of the split-K kernel for these tensors (q, k, v, out)."""
    config = plan.config
    assert config is not None
    q, k, v, out = map(View.of, tensors)
    wide = any(is_wide(view, call.group, q.shape[2], q.shape[3]) for view in (q, out))
    ring = ring_kind(call.ring, k.shape[2], config.block_n)
    apart = config.block_n if ring == "none" else k.shape[2]  # a ring's tile may hold its last slot and its first
    wide |= any(is_wide(view, 1, apart, q.shape[3]) for view in (k, v))
    if v.strides == k.strides:
        v = v._replace(strides=None)
    constants = {
        "SIGN": int(math.copysign(1, call.scale)) if call.scale else 0,
        "GROUP": call.group,
        "HEAD_DIM": q.shape[3],
        "BLOCK_M": config.block_m,
        "BLOCK_N": config.block_n,
        "BLOCK_D": max(16, power_of_two(q.shape[3])),
        "BLOCK_R": power_of_two(call.rows) if plan.fused else 1,
        "BLOCK_S": power_of_two(plan.splits) if plan.fused else 1,
        "WIDE": wide,
        "OVERLAP": overlap and plan.splits > 1 and not plan.fused,
        "RING": ring,
    }
    # scale 0 means that all scores are 0: SIGN 0 makes them so, and the scale itself stays positive
    scale = (abs(call.scale) or 1.0) * math.log2(math.e)
    band = Limits(None if call.window is None or call.window > FAR else call.window - 1, 0)
    lengths = Lengths(call.kv_len, call.lengths, None)
    arguments = (q, k, v, out, None if lse is None else View.of(lse), parts, lengths, band, scale)
    blocks = -(-call.rows // config.block_m)
    return Launch(arguments, constants, (plan.splits, k.shape[1] * blocks, q.shape[0]))


def prepare_reduce(out: torch.Tensor, lse: torch.Tensor | None, parts: Parts, overlap: bool = False) -> Launch:
    """The launch of the merge; with `overlap` it goes with the option `launch_pdl`."""
    assert parts.acc is not None
    splits, head_dim = parts.acc.shape[-2:]
    parts = parts._replace(arrived=None)
    constants = {
        "HEAD_DIM": head_dim,
        "BLOCK_S": min(REDUCE_SPLITS, power_of_two(splits)),
        "BLOCK_D": REDUCE_DIMS,
        "OVERLAP": overlap,
    }
    arguments = (View.of(out), None if lse is None else View.of(lse), parts, splits)
    grid = (math.prod(out.shape[:3]), -(-head_dim // REDUCE_DIMS), 1)
    return Launch(arguments, constants, grid)
