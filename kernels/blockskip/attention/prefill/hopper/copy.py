"""The copying warp's part: which tiles come into which buffers, and when."""

# pyright: reportArgumentType=false, reportAssignmentType=false, reportOperatorIssue=false, reportIndexIssue=false
# pyright: reportCallIssue=false, reportAttributeAccessIssue=false, reportOptionalMemberAccess=false
# Gluon's functions are typed as what they are in Python, not as what they are compiled to.

from __future__ import annotations

from triton.experimental import gluon
from triton.experimental.gluon import language as gl
from triton.experimental.gluon.language.nvidia.hopper import mbarrier, tma

from ....launching.primitives import wide
from ....launching.scopes import enter_scope, exit_scope
from ...band import first_slot
from ...sequences import query_count
from .items import ROWS, item_of, rounds, run_of, tiles_of

LAST = gl.constexpr(1 << 30)
"""See `parts_descriptor_of`; 2**64 bytes in steps of 2**34 elements of 2 bytes take 2**29: it is a multiple of that."""


@gluon.jit
def descriptor_of(view, strides, first, length, BLOCK: gl.constexpr):
    """A descriptor of [batch, head, row, element] with rows first .. of a head, so many; beyond them it reads zeros."""
    layout: gl.constexpr = gl.NVMMASharedLayout.get_default_for(BLOCK, view.ptr.dtype.element_ty)
    shape = [view.shape[0], view.shape[1], gl.maximum(length, 1), BLOCK[3]]
    start = view.ptr + wide(first) * strides[2]
    return tma.make_tensor_descriptor(start, shape, [strides[0], strides[1], strides[2], 1], BLOCK, layout)


@gluon.jit
def parts_descriptor_of(view, strides, BLOCK: gl.constexpr):
    """A descriptor of any part of one batch's rows, whose end a copy names: from there on it reads zeros.

    Rows are counted up to `LAST`, which is where a part ends, in a dimension that begins as far before the first row.
    Two more lead there: one whose stride is a row's goes on to the part's end, and one whose stride makes `LAST` steps
    2**64 bytes less `LAST` rows. Addresses are modulo 2**64. (As `triton.tools.ragged_tma` has it.)
    """
    layout: gl.constexpr = gl.NVMMASharedLayout.get_default_for(BLOCK, view.ptr.dtype.element_ty)
    row = wide(strides[2])
    shape = [LAST + 1, LAST, view.shape[1], LAST, BLOCK[4]]
    return tma.make_tensor_descriptor(view.ptr, shape, [(1 << 34) - row, row, strides[1], row, 1], BLOCK, layout)


@gluon.jit
def copy(q, k, v, buffers, bars, visible, interleave, CONSTANTS: gl.constexpr):
    """The copying warp's part: the tiles of keys and values of all items, in the order in which they are attended.

    Where items overlap, each item's queries come before them.
    """
    HEAD_DIM: gl.constexpr = CONSTANTS.HEAD_DIM
    BLOCK_N: gl.constexpr = CONSTANTS.BLOCK_N
    STAGES: gl.constexpr = CONSTANTS.STAGES
    OVERLAP_ITEMS: gl.constexpr = CONSTANTS.OVERLAP_ITEMS
    block: gl.constexpr = [1, 1, BLOCK_N, HEAD_DIM]
    # values laid out like the keys come without strides
    v_strides = k.strides if v.strides is None else v.strides
    if OVERLAP_ITEMS:
        rows: gl.constexpr = [1, 1, ROWS, HEAD_DIM]
        q_rows = q.shape[2]
        if visible.lengths.items is not None:
            q_rows = query_count(visible.lengths.items)
        q_source = descriptor_of(q, q.strides, 0, q_rows, rows)
    if visible.lengths.items is None:
        k_source = descriptor_of(k, k.strides, 0, visible.lengths.kv_len, block)
        v_source = descriptor_of(v, v_strides, 0, visible.lengths.kv_len, block)
    else:
        part: gl.constexpr = [1, 1, 1, BLOCK_N, HEAD_DIM]
        k_source = parts_descriptor_of(k, k.strides, part)
        v_source = parts_descriptor_of(v, v_strides, part)
    count = 0
    for round_ in range(rounds(q, visible.lengths)):
        enter_scope("copies")
        item = item_of(round_, q, visible.lengths, interleave)
        if OVERLAP_ITEMS:
            copy_queries(round_, item, q_source, buffers.q, bars, HEAD_DIM)
        tiles = tiles_of(item, q, visible, CONSTANTS)
        if visible.lengths.pointer is not None:
            # each batch has keys of its own number. A descriptor is overwritten by the next one: all copies by it
            # must have ended
            for late in range(gl.maximum(count - STAGES, 0), count):
                mbarrier.wait(bars.k_full.index(late % STAGES), late // STAGES & 1)
                mbarrier.wait(bars.v_full.index(late % STAGES), late // STAGES & 1)
            first = 0
            if visible.lengths.first is not None:
                first = first_slot(visible.lengths, item[0])
            k_source = descriptor_of(k, k.strides, first, tiles.kv_len, block)
            v_source = descriptor_of(v, v_strides, first, tiles.kv_len, block)
        kv_head = item[1] // (q.shape[1] // k.shape[1])
        count = copy_tiles(
            item, kv_head, count, k_source, v_source, buffers, bars, visible.mask, tiles, CONSTANTS
        )  # fmt: skip
        exit_scope("copies")


@gluon.jit
def copy_queries(round_, item, source, q_buffers, bars, HEAD_DIM: gl.constexpr):
    """The queries of one item, both groups', into the round's buffers."""
    slot, phase = round_ % 2, round_ // 2 & 1
    block: gl.constexpr = [1, 1, ROWS, HEAD_DIM]
    mbarrier.wait(bars.q_empty.index(slot), phase ^ 1)
    mbarrier.expect(bars.q_full.index(slot), 2 * ROWS * HEAD_DIM * 2)
    for group in gl.static_range(2):  # pyright: ignore
        first = (item[2] * 2 + group) * ROWS
        if len(item) != 3:
            first += item[3]
        tile = q_buffers.index(slot * 2 + group).reshape(block)
        tma.async_copy_global_to_shared(source, [item[0], item[1], first, 0], bars.q_full.index(slot), tile)


@gluon.jit
def copy_tiles(
    item, kv_head, count, k_source, v_source, buffers, bars, mask, tiles, CONSTANTS: gl.constexpr
):  # fmt: skip
    """The tiles of one item. count: the tiles that this program has copied; returned with this item's."""
    HEAD_DIM: gl.constexpr = CONSTANTS.HEAD_DIM
    BLOCK_N: gl.constexpr = CONSTANTS.BLOCK_N
    STAGES: gl.constexpr = CONSTANTS.STAGES
    size: gl.constexpr = BLOCK_N * HEAD_DIM * 2
    packed: gl.constexpr = len(item) != 3
    block: gl.constexpr = [1, 1, 1, BLOCK_N, HEAD_DIM] if packed else [1, 1, BLOCK_N, HEAD_DIM]
    for run in range(tiles.runs[0], tiles.runs[1]):
        begin, end, _, _, _ = run_of(run, tiles, mask, CONSTANTS)
        for tile in range(begin, end):
            stage, phase = count % STAGES, count // STAGES & 1 ^ 1
            if packed:
                start = [LAST, item[5] + item[6], kv_head, LAST - item[6] + tile * BLOCK_N, 0]
            else:
                start = [item[0], kv_head, tile * BLOCK_N, 0]
            mbarrier.wait(bars.k_empty.index(stage), phase)
            mbarrier.expect(bars.k_full.index(stage), size)
            k_tile = buffers.k.index(stage).reshape(block)
            tma.async_copy_global_to_shared(k_source, start, bars.k_full.index(stage), k_tile)
            mbarrier.wait(bars.v_empty.index(stage), phase)
            mbarrier.expect(bars.v_full.index(stage), size)
            v_tile = buffers.v.index(stage).reshape(block)
            tma.async_copy_global_to_shared(v_source, start, bars.v_full.index(stage), v_tile)
            count += 1
    return count
