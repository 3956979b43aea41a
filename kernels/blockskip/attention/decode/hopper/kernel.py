"""The kernel: what a program's warps do, from its share of the keys to what the merge reads."""

# pyright: reportArgumentType=false, reportAssignmentType=false, reportOperatorIssue=false, reportIndexIssue=false
# pyright: reportCallIssue=false, reportAttributeAccessIssue=false, reportOptionalMemberAccess=false
# pyright: reportGeneralTypeIssues=false
# Gluon's functions are typed as what they are in Python, not as what they are compiled to.

from __future__ import annotations

from typing import NamedTuple

from triton.experimental import gluon
from triton.experimental.gluon import language as gl
from triton.experimental.gluon.language.nvidia.hopper import fence_async_shared, mbarrier, warpgroup_mma_wait
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait

from ....launching.gluon_names import thread_barrier
from ....launching.primitives import base
from ....launching.scopes import enter_scope, exit_scope
from ...band import band_limits, first_slot, keys_of
from ...hopper.buffers import ROWS, Buffers, all_barriers, buffers_at, own_values, share_queries, tiles_of_pieces
from ...hopper.copies import copy_tiles, descriptors_of, mapped_sources, strides_of_values
from ...hopper.products import begin_scores, begin_sums, end_sums, zeros_of
from ...hopper.tiles import Tiles, Visible, further_tiles, masked
from ...softmax import after_sink, online_softmax, tangent
from ..kernel import rows_of, share


class HopperConstants(NamedTuple):
    """What the kernel is compiled for."""

    HEAD_DIM: int
    PIECE: int
    """Elements of the head's first piece, a power of two."""
    REST: int
    """Elements of its second piece, or 0: see `hopper.products`."""
    BLOCK_M: int
    """Rows of a program: ROWS for each of the two computing warp groups, or for both."""
    BLOCK_N: int
    STAGES: int
    """Tiles of keys, and of values, in shared memory."""
    GROUP: int
    """Query heads of a KV head."""
    BY_COLUMNS: bool
    """Whether two warp groups have the same rows, and one piece of the results each."""
    MAPPED: bool
    """Whether k and v are the host's descriptors; else views, and the kernel makes descriptors."""

    @property
    def GROUPS(self) -> int:
        """Computing warp groups."""
        return 2

    @property
    def SKIP(self) -> str:
        """How tiles are left out, as prefill's kernel calls it."""
        return "bounds"


@gluon.jit
def item_of(q, CONSTANTS: gl.constexpr):
    """(batch, KV head, first of the BLOCK_M rows, share, number of shares) of this program."""
    blocks = gl.cdiv(CONSTANTS.GROUP * q.shape[2], CONSTANTS.BLOCK_M)
    first_row = gl.program_id(0) % blocks * CONSTANTS.BLOCK_M
    return gl.program_id(2), gl.program_id(1), first_row, gl.program_id(0) // blocks, gl.num_programs(0) // blocks


@gluon.jit
def tiles_of(item, q, visible, CONSTANTS: gl.constexpr):
    """The `Tiles` of this program's share, the same for all of its rows."""
    BLOCK_N: gl.constexpr = CONSTANTS.BLOCK_N
    batch, _, first_row, split, splits = item
    kv_len, q_len, band = keys_of(visible.lengths, batch), q.shape[2], visible.band
    q_start = kv_len - q_len
    first = q_start + first_row // CONSTANTS.GROUP
    last = gl.minimum(q_start + (first_row + CONSTANTS.BLOCK_M - 1) // CONSTANTS.GROUP, kv_len - 1)
    begin, full_begin, _, end = band_limits(first, last, kv_len, band, BLOCK_N)
    # a tile may be masked at both ends: the end of the unmasked is not bounded by their first
    full_end = gl.minimum(gl.maximum(first + band.right + 1, 0), kv_len) // BLOCK_N
    begin, end = share(begin, end, split, splits)
    return Tiles(kv_len, q_start, q_len, (begin, full_begin, full_end, end))


@gluon.jit
def load_queries(q, item, first_row, FIRST: gl.constexpr, WIDTH: gl.constexpr, CONSTANTS: gl.constexpr):
    """[ROWS, WIDTH]: elements FIRST .. of the queries of rows first_row .., 0 where there is none."""
    GROUP: gl.constexpr = CONSTANTS.GROUP
    memory: gl.constexpr = gl.BlockedLayout([1, 8], [256 // WIDTH, WIDTH // 8], [4, 1], [1, 0])
    r = first_row + gl.arange(0, ROWS, gl.SliceLayout(1, memory))
    d = FIRST + gl.arange(0, WIDTH, gl.SliceLayout(0, memory))
    of_rows = (r % GROUP).to(gl.int64) * q.strides[1] + (r // GROUP).to(gl.int64) * q.strides[2]
    pointers = base(q, item[0], item[1] * GROUP) + of_rows[:, None]
    pointers += d.to(gl.int64)[None, :] * q.strides[3]
    real = (r < GROUP * q.shape[2])[:, None] & (d < CONSTANTS.HEAD_DIM)[None, :]
    return gl.load(pointers, mask=real, other=0.0)


@gluon.jit
def fill_queries(PART: gl.constexpr, q, q_tiles, bars, item, first_row, CONSTANTS: gl.constexpr):
    """Brings the rows' queries to where products read them; of the same rows each group brings one piece."""
    PIECE: gl.constexpr = CONSTANTS.PIECE
    if CONSTANTS.BY_COLUMNS:
        q_tiles[PART].store(load_queries(q, item, first_row, PART * PIECE, PIECE, CONSTANTS))
    else:
        q_tiles[0].store(load_queries(q, item, first_row, 0, PIECE, CONSTANTS))
        if len(q_tiles) == 2:
            q_tiles[1].store(load_queries(q, item, first_row, PIECE, CONSTANTS.REST, CONSTANTS))
    fence_async_shared()
    thread_barrier()  # each warp's product reads what all have written
    if CONSTANTS.BY_COLUMNS:
        share_queries(0, bars)


@gluon.jit
def first_sums(item, r, q, scoring, CONSTANTS: gl.constexpr, LAYOUT: gl.constexpr):
    """(row_max, row_sum) [ROWS] before the first tile: those of nothing, or in the first share of the rows' sinks."""
    GROUP: gl.constexpr = CONSTANTS.GROUP
    row_max = gl.full([ROWS], float("-inf"), gl.float32, LAYOUT)
    row_sum = gl.zeros([ROWS], gl.float32, LAYOUT)
    if scoring.sinks is not None:
        pointers = scoring.sinks + (item[1] * GROUP + r % GROUP).to(gl.int64) * scoring.sinks_stride
        sees = (r < GROUP * q.shape[2]) & (r * 0 + item[3] == 0)
        row_max, row_sum = after_sink(gl.load(pointers, mask=sees, other=float("-inf")))
    return row_max, row_sum


@gluon.jit
def store_piece(
    parts, piece, row_sum, q, item, first_row, FIRST: gl.constexpr, WIDTH: gl.constexpr, CONSTANTS: gl.constexpr
):  # fmt: skip
    """Weighted values of the rows that saw a key: the others are known by their sums."""
    GROUP: gl.constexpr = CONSTANTS.GROUP
    HEAD_DIM: gl.constexpr = CONSTANTS.HEAD_DIM
    result: gl.constexpr = gl.NVMMADistributedLayout([3, 0], [4, 1], [16, WIDTH, 16])
    r = first_row + gl.arange(0, ROWS, gl.SliceLayout(1, result))
    d = FIRST + gl.arange(0, WIDTH, gl.SliceLayout(0, result))
    index = rows_of(q, item[0], item[1], r, GROUP) * item[4] + item[3]
    saw = (r < GROUP * q.shape[2]) & (gl.convert_layout(row_sum, gl.SliceLayout(1, result)) != 0)
    pointers = parts.acc + (index * HEAD_DIM)[:, None]
    pointers += d[None, :]
    gl.store(pointers, piece, mask=saw[:, None] & (d < HEAD_DIM)[None, :])


@gluon.jit
def store_sums(PART: gl.constexpr, parts, sums, r, q, item, first_row, CONSTANTS: gl.constexpr):
    """Leaves a group's sums for the merge."""
    GROUP: gl.constexpr = CONSTANTS.GROUP
    PIECE: gl.constexpr = CONSTANTS.PIECE
    acc, row_max, row_sum = sums
    index = rows_of(q, item[0], item[1], r, GROUP) * item[4] + item[3]
    if CONSTANTS.BY_COLUMNS:
        store_piece(parts, acc[0], row_sum, q, item, first_row, PART * PIECE, PIECE, CONSTANTS)
    else:
        store_piece(parts, acc[0], row_sum, q, item, first_row, 0, PIECE, CONSTANTS)
        if len(acc) == 2:
            store_piece(parts, acc[1], row_sum, q, item, first_row, PIECE, CONSTANTS.REST, CONSTANTS)
    if PART == 0 or not CONSTANTS.BY_COLUMNS:
        real = r < GROUP * q.shape[2]
        gl.store(parts.row_max + index, row_max, mask=real)
        gl.store(parts.row_sum + index, row_sum, mask=real)


@gluon.jit
def attend(PART: gl.constexpr, q, parts, buffers, bars, visible, scoring, CONSTANTS: gl.constexpr):
    """A warp group's part: ROWS rows from their scores to what the merge reads of them, or of a piece of them."""
    PIECE: gl.constexpr = CONSTANTS.PIECE
    BLOCK_N: gl.constexpr = CONSTANTS.BLOCK_N
    scores: gl.constexpr = gl.NVMMADistributedLayout([3, 0], [4, 1], [16, BLOCK_N, 16])
    weights: gl.constexpr = gl.DotOperandLayout(0, gl.NVMMADistributedLayout([3, 0], [4, 1], [16, PIECE, 16]), 2)
    enter_scope("share")
    item = item_of(q, CONSTANTS)
    first_row = item[2]
    q_tiles = buffers_at(buffers.q, 0)
    acc = zeros_of(CONSTANTS)
    buffers = own_values(PART, buffers, CONSTANTS)
    if not CONSTANTS.BY_COLUMNS:
        first_row += PART * ROWS
        q_tiles = buffers_at(buffers.q, PART)
    gdc_wait()
    tiles = tiles_of(item, q, visible, CONSTANTS)
    fill_queries(PART, q, q_tiles, bars, item, first_row, CONSTANTS)
    r = first_row + gl.arange(0, ROWS, gl.SliceLayout(1, scores))
    row = r // CONSTANTS.GROUP
    n = gl.arange(0, BLOCK_N, gl.SliceLayout(0, scores))
    row_max, row_sum = first_sums(item, r, q, scoring, CONSTANTS, gl.SliceLayout(1, scores))
    begin, end = tiles.limits[0], tiles.limits[3]
    if begin < end:
        edges = (begin, tiles.limits[1], tiles.limits[2], -1)
        mbarrier.wait(bars.k_full.index(0), 0)
        score = begin_scores(q_tiles, buffers, 0, gl.zeros([ROWS, BLOCK_N], gl.float32, scores))
        score = warpgroup_mma_wait(0, deps=(score,))
        mbarrier.arrive(bars.k_empty.index(0))
        if scoring.angle is not None:
            score = tangent(score * scoring.angle)
        score = masked(score, begin, edges, row, n, tiles, visible, CONSTANTS)
        weight, _, row_max, row_sum = online_softmax(score, row_max, row_sum, scoring.scale)
        operand = gl.convert_layout(weight.to(q.ptr.dtype.element_ty), weights)
        sums, operand, count = further_tiles(
            q_tiles, (acc, row_max, row_sum), operand, begin * 0 + 1, tiles, row, n, buffers, bars, visible, scoring,
            CONSTANTS,
        )  # fmt: skip
        acc, row_max, row_sum = sums
        stage, phase = (count - 1) % CONSTANTS.STAGES, (count - 1) // CONSTANTS.STAGES & 1
        mbarrier.wait(bars.v_full.index(stage), phase)
        acc = end_sums(begin_sums(operand, buffers, stage, acc, CONSTANTS))
    store_sums(PART, parts, (acc, row_max, row_sum), r, q, item, first_row, CONSTANTS)
    exit_scope("share")


@gluon.jit
def copy(q, k, v, buffers, bars, visible, CONSTANTS: gl.constexpr):
    """The copying warp's part: the tiles of keys and values of this program's share."""
    BLOCK_N: gl.constexpr = CONSTANTS.BLOCK_N
    gdc_launch_dependents()
    gdc_wait()
    enter_scope("copies")
    item = item_of(q, CONSTANTS)
    tiles = tiles_of(item, q, visible, CONSTANTS)
    if CONSTANTS.MAPPED:
        k_sources, v_sources = mapped_sources(k, CONSTANTS), mapped_sources(v, CONSTANTS)
    else:
        first = 0
        if visible.lengths.first is not None:
            first = first_slot(visible.lengths, item[0])
        k_sources = descriptors_of(k, k.strides, first, tiles.kv_len, BLOCK_N, CONSTANTS)
        v_sources = descriptors_of(v, strides_of_values(k, v), first, tiles.kv_len, BLOCK_N, CONSTANTS)
    at = (item[0], item[1], item[2])
    copy_tiles(at, item[1], tiles.limits[0] * 0, k_sources, v_sources, buffers, bars, None, tiles, CONSTANTS)
    exit_scope("copies")


@gluon.jit
def decode(q, k, v, parts, lengths, band, scoring, CONSTANTS: gl.constexpr):
    """One program: one share of the key tiles for BLOCK_M of the GROUP * Lq rows that a KV head serves.

    q [B, Hq, Lq, D]; k, v [B, Hkv, Lkv, D]: `described.tensors_of`. parts: `decode.launch.Parts`, which the merge of
    `decode.kernel` reads. lengths, band: see `attention.band`; the band ends at each query's own position. scoring: see
    `attention.softmax`. CONSTANTS: `HopperConstants`. The program may begin before the kernel ahead of it has ended.
    Grid: (shares * blocks of rows, KV heads, B).
    """
    BLOCK_N: gl.constexpr = CONSTANTS.BLOCK_N
    STAGES: gl.constexpr = CONSTANTS.STAGES
    dtype: gl.constexpr = q.ptr.dtype.element_ty
    q_buffers = tiles_of_pieces(dtype, CONSTANTS.BLOCK_M // ROWS, ROWS, CONSTANTS)
    k_buffers = tiles_of_pieces(dtype, STAGES, BLOCK_N, CONSTANTS)
    v_buffers = tiles_of_pieces(dtype, STAGES, BLOCK_N, CONSTANTS)
    buffers = Buffers(q_buffers, k_buffers, v_buffers)
    bars = all_barriers(CONSTANTS)
    visible = Visible(None, lengths, band)
    gl.warp_specialize(
        [
            (attend, (0, q, parts, buffers, bars, visible, scoring, CONSTANTS)),
            (attend, (1, q, parts, buffers, bars, visible, scoring, CONSTANTS)),
            (copy, (q, k, v, buffers, bars, visible, CONSTANTS)),
        ],
        [
            4,
            1,
        ],  # warps of the second group and of the copying one, then their registers a thread; the first has the rest
        [240, 24],
    )
