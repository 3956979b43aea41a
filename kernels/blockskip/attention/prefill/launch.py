"""From a checked call and its plan to a launch of the Triton kernel. Imports triton."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import torch

from ...config import TileConfig, power_of_two
from ...launching.dispatch import Launch
from ...launching.fitting import fitting
from ...launching.guards import GuardedInt
from ...launching.memory import Memory, tokens_first
from ...launching.primitives import interpreting
from ...launching.ready import Ready, Step
from ...launching.view import View, is_wide, overlaps, ring_kind
from ...mask import Band
from ...mask_runs import Grid
from ..band import Lengths, limits_of
from ..call import AttentionCall, in_float32, sign_and_scale
from ..softmax import scoring_of
from .kernel import PrefillConstants, prefill
from .mask_bits import POSITIONS, bits_of, dense_tables, map_tables, position_tables
from .plan import PrefillPlan
from .schedule import programs_of


class MaskBits(NamedTuple):
    """The whole mask as bits, int64 [.., q_len, ceil(kv_len / 64)] as a View, and the number of keys visited."""

    ptr: torch.Tensor
    strides: tuple[int, ...]
    kv_len: int


class TileRuns(NamedTuple):
    """A tile map's runs, and the bits of its partial tiles; see `mask_bits.map_tables`.

    first: None, and rows are those of the call; or the position of row 0, and each position has a row.
    """

    start: View
    runs: torch.Tensor
    bits: torch.Tensor | None
    first: int | None


Result = tuple[torch.Tensor, torch.Tensor | None, torch.Tensor | None]
"""(out, lse or None, visits or None)."""


def ready_attention(call: AttentionCall, plan: PrefillPlan) -> Callable[..., Result]:
    """f(*call.tensors, kv_len) -> (out, lse or None, visits or None) by the prefill kernel, for calls of its kind.

    kv_len: that of each call where this one's is guarded, else not looked at. ValueError where the plan's configuration
    does not fit the device.
    """
    if interpreting() and call.q.dtype == torch.bfloat16:
        # wrong in Triton's interpreter: there the kernel computes in float32 and torch rounds at the end
        return partial(_rounded, ready_attention(call.given(in_float32(call.tensors)), plan))
    assert plan.config is not None
    batch, q_heads, q_len, _ = call.q.shape
    rows, heads = -(-q_len // plan.queries_per_tile), call.k.shape[1] if plan.packed else q_heads
    visits = (batch, heads, rows, -(-plan.kv_len // plan.config.block_n)) if call.record else None

    def steps(inputs, made):
        *tensors, kv_len, q_start, visits = inputs
        out, lse = made
        given = call.given(tensors, **({} if kv_len is None else {"kv_len": kv_len, "q_start": q_start}))
        yield prepare(given, plan, (given.q, given.k, given.v, out), lse, visits, (rows, heads, batch))

    grows = isinstance(call.kv_len, GuardedInt)
    inputs = _inputs(visits, q_len if grows else None, *call.tensors, call.kv_len)
    memory = _out_of(call.q), ((batch, q_heads, q_len), torch.float32) if call.return_lse else None
    with fitting(plan.config, plan.origin):
        ready = Ready(inputs, memory, steps, tables=(MaskBits, TileRuns))
    if visits is None and not grows:
        return partial(_launch_alike, ready)
    return partial(_launch, ready, visits, q_len if grows else None)


def _out_of(q: torch.Tensor) -> Memory:
    """Of the result, which has a token's heads beside each other where q has: a product reads it as it is then."""
    shape = tuple(q.shape)
    beside = shape[1] > 1 and shape[2] > 1 and q.stride(1) < q.stride(2)
    return (shape, q.dtype, tokens_first(shape)) if beside else (shape, q.dtype)


def _inputs(visits: tuple[int, ...] | None, last_queries: int | None, *inputs) -> tuple:
    """The inputs of a call's launch. last_queries: the number of queries where kv_len grows, else None."""
    *tensors, kv_len = inputs
    numbers = (None, None) if last_queries is None else (kv_len, kv_len - last_queries)
    return *tensors, *numbers, visits and torch.zeros(visits, dtype=torch.uint8, device=tensors[0].device)


def _launch_alike(ready: Ready, *inputs) -> Result:
    """`_launch` where kv_len is fixed and nothing is recorded."""
    return *ready(*inputs[:-1], None, None, None), None


def _launch(ready: Ready, visits: tuple[int, ...] | None, last_queries: int | None, *inputs) -> Result:
    inputs = _inputs(visits, last_queries, *inputs)
    out, lse = ready(*inputs)
    return out, lse, inputs[-1]


def _rounded(attend: Callable, *inputs) -> Result:
    *tensors, kv_len = inputs
    out, lse, visits = attend(*in_float32(tensors), kv_len)
    return out.bfloat16(), lse, visits


def serves_its_kind(call: AttentionCall, plan: PrefillPlan) -> bool:
    """Whether the launch serves every call of this kind.

    Not where visits are recorded, nor with the bits of a whole mask, which may depend on kv_len tensors.
    """
    return not call.record and plan.skip not in ("none", "mask")


def prepare(call: AttentionCall, plan: PrefillPlan, tensors, lse, visits, grid) -> Step:
    """The launch of the plan's kernel for these tensors (q, k, v, out)."""
    grid, interleave = programs_of(call, plan, grid)
    views = [None if t is None else View.of(t) for t in (*tensors, lse, visits)]
    return step_of(call, plan, views, _lengths(call), grid, interleave)


def step_of(call: AttentionCall, plan: PrefillPlan, views, lengths: Lengths, grid, interleave: int) -> Step:
    """The launch of so many programs. views: of q, k, v, out [B, heads, length, D], lse and visits, or None."""
    config = plan.config
    assert config is not None
    q, k, v, out, *extras = views
    scoring = scoring_of(sign_and_scale(call.scale)[1], call)
    visible = _mask_argument(call, plan), lengths, limits_of(call.mask)
    others = *extras, *visible, scoring, interleave
    if not config.warp_specialized:
        constants = _constants(call, plan, config, (q, k, v, out))
        alike = v._replace(strides=None) if v.strides == k.strides else v
        options = {"num_warps": config.num_warps, "num_stages": config.num_stages}
        return Step(prefill, Launch((q, k, alike, out, *others), {"CONSTANTS": constants}, grid), options)
    from . import hopper  # Gluon is imported only where it is used

    skip = "bounds" if plan.skip == "bounds" else "map"
    constants = hopper.constants_of(skip, q, k, v, out, lengths, config)
    tensors = hopper.tensors_of(constants, k, v, out, lengths.kv_len)
    options = {"num_warps": 4} | ({"launch_pdl": True} if overlaps(q.ptr.device) else {})  # a group's; others on top
    return Step(hopper.prefill, Launch((q, *tensors, *others), {"CONSTANTS": constants}, grid), options)


def _constants(call: AttentionCall, plan: PrefillPlan, config: TileConfig, views: tuple[View, ...]) -> PrefillConstants:
    q, k, v, out = views
    group = call.group if plan.packed else 1
    rows, cols = plan.queries_per_tile, q.shape[3]
    in_rows = any(is_wide(view, group, rows, cols) for view in (q, out))
    ring = ring_kind(call.ring, k.shape[2], config.block_n)
    apart = config.block_n if ring == "none" else k.shape[2]  # a ring's tile may hold its last slot and its first
    in_keys = any(is_wide(view, 1, apart, cols) for view in (k, v))
    return PrefillConstants(
        SKIP=plan.skip,
        SIGN=sign_and_scale(call.scale)[0],
        GROUP=group,
        HEAD_DIM=cols,
        BLOCK_M=config.block_m,
        BLOCK_N=config.block_n,
        BLOCK_D=max(16, power_of_two(cols)),
        WIDE=in_rows or in_keys,
        SOURCE="tma" if plan.use_tma else "pointer" if ring == "none" else ring,
    )


def _mask_argument(call: AttentionCall, plan: PrefillPlan) -> MaskBits | TileRuns | None:
    heads = call.q.shape[1]
    batch = call.q.shape[0]
    if plan.skip in ("none", "mask"):
        bits = bits_of(call, plan.kv_len)
        assert plan.config is not None
        if plan.config.warp_specialized:
            start, runs, bits = dense_tables(bits, plan.config.block_m, plan.config.block_n, plan.kv_len)
            return TileRuns(View.broadcast(start, 2), runs, bits, None)
        return MaskBits(bits, View.broadcast(bits, 2).strides, plan.kv_len)
    if plan.skip == "map" and isinstance(plan.kv_len, GuardedInt):  # a single query: see `AttentionArguments.kind`
        assert plan.config is not None and plan.q_len == 1
        block = int((plan.kv_len - 1) // POSITIONS)
        start, runs, bits = position_tables(call.mask, block, plan.config.block_n, call.q.device)
        return TileRuns(View.broadcast(start, 2), runs, bits, block * POSITIONS)
    if plan.skip == "map":
        by_batch, by_head = call.mask.varies
        grid = (batch if by_batch else 1, heads if by_head else 1)
        assert plan.config is not None
        tiles = Grid(plan.q_len, plan.kv_len, plan.queries_per_tile, plan.config.block_n, plan.q_start)
        start, runs, bits = map_tables(call.mask, tiles, grid, not isinstance(call.mask, Band), call.q.device)
        return TileRuns(View.broadcast(start, 2), runs, bits, None)
    return None


def _lengths(call: AttentionCall) -> Lengths:
    q_start = call.planned_q_start if call.lengths is None else call.q_start
    return Lengths(call.kv_len, call.lengths, q_start, call.starts)
