"""From a checked decode call and its plan to launches of the Triton kernels. Imports triton."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator
from functools import partial
from typing import NamedTuple

import torch

from ...config import TileConfig, power_of_two
from ...graph_pools import outside_graph_pools
from ...launching.dispatch import Launch
from ...launching.fitting import fitting
from ...launching.guards import GuardedInt
from ...launching.memory import Memory, allocate
from ...launching.primitives import interpreting
from ...launching.ready import Ready, Step, stream_of
from ...launching.view import View, is_wide, overlaps, ring_kind
from ..band import FAR, Lengths, Limits
from ..caches import FLOAT8
from ..call import DecodeCall, in_float32, sign_and_scale
from ..softmax import scoring_of
from .kernel import DecodeConstants
from .kernel import decode as decode_kernel
from .kernel import reduce as reduce_kernel
from .plan import DecodePlan
from .ragged import MergeConstants, decode_ragged, reduce_ragged

REDUCE_DIMS = 64
REDUCE_SPLITS = 64
REDUCE_OPTIONS = {"num_warps": 2}


class Parts(NamedTuple):
    """Partial results of the shares, which the merge reads; float32, contiguous.

    acc [B, Hq, Lq, splits, D] weighted values; row_max (scaled), row_sum (of weights) [B, Hq, Lq, splits]. Where
    programs share the work of a batch evenly: acc [programs, 2, rows of a KV head, D], and so the others.
    arrived: int32 counters, one a KV head and batch entry, by which a program sees that it is the last, and merges;
    None where the kernel `reduce` merges.
    All are None for a single share, which needs no merge.
    """

    acc: torch.Tensor | None
    row_max: torch.Tensor | None
    row_sum: torch.Tensor | None
    arrived: torch.Tensor | None


class RowBits(NamedTuple):
    """The bits of a `DecodeCall` as a View, and how many int64 a row has."""

    ptr: torch.Tensor
    strides: tuple[int, ...]
    words: int


Result = tuple[torch.Tensor, torch.Tensor | None]
"""(out, lse or None)."""
Counters = Callable[[], torch.Tensor]
"""Gives `Parts.arrived` for a call on the current stream."""


def ready_decode(call: DecodeCall, plan: DecodePlan) -> Callable[..., Result]:
    """f(*call.tensors, kv_len) -> (out, lse or None) by the split-K kernel, for calls of this one's kind.

    kv_len: that of each call where this one's is guarded, else not looked at.
    """
    if interpreting() and call.q.dtype == torch.bfloat16:
        # wrong in Triton's interpreter: there the kernel computes in float32 and torch rounds at the end
        return partial(_rounded, ready_decode(call.given(in_float32(call.tensors)), plan))
    grows = isinstance(call.kv_len, GuardedInt)
    memory, counters = _memory(call, plan), _counters_of(call, plan)
    inputs = *call.tensors, call.kv_len if grows else None, counters and counters()
    results = [one[0] if one else () for one in memory[:2]]
    with fitting(plan.config, plan.origin):
        ready = Ready(inputs, memory, partial(_steps, call, plan), tables=(RowBits,), results=results)
    return partial(_launch, ready, counters, grows)


def decode(call: DecodeCall, plan: DecodePlan) -> Result:
    """(out, lse or None) by the split-K kernel, of this call alone."""
    return ready_decode(call, plan)(*call.tensors, call.kv_len)


def _launch(ready: Ready, counters: Counters | None, grows: bool, *inputs) -> Result:
    *tensors, kv_len = inputs
    out, lse = ready(*tensors, kv_len if grows else None, counters and counters())
    return out, lse


def _rounded(attend: Callable, *inputs) -> Result:
    *tensors, kv_len = inputs
    out, lse = attend(*in_float32(tensors), kv_len)
    return out.bfloat16(), lse


def _steps(call: DecodeCall, plan: DecodePlan, inputs, made) -> Iterator[Step]:
    *tensors, kv_len, arrived = inputs
    out, lse, acc, row_max, row_sum = made
    assert plan.config is not None
    parts, overlap = Parts(acc, row_max, row_sum, arrived), overlaps(out.device)
    early = {"launch_pdl": True} if overlap else {}
    given = call.given(tensors, kv_len=call.kv_len if kv_len is None else kv_len)
    first = prepare(given, plan, (given.q, given.k, given.v, out), lse, parts, overlap)
    yield first
    if plan.ragged:
        yield Step(reduce_ragged, prepare_reduce_ragged(plan, first.launch, overlap), REDUCE_OPTIONS | early)
    elif plan.splits > 1 and not plan.fused:
        yield Step(reduce_kernel, prepare_reduce(out, lse, parts, overlap), REDUCE_OPTIONS | early)


def allocate_parts(call: DecodeCall, plan: DecodePlan) -> Parts:
    """Memory for the shares of q's rows."""
    acc, row_max, row_sum = allocate(_memory(call, plan)[2:], call.q.device)
    counters = _counters_of(call, plan)
    return Parts(acc, row_max, row_sum, counters and counters())


def _memory(call: DecodeCall, plan: DecodePlan) -> tuple[Memory | None, ...]:
    """Of out, lse, and the acc, row_max and row_sum of `Parts`."""
    rows, dim, real = tuple(call.q.shape[:3]), call.q.shape[3], torch.float32
    out, lse = ((*rows, dim), call.q.dtype), (rows, real) if call.return_lse else None
    if plan.splits == 1 and not plan.ragged:
        return out, lse, None, None, None
    split = (plan.programs, 2, call.rows) if plan.ragged else (*rows, plan.splits)
    return out, lse, ((*split, dim), real), (split, real), (split, real)


def _counters_of(call: DecodeCall, plan: DecodePlan) -> Counters | None:
    """The counters, int32 zeros, which the kernel sets back to 0, for calls of this one's kind; None where it has none.

    The launches of one stream run one after the other and share theirs. A CUDA graph, whose calls are of another kind,
    may replay beside any of them: it has its own, which are set to 0 in the graph.
    """
    if not plan.fused:
        return None
    count, device = call.q.shape[0] * call.k.shape[1], call.q.device
    if device.type != "cuda" or torch.cuda.is_current_stream_capturing():
        return partial(torch.zeros, count, dtype=torch.int32, device=device)
    return partial(_current_counters, power_of_two(count), device, stream_of())


def _current_counters(count: int, device: torch.device, stream_of: Callable[[int], int]) -> torch.Tensor:
    return _stream_counters(count, device, stream_of(device.index))


@functools.cache
def _stream_counters(count: int, device: torch.device, stream: int) -> torch.Tensor:
    return outside_graph_pools(partial(torch.zeros, count, dtype=torch.int32, device=device), device)


def prepare(call: DecodeCall, plan: DecodePlan, tensors, lse, parts: Parts, overlap: bool = False) -> Step:
    """The launch of the plan's split-K kernel for these tensors (q, k, v, out); overlap: launched early."""
    config = plan.config
    assert config is not None
    early = {"launch_pdl": True} if overlap else {}
    if config.warp_specialized:
        from . import hopper  # Gluon is imported only where it is used

        # a group's warps; others on top
        return Step(hopper.decode, _prepare_hopper(call, plan, config, tensors, parts), {"num_warps": 4} | early)
    options = {"num_warps": config.num_warps, "num_stages": config.num_stages} | early
    launch = _prepare_plain(call, plan, config, tensors, lse, parts, overlap)
    return Step(decode_ragged if plan.ragged else decode_kernel, launch, options)


def _prepare_hopper(call: DecodeCall, plan: DecodePlan, config: TileConfig, tensors, parts: Parts) -> Launch:
    """The launch of the warp-specialized kernel."""
    from ..hopper.described import keys_and_values
    from . import hopper

    q, k, v, _ = map(View.of, tensors)
    lengths = _lengths(call)
    constants = hopper.constants_of(q, k, v, lengths, config)
    described = keys_and_values(constants, k, v, lengths.kv_len)
    scoring = scoring_of(sign_and_scale(call.scale)[1], call)
    arguments = (q, *described, parts._replace(arrived=None), lengths, _limits(call), scoring)
    blocks = -(-call.rows // config.block_m)
    return Launch(arguments, {"CONSTANTS": constants}, (plan.splits * blocks, k.shape[1], q.shape[0]))


def _limits(call: DecodeCall) -> Limits:
    """The limits of a call's window."""
    return Limits(None if call.window is None or call.window > FAR else call.window - 1, 0)


def _lengths(call: DecodeCall) -> Lengths:
    return Lengths(call.kv_len, call.lengths, None, call.starts)


def _prepare_plain(
    call: DecodeCall, plan: DecodePlan, config: TileConfig, tensors, lse, parts: Parts, overlap: bool
) -> Launch:
    """The launch of the plain kernel, or of the one whose programs share a batch's work."""
    q, k, v, out = map(View.of, tensors)
    wide = any(is_wide(view, call.group, q.shape[2], q.shape[3]) for view in (q, out))
    ring = ring_kind(call.ring, k.shape[2], config.block_n)
    apart = config.block_n if ring == "none" else k.shape[2]  # a ring's tile may hold its last slot and its first
    wide |= any(is_wide(view, 1, apart, q.shape[3]) for view in (k, v))
    words = reads_words(call)
    if words:
        v = v._replace(strides=(*(stride // 2 for stride in v.strides[:3]), 1))
    elif v.strides == k.strides:
        v = v._replace(strides=None)
    sign, scale = sign_and_scale(call.scale)
    band, mask = _limits(call), None
    if call.bits is not None:
        band, mask = Limits(None, None), RowBits(call.bits, View.broadcast(call.bits, 2).strides, call.bits.shape[-1])
    constants = DecodeConstants(
        SIGN=sign,
        GROUP=call.group,
        HEAD_DIM=q.shape[3],
        BLOCK_M=config.block_m,
        BLOCK_N=config.block_n,
        BLOCK_D=max(16, power_of_two(q.shape[3])),
        BLOCK_R=power_of_two(call.rows) if plan.fused else 1,
        BLOCK_S=power_of_two(plan.splits) if plan.fused else 1,
        APART=call.rows > config.block_m or (plan.wgmma and not plan.ragged),
        WIDE=wide,
        OVERLAP=overlap,
        RING=ring,
        BITS=mask is not None,
        MASK_ALL=plan.wgmma,
        WORDS=words,
    )
    extras = (None if lse is None else View.of(lse), parts)
    visible = (_lengths(call), band, scoring_of(scale, call))
    if plan.ragged:
        batches = power_of_two(q.shape[0])
        made = {"BATCHES": batches, "CONSTANTS": constants}
        return Launch((q, k, v, out, *extras, *visible), made, (plan.programs, 1, 1))
    blocks = -(-call.rows // config.block_m)
    grid = (plan.splits * blocks, k.shape[1], q.shape[0])
    return Launch((q, k, v, out, *extras, *visible, mask), {"CONSTANTS": constants}, grid)


def prepare_reduce_ragged(plan: DecodePlan, decode: Launch, overlap: bool = False) -> Launch:
    """The launch of the merge behind `decode`, that of `decode_ragged`; `overlap` as in `prepare_reduce`."""
    q, k, _, out, lse, parts, lengths, band, scoring = decode.arguments
    made = decode.constants["CONSTANTS"]
    most = -(-plan.programs // max(1, q.shape[0] * k.shape[1])) + 1  # parts of a KV head, where lengths are alike
    constants = MergeConstants(
        BATCHES=decode.constants["BATCHES"],
        GROUP=made.GROUP,
        HEAD_DIM=made.HEAD_DIM,
        BLOCK_N=made.BLOCK_N,
        BLOCK_S=min(REDUCE_SPLITS, power_of_two(2 * most)),
        BLOCK_D=REDUCE_DIMS,
        OVERLAP=overlap,
    )
    arguments = (q, k, out, lse, parts._replace(arrived=None), lengths, band, scoring, plan.programs)
    grid = (math.prod(q.shape[:3]), -(-made.HEAD_DIM // REDUCE_DIMS), 1)
    return Launch(arguments, {"CONSTANTS": constants}, grid)


def reads_words(call: DecodeCall) -> bool:
    """Whether values are float8 whose rows are words of two, in copies of 16 bytes."""
    v = call.v
    aligned = v.stride(3) == 1 and not any(number % 32 for number in (v.shape[3], *v.stride()[:3]))
    return v.dtype == FLOAT8 and call.q.dtype.itemsize == 2 and aligned and v.data_ptr() % 16 == 0


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
