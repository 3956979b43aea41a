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
from ....launching.primitives import base, first_bits, wide
from ....launching.scopes import enter_scope, exit_scope
from ...softmax import after_sink, online_softmax, tangent
from .items import ROWS, item_of, own_limits, queries_in, rounds, run_of, runs_of, tiles_of
from .products import (
    await_store,
    begin_queries,
    begin_scores,
    begin_sums,
    buffers_at,
    end_sums,
    fill,
    queries_of,
    rounded,
    shares,
    store_rows,
    times,
    zeros_of,
)


@gluon.jit
def masked(score, tile, edges, row, n, tiles, visible, CONSTANTS: gl.constexpr):
    """The scores of a tile, -inf where a row's query does not see a key. row [ROWS]: the queries; n [BLOCK_N].

    edges: (first tile, first behind those with keys before a row's first one, first of those with keys behind a row's
    last one, index of the first tile's bits or -1). A map's tiles have keys of both kinds, or none before full_end.
    """
    begin, full_begin, full_end, bits_index = edges
    n0 = tile * CONSTANTS.BLOCK_N
    band = visible.band
    bits = bits_of(visible.mask, CONSTANTS)
    if bits is None:
        # by a row's first key or its last, counted in the tile: one comparison a score at a band's either end
        if band.left is not None:
            at_left = tile < full_begin
            if CONSTANTS.SKIP == "map":
                at_left = tile >= full_end
            if at_left:
                low = tiles.q_start + row - n0 - band.left
                score = gl.where(n[None, :] >= low[:, None], score, float("-inf"))
        if tile >= full_end:
            high = row * 0 + (tiles.kv_len - 1 - n0)
            if band.right is not None:
                high = gl.minimum(high, tiles.q_start + row - n0 + band.right)
            score = gl.where(n[None, :] <= high[:, None], score, float("-inf"))
    elif tile >= full_end:
        own = gl.where(bits_index >= 0, bits_index + tile - begin, -1)
        score = gl.where(kept(row, n0, n, tiles, bits, own, CONSTANTS), score, float("-inf"))
    return score


@gluon.jit
def kept(i, n0, n, tiles, bits, bits_index, CONSTANTS: gl.constexpr):
    """bool [ROWS, BLOCK_N]: which keys n0 + n the queries i see, by the bits of a partial tile of the map.

    bits_index is the tile's among them, -1 where it has none.
    """
    BLOCK_M: gl.constexpr = CONSTANTS.BLOCK_M
    BLOCK_N: gl.constexpr = CONSTANTS.BLOCK_N
    bits_ptr = bits + wide(bits_index) * (gl.cdiv(BLOCK_N, 64) * BLOCK_M) + i % BLOCK_M
    partial = bits_index + i * 0 >= 0
    first = gl.load(bits_ptr, mask=partial, other=-1) & first_bits(tiles.kv_len - n0)
    n = n[None, :]
    half = gl.where(n % 64 < 32, first.to(gl.int32)[:, None], (first >> 32).to(gl.int32)[:, None])
    if BLOCK_N > 64:
        second = gl.load(bits_ptr + BLOCK_M, mask=partial, other=-1) & first_bits(tiles.kv_len - n0 - 64)
        other = gl.where(n % 64 < 32, second.to(gl.int32)[:, None], (second >> 32).to(gl.int32)[:, None])
        half = gl.where(n < 64, half, other)
    return ((half >> n % 32) & 1) != 0


@gluon.jit
def bits_of(mask, CONSTANTS: gl.constexpr):
    """The bits of a map's partial tiles; None where there is no map."""
    bits = None
    if CONSTANTS.SKIP == "map":
        bits = mask.bits
    return bits


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
def further_tiles(
    q_tiles, sums, operand, count, tiles, row, n, buffers, bars, visible, scoring, CONSTANTS: gl.constexpr
):  # fmt: skip
    """The tiles after a row's first, whose weights are the operand. sums: (acc, running maximum, sum).

    Returns (sums, operand, count) after them. Each iteration begins a tile's scores, then the product of the tile
    before, which runs under the exponentials.
    """
    PIECE: gl.constexpr = CONSTANTS.PIECE
    BLOCK_N: gl.constexpr = CONSTANTS.BLOCK_N
    STAGES: gl.constexpr = CONSTANTS.STAGES
    scores: gl.constexpr = gl.NVMMADistributedLayout([3, 0], [4, 1], [16, BLOCK_N, 16])
    result: gl.constexpr = gl.NVMMADistributedLayout([3, 0], [4, 1], [16, PIECE, 16])
    weights: gl.constexpr = gl.DotOperandLayout(0, result, 2)
    acc, row_max, row_sum = sums
    zeros = gl.zeros([ROWS, BLOCK_N], gl.float32, scores)
    runs = runs_of(tiles, CONSTANTS)
    for run in range(runs[0], runs[1]):
        end, edges = run_of(run, tiles, visible.mask, CONSTANTS)
        from_tile = gl.where(run == runs[0], edges[0] + 1, edges[0])
        for tile in range(from_tile, end):
            stage, phase = count % STAGES, count // STAGES & 1
            before = count - 1
            v_stage, v_phase = before % STAGES, before // STAGES & 1
            mbarrier.wait(bars.k_full.index(stage), phase)
            score = begin_scores(q_tiles, buffers, stage, zeros)
            mbarrier.wait(bars.v_full.index(v_stage), v_phase)
            summed = begin_sums(operand, buffers, v_stage, acc, CONSTANTS)
            score = warpgroup_mma_wait(len(acc), deps=(score,))
            mbarrier.arrive(bars.k_empty.index(stage))
            if scoring.angle is not None:
                score = tangent(score * scoring.angle)
            score = masked(score, tile, edges, row, n, tiles, visible, CONSTANTS)
            weight, rescale, row_max, row_sum = online_softmax(score, row_max, row_sum, scoring.scale)
            acc = end_sums(summed)
            mbarrier.arrive(bars.v_empty.index(v_stage))
            acc = times(acc, rescale, CONSTANTS)
            operand = gl.convert_layout(weight.to(operand.dtype), weights)
            count += 1
    return (acc, row_max, row_sum), operand, count


@gluon.jit
def release(count, tiles, bars, CONSTANTS: gl.constexpr):
    """Gives so many tiles back unread, once they have come; returns the tiles that this program has read."""
    STAGES: gl.constexpr = CONSTANTS.STAGES
    for i in range(count, count + tiles):
        stage, phase = i % STAGES, i // STAGES & 1
        mbarrier.wait(bars.k_full.index(stage), phase)
        mbarrier.arrive(bars.k_empty.index(stage))
        mbarrier.wait(bars.v_full.index(stage), phase)
        mbarrier.arrive(bars.v_empty.index(stage))
    return count + tiles


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
    if CONSTANTS.AHEAD:
        at = GROUP + round_ % 2 * (CONSTANTS.BLOCK_M // ROWS)
    return buffers_at(buffers.q, at)


@gluon.jit
def await_queries(q_tiles, queries, CONSTANTS: gl.constexpr):
    """Until they lie where products read them: they were copied there, or are put there."""
    if CONSTANTS.AHEAD:
        async_copy.wait_group(0)
        fence_async_shared()
        thread_barrier()  # each warp's product reads what all have copied
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
    await_queries(q_tiles, queries, CONSTANTS)

    acc = zeros_of(CONSTANTS)
    row_max, row_sum = first_sums(scoring, item[1], gl.SliceLayout(1, scores))
    zeros = gl.zeros([ROWS, BLOCK_N], gl.float32, scores)
    row = item[2] * CONSTANTS.BLOCK_M + GROUP * ROWS + gl.arange(0, ROWS, gl.SliceLayout(1, scores))
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
