"""The computing warp groups' part: scores, softmax and products of the tiles that were copied, and what is stored."""

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
    mbarrier,
    warpgroup_mma_wait,
)
from triton.language.extra.cuda import gdc_wait

from ....launching.gluon_names import thread_barrier
from ....launching.primitives import base, wide
from ....launching.scopes import enter_scope, exit_scope
from ...hopper.buffers import ROWS, buffers_at, fill, leave_queries, own_values, share_queries
from ...hopper.products import begin_scores, begin_sums, end_sums, rounded, shares, zeros_of
from ...hopper.tiles import further_tiles, masked, release, run_of, runs_of
from ...softmax import after_sink, online_softmax, tangent
from .items import first_row_of, item_of, own_limits, queries_in, rounds, tiles_of
from .rows import await_store, begin_queries, queries_of, store_rows


@gluon.jit
def first_sums(scoring, head, LAYOUT: gl.constexpr):
    """(row_max, row_sum) [ROWS] before the first tile: those of nothing, or of the head's sink."""
    row_max = gl.full([ROWS], float("-inf"), gl.float32, LAYOUT)
    row_sum = gl.zeros([ROWS], gl.float32, LAYOUT)
    if scoring.sinks is not None:
        sink_max, sink_sum = after_sink(gl.load(scoring.sinks + wide(head) * scoring.sinks_stride))
        row_max, row_sum = row_sum + sink_max, row_sum + sink_sum
    return row_max, row_sum


@gluon.jit
def store_lse(lse, value, item, row, q):
    if lse is not None:
        first, count = queries_in(q, item)
        pointers = base(lse, item[0], item[1]) + (first + row).to(gl.int64) * lse.strides[2]
        gl.store(pointers, value, mask=row < count)


@gluon.jit
def queries_at(GROUP: gl.constexpr, round_, buffers, CONSTANTS: gl.constexpr):
    """Where a group's queries of a round come, and then its results."""
    at = GROUP
    if CONSTANTS.BY_COLUMNS:
        at = 0
    if CONSTANTS.AHEAD:
        at = GROUP + round_ % 2 * (CONSTANTS.BLOCK_M // ROWS)
    return buffers_at(buffers.q, at)


@gluon.jit
def await_queries(GROUP: gl.constexpr, round_, q_tiles, queries, bars, CONSTANTS: gl.constexpr):
    """Until they lie where products read them: they were copied there, or are put there."""
    if CONSTANTS.AHEAD:
        async_copy.wait_group(0)
        fence_async_shared()
        thread_barrier()  # each warp's product reads what all have copied
    elif CONSTANTS.BY_COLUMNS:
        await_store(CONSTANTS)
        fill((q_tiles[GROUP],), queries)
        fence_async_shared()
        thread_barrier()  # the other group's product reads what all have written
        share_queries(round_, bars)
    else:
        await_store(CONSTANTS)
        fill(q_tiles, queries)
        fence_async_shared()


@gluon.jit
def place_after(rounds_, GROUP: gl.constexpr, q, buffers, visible, interleave, CONSTANTS: gl.constexpr):
    """(item, its `own_limits`) of the round behind this one, whose queries begin to be copied; the last has itself."""
    round_, last_round = rounds_
    item = item_of(gl.minimum(round_ + 1, last_round), q, visible.lengths, interleave, CONSTANTS)
    if CONSTANTS.AHEAD:
        await_store(CONSTANTS)
        q_tiles = queries_at(GROUP, round_ + 1, buffers, CONSTANTS)
        begin_queries(q, q_tiles, item, round_ < last_round, GROUP, CONSTANTS)
    return item, own_limits(item, GROUP, q, visible, CONSTANTS)


@gluon.jit
def attend_rows(
    GROUP: gl.constexpr, rounds_, place, queries, count, tensors, buffers, bars, visible, scoring, interleave,
    CONSTANTS: gl.constexpr,
):  # fmt: skip
    """ROWS rows of one item, whose queries are given or on their way; (place, queries, count) of the next one.

    rounds_: (this round, the last one). place: (the item, its `own_limits`). count: the tiles that this program has
    read. The next item is looked up, and its queries begin to be copied, beside the first product.
    """
    PIECE: gl.constexpr = CONSTANTS.PIECE
    BLOCK_N: gl.constexpr = CONSTANTS.BLOCK_N
    STAGES: gl.constexpr = CONSTANTS.STAGES
    scores: gl.constexpr = gl.NVMMADistributedLayout([3, 0], [4, 1], [16, BLOCK_N, 16])
    result: gl.constexpr = gl.NVMMADistributedLayout([3, 0], [4, 1], [16, PIECE, 16])
    weights: gl.constexpr = gl.DotOperandLayout(0, result, 2)
    q, out, lse = tensors
    item, own = place
    limits, skipped, behind = own
    tiles = tiles_of(item, limits, q, visible)
    if CONSTANTS.OWN_TILES:
        count = release(count, skipped, bars, CONSTANTS)
    dtype: gl.constexpr = q.ptr.dtype.element_ty
    q_tiles = queries_at(GROUP, rounds_[0], buffers, CONSTANTS)
    await_queries(GROUP, rounds_[0], q_tiles, queries, bars, CONSTANTS)
    buffers = own_values(GROUP, buffers, CONSTANTS)

    acc = zeros_of(CONSTANTS)
    row_max, row_sum = first_sums(scoring, item[1], gl.SliceLayout(1, scores))
    zeros = gl.zeros([ROWS, BLOCK_N], gl.float32, scores)
    row = first_row_of(item, GROUP, CONSTANTS) + gl.arange(0, ROWS, gl.SliceLayout(1, scores))
    n = gl.arange(0, BLOCK_N, gl.SliceLayout(0, scores))
    runs = runs_of(tiles, CONSTANTS)
    end, edges = 0, (0, 0, 0, 0)
    some = runs[1] > runs[0]
    if some:
        end, edges = run_of(runs[0], tiles, visible.mask, CONSTANTS)
        some = end > edges[0]
    if some:
        stage = count % STAGES
        mbarrier.wait(bars.k_full.index(stage), count // STAGES & 1)
        score = begin_scores(q_tiles, buffers, stage, zeros)
        following = place_after(rounds_, GROUP, q, buffers, visible, interleave, CONSTANTS)
        score = warpgroup_mma_wait(0, deps=(score,))
        mbarrier.arrive(bars.k_empty.index(stage))
        if scoring.angle is not None:
            score = tangent(score * scoring.angle)
        score = masked(score, edges[0], edges, row, n, tiles, visible, CONSTANTS)
        weight, _, row_max, row_sum = online_softmax(score, row_max, row_sum, scoring.scale)
        operand = gl.convert_layout(weight.to(dtype), weights)
        sums, operand, count = further_tiles(
            q_tiles, (acc, row_max, row_sum), operand, count + 1, tiles, row, n, buffers, bars, visible, scoring,
            CONSTANTS,
        )  # fmt: skip
        acc, row_max, row_sum = sums
        before = count - 1
        mbarrier.wait(bars.v_full.index(before % STAGES), before // STAGES & 1)
        summed = begin_sums(operand, buffers, before % STAGES, acc, CONSTANTS)
        acc = end_sums(summed)
        mbarrier.arrive(bars.v_empty.index(before % STAGES))
    else:
        following = place_after(rounds_, GROUP, q, buffers, visible, interleave, CONSTANTS)
    if CONSTANTS.OWN_TILES:
        count = release(count, behind, bars, CONSTANTS)

    share, logarithm = shares((acc, row_max, row_sum), CONSTANTS)
    if CONSTANTS.BY_COLUMNS:
        leave_queries(rounds_[0], bars)
        q_tiles = (q_tiles[GROUP],)
    fill(q_tiles, rounded(share, dtype))
    store_rows(out, q_tiles, item, GROUP, CONSTANTS)
    if not CONSTANTS.AHEAD:
        queries = queries_of(q, following[0], GROUP, CONSTANTS)
    store_lse(lse, logarithm, item, row, q)
    return following, queries, count


@gluon.jit
def attend(GROUP: gl.constexpr, tensors, buffers, bars, visible, scoring, interleave, CONSTANTS: gl.constexpr):
    """A warp group's part: ROWS query rows of each item, from their scores to what is stored."""
    q = tensors[0]
    gdc_wait()
    count = 0
    item = item_of(0, q, visible.lengths, interleave, CONSTANTS)
    queries = ()
    if CONSTANTS.AHEAD:
        begin_queries(q, queries_at(GROUP, 0, buffers, CONSTANTS), item, True, GROUP, CONSTANTS)
    else:
        queries = queries_of(q, item, GROUP, CONSTANTS)
    place = (item, own_limits(item, GROUP, q, visible, CONSTANTS))
    last_round = rounds(q, visible.lengths, CONSTANTS) - 1
    for round_ in range(last_round + 1):
        enter_scope("item")
        place, queries, count = attend_rows(
            GROUP, (round_, last_round), place, queries, count, tensors, buffers, bars, visible, scoring, interleave,
            CONSTANTS,
        )  # fmt: skip
        exit_scope("item")
    if CONSTANTS.AHEAD:
        async_copy.wait_group(0)
    await_store(CONSTANTS)
