"""Decode of batches whose lengths differ: programs share the work of all of them evenly, and not each sequence's keys.

All tiles of keys that some row sees stand in one line: batch by batch, there KV head by KV head. Every program takes an
even stretch of it (stream-K, https://arxiv.org/abs/2301.03598), which begins and ends wherever that falls. Where is
worked out from the lengths on the device, by the programs and by the merge alike; nothing is read back.
"""

# pyright: reportAttributeAccessIssue=false
# A constexpr is typed as such, not as the named tuple that it holds.

from __future__ import annotations

from typing import NamedTuple

import triton
import triton.language as tl
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait

from ...launching.primitives import wide
from ...launching.scopes import enter_scope, exit_scope
from ..band import band_limits, keys_of
from ..softmax import after_sink
from .kernel import attend, merged, rows_of, store_merged, store_rows


class MergeConstants(NamedTuple):
    """What `reduce_ragged` is compiled for; see `DecodeConstants`."""

    BATCHES: int
    """B or more, a power of two."""
    GROUP: int
    HEAD_DIM: int
    BLOCK_N: int
    BLOCK_S: int
    """Parts that are merged at once."""
    BLOCK_D: int
    OVERLAP: bool


@triton.jit
def tiles_of_batches(q_len, batches, lengths, band, BATCHES: tl.constexpr, BLOCK_N: tl.constexpr):
    """int32 [BATCHES]: how many tiles of keys some query of each batch sees; 0 beyond `batches`."""
    b = tl.arange(0, BATCHES)
    kv_len = keys_of(lengths, tl.minimum(b, batches - 1))  # pyright: ignore
    begin, _, _, end = band_limits(kv_len - q_len, kv_len - 1, kv_len, band, BLOCK_N)
    return tl.where(b < batches, end - begin, 0)


@triton.jit
def batch_at(position, counts, heads, BATCHES: tl.constexpr):
    """(batch, int64 position of its first tile, its tiles of a KV head) where the tile at `position` stands."""
    ends = tl.cumsum(counts, 0).to(tl.int64) * heads
    batch = tl.sum((ends <= position).to(tl.int32), 0)
    before, count = tiles_of(batch, counts, heads, BATCHES)
    return batch, before, count


@triton.jit
def tiles_of(batch, counts, heads, BATCHES: tl.constexpr):
    """(int64 position of a batch's first tile, its tiles of a KV head)."""
    b = tl.arange(0, BATCHES)
    before = wide(tl.sum(tl.where(b < batch, counts, 0), 0)) * heads
    return before, tl.sum(tl.where(b == batch, counts, 0), 0)


@triton.jit
def part_index(program, begins, rows, r):
    """int64: where a program leaves its part of row r: of a KV head that it begins, or of one that another began.

    It has one of each at most: all other KV heads are its own from their first tile to their last.
    """
    return (wide(program) * 2 + begins) * rows + r


@triton.jit
def decode_ragged(
    q, k, v, out, lse, parts, lengths, band, scoring, BATCHES: tl.constexpr, CONSTANTS: tl.constexpr
):  # fmt: skip
    """One program: an even stretch of all tiles of keys, for the BLOCK_M rows, or fewer, that each KV head serves.

    Arguments as of `kernel.decode`, but parts: acc [programs, 2, rows, D], row_max, row_sum [programs, 2, rows]. What a
    program has whole goes to out and lse. BATCHES: B or more, a power of two. Grid: (programs, 1, 1).
    """
    GROUP: tl.constexpr = CONSTANTS.GROUP
    HEAD_DIM: tl.constexpr = CONSTANTS.HEAD_DIM
    BLOCK_D: tl.constexpr = CONSTANTS.BLOCK_D
    enter_scope("share")
    if CONSTANTS.OVERLAP:
        gdc_launch_dependents()
        gdc_wait()
    program, programs = tl.program_id(0), tl.num_programs(0)
    heads, rows = k.shape[1], GROUP * q.shape[2]
    counts = tiles_of_batches(q.shape[2], q.shape[0], lengths, band, BATCHES, CONSTANTS.BLOCK_N)
    total = wide(tl.sum(counts, 0)) * heads
    busy = tl.maximum(tl.minimum(total, programs), 1)  # programs that have a tile
    here, stop = total * program // busy, tl.minimum(total * (program + 1) // busy, total)
    r = tl.arange(0, CONSTANTS.BLOCK_M)
    d = tl.arange(0, BLOCK_D)
    while here < stop:
        batch, before, count = batch_at(here, counts, heads, BATCHES)
        kv_head = ((here - before) // count).to(tl.int32)
        first = ((here - before) % count).to(tl.int32)
        last = tl.minimum(first + (stop - here), count).to(tl.int32)
        kv_len = keys_of(lengths, batch)  # pyright: ignore
        at, part = (batch, kv_head, 0), (first, last)
        state = attend(q, k, v, None, lengths, band, scoring, at, part, kv_len, False, CONSTANTS)
        real_row = r < rows
        if (first == 0) & (last == count):
            store_rows(out, lse, rows_of(q, batch, kv_head, r, GROUP), real_row, state, HEAD_DIM, BLOCK_D)
        else:
            acc, row_max, row_sum = state
            index = part_index(program, (first == 0).to(tl.int32), rows, r)
            tl.store(parts.row_max + index, row_max, mask=real_row)
            tl.store(parts.row_sum + index, row_sum, mask=real_row)
            # a part that saw nothing is known by its sum
            stored = (real_row & (row_sum != 0))[:, None] & (d < HEAD_DIM)[None, :]
            tl.store(parts.acc + (index * HEAD_DIM)[:, None] + d[None, :], acc, mask=stored)
        here += last - first
    exit_scope("share")


@triton.jit
def reduce_ragged(
    q, k, out, lse, parts, lengths, band, scoring, programs, CONSTANTS: tl.constexpr
):  # fmt: skip
    """One program: BLOCK_D dimensions of one row of out, merged from the parts that `programs` programs left of it.

    A row that a program had whole is done; one that sees no tile is written here. CONSTANTS: `MergeConstants`.
    Grid: (B * Hq * Lq, blocks of dimensions).
    """
    BATCHES: tl.constexpr = CONSTANTS.BATCHES
    GROUP: tl.constexpr = CONSTANTS.GROUP
    HEAD_DIM: tl.constexpr = CONSTANTS.HEAD_DIM
    BLOCK_S: tl.constexpr = CONSTANTS.BLOCK_S
    BLOCK_D: tl.constexpr = CONSTANTS.BLOCK_D
    enter_scope("merge")
    if CONSTANTS.OVERLAP:
        gdc_launch_dependents()
        gdc_wait()
    row = wide(tl.program_id(0))
    q_len, heads = q.shape[2], k.shape[1]
    i = (row % q_len).to(tl.int32)
    q_head = (row // q_len % q.shape[1]).to(tl.int32)
    batch = (row // q_len // q.shape[1]).to(tl.int32)
    counts = tiles_of_batches(q_len, q.shape[0], lengths, band, BATCHES, CONSTANTS.BLOCK_N)
    total = tl.maximum(wide(tl.sum(counts, 0)) * heads, 1)
    before, count = tiles_of(batch, counts, heads, BATCHES)
    start = before + wide(q_head // GROUP) * count
    busy = tl.minimum(total, programs)
    # the programs that have the tiles `start` and `start + count - 1`
    from_program = ((start + 1) * busy - 1) // total
    to_program = ((start + count) * busy - 1) // total
    number = tl.where(count > 0, to_program - from_program + 1, 0)
    if number != 1:
        d = tl.program_id(1) * BLOCK_D + tl.arange(0, BLOCK_D)
        acc = tl.zeros((BLOCK_D,), tl.float32)
        row_max = tl.full((), float("-inf"), tl.float32)
        row_sum = tl.full((), 0.0, tl.float32)
        if scoring.sinks is not None:
            sink = tl.load(scoring.sinks + wide(q_head) * scoring.sinks_stride, mask=count == 0, other=float("-inf"))
            row_max, row_sum = after_sink(sink)
        state = acc, row_max, row_sum
        for first in tl.range(0, number, BLOCK_S):
            s = first + tl.arange(0, BLOCK_S)
            index = part_index(from_program + s, (s == 0).to(tl.int32), GROUP * q_len, i * GROUP + q_head % GROUP)
            state = merged(state, parts, index, s < number, HEAD_DIM, d)
        store_merged(out, lse, row, state, HEAD_DIM, d)
    exit_scope("merge")
