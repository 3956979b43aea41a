"""Rows of an item: their queries into shared memory, their results out of it."""

# pyright: reportArgumentType=false, reportAssignmentType=false, reportOperatorIssue=false, reportIndexIssue=false
# pyright: reportCallIssue=false, reportAttributeAccessIssue=false, reportOptionalMemberAccess=false
# pyright: reportGeneralTypeIssues=false
# Gluon's functions are typed as what they are in Python, not as what they are compiled to.

from __future__ import annotations

from triton.experimental import gluon
from triton.experimental.gluon import language as gl
from triton.experimental.gluon.language.nvidia.ampere import async_copy
from triton.experimental.gluon.language.nvidia.hopper import fence_async_shared, tma

from ....launching.gluon_names import thread_barrier
from ....launching.primitives import base, wide
from ...hopper.buffers import ROWS
from .items import first_row_of, queries_in


@gluon.jit
def rows_of(
    view, item, GROUP: gl.constexpr, FIRST: gl.constexpr, WIDTH: gl.constexpr, LAYOUT: gl.constexpr,
    ALIGNED: gl.constexpr, CONSTANTS: gl.constexpr,
):  # fmt: skip
    """(pointers, which are real) [ROWS, WIDTH]: elements FIRST .. of the rows of one warp group.

    ALIGNED: whether rows are known to be of adjoining elements and to begin at multiples of 16 bytes, 8 elements.
    """
    first, count = queries_in(view, item)
    i = first_row_of(item, GROUP, CONSTANTS) + gl.arange(0, ROWS, gl.SliceLayout(1, LAYOUT))
    d = FIRST + gl.arange(0, WIDTH, gl.SliceLayout(0, LAYOUT))
    if ALIGNED:
        rows = view.ptr + wide(item[0]) * (view.strides[0] // 8 * 8) + wide(item[1]) * (view.strides[1] // 8 * 8)
        rows = rows + (first + i).to(gl.int64)[:, None] * (view.strides[2] // 8 * 8) + d[None, :]
    else:
        rows = base(view, item[0], item[1]) + (first + i).to(gl.int64)[:, None] * view.strides[2]
        rows += d.to(gl.int64)[None, :] * view.strides[3]
    return rows, (i < count)[:, None] & (d < CONSTANTS.HEAD_DIM)[None, :]


@gluon.jit
def load_piece(q, item, GROUP: gl.constexpr, FIRST: gl.constexpr, WIDTH: gl.constexpr, CONSTANTS: gl.constexpr):
    """[ROWS, WIDTH], 0 where there is no query."""
    memory: gl.constexpr = gl.BlockedLayout([1, 8], [256 // WIDTH, WIDTH // 8], [4, 1], [1, 0])
    rows, real = rows_of(q, item, GROUP, FIRST, WIDTH, memory, False, CONSTANTS)
    return gl.load(rows, mask=real, other=0.0)


@gluon.jit
def queries_of(q, item, GROUP: gl.constexpr, CONSTANTS: gl.constexpr):
    """[ROWS, piece] for each piece, or for a group's own, 0 where there is no query."""
    PIECE: gl.constexpr = CONSTANTS.PIECE
    REST: gl.constexpr = CONSTANTS.REST
    FIRST: gl.constexpr = GROUP * PIECE if CONSTANTS.BY_COLUMNS else 0
    queries = (load_piece(q, item, GROUP, FIRST, PIECE, CONSTANTS),)
    if REST > 0 and not CONSTANTS.BY_COLUMNS:
        queries = queries + (load_piece(q, item, GROUP, PIECE, REST, CONSTANTS),)  # noqa: RUF005
    return queries


@gluon.jit
def copy_piece(
    q, tile, item, some, GROUP: gl.constexpr, FIRST: gl.constexpr, WIDTH: gl.constexpr, CONSTANTS: gl.constexpr
):
    memory: gl.constexpr = gl.BlockedLayout([1, 8], [256 // WIDTH, WIDTH // 8], [4, 1], [1, 0])
    rows, real = rows_of(q, item, GROUP, FIRST, WIDTH, memory, True, CONSTANTS)
    async_copy.async_copy_global_to_shared(tile, rows, mask=real & some)


@gluon.jit
def begin_queries(q, tiles, item, some, GROUP: gl.constexpr, CONSTANTS: gl.constexpr):
    """Begins to copy an item's queries into shared memory, zeros where there is none, or not `some`."""
    PIECE: gl.constexpr = CONSTANTS.PIECE
    copy_piece(q, tiles[0], item, some, GROUP, 0, PIECE, CONSTANTS)
    if len(tiles) == 2:
        copy_piece(q, tiles[1], item, some, GROUP, PIECE, CONSTANTS.REST, CONSTANTS)
    async_copy.commit_group()


@gluon.jit
def store_piece(
    out, tile, item, GROUP: gl.constexpr, FIRST: gl.constexpr, WIDTH: gl.constexpr, CONSTANTS: gl.constexpr
):
    memory: gl.constexpr = gl.BlockedLayout([1, 8], [256 // WIDTH, WIDTH // 8], [4, 1], [1, 0])
    rows, real = rows_of(out, item, GROUP, FIRST, WIDTH, memory, False, CONSTANTS)
    gl.store(rows, tile.load(memory), mask=real)


@gluon.jit
def store_rows(out, tiles, item, GROUP: gl.constexpr, CONSTANTS: gl.constexpr):
    """Stores the rows of one warp group from shared memory; by the copy engine, they must stay there: `await_store`."""
    PIECE: gl.constexpr = CONSTANTS.PIECE
    if CONSTANTS.MAPPED:
        fence_async_shared()
        thread_barrier()  # one thread begins what all have written
        first = first_row_of(item, GROUP, CONSTANTS)
        tile = tiles[0].reshape([1, 1, ROWS, PIECE])
        column = GROUP * PIECE if CONSTANTS.BY_COLUMNS else 0
        tma.async_copy_shared_to_global(out, [item[0], item[1], first, column], tile)
    elif CONSTANTS.BY_COLUMNS:
        store_piece(out, tiles[0], item, GROUP, GROUP * PIECE, PIECE, CONSTANTS)
    else:
        store_piece(out, tiles[0], item, GROUP, 0, PIECE, CONSTANTS)
        if len(tiles) == 2:
            store_piece(out, tiles[1], item, GROUP, PIECE, CONSTANTS.REST, CONSTANTS)


@gluon.jit
def await_store(CONSTANTS: gl.constexpr):
    """Until the copy engine has read the results that were stored last."""
    if CONSTANTS.MAPPED:
        tma.store_wait(0)
        thread_barrier()
