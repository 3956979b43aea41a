"""The multiplying warp groups' part: steps of a tile summed on tensor cores, and what is stored of it."""

# pyright: reportArgumentType=false, reportAssignmentType=false, reportOperatorIssue=false, reportIndexIssue=false
# pyright: reportCallIssue=false, reportAttributeAccessIssue=false, reportOptionalMemberAccess=false
# Gluon's functions are typed as what they are in Python, not as what they are compiled to.

from __future__ import annotations

from triton.experimental import gluon
from triton.experimental.gluon import language as gl
from triton.experimental.gluon.language.nvidia.ampere import mma_v2
from triton.experimental.gluon.language.nvidia.hopper import (
    fence_async_shared,
    mbarrier,
    tma,
    warpgroup_mma,
    warpgroup_mma_wait,
)

from ...launching.gluon_names import thread_barrier
from ...launching.scopes import enter_scope, exit_scope
from .constants import TILE_COLUMNS, TILE_ROWS
from .plan import UNPACKED_AHEAD
from .share import collect, contribute, tiles_of
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

CHUNK = gl.constexpr(64)
"""Columns that are unpacked at a time, at most, where a step is not unpacked whole."""
AHEAD_ROWS = gl.constexpr(UNPACKED_AHEAD)


@gluon.jit
def metadata_of(buffer, slot, step, DTYPE: gl.constexpr, CONSTANTS: gl.constexpr):
    """A step's numbers of a tile's metadata, [64, groups], in DTYPE: one group where steps are shorter than that."""
    BLOCK_K: gl.constexpr = CONSTANTS.BLOCK_K
    GROUP: gl.constexpr = CONSTANTS.GROUP
    GROUPS: gl.constexpr = TILE_COLUMNS // GROUP
    tile = buffer.index(slot)._reinterpret(gl.bfloat16, [TILE_ROWS, GROUPS], gl.NVMMASharedLayout(0, 16, 2))
    numbers = tile.load(metadata_layout(GROUPS, GROUP // 32))
    column = step % (TILE_COLUMNS // BLOCK_K) * BLOCK_K  # in the tile
    if BLOCK_K < TILE_COLUMNS:
        first, second = halves(numbers)
        numbers = gl.where(column < TILE_COLUMNS // 2, first, second)
    if BLOCK_K < TILE_COLUMNS // 2 and GROUP < TILE_COLUMNS // 2:
        first, second = halves(numbers)
        numbers = gl.where(column % (TILE_COLUMNS // 2) == 0, first, second)
    return numbers if gl.bfloat16 == DTYPE else numbers.to(gl.float32).to(DTYPE)


@gluon.jit
def zeros_of(buffer, slot, step, DTYPE: gl.constexpr, CONSTANTS: gl.constexpr):
    """A step's zero points plus the magic number, [64, groups], in DTYPE."""
    magic: gl.constexpr = BFLOAT16_MAGIC if gl.bfloat16 == DTYPE else FLOAT16_MAGIC
    if CONSTANTS.SYMMETRIC:
        GROUP: gl.constexpr = CONSTANTS.GROUP
        BLOCK_K: gl.constexpr = CONSTANTS.BLOCK_K
        COUNT: gl.constexpr = BLOCK_K // GROUP if BLOCK_K > GROUP else 1
        return gl.full([TILE_ROWS, COUNT], magic + 8.0, DTYPE, metadata_layout(COUNT, GROUP // 32))
    else:  # noqa: RET505 - the other way must not be compiled
        return (metadata_of(buffer, slot, step, DTYPE, CONSTANTS) + magic).to(DTYPE)


@gluon.jit
def read_step(ROW_GROUP: gl.constexpr, i, step, buffers, CONSTANTS: gl.constexpr):
    """(codes, zero points plus the magic number, scales) of a warp group's tile in the i-th step's stage."""
    dtype: gl.constexpr = buffers.activations.dtype
    WORDS: gl.constexpr = CONSTANTS.BLOCK_K // 8
    slot = i % CONSTANTS.STAGES * CONSTANTS.ROW_GROUPS + ROW_GROUP
    codes = buffers.codes.index(slot).load(gl.SliceLayout(2, code_layout(WORDS)))
    scale = metadata_of(buffers.scales, slot, step, dtype, CONSTANTS)
    return codes, zeros_of(buffers.zeros, slot, step, dtype, CONSTANTS), scale


@gluon.jit
def of_columns(numbers, first: gl.constexpr, COUNT: gl.constexpr, GROUP: gl.constexpr):
    """A step's metadata, [64, groups], for the codes of COUNT columns from `first` on: [64, COUNT / 8, 8]."""
    GROUPS: gl.constexpr = COUNT // GROUP if COUNT > GROUP else 1
    mine = parts(numbers, numbers.shape[1] // GROUPS)[first // (GROUP * GROUPS)]
    BLOCKS: gl.constexpr = COUNT // GROUPS // 32
    return spread(gl.convert_layout(mine, metadata_layout(GROUPS, BLOCKS), assert_trivial=True), GROUPS, BLOCKS)


@gluon.jit
def scaled_codes(read, first: gl.constexpr, COUNT: gl.constexpr, CONSTANTS: gl.constexpr):
    """COUNT columns from `first` on of what `read_step` read, scaled and rounded: an operand of tensor cores."""
    BLOCK_K: gl.constexpr = CONSTANTS.BLOCK_K
    GROUP: gl.constexpr = CONSTANTS.GROUP
    codes, zero, scale = read
    mine = parts(codes, BLOCK_K // COUNT)[first // COUNT]
    zero = of_columns(zero, first, COUNT, GROUP)
    return unpack(mine, zero, of_columns(scale, first, COUNT, GROUP), CONSTANTS.BLOCK_M)


@gluon.jit
def add_scaled_codes(ROW_GROUP: gl.constexpr, acc, begin, first, last, buffers, bars, CONSTANTS: gl.constexpr):
    """acc + the product [64, BLOCK_M] of steps first..last-1, of codes that are scaled and rounded.

    Some columns of a step are unpacked while tensor cores multiply those before them.
    """
    BLOCK_K: gl.constexpr = CONSTANTS.BLOCK_K
    STAGES: gl.constexpr = CONSTANTS.STAGES
    for step in range(first, last):
        i = step - begin
        tile = buffers.activations.index(i % STAGES)
        mbarrier.wait(bars.full.index(i % STAGES), i // STAGES & 1)
        read = read_step(ROW_GROUP, i, step, buffers, CONSTANTS)
        for at in gl.static_range(0, BLOCK_K, CHUNK):  # pyright: ignore
            columns = tile.slice(at, CHUNK, 1).permute((1, 0))
            acc = warpgroup_mma(scaled_codes(read, at, CHUNK, CONSTANTS), columns, acc, is_async=True)
        acc = warpgroup_mma_wait(0, deps=(acc,))
        mbarrier.arrive(bars.empty.index(i % STAGES))
    return acc


@gluon.jit
def await_step(i, step, last, bars, CONSTANTS: gl.constexpr):
    """Waits for the i-th step's copies, unless `step` is `last` or behind it."""
    STAGES: gl.constexpr = CONSTANTS.STAGES
    mbarrier.wait(bars.full.index(i % STAGES), i // STAGES & 1, pred=step < last)


@gluon.jit
def add_operand(ROW_GROUP: gl.constexpr, acc, operand, begin, step, steps, buffers, bars, CONSTANTS: gl.constexpr):
    """(acc + operand x a step's activations [BLOCK_K, BLOCK_M], the next step's operand); steps: (first, last).

    The next step's codes are unpacked while tensor cores multiply. The wait for the step after that stands between this
    and the wait for the product, or ptxas would unpack behind the product. The stage of the step before is given back
    once this step's product has begun, so that nothing comes between two products.
    """
    STAGES: gl.constexpr = CONSTANTS.STAGES
    BLOCK_K: gl.constexpr = CONSTANTS.BLOCK_K
    first, last = steps
    i = step - begin
    acc = warpgroup_mma(operand, buffers.activations.index(i % STAGES).permute((1, 0)), acc, is_async=True)
    mbarrier.arrive(bars.empty.index((i + STAGES - 1) % STAGES), pred=step > first)
    read = read_step(ROW_GROUP, i + 1, step + 1, buffers, CONSTANTS)
    following = scaled_codes(read, 0, BLOCK_K, CONSTANTS)
    await_step(i + 2, step + 2, last, bars, CONSTANTS)
    return warpgroup_mma_wait(0, deps=(acc,)), following


@gluon.jit
def add_operands(ROW_GROUP: gl.constexpr, acc, begin, first, last, buffers, bars, CONSTANTS: gl.constexpr):
    """As `add_scaled_codes`, with every step unpacked while the one before it is multiplied.

    Two steps at a time, so that what is unpacked has registers other than those that tensor cores read: as one value of
    a loop both would have the same, and unpacking would wait for the product.
    """
    STAGES: gl.constexpr = CONSTANTS.STAGES
    steps = first, last
    i = first - begin
    await_step(i, first, last, bars, CONSTANTS)
    await_step(i + 1, first + 1, last, bars, CONSTANTS)
    operand = scaled_codes(read_step(ROW_GROUP, i, first, buffers, CONSTANTS), 0, CONSTANTS.BLOCK_K, CONSTANTS)
    for step in range(first, last - 1, 2):
        acc, following = add_operand(ROW_GROUP, acc, operand, begin, step, steps, buffers, bars, CONSTANTS)
        acc, operand = add_operand(ROW_GROUP, acc, following, begin, step + 1, steps, buffers, bars, CONSTANTS)
    if (last - first) % 2 == 1:
        acc, _ = add_operand(ROW_GROUP, acc, operand, begin, last - 1, steps, buffers, bars, CONSTANTS)
    mbarrier.arrive(bars.empty.index((last - 1 - begin) % STAGES))
    return acc


@gluon.jit
def add_scaled_sums(ROW_GROUP: gl.constexpr, acc, begin, first, last, buffers, bars, CONSTANTS: gl.constexpr):
    """acc + the product [64, BLOCK_M] of steps first..last-1: each group's sum of codes times its scale, in float32."""
    STAGES: gl.constexpr = CONSTANTS.STAGES
    GROUP: gl.constexpr = CONSTANTS.GROUP
    BLOCK_M: gl.constexpr = CONSTANTS.BLOCK_M
    BLOCK_K: gl.constexpr = CONSTANTS.BLOCK_K
    GROUPS: gl.constexpr = BLOCK_K // GROUP
    COLUMNS: gl.constexpr = GROUP if GROUP < CHUNK else CHUNK  # that are unpacked at a time
    layout: gl.constexpr = result_layout(BLOCK_M)
    for step in range(first, last):
        i = step - begin
        tile = buffers.activations.index(i % STAGES)
        mbarrier.wait(bars.full.index(i % STAGES), i // STAGES & 1)
        codes, zero, scale = read_step(ROW_GROUP, i, step, buffers, CONSTANTS)
        codes = parts(codes, BLOCK_K // COLUMNS)
        scales = parts(scale.to(gl.float32), GROUPS)
        for group in gl.static_range(GROUPS):  # pyright: ignore
            total = gl.zeros([TILE_ROWS, BLOCK_M], gl.float32, layout)
            for at in gl.static_range(group * GROUP, (group + 1) * GROUP, COLUMNS):  # pyright: ignore
                zeros = of_columns(zero, at, COLUMNS, GROUP)
                operand = unpack(codes[at // COLUMNS], zeros, None, BLOCK_M)
                columns = tile.slice(at, COLUMNS, 1).permute((1, 0))
                total = mma_v2(operand, columns.load(gl.DotOperandLayout(1, layout, 2)), total)
            mine = gl.reshape(scales[group], [TILE_ROWS])
            mine = gl.convert_layout(mine, gl.SliceLayout(1, layout), assert_trivial=True)
            acc = gl.fma(total, gl.broadcast(mine[:, None], acc)[0], acc)
        mbarrier.arrive(bars.empty.index(i % STAGES))
    return acc


@gluon.jit
def store_few(out, acc, m_block, n, M, N, BLOCK_M: gl.constexpr):
    """acc [64, BLOCK_M], of a block of activations' rows and the weight's rows n, from registers to out [M, N]."""
    m = m_block * BLOCK_M + gl.arange(0, BLOCK_M, gl.SliceLayout(0, result_layout(BLOCK_M)))
    pointers = out + m.to(gl.int64)[None, :] * N + n[:, None]
    gl.store(pointers, acc.to(out.dtype.element_ty), mask=(n < N)[:, None] & (m < M)[None, :])


@gluon.jit
def store_by_copy(ROW_GROUP: gl.constexpr, out, acc, m, n, buffers):
    """acc [64, BLOCK_M] to the rows m.. and columns n.. that are in out [M, N], by the copy engine.

    It reads the buffer while the next tile is multiplied; the tile after that waits until it has.
    """
    buffer = buffers.results.index(ROW_GROUP)
    tma.store_wait(0)
    thread_barrier()
    buffer.permute((1, 0)).store(acc.to(out.dtype))
    fence_async_shared()
    thread_barrier()
    tma.async_copy_shared_to_global(out, [m, n], buffer)


@gluon.jit
def multiply(ROW_GROUP: gl.constexpr, out, bias, shares, M, N, buffers, bars, steps, CONSTANTS: gl.constexpr):
    """One of the warp groups: its 64 rows of each tile that this program has steps of.

    steps: as `share.steps_of` gives them. The program with a tile's first step stores the tile, once it has added what
    the programs with the later steps contribute.
    """
    STEPS: gl.constexpr = CONSTANTS.STEPS
    BLOCK_M: gl.constexpr = CONSTANTS.BLOCK_M
    BLOCK_N: gl.constexpr = CONSTANTS.ROW_GROUPS * TILE_ROWS
    layout: gl.constexpr = result_layout(BLOCK_M)
    begin, end = steps
    i = ROW_GROUP * TILE_ROWS + gl.arange(0, TILE_ROWS, gl.SliceLayout(1, layout))
    for tile in range(begin // STEPS, gl.cdiv(end, STEPS)):
        enter_scope("tile")
        acc = gl.zeros([TILE_ROWS, BLOCK_M], gl.float32, layout)
        first = gl.maximum(begin, tile * STEPS)
        last = gl.minimum(end, tile * STEPS + STEPS)
        if BLOCK_M <= SUMMED_ROWS:
            acc = add_scaled_sums(ROW_GROUP, acc, begin, first, last, buffers, bars, CONSTANTS)
        elif BLOCK_M < AHEAD_ROWS:
            acc = add_scaled_codes(ROW_GROUP, acc, begin, first, last, buffers, bars, CONSTANTS)
        else:
            acc = add_operands(ROW_GROUP, acc, begin, first, last, buffers, bars, CONSTANTS)
        if first == tile * STEPS:
            if last < tile * STEPS + STEPS:
                acc = collect(ROW_GROUP, acc, shares, tile, M, N, CONSTANTS)
            tiles = tiles_of(N, CONSTANTS)  # divided even where there is one block: what is known early takes registers
            m_block, n_tile = tile // tiles, tile % tiles
            n = n_tile * BLOCK_N + i
            if bias is not None:
                acc += gl.load(bias + n, mask=n < N, other=0.0).to(gl.float32)[:, None]
            if BLOCK_M <= SUMMED_ROWS:
                store_few(out, acc, m_block, n, M, N, BLOCK_M)
            else:
                store_by_copy(ROW_GROUP, out, acc, m_block * BLOCK_M, n_tile * BLOCK_N + ROW_GROUP * TILE_ROWS, buffers)
        else:
            contribute(ROW_GROUP, acc, shares, CONSTANTS)
        exit_scope("tile")
    if BLOCK_M > SUMMED_ROWS:
        tma.store_wait(0)
