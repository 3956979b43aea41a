"""From a checked call and its plan to a launch of the Triton kernel. Imports triton."""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

import torch
import triton
from triton.runtime.errors import OutOfResources

from ..config import TileConfig
from ..device import View, interpreting, is_wide, ring_kind
from ..dispatch import Launch, Ready, Step, traits
from ..mask import Band
from ..tileruns import Grid
from .checks import LARGEST_POSITION, sign_and_scale
from .decode_plan import DecodeCall, make_decode_plan
from .plan import Call, Plan
from .prefill import prefill
from .route import as_decode, choose_route
from .turns import goes_through, has_short_rows, is_narrow, keys_nearby, programs_of
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
    call: Call, plan: Plan, shelf: list | None = None, number: int | None = None
) -> tuple[torch.Tensor, torch.Tensor | None, torch.Tensor | None]:
    """(out, lse or None, visits or None) by the prefill kernel; see `blockskip.attention`.

    shelf: where f(q, k, v, lengths, number) is put, ready for calls of this kind, if it serves them. number: the call's
    kv_len, if f shall serve all of its sort (`sort_of`), else None.
    """
    # bfloat16 is wrong in Triton's interpreter: there the kernel computes in float32 and torch rounds at the end
    if interpreting() and call.q.dtype == torch.bfloat16:
        out, lse, visits = attention(replace(call, q=call.q.float(), k=call.k.float(), v=call.v.float()), plan)
        return out.bfloat16(), lse, visits
    assert plan.config is not None
    batch, q_heads, q_len, _ = call.q.shape
    rows, cols = -(-q_len // plan.queries_per_tile), -(-plan.kv_len // plan.config.block_n)
    heads = call.k.shape[1] if plan.packed else q_heads

    def steps(inputs, made):
        q, k, v, lengths, kv_len, q_start, *seen = inputs
        out, lse = made
        visits, grid = seen[0] if seen else None, (rows, heads, batch)
        given = replace(call, lengths=lengths)
        if kv_len is not None:
            given = replace(given, kv_len=kv_len, q_start=q_start)
        yield prepare(given, plan, (q, k, v, out), lse, visits, grid)

    inputs = [call.q, call.k, call.v, call.lengths, number, _first(call.q, number)]
    if call.record:
        inputs.append(torch.zeros((batch, heads, rows, cols), dtype=torch.uint8, device=call.q.device))
    rooms = (tuple(call.q.shape), call.q.dtype), ((batch, q_heads, q_len), torch.float32) if call.return_lse else None
    try:
        ready = Ready(inputs, rooms, steps, tables=(Words, Tiles))
    except OutOfResources as error:
        raise ValueError(_does_not_fit(plan, error)) from error
    if shelf is not None and _repeats(call, plan):
        shelf.append(partial(_again, ready))
    out, lse = ready(*inputs)
    return out, lse, inputs[-1] if call.record else None


def _again(ready: Ready, q, k, v, lengths, number) -> list:
    return ready(q, k, v, lengths, number, _first(q, number))


def _first(q: torch.Tensor, number: int | None) -> int | None:
    """The first query's position before the end of so many keys."""
    return None if number is None else number - q.shape[2]


def _does_not_fit(plan: Plan, error: OutOfResources) -> str:
    unit = "bytes of " if error.name == "shared memory" else ""
    return (
        f"config: given {plan.config} ({plan.origin or 'asked for'}); it needs {error.required} {unit}{error.name} a "
        f"block, this device has {error.limit}: take smaller tiles or fewer stages, or None for the table's"
    )


def sort_of(call: Call) -> Callable[[int], Hashable]:
    """For `repeat.ByKeys`: what all calls of this one's kind take of kv_len.

    That is an int, the mask a band, q_start None and skip not `map`; for other kinds it is never asked.
    """
    q, mask, slots = call.q, call.mask, call.k.shape[2]
    few = as_decode(replace(call, kv_len=1), "triton")
    division = make_decode_plan(few).division if isinstance(few, DecodeCall) else None
    capability = torch.cuda.get_device_capability(q.device) if q.is_cuda else None
    q_len, near = q.shape[2], keys_nearby(call.k)
    ghost = replace(call, q=q.to("meta"), k=call.k.to("meta"), v=call.v.to("meta"), lengths=None)

    def sort(kv_len: int) -> Hashable:
        if not 1 <= kv_len < LARGEST_POSITION:
            return None
        inside, same = kv_len <= slots, traits(kv_len)  # beyond its slots, a ring's mask may see overwritten keys
        if choose_route(replace(ghost, kv_len=kv_len), "triton", capability).kernel == "decode":
            assert division is not None
            return "decode", inside, same, division.splits(kv_len)
        rows = is_narrow(mask, kv_len), has_short_rows(mask, kv_len), kv_len <= near
        return "prefill", inside, same, traits(kv_len - q_len), *rows

    return sort


def _repeats(call: Call, plan: Plan) -> bool:
    """Whether the launch serves all calls of its kind: words may depend on lengths."""
    return not call.record and plan.skip not in ("none", "mask")


def prepare(call: Call, plan: Plan, tensors, lse, visits, grid) -> Step:
    """The launch of the plan's kernel for these tensors (q, k, v, out)."""
    config = plan.config
    assert config is not None
    q, k, v, out = map(View.of, tensors)
    plain = _plain_constants(call, plan, config, (q, k, v, out))
    if v.strides == k.strides:
        v = v._replace(strides=None)
    _, scale = sign_and_scale(call.scale)
    extras = (View.of(t) if t is not None else None for t in (lse, visits))
    items = math.prod(grid)
    grid, turn = programs_of(call, plan, grid)
    arguments = (q, k, v, out, *extras, _mask_argument(call, plan), _lengths(call), _limits(call), scale, turn)
    if not config.specialised:
        options = {"num_warps": config.num_warps, "num_stages": config.num_stages}
        return Step(prefill, Launch(arguments, plain, grid), options)
    from . import hopper  # Gluon is not asked for where it is not used

    constants = {"SKIP": plan.skip, "HEAD_DIM": q.shape[3], "BLOCK_N": config.block_n, "STAGES": config.num_stages}
    constants["THROUGH"] = goes_through(call, plan, items, programs=math.prod(grid))
    options = {"num_warps": 4}  # a group's; the others come on top
    return Step(hopper.prefill, Launch(arguments, constants, grid), options)


def _plain_constants(call: Call, plan: Plan, config: TileConfig, views: tuple[View, ...]) -> dict[str, Any]:
    q, k, v, out = views
    group = call.group if plan.packed else 1
    rows, cols = plan.queries_per_tile, q.shape[3]
    in_rows = any(is_wide(view, group, rows, cols) for view in (q, out))
    ring = ring_kind(call.ring, k.shape[2], config.block_n)
    apart = config.block_n if ring == "none" else k.shape[2]  # a ring's tile may hold its last slot and its first
    in_keys = any(is_wide(view, 1, apart, cols) for view in (k, v))
    return {
        "SKIP": plan.skip,
        "SIGN": sign_and_scale(call.scale)[0],
        "GROUP": group,
        "HEAD_DIM": cols,
        "BLOCK_M": config.block_m,
        "BLOCK_N": config.block_n,
        "BLOCK_D": max(16, triton.next_power_of_2(cols)),
        "WIDE": in_rows or in_keys,
        "SOURCE": "descriptor" if plan.described else "pointer" if ring == "none" else ring,
    }


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
        assert plan.config is not None
        tiles = Grid(plan.q_len, plan.kv_len, plan.queries_per_tile, plan.config.block_n, plan.q_start)
        start, runs, words = map_tables(call.mask, tiles, grid, not isinstance(call.mask, Band), call.q.device)
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
