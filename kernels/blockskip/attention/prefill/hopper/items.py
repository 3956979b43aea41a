"""A program's work items: which rows of which head, one item a round, and the tiles of each."""

# pyright: reportArgumentType=false, reportAssignmentType=false, reportOperatorIssue=false, reportIndexIssue=false
# pyright: reportCallIssue=false, reportAttributeAccessIssue=false, reportOptionalMemberAccess=false
# pyright: reportGeneralTypeIssues=false
# Gluon's functions are typed as what they are in Python, not as what they are compiled to.

from __future__ import annotations

from typing import NamedTuple

from triton.experimental import gluon
from triton.experimental.gluon import language as gl

from ....launching.primitives import base
from ...band import band_limits, lengths_of
from ...hopper.buffers import ROWS
from ...hopper.tiles import Tiles
from ...sequences import item_at, item_count


class HopperConstants(NamedTuple):
    """What the kernel is compiled for."""

    SKIP: str
    """bounds | map."""
    HEAD_DIM: int
    PIECE: int
    """Elements of the head's first piece, a power of two."""
    REST: int
    """Elements of its second piece, or 0: see `hopper.products`. The pieces' elements behind HEAD_DIM are zeros."""
    BLOCK_M: int
    """Query rows of an item: ROWS for each computing warp group, or for both."""
    BLOCK_N: int
    STAGES: int
    """Tiles of keys, and of values, in shared memory."""
    AHEAD: bool
    """Whether the next item's queries are copied to shared memory while one is attended; else loaded behind it."""
    MAPPED: bool
    """Whether k, v and out are the host's descriptors; else views, and the kernel makes descriptors of keys and values,
    and stores results by pointers."""

    BY_COLUMNS: bool
    """Whether two warp groups have the same rows, and one piece of the results each."""

    @property
    def GROUPS(self) -> int:
        """Computing warp groups."""
        return 2 if self.BY_COLUMNS else self.BLOCK_M // ROWS.value

    @property
    def OWN_TILES(self) -> bool:
        """Whether a band's tiles may be needed by some of the warp groups alone."""
        return self.SKIP == "bounds" and self.BLOCK_M - ROWS.value >= self.BLOCK_N


@gluon.jit
def position_in(round_):
    """This program's position in a round, there and back: the longest row of one is followed by the shortest."""
    programs = gl.num_programs(0)
    return gl.where(round_ % 2 == 0, gl.program_id(0), programs - 1 - gl.program_id(0))


@gluon.jit
def rounds(q, lengths, CONSTANTS: gl.constexpr):
    """How many items this program does, one a round: the last may have none for it."""
    if lengths.items is None:
        items = gl.cdiv(q.shape[2], CONSTANTS.BLOCK_M) * q.shape[1] * q.shape[0]
    else:
        items = item_count(lengths.items) * q.shape[1]
    full = items // gl.num_programs(0)
    return full + gl.where(position_in(full) < items % gl.num_programs(0), 1, 0)


@gluon.jit
def item_of(round_, q, lengths, interleave, CONSTANTS: gl.constexpr):
    """(batch, head, row of tiles): the rows of `interleave` heads, counted over batches, alternate; longest first.

    Of packed sequences (0, head, row, first query, queries, first key, keys). Where their heads come in several parts,
    every other part has the shortest rows first, so that rows which follow each other are alike, and the last part
    ends with them.
    """
    item = round_ * gl.num_programs(0) + position_in(round_)
    if lengths.items is None:
        rows = gl.cdiv(q.shape[2], CONSTANTS.BLOCK_M)
    else:
        rows = item_count(lengths.items)
        # there may be more programs than items: one without a round asks for round -1
        item = gl.maximum(gl.minimum(item, rows * q.shape[1] - 1), 0)
    part, in_part = item // (rows * interleave), item % (rows * interleave)
    head = part * interleave + in_part % interleave
    if lengths.items is None:
        return head // q.shape[1], head % q.shape[1], rows - 1 - in_part // interleave
    else:  # noqa: RET505 - the other way must not be compiled
        entry = in_part // interleave
        entry = gl.where((q.shape[1] // interleave - part) % 2 == 0, rows - 1 - entry, entry)
        row, q_first, q_len, k_first, kv_len = item_at(lengths.items, entry)
        return head * 0, head, row, q_first, q_len, k_first, kv_len


@gluon.jit
def first_row_of(item, GROUP: gl.constexpr, CONSTANTS: gl.constexpr):
    """The first of a warp group's rows of an item."""
    first = item[2] * CONSTANTS.BLOCK_M
    if not CONSTANTS.BY_COLUMNS:
        first += GROUP * ROWS
    return first


@gluon.jit
def queries_in(view, item):
    """(first row of the view, number of rows): the queries among which an item's are."""
    if len(item) == 3:
        return 0, view.shape[2]
    else:  # noqa: RET505 - the other way must not be compiled
        return item[3], item[4]


@gluon.jit
def tiles_of(item, limits, q, visible):
    """The `Tiles` of an item, or of a group's rows, whose limits are known."""
    q_len = q.shape[2]
    if visible.lengths.items is None:
        kv_len, q_start = lengths_of(visible.lengths, item[0], q_len)  # pyright: ignore
    else:
        q_len, kv_len = item[4], item[6]
        q_start = kv_len - q_len
    return Tiles(kv_len, q_start, q_len, limits)


@gluon.jit
def item_limits(item, q, visible, CONSTANTS: gl.constexpr):
    """The limits of an item's tiles: see `Tiles`."""
    if CONSTANTS.SKIP == "bounds":
        of_item = tiles_of(item, (), q, visible)
        return band_of_rows(item[2] * CONSTANTS.BLOCK_M, CONSTANTS.BLOCK_M, of_item, visible.band, CONSTANTS)
    else:  # noqa: RET505 - the other way must not be compiled
        row_ptr = base(visible.mask.start, item[0], item[1]) + item[2]
        return gl.load(row_ptr), gl.load(row_ptr + 1)


@gluon.jit
def band_of_rows(first, ROWS_OF: gl.constexpr, tiles, band, CONSTANTS: gl.constexpr):
    """(first tile, first unmasked at the left, first masked at the right, end) of so many queries of a band."""
    BLOCK_N: gl.constexpr = CONSTANTS.BLOCK_N
    q_start, kv_len = tiles.q_start, tiles.kv_len
    last = gl.minimum(first + ROWS_OF, tiles.q_len) - 1
    begin, full_begin, _, end = band_limits(q_start + first, q_start + last, kv_len, band, BLOCK_N)
    # a tile may be masked at both ends: the end of the unmasked is not bounded by their first
    full_end = kv_len // BLOCK_N
    if band.right is not None:
        full_end = gl.minimum(gl.maximum(q_start + first + band.right + 1, 0) // BLOCK_N, full_end)
    return begin, full_begin, full_end + begin * 0, end


@gluon.jit
def own_limits(item, GROUP: gl.constexpr, q, visible, CONSTANTS: gl.constexpr):
    """(limits, tiles before them, tiles behind them): of an item's tiles those that one warp group's rows need.

    Fewer than the item's where its rows are more than a tile's keys away from other groups'. A group without rows does
    as the item.
    """
    limits = item_limits(item, q, visible, CONSTANTS)
    before, behind = item[2] * 0, item[2] * 0
    if CONSTANTS.OWN_TILES:
        tiles = tiles_of(item, (), q, visible)
        first = item[2] * CONSTANTS.BLOCK_M + GROUP * ROWS
        begin, full_begin, full_end, end = limits
        own = band_of_rows(first, ROWS, tiles, visible.band, CONSTANTS)
        some = first < tiles.q_len
        own_begin = gl.where(some, gl.minimum(own[0], end), begin)
        own_end = gl.where(some, gl.minimum(gl.maximum(own[3], own_begin), end), end)
        before, behind = own_begin - begin, end - own_end
        limits = (own_begin, gl.where(some, own[1], full_begin), gl.where(some, own[2], full_end), own_end)
    return limits, before, behind
