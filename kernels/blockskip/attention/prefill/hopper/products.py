"""A tile's two products, and what lies in the head's pieces: queries, accumulators and results.

A head whose size is no power of two is two pieces, such as 64 and 16 of 80: products run over each, so that none is
padded. Tensors of a head are tuples, a tensor a piece.
"""

# pyright: reportArgumentType=false, reportAssignmentType=false, reportOperatorIssue=false, reportIndexIssue=false
# pyright: reportCallIssue=false, reportAttributeAccessIssue=false, reportOptionalMemberAccess=false
# pyright: reportGeneralTypeIssues=false
# Gluon's functions are typed as what they are in Python, not as what they are compiled to.

from __future__ import annotations

from triton.experimental import gluon
from triton.experimental.gluon import language as gl
from triton.experimental.gluon.language.nvidia.ampere import async_copy
from triton.experimental.gluon.language.nvidia.hopper import (
    fence_async_shared,
    tma,
    warpgroup_mma,
    warpgroup_mma_wait,
)

from ....launching.gluon_names import thread_barrier
from ....launching.primitives import base, wide
from .items import ROWS, queries_in


@gluon.jit
def zeros_of(CONSTANTS: gl.constexpr):
    """float32 [ROWS, piece] for each piece: an accumulator of results before the first tile."""
    PIECE: gl.constexpr = CONSTANTS.PIECE
    first: gl.constexpr = gl.NVMMADistributedLayout([3, 0], [4, 1], [16, PIECE, 16])
    acc = (gl.zeros([ROWS, PIECE], gl.float32, first),)
    if CONSTANTS.REST > 0:
        REST: gl.constexpr = CONSTANTS.REST
        rest: gl.constexpr = gl.NVMMADistributedLayout([3, 0], [4, 1], [16, REST, 16])
        acc = acc + (gl.zeros([ROWS, REST], gl.float32, rest),)  # noqa: RUF005 - Gluon knows no starred items
    return acc


@gluon.jit
def begin_scores(q_tiles, buffers, stage, zeros):
    """The products of the queries and a tile of keys, begun: one a piece, in one sum."""
    score = warpgroup_mma(q_tiles[0], buffers.k[0].index(stage).permute((1, 0)), zeros, use_acc=False, is_async=True)
    if len(q_tiles) == 2:
        score = warpgroup_mma(q_tiles[1], buffers.k[1].index(stage).permute((1, 0)), score, is_async=True)
    return score


@gluon.jit
def begin_sums(operand, buffers, stage, acc, CONSTANTS: gl.constexpr):
    """The products of the weights and a tile of values, added to acc, begun: one a piece."""
    summed = (warpgroup_mma(operand, buffers.v[0].index(stage), acc[0], is_async=True),)
    if len(acc) == 2:
        REST: gl.constexpr = CONSTANTS.REST
        rest: gl.constexpr = gl.DotOperandLayout(0, gl.NVMMADistributedLayout([3, 0], [4, 1], [16, REST, 16]), 2)
        own = gl.convert_layout(operand, rest, assert_trivial=True)
        summed = summed + (warpgroup_mma(own, buffers.v[1].index(stage), acc[1], is_async=True),)  # noqa: RUF005
    return summed


@gluon.jit
def end_sums(summed):
    """The accumulators, once the products have ended."""
    if len(summed) == 2:
        first, rest = warpgroup_mma_wait(0, deps=(summed[0], summed[1]))
        return first, rest
    else:  # noqa: RET505 - the other way must not be compiled
        return (warpgroup_mma_wait(0, deps=(summed[0],)),)


@gluon.jit
def times(acc, factor, CONSTANTS: gl.constexpr):
    """Each row of each piece times its factor [ROWS]."""
    PIECE: gl.constexpr = CONSTANTS.PIECE
    first: gl.constexpr = gl.NVMMADistributedLayout([3, 0], [4, 1], [16, PIECE, 16])
    scaled = (acc[0] * gl.convert_layout(factor, gl.SliceLayout(1, first))[:, None],)
    if len(acc) == 2:
        REST: gl.constexpr = CONSTANTS.REST
        rest: gl.constexpr = gl.NVMMADistributedLayout([3, 0], [4, 1], [16, REST, 16])
        scaled = scaled + (acc[1] * gl.convert_layout(factor, gl.SliceLayout(1, rest))[:, None],)  # noqa: RUF005
    return scaled


@gluon.jit
def shares(sums, CONSTANTS: gl.constexpr):
    """(acc / sum, 0 for rows that saw nothing; natural logarithm of the sum of exponentials, -inf for them)."""
    acc, row_max, row_sum = sums
    saw_nothing = row_sum == 0
    divisor = gl.where(saw_nothing, 1.0, row_sum)
    factor = 1.0 / divisor
    ln2 = 0.6931471805599453
    # `softmax.log_sum_exp`, written out: calling it changes the machine code
    logarithm = gl.where(saw_nothing, float("-inf"), (row_max + gl.log2(divisor)) * ln2)
    return times(acc, factor, CONSTANTS), logarithm


@gluon.jit
def rows_of(
    view, item, GROUP: gl.constexpr, FIRST: gl.constexpr, WIDTH: gl.constexpr, LAYOUT: gl.constexpr,
    ALIGNED: gl.constexpr, CONSTANTS: gl.constexpr,
):  # fmt: skip
    """(pointers, which are real) [ROWS, WIDTH]: elements FIRST .. of the rows of one warp group.

    ALIGNED: whether rows are known to be of adjoining elements and to begin at multiples of 16 bytes, 8 elements.
    """
    first, count = queries_in(view, item)
    i = item[2] * CONSTANTS.BLOCK_M + GROUP * ROWS + gl.arange(0, ROWS, gl.SliceLayout(1, LAYOUT))
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
    """[ROWS, piece] for each piece, 0 where there is no query."""
    PIECE: gl.constexpr = CONSTANTS.PIECE
    REST: gl.constexpr = CONSTANTS.REST
    queries = (load_piece(q, item, GROUP, 0, PIECE, CONSTANTS),)
    if REST > 0:
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
        first = item[2] * CONSTANTS.BLOCK_M + GROUP * ROWS
        tile = tiles[0].reshape([1, 1, ROWS, PIECE])
        tma.async_copy_shared_to_global(out, [item[0], item[1], first, 0], tile)
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


@gluon.jit
def buffers_at(buffers, i):
    """The i-th buffer of each piece."""
    if len(buffers) == 2:
        return buffers[0].index(i), buffers[1].index(i)
    else:  # noqa: RET505 - the other way must not be compiled
        return (buffers[0].index(i),)


@gluon.jit
def fill(tiles, values):
    """Writes a tensor a piece into shared memory."""
    tiles[0].store(values[0])
    if len(tiles) == 2:
        tiles[1].store(values[1])


@gluon.jit
def rounded(values, DTYPE: gl.constexpr):
    """Each piece in the tensors' dtype."""
    if len(values) == 2:
        return values[0].to(DTYPE), values[1].to(DTYPE)
    else:  # noqa: RET505 - the other way must not be compiled
        return (values[0].to(DTYPE),)
