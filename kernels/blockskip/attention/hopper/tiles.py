"""The tiles of some rows: which they are, and scores, softmax and products of each, once it has been copied."""

# pyright: reportArgumentType=false, reportAssignmentType=false, reportOperatorIssue=false, reportIndexIssue=false
# pyright: reportCallIssue=false, reportAttributeAccessIssue=false, reportOptionalMemberAccess=false
# pyright: reportGeneralTypeIssues=false
# Gluon's functions are typed as what they are in Python, not as what they are compiled to.

from __future__ import annotations

from typing import Any, NamedTuple

from triton.experimental import gluon
from triton.experimental.gluon import language as gl
from triton.experimental.gluon.language.nvidia.hopper import mbarrier, warpgroup_mma_wait

from ...launching.primitives import first_bits, wide
from ..softmax import online_softmax, tangent
from .buffers import ROWS
from .products import begin_scores, begin_sums, end_sums, times


class Visible(NamedTuple):
    """What decides which keys a query sees: the kernel's arguments of these names."""

    mask: Any
    lengths: Any
    band: Any


class Tiles(NamedTuple):
    """The keys and tiles of one item, or of one warp group's rows.

    q_len: the queries among which the item's are; limits: those of a band's tiles, see `band_of_rows`, or (first, end)
    of a tile map's runs.
    """

    kv_len: Any
    q_start: Any
    q_len: Any
    limits: Any


@gluon.jit
def runs_of(tiles, CONSTANTS: gl.constexpr):
    """(first, end) of the runs of an item: a tile map's, or a band's only one."""
    runs = (0, 1)
    if CONSTANTS.SKIP == "map":
        runs = tiles.limits
    return runs


@gluon.jit
def run_of(run, tiles, mask, CONSTANTS: gl.constexpr):
    """(end, edges) of a run of tiles: see `masked`."""
    BLOCK_N: gl.constexpr = CONSTANTS.BLOCK_N
    if CONSTANTS.SKIP == "bounds":
        begin, full_begin, full_end, end = tiles.limits
        bits_index = -1
    else:
        run_ptr = mask.runs + wide(run) * 4
        begin = gl.load(run_ptr)
        end = gl.minimum(gl.load(run_ptr + 1), gl.cdiv(tiles.kv_len, BLOCK_N))
        full = gl.load(run_ptr + 2) == 2
        full_begin = begin
        # a full run may end in a tile with keys that are not real: that one is masked, by kv_len alone
        full_end = gl.where(full, tiles.kv_len // BLOCK_N, begin)
        bits_index = gl.load(run_ptr + 3)  # -1 for a full run
    return end, (begin, full_begin, full_end, bits_index)


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
