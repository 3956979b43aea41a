"""From a checked decode call and its plan to launches of the Triton kernels. Imports triton."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Hashable, Iterator
from dataclasses import replace
from functools import partial
from typing import NamedTuple

import torch

from ..device import View, interpreting, is_wide, overlaps, ring_kind
from ..dispatch import Launch, Ready, Room, Step, allocate, stream_of, traits
from .checks import LARGEST_POSITION, sign_and_scale
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


def decode(
    call: DecodeCall, plan: DecodePlan, shelf: list | None = None, number: int | None = None
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """(out, lse or None) by the split-K kernel; see `blockskip.decode`.

    shelf: where f(q, k, v, lengths, number) is put, ready for calls of this kind. number: the call's kv_len, if f shall
    serve all of its sort (`sort_of`), else None.
    """
    # bfloat16 is wrong in Triton's interpreter: there the kernel computes in float32 and torch rounds at the end
    if interpreting() and call.q.dtype == torch.bfloat16:
        out, lse = decode(replace(call, q=call.q.float(), k=call.k.float(), v=call.v.float()), plan)
        return out.bfloat16(), lse
    inputs, counters = (call.q, call.k, call.v, call.lengths, number), _counters_of(call, plan)
    ready = Ready((*inputs, _arrived(counters, call.q.device)), _rooms(call, plan), partial(_steps, call, plan))
    if shelf is not None:
        shelf.append(partial(_again, ready, counters))
    return _again(ready, counters, *inputs)


def _again(ready: Ready, counters: int, q, k, v, lengths, number) -> tuple[torch.Tensor, torch.Tensor | None]:
    out, lse, *_ = ready(q, k, v, lengths, number, _arrived(counters, q.device))
    return out, lse


def sort_of(call: DecodeCall, plan: DecodePlan) -> Callable[[int], Hashable]:
    """For `repeat.ByKeys`: what all calls of this one's kind take of kv_len, which is neither None nor a tensor."""
    division, slots = plan.division, call.k.shape[2]
    assert division is not None

    def sort(kv_len: int) -> Hashable:
        if not 1 <= kv_len < LARGEST_POSITION:
            return None
        # a ring's windows see overwritten keys for all numbers beyond its slots, or for none
        return kv_len <= slots, division.splits(kv_len), traits(kv_len)

    return sort


def _steps(call: DecodeCall, plan: DecodePlan, inputs, made) -> Iterator[Step]:
    q, k, v, lengths, number, arrived = inputs
    out, lse, acc, top, total = made
    assert plan.config is not None
    options = {"num_warps": plan.config.num_warps, "num_stages": plan.config.num_stages}
    parts, overlap = Parts(acc, top, total, arrived), overlaps(q.device)
    kv_len = call.kv_len if number is None else number
    first = prepare(replace(call, lengths=lengths, kv_len=kv_len), plan, (q, k, v, out), lse, parts, overlap)
    yield Step(decode_kernel, first, options)
    if plan.splits > 1 and not plan.fused:
        options = REDUCE_OPTIONS | ({"launch_pdl": True} if overlap else {})
        yield Step(reduce_kernel, prepare_reduce(out, lse, parts, overlap), options)


def allocate_parts(call: DecodeCall, plan: DecodePlan) -> Parts:
    """Room for the shares of q's rows."""
    acc, top, total = allocate(_rooms(call, plan)[2:], call.q.device)
    return Parts(acc, top, total, _arrived(_counters_of(call, plan), call.q.device))


def _rooms(call: DecodeCall, plan: DecodePlan) -> tuple[Room | None, ...]:
    """Of out, lse, and the acc, top and total of `Parts`."""
    rows, dim, real = tuple(call.q.shape[:3]), call.q.shape[3], torch.float32
    out, lse = ((*rows, dim), call.q.dtype), (rows, real) if call.return_lse else None
    if plan.splits == 1:
        return out, lse, None, None, None
    split = (*rows, plan.splits)
    return out, lse, ((*split, dim), real), (split, real), (split, real)


def _counters_of(call: DecodeCall, plan: DecodePlan) -> int:
    return call.q.shape[0] * call.k.shape[1] if plan.fused else 0


def _arrived(counters: int, device: torch.device) -> torch.Tensor | None:
    """int32 zeros; the kernel leaves them so. None where there are no counters.

    One stream's launches follow each other and share theirs. A CUDA graph may replay beside anything: it gets its own,
    set to zero in the graph.
    """
    if not counters:
        return None
    if device.type != "cuda" or torch.cuda.is_current_stream_capturing():
        return torch.zeros(counters, dtype=torch.int32, device=device)
    return _stream_counters(power_of_two(counters), device, stream_of(device.index))


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
    sign, scale = sign_and_scale(call.scale)
    constants = {
        "SIGN": sign,
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
