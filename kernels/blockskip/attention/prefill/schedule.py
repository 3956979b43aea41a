"""The tile scheduler: how many programs there are, and in which order they do the rows of all heads.

It changes times, never results. How its constants were measured: data/TUNING.md.
"""

from __future__ import annotations

import math

import numpy as np
import torch

from ...gpu import Gpu
from ...launching.guards import GuardedInt
from ...mask import Band, Mask
from ..call import AttentionCall
from .plan import PrefillPlan


def programs_of(call: AttentionCall, plan: PrefillPlan, grid: tuple[int, int, int]) -> tuple[tuple[int, ...], int]:
    """(grid, how many heads interleave their rows) for (rows, heads, batches) of tiles.

    A work item is one row of tiles of one head. Each of the plain kernel's programs does one. Those of the
    warp-specialized kernel go on to further items, one program a multiprocessor, so that copies for the next are made
    while the results of the last are stored. Which items a program does is fixed beforehand, so items that take equally
    long must follow each other: the same row of all heads and batches, or of as many as may be read at once, then of as
    many others. Only so do all programs end together. Where rows are unlike even so, or one head has too many keys,
    each program does one item, as the device hands them out.
    """
    assert plan.config is not None
    rows, heads, batch = grid
    interleave, items = interleaved_heads(call, plan, heads), math.prod(grid)
    if not plan.config.warp_specialized:
        return (rows * interleave, heads // interleave, batch), interleave
    programs = min(items, multiprocessors(call.q.device))
    most = max(1, multiprocessors(call.q.device) // PROGRAMS_A_HEAD) * call.group
    if is_narrow(call.mask, plan.kv_len) or plan.kv_len <= keys_nearby(call.k):
        for together in range(min(most, heads * batch), 0, -call.group):
            if heads * batch % together == 0 and _rows_are_even(call, plan, together, heads * batch, programs):
                return (programs,), together
    return (items,), interleave


ROWS_AT_ONCE = 256
"""Query rows a multiprocessor of interleaved heads: two rounds of 128."""


def interleaved_heads(call: AttentionCall, plan: PrefillPlan, heads: int) -> int:
    """How many of the programs' heads interleave their rows, longest rows first; a divisor of `heads`.

    One head after the other has its short rows run beside the next one's long ones, and its keys in the L2; but in the
    last round the long rows of the last head are alone. So heads interleave while they are small beside the device, and
    always those that share keys. A window's rows are as long as each other, but for the first: there one head after the
    other is best.
    """
    assert plan.config is not None
    if is_narrow(call.mask, plan.kv_len):
        return 1
    rows = -(-plan.q_len // plan.queries_per_tile) * plan.config.block_m
    sharing = 1 if plan.packed else call.group
    wanted = max(sharing, ROWS_AT_ONCE * multiprocessors(call.q.device) // rows)
    return max(count for count in range(1, heads + 1) if heads % count == 0 and count <= wanted)


PROGRAMS_A_HEAD = 4
"""The fewest programs that read the same head's keys at once: with fewer, memory does not keep up."""


L2_SHARE = 4
"""A head's keys and values may take 1 / L2_SHARE of the L2: with more, programs that drift apart read from memory
again."""


def keys_nearby(k: torch.Tensor) -> int:
    """How many keys of one head, with their values, fit their part of the L2; 0 where there is no GPU."""
    return Gpu.of(k.device).l2_bytes // L2_SHARE // (2 * k.shape[3] * k.element_size())


UNEVEN = 1.05
"""How much longer the busiest program may take, as a factor, than if the device handed out the items."""


def _rows_are_even(call: AttentionCall, plan: PrefillPlan, together: int, heads: int, programs: int) -> bool:
    """Whether programs that do several items each, fixed beforehand, are expected to end together.

    For a band whose heads all interleave they are, whatever its length, and for a window, whose rows are alike; else
    the tiles of a row are counted. For batches of different lengths, and masks that differ between heads or batches,
    they are not.
    """
    if any(call.mask.varies) or (call.lengths is not None and call.q.shape[0] > 1):
        return False
    if isinstance(call.mask, Band) and (together == heads or is_narrow(call.mask, plan.kv_len)):
        return True
    if isinstance(plan.kv_len, GuardedInt):  # counting tiles would make a plan of each number
        return False
    tiles = np.diff(plan.tilemap_of(0, 0).to_csr()[0].numpy())
    return end_together(tiles, together, programs, heads // together)


def end_together(tiles: np.ndarray, together: int, programs: int, parts: int = 1) -> bool:
    """Whether rows of so many tiles, `together` of each, keep all programs about as busy as dynamic scheduling would.

    parts: how many such heads follow each other. An item's start and end count as one more tile. Items are taken in
    order, there and back, as `hopper.items.position_in` has it.
    """
    items = np.tile(np.repeat(tiles[::-1] + 1, together), parts)
    by_round = np.append(items, np.zeros(-len(items) % programs, items.dtype)).reshape(-1, programs)
    by_round[1::2] = by_round[1::2, ::-1].copy()
    handed_out = max(items.max(), items.sum() / programs + items.max() / 2)  # at the end half of one is idle
    return bool(by_round.sum(0).max() <= UNEVEN * handed_out)


def is_narrow(mask: Mask, kv_len: int) -> bool:
    """Whether the mask is a band whose left limit is less than a quarter of the keys."""
    return isinstance(mask, Band) and mask.left is not None and kv_len > 4 * max(mask.left, 1)


def multiprocessors(device: torch.device) -> int:
    """The device's multiprocessors; 1 if the kernel is interpreted, or compiled for a GPU that is not present."""
    return Gpu.of(device).sms if device.type == "cuda" else 1
