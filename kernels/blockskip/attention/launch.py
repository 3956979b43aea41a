"""From a checked call and its plan to a launch of the Triton kernel. Imports triton."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import NamedTuple

import torch
import triton

from ..device import View, interpreting, is_wide, ring_kind
from ..dispatch import Launch, Ready, Step
from ..mask import Band, Dense
from .plan import Call, Plan
from .prefill import prefill
from .words import map_tables, mask_words

FAR = 1 << 30
"""Farther than any key: a limit beyond it is one, and sums with positions stay inside 32 bits."""


class Lengths(NamedTuple):
    """How many keys there are, and where the first query stands.

    Where the true number stands on the device, `pointer` is int32 [B] and kv_len its upper bound; else pointer is None.
    q_start None: the queries are the last positions.
    """

    kv_len: int
    pointer: torch.Tensor | None
    q_start: int | None


class Limits(NamedTuple):
    """A band's limits: -right <= q - k <= left; None is no limit."""

    left: int | None
    right: int | None


class Words(NamedTuple):
    """The whole mask as words, int64 [.., q_len, words] as a View, and the number of keys that are visited."""

    ptr: torch.Tensor
    strides: tuple[int, ...]
    kv_len: int


class Tiles(NamedTuple):
    """Tile map runs; see `words.map_tables`."""

    start: View
    runs: torch.Tensor
    words: torch.Tensor | None


def attention(
    call: Call, plan: Plan, place: list | None = None
) -> tuple[torch.Tensor, torch.Tensor | None, torch.Tensor | None]:
    """(out, lse or None, visits or None) by the prefill kernel; see `blockskip.attention`.

    place: where the launch is put, ready for calls of this kind (`repeat.place_of`), if it serves them.
    """
    # bfloat16 is wrong in Triton's interpreter: there the kernel computes in float32 and torch rounds at the end
    if interpreting() and call.q.dtype == torch.bfloat16:
        out, lse, visits = attention(replace(call, q=call.q.float(), k=call.k.float(), v=call.v.float()), plan)
        return out.bfloat16(), lse, visits
    assert plan.config is not None
    batch, q_heads, q_len, _ = call.q.shape
    rows, cols = -(-q_len // plan.queries_per_tile), -(-plan.kv_len // plan.config.block_n)
    heads = call.k.shape[1] if plan.packed else q_heads
    options = {"num_warps": plan.config.num_warps, "num_stages": plan.config.num_stages}

    def steps(inputs, made):
        q, k, v, lengths, *seen = inputs
        out, lse = made
        visits, grid = seen[0] if seen else None, (rows, heads, batch)
        yield Step(prefill, prepare(replace(call, lengths=lengths), plan, (q, k, v, out), lse, visits, grid), options)

    inputs = [call.q, call.k, call.v, call.lengths]
    if call.record:
        inputs.append(torch.zeros((batch, heads, rows, cols), dtype=torch.uint8, device=call.q.device))
    rooms = (tuple(call.q.shape), call.q.dtype), ((batch, q_heads, q_len), torch.float32) if call.return_lse else None
    ready = Ready(inputs, rooms, steps, tables=(Words, Tiles))
    if place is not None and _repeats(call, plan):
        place += ready, call.mask
    out, lse = ready(*inputs)
    return out, lse, inputs[-1] if call.record else None


def _repeats(call: Call, plan: Plan) -> bool:
    """Whether the launch serves all calls of its kind, and keeps no large mask alive."""
    if call.record or plan.skip in ("none", "mask"):  # words are large, and may depend on lengths
        return False
    return not any(isinstance(leaf, Dense) for leaf in call.mask.leaves())


def prepare(call: Call, plan: Plan, tensors, lse, visits, grid) -> Launch:
    """The launch of the kernel for these tensors (q, k, v, out)."""
    config = plan.config
    assert config is not None
    q, k, v, out = map(View.of, tensors)
    group = call.group if plan.packed else 1
    rows, cols = plan.queries_per_tile, q.shape[3]
    in_rows = any(is_wide(view, group, rows, cols) for view in (q, out))
    ring = ring_kind(call.ring, k.shape[2], config.block_n)
    apart = config.block_n if ring == "none" else k.shape[2]  # a ring's tile may hold its last slot and its first
    in_keys = any(is_wide(view, 1, apart, cols) for view in (k, v))
    if v.strides == k.strides:
        v = v._replace(strides=None)
    constants = {
        "SKIP": plan.skip,
        "SIGN": int(math.copysign(1, call.scale)) if call.scale else 0,
        "GROUP": group,
        "HEAD_DIM": cols,
        "BLOCK_M": config.block_m,
        "BLOCK_N": config.block_n,
        "BLOCK_D": max(16, triton.next_power_of_2(cols)),
        "WIDE": in_rows or in_keys,
        "SOURCE": "descriptor" if plan.described else "pointer" if ring == "none" else ring,
    }
    # scale 0 means that all scores are 0: SIGN 0 makes them so, and the scale itself stays positive
    scale = (abs(call.scale) or 1.0) * math.log2(math.e)
    extras = (View.of(t) if t is not None else None for t in (lse, visits))
    turn = heads_in_turn(call, plan, grid[1])
    arguments = (q, k, v, out, *extras, _mask_argument(call, plan), _lengths(call), _limits(call), scale, turn)
    return Launch(arguments, constants, (grid[0] * turn, grid[1] // turn, grid[2]))


ROWS_IN_TURN = 256
"""Query rows a multiprocessor that are in turn at once: two rounds of 128. On an H100, causal, D 256: 52 us instead of
71 at 1,024 tokens for one head after the other, 8 % less at 4,096; all heads at once are slower from 4,096 on."""


def heads_in_turn(call: Call, plan: Plan, heads: int) -> int:
    """How many of the programs' heads take their rows in turns, longest rows first; a divisor of `heads`.

    One head after the other has its short rows run beside the next one's long ones, and its keys in the L2; but in the
    last round the long rows of the last head are alone. So heads take turns while they are small beside the device, and
    always those that share keys. A window's rows are as long as each other, but for the first: there one head after the
    other is best.
    """
    assert plan.config is not None
    mask = call.mask
    if isinstance(mask, Band) and mask.left is not None and plan.kv_len > 4 * max(mask.left, 1):
        return 1
    rows = -(-plan.q_len // plan.queries_per_tile) * plan.config.block_m
    sharing = 1 if plan.packed else call.group
    wanted = max(sharing, ROWS_IN_TURN * _multiprocessors(call.q.device) // rows)
    return max(count for count in range(1, heads + 1) if heads % count == 0 and count <= wanted)


def _multiprocessors(device: torch.device) -> int:
    """Of a GPU; 1 where the kernel is interpreted, or compiled for a GPU that is not there."""
    return torch.cuda.get_device_properties(device).multi_processor_count if device.type == "cuda" else 1


def _mask_argument(call: Call, plan: Plan) -> Words | Tiles | None:
    heads = call.q.shape[1]
    batch = call.q.shape[0]
    if plan.skip in ("none", "mask"):
        q_start, kv_real = call.planned_q_start, call.kv_len
        if call.lengths is not None:
            kv_real = call.lengths
            q_start = kv_real.clamp(0, plan.kv_len) - call.q.shape[2] if call.q_start is None else q_start
        words = mask_words(call.mask, plan.q_len, plan.kv_len, q_start, kv_real, batch, heads, call.q.device)
        return Words(words, View.broadcast(words, 2).strides, plan.kv_len)
    if plan.skip == "map":
        by_batch, by_head = call.mask.varies
        grid = (batch if by_batch else 1, heads if by_head else 1)
        maps = tuple(plan.tilemap_of(b, h) for b in range(grid[0]) for h in range(grid[1]))
        start, runs, words = map_tables(maps, grid, not isinstance(call.mask, Band), call.q.device)
        return Tiles(View.broadcast(start, 2), runs, words)
    return None


def _lengths(call: Call) -> Lengths:
    return Lengths(call.kv_len, call.lengths, call.planned_q_start if call.lengths is None else call.q_start)


def _limits(call: Call) -> Limits:
    if not isinstance(call.mask, Band):
        return Limits(None, None)
    if call.mask.is_nothing:
        return Limits(-FAR, FAR)  # the first visible key lies beyond all keys
    far = lambda x: None if x is None or x >= FAR else max(x, -FAR)  # noqa: E731
    return Limits(far(call.mask.left), far(call.mask.right))
