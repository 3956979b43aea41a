"""The computing warp groups' part: scores, softmax and products of the tiles that were copied, and what is stored."""

# pyright: reportArgumentType=false, reportAssignmentType=false, reportOperatorIssue=false, reportIndexIssue=false
# pyright: reportCallIssue=false, reportAttributeAccessIssue=false, reportOptionalMemberAccess=false
# pyright: reportGeneralTypeIssues=false
# Gluon's functions are typed as what they are in Python, not as what they are compiled to.

from __future__ import annotations

from triton.experimental import gluon
from triton.experimental.gluon import language as gl
from triton.experimental.gluon.language.nvidia.hopper import (
    fence_async_shared,
    mbarrier,
    warpgroup_mma,
    warpgroup_mma_wait,
)

from ....launching.primitives import base, first_bits, wide
from ....launching.scopes import enter_scope, exit_scope
from ...softmax import after_sink, online_softmax, tangent
from .items import ROWS, item_of, queries_in, rounds, run_of, tiles_of


@gluon.jit
def kept(i, n0, n, tiles, visible, bits_index, CONSTANTS: gl.constexpr):
    """bool [ROWS, BLOCK_N]: which keys n0 + n the queries i see.

    By the band, or by the bits of a partial tile of the map: bits_index is the tile's among them, -1 where it has none.
    """
    BLOCK_N: gl.constexpr = CONSTANTS.BLOCK_N
    kv_len, q_start, band = tiles.kv_len, tiles.q_start, visible.band
    bits = bits_of(visible.mask, CONSTANTS)
    if bits is None:
        # a row's first key and its last, counted in the tile: two comparisons a score
        low, high = i * 0, i * 0 + (kv_len - 1 - n0)
        if band.left is not None:
            low = q_start + i - n0 - band.left
        if band.right is not None:
            high = gl.minimum(high, q_start + i - n0 + band.right)
        return (n[None, :] >= low[:, None]) & (n[None, :] <= high[:, None])
    else:  # noqa: RET505 - the other way must not be compiled
        bits_ptr = bits + wide(bits_index) * (gl.cdiv(BLOCK_N, 64) * 2 * ROWS) + i % (2 * ROWS)
        partial = bits_index + i * 0 >= 0
        first = gl.load(bits_ptr, mask=partial, other=-1) & first_bits(kv_len - n0)
        n = n[None, :]
        half = gl.where(n % 64 < 32, first.to(gl.int32)[:, None], (first >> 32).to(gl.int32)[:, None])
        if BLOCK_N > 64:
            second = gl.load(bits_ptr + 2 * ROWS, mask=partial, other=-1) & first_bits(kv_len - n0 - 64)
            other = gl.where(n % 64 < 32, second.to(gl.int32)[:, None], (second >> 32).to(gl.int32)[:, None])
            half = gl.where(n < 64, half, other)
        return ((half >> n % 32) & 1) != 0


@gluon.jit
def rows_of(view, item, GROUP: gl.constexpr, HEAD_DIM: gl.constexpr, LAYOUT: gl.constexpr):
    """(pointers, which are real) [ROWS, HEAD_DIM]: the rows of one warp group."""
    first, count = queries_in(view, item)
    i = item[2] * (2 * ROWS) + GROUP * ROWS + gl.arange(0, ROWS, gl.SliceLayout(1, LAYOUT))
    d = gl.arange(0, HEAD_DIM, gl.SliceLayout(0, LAYOUT))
    rows = base(view, item[0], item[1]) + (first + i).to(gl.int64)[:, None] * view.strides[2]
    rows += d.to(gl.int64)[None, :] * view.strides[3]
    return rows, (i < count)[:, None] & (d >= 0)[None, :]


@gluon.jit
def queries_of(q, item, GROUP: gl.constexpr, HEAD_DIM: gl.constexpr):
    """[ROWS, HEAD_DIM], 0 where there is no query."""
    memory: gl.constexpr = gl.BlockedLayout([1, 8], [256 // HEAD_DIM, HEAD_DIM // 8], [4, 1], [1, 0])
    rows, real = rows_of(q, item, GROUP, HEAD_DIM, memory)
    return gl.load(rows, mask=real, other=0.0)


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
    q_tile, sums, operand, count, tiles, row, n, buffers, bars, visible, scoring, CONSTANTS: gl.constexpr
):  # fmt: skip
    """The tiles after a row's first, whose weights are the operand. sums: (acc, running maximum, sum).

    Returns (sums, operand, count) after them. Each iteration begins a tile's scores, then the product of the tile
    before, which runs under the exponentials.
    """
    HEAD_DIM: gl.constexpr = CONSTANTS.HEAD_DIM
    BLOCK_N: gl.constexpr = CONSTANTS.BLOCK_N
    STAGES: gl.constexpr = CONSTANTS.STAGES
    scores: gl.constexpr = gl.NVMMADistributedLayout([3, 0], [4, 1], [16, BLOCK_N, 16])
    result: gl.constexpr = gl.NVMMADistributedLayout([3, 0], [4, 1], [16, HEAD_DIM, 16])
    weights: gl.constexpr = gl.DotOperandLayout(0, result, 2)
    acc, row_max, row_sum = sums
    zeros = gl.zeros([ROWS, BLOCK_N], gl.float32, scores)
    for run in range(tiles.runs[0], tiles.runs[1]):
        begin, end, full_begin, full_end, bits_index = run_of(run, tiles, visible.mask, CONSTANTS)
        from_tile = gl.where(run == tiles.runs[0], begin + 1, begin)
        for tile in range(from_tile, end):
            stage, phase = count % STAGES, count // STAGES & 1
            before = count - 1
            v_stage, v_phase = before % STAGES, before // STAGES & 1
            mbarrier.wait(bars.k_full.index(stage), phase)
            k_tile = buffers.k.index(stage).permute((1, 0))
            score = warpgroup_mma(q_tile, k_tile, zeros, use_acc=False, is_async=True)
            mbarrier.wait(bars.v_full.index(v_stage), v_phase)
            summed = warpgroup_mma(operand, buffers.v.index(v_stage), acc, is_async=True)
            score = warpgroup_mma_wait(1, deps=(score,))
            mbarrier.arrive(bars.k_empty.index(stage))
            if scoring.angle is not None:
                score = tangent(score * scoring.angle)
            if (tile < full_begin) | (tile >= full_end):
                own = gl.where(bits_index >= 0, bits_index + tile - begin, -1)
                keep = kept(row, tile * BLOCK_N, n, tiles, visible, own, CONSTANTS)
                score = gl.where(keep, score, float("-inf"))
            weight, rescale, row_max, row_sum = online_softmax(score, row_max, row_sum, scoring.scale)
            acc = warpgroup_mma_wait(0, deps=(summed,))
            mbarrier.arrive(bars.v_empty.index(v_stage))
            acc *= gl.convert_layout(rescale, gl.SliceLayout(1, result))[:, None]
            operand = gl.convert_layout(weight.to(operand.dtype), weights)
            count += 1
    return (acc, row_max, row_sum), operand, count


@gluon.jit
def shares(sums, LAYOUT: gl.constexpr):
    """(acc / sum, 0 for rows that saw nothing; natural logarithm of the sum of exponentials, -inf for them)."""
    acc, row_max, row_sum = sums
    saw_nothing = row_sum == 0
    divisor = gl.where(saw_nothing, 1.0, row_sum)
    ln2 = 0.6931471805599453
    # `softmax.log_sum_exp`, written out: calling it changes the machine code
    logarithm = gl.where(saw_nothing, float("-inf"), (row_max + gl.log2(divisor)) * ln2)
    return acc / gl.convert_layout(divisor, gl.SliceLayout(1, LAYOUT))[:, None], logarithm


@gluon.jit
def store_rows(out, tile, item, GROUP: gl.constexpr, HEAD_DIM: gl.constexpr):
    """Stores the rows of one warp group from shared memory, where they lie so that whole rows are stored at once."""
    memory: gl.constexpr = gl.BlockedLayout([1, 8], [256 // HEAD_DIM, HEAD_DIM // 8], [4, 1], [1, 0])
    rows, real = rows_of(out, item, GROUP, HEAD_DIM, memory)
    gl.store(rows, tile.load(memory), mask=real)


@gluon.jit
def store_lse(lse, value, item, row, q):
    if lse is not None:
        first, count = queries_in(q, item)
        pointers = base(lse, item[0], item[1]) + (first + row).to(gl.int64) * lse.strides[2]
        gl.store(pointers, value, mask=row < count)


@gluon.jit
def attend_rows(
    GROUP: gl.constexpr, queries, item, following, count, tensors, lse, buffers, bars, visible, scoring,
    CONSTANTS: gl.constexpr,
):  # fmt: skip
    """ROWS rows of one item, whose queries are given; returns those of the following one.

    count: the tiles that this program has read; returned with this item's.
    """
    HEAD_DIM: gl.constexpr = CONSTANTS.HEAD_DIM
    BLOCK_N: gl.constexpr = CONSTANTS.BLOCK_N
    STAGES: gl.constexpr = CONSTANTS.STAGES
    scores: gl.constexpr = gl.NVMMADistributedLayout([3, 0], [4, 1], [16, BLOCK_N, 16])
    result: gl.constexpr = gl.NVMMADistributedLayout([3, 0], [4, 1], [16, HEAD_DIM, 16])
    weights: gl.constexpr = gl.DotOperandLayout(0, result, 2)
    q, out = tensors
    tiles = tiles_of(item, q, visible, CONSTANTS)
    dtype: gl.constexpr = q.ptr.dtype.element_ty
    q_tile = buffers.q.index(GROUP)
    q_tile.store(queries)
    fence_async_shared()

    acc = gl.zeros([ROWS, HEAD_DIM], gl.float32, result)
    row_max, row_sum = first_sums(scoring, item[1], gl.SliceLayout(1, scores))
    zeros = gl.zeros([ROWS, BLOCK_N], gl.float32, scores)
    row = item[2] * (2 * ROWS) + GROUP * ROWS + gl.arange(0, ROWS, gl.SliceLayout(1, scores))
    n = gl.arange(0, BLOCK_N, gl.SliceLayout(0, scores))
    if tiles.runs[1] > tiles.runs[0]:
        begin, end, full_begin, full_end, bits_index = run_of(tiles.runs[0], tiles, visible.mask, CONSTANTS)
        if end > begin:
            stage = count % STAGES
            mbarrier.wait(bars.k_full.index(stage), count // STAGES & 1)
            k_tile = buffers.k.index(stage).permute((1, 0))
            score = warpgroup_mma(q_tile, k_tile, zeros, use_acc=False, is_async=True)
            score = warpgroup_mma_wait(0, deps=(score,))
            mbarrier.arrive(bars.k_empty.index(stage))
            if scoring.angle is not None:
                score = tangent(score * scoring.angle)
            if (begin < full_begin) | (begin >= full_end):
                keep = kept(row, begin * BLOCK_N, n, tiles, visible, bits_index, CONSTANTS)
                score = gl.where(keep, score, float("-inf"))
            weight, _, row_max, row_sum = online_softmax(score, row_max, row_sum, scoring.scale)
            operand = gl.convert_layout(weight.to(dtype), weights)
            sums, operand, count = further_tiles(
                q_tile, (acc, row_max, row_sum), operand, count + 1, tiles, row, n, buffers, bars, visible, scoring,
                CONSTANTS,
            )  # fmt: skip
            acc, row_max, row_sum = sums
            before = count - 1
            mbarrier.wait(bars.v_full.index(before % STAGES), before // STAGES & 1)
            summed = warpgroup_mma(operand, buffers.v.index(before % STAGES), acc, is_async=True)
            acc = warpgroup_mma_wait(0, deps=(summed,))
            mbarrier.arrive(bars.v_empty.index(before % STAGES))

    if HEAD_DIM <= 128:  # registers are left for them while results are made ready
        queries = queries_of(q, following, GROUP, HEAD_DIM)
    share, logarithm = shares((acc, row_max, row_sum), result)
    q_tile.store(share.to(dtype))
    if HEAD_DIM > 128:
        queries = queries_of(q, following, GROUP, HEAD_DIM)
    store_rows(out, q_tile, item, GROUP, HEAD_DIM)
    store_lse(lse, logarithm, item, row, q)
    return count, queries


@gluon.jit
def attend_one_by_one(
    GROUP: gl.constexpr, tensors, lse, buffers, bars, visible, scoring, interleave, CONSTANTS: gl.constexpr
):  # fmt: skip
    """One item after the other."""
    HEAD_DIM: gl.constexpr = CONSTANTS.HEAD_DIM
    q = tensors[0]
    count = 0
    item = item_of(0, q, visible.lengths, interleave)
    queries = queries_of(q, item, GROUP, HEAD_DIM)
    last_round = rounds(q, visible.lengths) - 1
    for round_ in range(last_round + 1):
        enter_scope("item")
        following = item_of(gl.minimum(round_ + 1, last_round), q, visible.lengths, interleave)
        count, queries = attend_rows(
            GROUP, queries, item, following, count, tensors, lse, buffers, bars, visible, scoring, CONSTANTS
        )  # fmt: skip
        item = following
        exit_scope("item")


@gluon.jit
def attend_overlapped(
    GROUP: gl.constexpr, tensors, lse, buffers, bars, visible, scoring, interleave, CONSTANTS: gl.constexpr
):  # fmt: skip
    """Items overlap: beside an item's first scores runs the last product of the one before.

    Queries have two buffers, which the copying warp fills, and results one of their own. The last round has no tiles.
    """
    HEAD_DIM: gl.constexpr = CONSTANTS.HEAD_DIM
    BLOCK_N: gl.constexpr = CONSTANTS.BLOCK_N
    STAGES: gl.constexpr = CONSTANTS.STAGES
    scores: gl.constexpr = gl.NVMMADistributedLayout([3, 0], [4, 1], [16, BLOCK_N, 16])
    result: gl.constexpr = gl.NVMMADistributedLayout([3, 0], [4, 1], [16, HEAD_DIM, 16])
    weights: gl.constexpr = gl.DotOperandLayout(0, result, 2)
    q, out = tensors
    dtype: gl.constexpr = q.ptr.dtype.element_ty
    o_tile = buffers.out.index(GROUP)
    nothing = gl.zeros([ROWS, HEAD_DIM], gl.float32, result)
    zeros = gl.zeros([ROWS, BLOCK_N], gl.float32, scores)
    n = gl.arange(0, BLOCK_N, gl.SliceLayout(0, scores))
    i = GROUP * ROWS + gl.arange(0, ROWS, gl.SliceLayout(1, scores))

    count = 0
    item = item_of(0, q, visible.lengths, interleave)
    no_max, no_sum = first_sums(scoring, item[1], gl.SliceLayout(1, scores))
    sums, operand = (nothing, no_max, no_sum), gl.convert_layout(zeros.to(dtype), weights)
    # `previous = item` would make one variable of the two
    previous, unfinished = item_of(0, q, visible.lengths, interleave), gl.to_tensor(False)
    last_round = rounds(q, visible.lengths) - 1
    for round_ in range(last_round + 2):
        enter_scope("item")
        tiles = tiles_of(item, q, visible, CONSTANTS)
        begin, end, full_begin, full_end, bits_index = 0, 0, 0, 0, -1
        if tiles.runs[1] > tiles.runs[0]:
            begin, end, full_begin, full_end, bits_index = run_of(tiles.runs[0], tiles, visible.mask, CONSTANTS)
        some = (end > begin) & (round_ <= last_round)
        stage, before = count % STAGES, gl.maximum(count - 1, 0)
        q_tile = buffers.q.index(round_ % 2 * 2 + GROUP)
        mbarrier.wait(bars.q_full.index(round_ % 2), round_ // 2 & 1, pred=round_ <= last_round)
        mbarrier.wait(bars.k_full.index(stage), count // STAGES & 1, pred=some)
        k_tile = buffers.k.index(stage).permute((1, 0))
        score = warpgroup_mma(q_tile, k_tile, zeros, use_acc=False, is_async=True)
        mbarrier.wait(bars.v_full.index(before % STAGES), before // STAGES & 1, pred=unfinished)
        acc, row_max, row_sum = sums
        # an item without tiles multiplies what the buffers hold: its scores are masked, its result is not taken
        summed = warpgroup_mma(operand, buffers.v.index(before % STAGES), acc, is_async=True)
        score = warpgroup_mma_wait(1, deps=(score,))
        mbarrier.arrive(bars.k_empty.index(stage), pred=some)
        if scoring.angle is not None:
            score = tangent(score * scoring.angle)
        if (begin < full_begin) | (begin >= full_end) | (end <= begin) | (round_ > last_round):
            row = item[2] * (2 * ROWS) + i
            keep = kept(row, begin * BLOCK_N, n, tiles, visible, bits_index, CONSTANTS)
            score = gl.where(keep & some, score, float("-inf"))
        own_max, own_sum = no_max, no_sum
        if scoring.sinks is not None:
            own_max, own_sum = first_sums(scoring, item[1], gl.SliceLayout(1, scores))
        weight, _, new_max, new_sum = online_softmax(score, own_max, own_sum, scoring.scale)
        acc = warpgroup_mma_wait(0, deps=(summed,))
        mbarrier.arrive(bars.v_empty.index(before % STAGES), pred=unfinished)
        if round_ > 0:
            share, logarithm = shares((acc, row_max, row_sum), result)
            o_tile.store(gl.where(unfinished, share, nothing).to(dtype))
            store_rows(out, o_tile, previous, GROUP, HEAD_DIM)
            store_lse(lse, logarithm, previous, previous[2] * (2 * ROWS) + i, q)
        sums, operand = (nothing, new_max, new_sum), gl.convert_layout(weight.to(dtype), weights)
        if some:
            row = item[2] * (2 * ROWS) + i
            sums, operand, count = further_tiles(
                q_tile, sums, operand, count + 1, tiles, row, n, buffers, bars, visible, scoring, CONSTANTS
            )  # fmt: skip
        mbarrier.arrive(bars.q_empty.index(round_ % 2), pred=round_ <= last_round)
        previous, unfinished = item, some
        item = item_of(gl.minimum(round_ + 1, last_round), q, visible.lengths, interleave)
        exit_scope("item")


@gluon.jit
def attend(
    GROUP: gl.constexpr, tensors, lse, buffers, bars, visible, scoring, interleave, CONSTANTS: gl.constexpr
):  # fmt: skip
    """A warp group's part: ROWS query rows of each item, from their scores to what is stored."""
    if CONSTANTS.OVERLAP_ITEMS:
        attend_overlapped(GROUP, tensors, lse, buffers, bars, visible, scoring, interleave, CONSTANTS)
    else:
        attend_one_by_one(GROUP, tensors, lse, buffers, bars, visible, scoring, interleave, CONSTANTS)
