"""The multiplying warp groups' part: steps of a tile summed on tensor cores, and what is stored of it."""

# pyright: reportArgumentType=false, reportAssignmentType=false, reportOperatorIssue=false, reportIndexIssue=false
# pyright: reportCallIssue=false, reportAttributeAccessIssue=false, reportOptionalMemberAccess=false
# Gluon's functions are typed as what they are in Python, not as what they are compiled to.

from __future__ import annotations

from triton.experimental import gluon
from triton.experimental.gluon import language as gl
from triton.experimental.gluon.language.nvidia.ampere import mma_v2
from triton.experimental.gluon.language.nvidia.hopper import mbarrier, warpgroup_mma, warpgroup_mma_wait

from .share import collect, contribute
from .unpack import (
    BFLOAT16_MAGIC,
    FLOAT16_MAGIC,
    SUMMED_ROWS,
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
def zeros_of(
    buffers, slot, step, DTYPE: gl.constexpr, BLOCK_K: gl.constexpr, GROUP: gl.constexpr, SYMMETRIC: gl.constexpr
):
    """A step's zero points plus the magic number, [64, BLOCK_K / GROUP], in DTYPE."""
    magic: gl.constexpr = BFLOAT16_MAGIC if gl.bfloat16 == DTYPE else FLOAT16_MAGIC
    if SYMMETRIC:
        layout: gl.constexpr = metadata_layout(BLOCK_K // GROUP, GROUP // 32)
        return gl.full([TILE_ROWS, BLOCK_K // GROUP], magic + 8.0, DTYPE, layout)
    else:  # noqa: RET505 - the other way must not be compiled
        return (metadata_of(buffers, slot, step, DTYPE, BLOCK_K, GROUP) + magic).to(DTYPE)


@gluon.jit
def of_chunk(numbers, c: gl.constexpr, CHUNK: gl.constexpr, GROUP: gl.constexpr):
    """A step's metadata, [64, groups], for the codes of its c-th chunk: [64, CHUNK / 8, 8]."""
    PER_CHUNK: gl.constexpr = CHUNK // GROUP if CHUNK > GROUP else 1
    COUNT: gl.constexpr = numbers.shape[1] // PER_CHUNK
    mine = parts(numbers, COUNT)[c * CHUNK // (GROUP * PER_CHUNK)]
    BLOCKS: gl.constexpr = CHUNK // PER_CHUNK // 32
    mine = gl.convert_layout(mine, metadata_layout(PER_CHUNK, BLOCKS), assert_trivial=True)
    return spread(mine, PER_CHUNK, BLOCKS)


@gluon.jit
def add_scaled_codes(
    acc, activations, packed, zero, scale, BLOCK_M: gl.constexpr, BLOCK_K: gl.constexpr, GROUP: gl.constexpr
):
    """acc + a step's product [64, BLOCK_M], of codes that are scaled and rounded to the activations' dtype."""
    CHUNK: gl.constexpr = 64
    codes = parts(packed, BLOCK_K // CHUNK)
    for c in gl.static_range(BLOCK_K // CHUNK):  # pyright: ignore
        operand = unpack(codes[c], of_chunk(zero, c, CHUNK, GROUP), of_chunk(scale, c, CHUNK, GROUP), BLOCK_M)
        columns = activations.slice(c * CHUNK, CHUNK, 1).permute((1, 0))
        acc = warpgroup_mma(operand, columns, acc, is_async=True)
    return warpgroup_mma_wait(0, deps=(acc,))


@gluon.jit
def add_scaled_sums(
    acc, activations, packed, zero, scale, BLOCK_M: gl.constexpr, BLOCK_K: gl.constexpr, GROUP: gl.constexpr
):
    """acc + a step's product [64, BLOCK_M]: each group's sum of codes in float32, times its scale in float32."""
    CHUNK: gl.constexpr = GROUP if GROUP < 64 else 64
    COUNT: gl.constexpr = BLOCK_K // GROUP
    PARTS: gl.constexpr = GROUP // CHUNK
    layout: gl.constexpr = result_layout(BLOCK_M)
    codes = parts(packed, BLOCK_K // CHUNK)
    scales = parts(scale.to(gl.float32), COUNT)
    for g in gl.static_range(COUNT):  # pyright: ignore
        total = gl.zeros([TILE_ROWS, BLOCK_M], gl.float32, layout)
        for part in gl.static_range(PARTS):  # pyright: ignore
            operand = unpack(codes[g * PARTS + part], of_chunk(zero, g * PARTS + part, CHUNK, GROUP), None, BLOCK_M)
            columns = activations.slice(g * GROUP + part * CHUNK, CHUNK, 1).permute((1, 0))
            total = mma_v2(operand, columns.load(gl.DotOperandLayout(1, layout, 2)), total)
        mine = gl.convert_layout(gl.reshape(scales[g], [TILE_ROWS]), gl.SliceLayout(1, layout), assert_trivial=True)
        acc = gl.fma(total, gl.broadcast(mine[:, None], acc)[0], acc)
    return acc


@gluon.jit
def add_step(
    acc, i, step, buffers, bars, ROW_GROUP: gl.constexpr,
    BLOCK_M: gl.constexpr, BLOCK_K: gl.constexpr, GROUP: gl.constexpr, STAGES: gl.constexpr, ROW_GROUPS: gl.constexpr,
    SYMMETRIC: gl.constexpr,
):  # fmt: skip
    """acc + the product [64, BLOCK_M] of what the i-th step's stage holds."""
    activations, codes, scales, zeros = buffers
    full, empty = bars
    dtype: gl.constexpr = activations.dtype
    stage = i % STAGES
    slot = stage * ROW_GROUPS + ROW_GROUP
    mbarrier.wait(full.index(stage), i // STAGES & 1)
    packed = codes.index(slot).load(gl.SliceLayout(2, code_layout(BLOCK_K // 8)))
    scale = metadata_of(scales, slot, step, dtype, BLOCK_K, GROUP)
    zero = zeros_of(zeros, slot, step, dtype, BLOCK_K, GROUP, SYMMETRIC)
    if BLOCK_M <= SUMMED_ROWS:
        acc = add_scaled_sums(acc, activations.index(stage), packed, zero, scale, BLOCK_M, BLOCK_K, GROUP)
    else:
        acc = add_scaled_codes(acc, activations.index(stage), packed, zero, scale, BLOCK_M, BLOCK_K, GROUP)
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
def multiply(
    out, bias, shares, M, N, buffers, bars, steps, ROW_GROUP: gl.constexpr,
    STEPS: gl.constexpr, BLOCK_M: gl.constexpr, BLOCK_K: gl.constexpr, GROUP: gl.constexpr, STAGES: gl.constexpr,
    ROW_GROUPS: gl.constexpr, SYMMETRIC: gl.constexpr,
):  # fmt: skip
    """One of the ROW_GROUPS warp groups: its 64 rows of each tile that this program has steps of.

    steps: as `share.steps_of` gives them. The program with a tile's first step stores the tile, once it has added what
    the programs with the later steps contribute.
    """
    BLOCK_N: gl.constexpr = ROW_GROUPS * TILE_ROWS
    layout: gl.constexpr = result_layout(BLOCK_M)
    begin, end = steps
    i = ROW_GROUP * TILE_ROWS + gl.arange(0, TILE_ROWS, gl.SliceLayout(1, layout))
    for tile in range(begin // STEPS, gl.cdiv(end, STEPS)):
        acc = gl.zeros([TILE_ROWS, BLOCK_M], gl.float32, layout)
        first = gl.maximum(begin, tile * STEPS)
        last = gl.minimum(end, tile * STEPS + STEPS)
        for step in range(first, last):
            acc = add_step(
                acc, step - begin, step, buffers, bars, ROW_GROUP,
                BLOCK_M, BLOCK_K, GROUP, STAGES, ROW_GROUPS, SYMMETRIC,
            )  # fmt: skip
        if first == tile * STEPS:
            if last < tile * STEPS + STEPS:
                acc = collect(acc, shares, tile, N, ROW_GROUP, STEPS, BLOCK_M, ROW_GROUPS)
            store(out, bias, acc, tile * BLOCK_N + i, M, N, BLOCK_M)
        else:
            contribute(acc, shares, ROW_GROUP, BLOCK_M, ROW_GROUPS)
