"""A program's work items: which rows of which head, one item a round, and the tiles of each."""

# pyright: reportArgumentType=false, reportAssignmentType=false, reportOperatorIssue=false, reportIndexIssue=false
# pyright: reportCallIssue=false, reportAttributeAccessIssue=false, reportOptionalMemberAccess=false
# Gluon's functions are typed as what they are in Python, not as what they are compiled to.

from __future__ import annotations

from triton.experimental import gluon
from triton.experimental.gluon import language as gl

from ....launching.primitives import base, wide
from ...band import band_limits, lengths_of

ROWS = gl.constexpr(64)
"""Query rows of a warp group: what one of its products takes. An item has those of both groups."""


@gluon.jit
def tiles_of(run, mask, band_tiles, kv_len, BLOCK_N: gl.constexpr, SKIP: gl.constexpr):
    """(first, end, first unmasked, end of the unmasked, index of the first one's bits or -1) of a run of tiles."""
    if SKIP == "bounds":
        begin, full_begin, full_end, end = band_tiles
        bits_index = begin
    else:
        run_ptr = mask.runs + wide(run) * 4
        begin = gl.load(run_ptr)
        end = gl.minimum(gl.load(run_ptr + 1), gl.cdiv(kv_len, BLOCK_N))
        full_begin = begin
        # a full run may end in a tile with keys that are not real: that one is masked, by kv_len alone
        full_end = gl.where(gl.load(run_ptr + 2) == 2, kv_len // BLOCK_N, begin)
        bits_index = gl.load(run_ptr + 3)  # -1 for a full run
    return begin, end, full_begin, full_end, bits_index


@gluon.jit
def position_in(round_):
    """This program's position in a round, there and back: the longest row of one is followed by the shortest."""
    programs = gl.num_programs(0)
    return gl.where(round_ % 2 == 0, gl.program_id(0), programs - 1 - gl.program_id(0))


@gluon.jit
def rounds(q):
    """How many items this program does, one a round: the last may have none for it."""
    items = gl.cdiv(q.shape[2], 2 * ROWS) * q.shape[1] * q.shape[0]
    full = items // gl.num_programs(0)
    return full + gl.where(position_in(full) < items % gl.num_programs(0), 1, 0)


@gluon.jit
def item_of(round_, q, interleave):
    """(batch, head, row of tiles): the rows of `interleave` heads, counted over batches, alternate; longest first."""
    item = round_ * gl.num_programs(0) + position_in(round_)
    rows = gl.cdiv(q.shape[2], 2 * ROWS)
    part, in_part = item // (rows * interleave), item % (rows * interleave)
    head = part * interleave + in_part % interleave
    return head // q.shape[1], head % q.shape[1], rows - 1 - in_part // interleave


@gluon.jit
def work(item, q, mask, lengths, band, BLOCK_N: gl.constexpr, SKIP: gl.constexpr):
    """(kv_len, q_start, runs, band's tiles) of an item."""
    batch, head, row = item
    kv_len, q_start = lengths_of(lengths, batch, q.shape[2])  # pyright: ignore
    first = row * (2 * ROWS)
    last = gl.minimum(first + 2 * ROWS, q.shape[2]) - 1
    runs = (0, 1)
    band_tiles = (0, 0, 0, 0)
    if SKIP == "bounds":
        band_tiles = band_limits(q_start + first, q_start + last, kv_len, band, BLOCK_N)
    else:
        row_ptr = base(mask.start, batch, head) + row
        runs = (gl.load(row_ptr), gl.load(row_ptr + 1))
    return kv_len, q_start, runs, band_tiles
