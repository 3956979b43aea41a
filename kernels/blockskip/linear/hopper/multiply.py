"""The multiplying warp groups' part: steps of a tile summed on tensor cores, and what is stored of it."""

# pyright: reportArgumentType=false, reportAssignmentType=false, reportOperatorIssue=false, reportIndexIssue=false
# pyright: reportCallIssue=false, reportAttributeAccessIssue=false, reportOptionalMemberAccess=false
# Gluon's functions are typed as what they are in Python, not as what they are compiled to.

from __future__ import annotations

from triton.experimental import gluon
from triton.experimental.gluon import language as gl
from triton.experimental.gluon.language.nvidia.hopper import mbarrier, warpgroup_mma, warpgroup_mma_wait

from .unpack import (
    BFLOAT16_MAGIC,
    CHUNK,
    FLOAT16_MAGIC,
    code_layout,
    halves,
    metadata_layout,
    parts,
    result_layout,
    spread,
    unpack,
)

TILE_ROWS = gl.constexpr(64)
TILE_COLUMNS = gl.constexpr(256)


@gluon.jit
def metadata_of(buffers, slot, step, DTYPE: gl.constexpr, BLOCK_K: gl.constexpr, GROUP: gl.constexpr):
    """A step's numbers of a tile's metadata, [64, BLOCK_K / GROUP], in DTYPE."""
    GROUPS: gl.constexpr = TILE_COLUMNS // GROUP
    layout: gl.constexpr = metadata_layout(GROUPS, GROUP // 32)
    tile = buffers.index(slot)._reinterpret(gl.bfloat16, [TILE_ROWS, GROUPS], gl.NVMMASharedLayout(0, 16, 2))
    numbers = tile.load(layout)
    if BLOCK_K < TILE_COLUMNS:
        first, second = halves(numbers)
        numbers = gl.where(step % 2 == 0, first, second)
    return numbers if gl.bfloat16 == DTYPE else numbers.to(gl.float32).to(DTYPE)


@gluon.jit
def of_chunk(numbers, c: gl.constexpr, CHUNKS: gl.constexpr, GROUP: gl.constexpr):
    """A step's metadata, [64, groups], for the codes of its c-th chunk: [64, 8, 8]."""
    PER_CHUNK: gl.constexpr = 2 if GROUP == 32 else 1
    COUNT: gl.constexpr = numbers.shape[1] // PER_CHUNK
    mine = parts(numbers, COUNT)[c * COUNT // CHUNKS]
    layout: gl.constexpr = metadata_layout(PER_CHUNK, 2 // PER_CHUNK)
    return spread(gl.convert_layout(mine, layout, assert_trivial=True), PER_CHUNK, 2 // PER_CHUNK)


@gluon.jit
def add_step(
    acc, i, step, first, buffers, bars, ROW_GROUP: gl.constexpr,
    BLOCK_M: gl.constexpr, BLOCK_K: gl.constexpr, GROUP: gl.constexpr, STAGES: gl.constexpr, ROW_GROUPS: gl.constexpr,
    SYMMETRIC: gl.constexpr,
):  # fmt: skip
    """The i-th stage's product [64, BLOCK_M], added to acc where it is not the `first` of its sum."""
    CHUNKS: gl.constexpr = BLOCK_K // CHUNK
    activations, codes, scales, zeros = buffers
    full, empty = bars
    dtype: gl.constexpr = activations.dtype
    magic: gl.constexpr = BFLOAT16_MAGIC if dtype == gl.bfloat16 else FLOAT16_MAGIC
    stage = i % STAGES
    slot = stage * ROW_GROUPS + ROW_GROUP
    mbarrier.wait(full.index(stage), i // STAGES & 1)
    packed = parts(codes.index(slot).load(gl.SliceLayout(2, code_layout(BLOCK_K // 8))), CHUNKS)
    scale = metadata_of(scales, slot, step, dtype, BLOCK_K, GROUP)
    if SYMMETRIC:
        same: gl.constexpr = metadata_layout(BLOCK_K // GROUP, GROUP // 32)
        zero = gl.full([TILE_ROWS, BLOCK_K // GROUP], magic + 8.0, dtype, same)
    else:
        zero = (metadata_of(zeros, slot, step, dtype, BLOCK_K, GROUP) + magic).to(dtype)
    tile = activations.index(stage)
    for c in gl.static_range(CHUNKS):  # pyright: ignore
        operand = unpack(packed[c], of_chunk(zero, c, CHUNKS, GROUP), of_chunk(scale, c, CHUNKS, GROUP), BLOCK_M)
        columns = tile.slice(c * CHUNK, CHUNK, 1).permute((1, 0))
        acc = warpgroup_mma(operand, columns, acc, use_acc=(first == 0) | (c > 0), is_async=True)
    acc = warpgroup_mma_wait(0, deps=(acc,))
    mbarrier.arrive(empty.index(stage))
    return acc


@gluon.jit
def store(out, bias, acc, n, M, N, BLOCK_M: gl.constexpr):
    """acc [64, BLOCK_M], of the weight's rows n, with their bias to out [M, N]."""
    m = gl.program_id(0) * BLOCK_M + gl.arange(0, BLOCK_M, gl.SliceLayout(0, result_layout(BLOCK_M)))
    if bias is not None:
        acc += gl.load(bias + n, mask=n < N, other=0.0).to(gl.float32)[:, None]
    pointers = out + m.to(gl.int64)[None, :] * N + n[:, None]
    gl.store(pointers, acc.to(out.dtype.element_ty), mask=(n < N)[:, None] & (m < M)[None, :])


@gluon.jit
def multiply_shares(
    out, bias, shares, M, N, buffers, bars, begin, end, ROW_GROUP: gl.constexpr,
    STEPS: gl.constexpr, BLOCK_M: gl.constexpr, BLOCK_K: gl.constexpr, GROUP: gl.constexpr, STAGES: gl.constexpr,
    ROW_GROUPS: gl.constexpr, SYMMETRIC: gl.constexpr,
):  # fmt: skip
    """Steps begin..end-1, whichever tiles they are of: whole tiles to `out`; to `shares`, what is none at either end.

    shares: float32 [blocks of M, programs, 2, 64 * ROW_GROUPS, BLOCK_M], second what begins a tile; None
        where all tiles are whole.
    """
    BLOCK_N: gl.constexpr = ROW_GROUPS * TILE_ROWS
    layout: gl.constexpr = result_layout(BLOCK_M)
    i = ROW_GROUP * TILE_ROWS + gl.arange(0, TILE_ROWS, gl.SliceLayout(1, layout))
    j = gl.arange(0, BLOCK_M, gl.SliceLayout(0, layout))
    acc = gl.zeros([TILE_ROWS, BLOCK_M], gl.float32, layout)
    for step in range(begin, end):
        column = step % STEPS
        first = gl.where(column == 0, 1, 0)
        acc = add_step(
            acc, step - begin, step, first, buffers, bars, ROW_GROUP,
            BLOCK_M, BLOCK_K, GROUP, STAGES, ROW_GROUPS, SYMMETRIC,
        )  # fmt: skip
        if (column == STEPS - 1) | (step == end - 1):
            begins_here = step - column >= begin
            if begins_here & (column == STEPS - 1):
                store(out, bias, acc, step // STEPS * BLOCK_N + i, M, N, BLOCK_M)
            elif shares is not None:
                index = (gl.program_id(0) * gl.num_programs(1) + gl.program_id(1)) * 2 + gl.where(begins_here, 1, 0)
                gl.store(shares + index * (BLOCK_N * BLOCK_M) + i[:, None] * BLOCK_M + j[None, :], acc)


@gluon.jit
def multiply_tiles(
    out, bias, sums, M, N, buffers, bars, begin, end, K_GROUP: gl.constexpr,
    STEPS: gl.constexpr, BLOCK_M: gl.constexpr, BLOCK_K: gl.constexpr, GROUP: gl.constexpr, STAGES: gl.constexpr,
    K_GROUPS: gl.constexpr, SYMMETRIC: gl.constexpr,
):  # fmt: skip
    """Whole tiles: this group takes every K_GROUPS-th step, and the first group adds the others' sums to its own."""
    layout: gl.constexpr = result_layout(BLOCK_M)
    memory, written, read = sums
    i = gl.arange(0, TILE_ROWS, gl.SliceLayout(1, layout))
    acc = gl.zeros([TILE_ROWS, BLOCK_M], gl.float32, layout)
    for tile in range(begin // STEPS, end // STEPS):
        for column in range(K_GROUP, STEPS, K_GROUPS):
            step = tile * STEPS + column
            first = gl.where(column == K_GROUP, 1, 0)
            acc = add_step(
                acc, step - begin, step, first, buffers, bars, 0, BLOCK_M, BLOCK_K, GROUP, STAGES, 1, SYMMETRIC
            )
        count = tile - begin // STEPS
        if K_GROUP > 0:
            mbarrier.wait(read.index(0), count & 1 ^ 1)
            memory.index(K_GROUP - 1).store(acc)
            mbarrier.arrive(written.index(0))
        else:
            mbarrier.wait(written.index(0), count & 1)
            total = acc
            for group in gl.static_range(K_GROUPS - 1):  # pyright: ignore
                total += memory.index(group).load(layout)
            mbarrier.arrive(read.index(0))
            store(out, bias, total, tile * TILE_ROWS + i, M, N, BLOCK_M)
