"""Copies of tiles of keys and values by the copy engine, and the descriptors that it takes."""

# pyright: reportArgumentType=false, reportAssignmentType=false, reportOperatorIssue=false, reportIndexIssue=false
# pyright: reportCallIssue=false, reportAttributeAccessIssue=false, reportOptionalMemberAccess=false
# pyright: reportGeneralTypeIssues=false
# Gluon's functions are typed as what they are in Python, not as what they are compiled to.

from __future__ import annotations

from triton.experimental import gluon
from triton.experimental.gluon import language as gl
from triton.experimental.gluon.language.nvidia.hopper import mbarrier, tma

from ...launching.primitives import wide
from .tiles import run_of, runs_of

LAST = gl.constexpr(1 << 30)
"""See `parts_descriptor_of`; 2**64 bytes in steps of 2**34 elements of 2 bytes take 2**29: it is a multiple of that."""


@gluon.jit
def descriptor_of(view, strides, first, length, BLOCK: gl.constexpr, HEAD_DIM: gl.constexpr):
    """A descriptor of [batch, head, row, element] with rows first .. of a head, so many; beyond them it reads zeros."""
    layout: gl.constexpr = gl.NVMMASharedLayout.get_default_for(BLOCK, view.ptr.dtype.element_ty)
    shape = [view.shape[0], view.shape[1], gl.maximum(length, 1), HEAD_DIM]
    start = view.ptr + wide(first) * strides[2]
    return tma.make_tensor_descriptor(start, shape, [strides[0], strides[1], strides[2], 1], BLOCK, layout)


@gluon.jit
def parts_descriptor_of(view, strides, BLOCK: gl.constexpr, HEAD_DIM: gl.constexpr):
    """A descriptor of any part of one batch's rows, whose end a copy names: from there on it reads zeros.

    Rows are counted up to `LAST`, which is where a part ends, in a dimension that begins as far before the first row.
    Two more lead there: one whose stride is a row's goes on to the part's end, and one whose stride makes `LAST` steps
    2**64 bytes less `LAST` rows. Addresses are modulo 2**64. (As `triton.tools.ragged_tma` has it.)
    """
    layout: gl.constexpr = gl.NVMMASharedLayout.get_default_for(BLOCK, view.ptr.dtype.element_ty)
    row = wide(strides[2])
    shape = [LAST + 1, LAST, view.shape[1], LAST, HEAD_DIM]
    return tma.make_tensor_descriptor(view.ptr, shape, [(1 << 34) - row, row, strides[1], row, 1], BLOCK, layout)


@gluon.jit
def descriptors_of(view, strides, first, length, LINES: gl.constexpr, CONSTANTS: gl.constexpr):
    """`descriptor_of` blocks of so many rows, one for each piece of the head."""
    PIECE: gl.constexpr = CONSTANTS.PIECE
    REST: gl.constexpr = CONSTANTS.REST
    HEAD_DIM: gl.constexpr = CONSTANTS.HEAD_DIM
    sources = (descriptor_of(view, strides, first, length, [1, 1, LINES, PIECE], HEAD_DIM),)
    if REST > 0:
        rest: gl.constexpr = [1, 1, LINES, REST]
        sources = sources + (descriptor_of(view, strides, first, length, rest, HEAD_DIM),)  # noqa: RUF005
    return sources


@gluon.jit
def parts_descriptors_of(view, strides, CONSTANTS: gl.constexpr):
    """`parts_descriptor_of` tiles, one for each piece of the head."""
    PIECE: gl.constexpr = CONSTANTS.PIECE
    REST: gl.constexpr = CONSTANTS.REST
    BLOCK_N: gl.constexpr = CONSTANTS.BLOCK_N
    HEAD_DIM: gl.constexpr = CONSTANTS.HEAD_DIM
    sources = (parts_descriptor_of(view, strides, [1, 1, 1, BLOCK_N, PIECE], HEAD_DIM),)
    if REST > 0:
        rest: gl.constexpr = [1, 1, 1, BLOCK_N, REST]
        sources = sources + (parts_descriptor_of(view, strides, rest, HEAD_DIM),)  # noqa: RUF005
    return sources


@gluon.jit
def mapped_sources(source, CONSTANTS: gl.constexpr):
    """The host's descriptor for each piece of the head: pieces are equally wide where there are two."""
    sources = (source,)
    if CONSTANTS.REST > 0:
        sources = (source, source)
    return sources


@gluon.jit
def strides_of_values(k, v):
    """Values laid out like the keys come without strides."""
    return k.strides if v.strides is None else v.strides


@gluon.jit
def copy_pieces(sources, start, buffers, i, bar, BLOCK: gl.constexpr, CONSTANTS: gl.constexpr):
    """A block of rows, piece by piece, into the i-th buffers. start, BLOCK: without the head's elements."""
    REST: gl.constexpr = CONSTANTS.REST
    PIECE: gl.constexpr = CONSTANTS.PIECE
    tile = buffers[0].index(i).reshape(BLOCK + [PIECE])  # noqa: RUF005 - Gluon knows no starred items
    tma.async_copy_global_to_shared(sources[0], start + [0], bar, tile)  # noqa: RUF005
    if len(sources) == 2:
        tile = buffers[1].index(i).reshape(BLOCK + [REST])  # noqa: RUF005
        tma.async_copy_global_to_shared(sources[1], start + [PIECE], bar, tile)  # noqa: RUF005


@gluon.jit
def copy_tiles(
    item, kv_head, count, k_sources, v_sources, buffers, bars, mask, tiles, CONSTANTS: gl.constexpr
):  # fmt: skip
    """The tiles of one item. count: the tiles that this program has copied; returned with this item's."""
    BLOCK_N: gl.constexpr = CONSTANTS.BLOCK_N
    STAGES: gl.constexpr = CONSTANTS.STAGES
    size: gl.constexpr = BLOCK_N * (CONSTANTS.PIECE + CONSTANTS.REST) * 2
    packed: gl.constexpr = len(item) != 3
    block: gl.constexpr = [1, 1, 1, BLOCK_N] if packed else [1, 1, BLOCK_N]
    runs = runs_of(tiles, CONSTANTS)
    for run in range(runs[0], runs[1]):
        end, edges = run_of(run, tiles, mask, CONSTANTS)
        for tile in range(edges[0], end):
            stage, phase = count % STAGES, count // STAGES & 1 ^ 1
            if packed:
                start = [LAST, item[5] + item[6], kv_head, LAST - item[6] + tile * BLOCK_N]
            else:
                start = [item[0], kv_head, tile * BLOCK_N]
            mbarrier.wait(bars.k_empty.index(stage), phase)
            mbarrier.expect(bars.k_full.index(stage), size)
            copy_pieces(k_sources, start, buffers.k, stage, bars.k_full.index(stage), block, CONSTANTS)
            mbarrier.wait(bars.v_empty.index(stage), phase)
            mbarrier.expect(bars.v_full.index(stage), size)
            copy_pieces(v_sources, start, buffers.v, stage, bars.v_full.index(stage), block, CONSTANTS)
            count += 1
    return count
