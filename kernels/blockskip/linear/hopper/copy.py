"""The copying warp's part: which tiles and activations come into which stage, and when."""

# pyright: reportArgumentType=false, reportAssignmentType=false, reportOperatorIssue=false, reportIndexIssue=false
# pyright: reportCallIssue=false, reportAttributeAccessIssue=false, reportOptionalMemberAccess=false
# Gluon's functions are typed as what they are in Python, not as what they are compiled to.

from __future__ import annotations

from triton.experimental import gluon
from triton.experimental.gluon import language as gl
from triton.experimental.gluon.language.nvidia.hopper import mbarrier, tma
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait

from .constants import TILE_COLUMNS, TILE_ROWS

LINE_WORDS = gl.constexpr(32)
"""Of 128 bytes."""


@gluon.jit
def copy_weights(i, step, weight, buffers, full, CONSTANTS: gl.constexpr):
    """Begins the copies of a step's tiles into the i-th stage, whose barrier is told of the activations' bytes, too.

    Metadata comes for the tile's 256 columns, however few of them the step takes.
    """
    BLOCK_K: gl.constexpr = CONSTANTS.BLOCK_K
    GROUPS: gl.constexpr = TILE_COLUMNS // CONSTANTS.GROUP
    STEPS: gl.constexpr = CONSTANTS.STEPS
    ROW_GROUPS: gl.constexpr = CONSTANTS.ROW_GROUPS
    METADATA: gl.constexpr = GROUPS * 2 * (1 if CONSTANTS.SYMMETRIC else 2)
    SIZE: gl.constexpr = CONSTANTS.BLOCK_M * BLOCK_K * 2 + ROW_GROUPS * TILE_ROWS * (BLOCK_K // 2 + METADATA)
    PARTS: gl.constexpr = TILE_COLUMNS // BLOCK_K  # steps of a tile
    data, scale, zero = weight
    stage = i % CONSTANTS.STAGES
    bar = full.index(stage)
    mbarrier.expect(bar, SIZE)
    for group in gl.static_range(ROW_GROUPS):  # pyright: ignore
        tile = (step // STEPS * ROW_GROUPS + group) * (STEPS // PARTS) + step % STEPS // PARTS
        slot = stage * ROW_GROUPS + group
        at = [tile * TILE_ROWS, step % PARTS * (BLOCK_K // 8)]
        tma.async_copy_global_to_shared(data, at, bar, buffers.codes.index(slot))
        tma.async_copy_global_to_shared(scale, [tile * GROUPS, 0], bar, buffers.scales.index(slot))
        if not CONSTANTS.SYMMETRIC:
            tma.async_copy_global_to_shared(zero, [tile * GROUPS, 0], bar, buffers.zeros.index(slot))


@gluon.jit
def copy_activations(i, step, x, buffers, full, CONSTANTS: gl.constexpr):
    """Begins the copy of a step's activations into the i-th stage; rows beyond x's last read as zeros."""
    at = [gl.program_id(0) * CONSTANTS.BLOCK_M, step % CONSTANTS.STEPS * CONSTANTS.BLOCK_K]
    stage = i % CONSTANTS.STAGES
    tma.async_copy_global_to_shared(x, at, full.index(stage), buffers.activations.index(stage))


@gluon.jit
def prefetch(pointers):
    """Asks the L2 for the lines of 128 bytes at these pointers."""
    gl.inline_asm_elementwise(
        "prefetch.global.L2 [$1]; mov.u32 $0, 0;", "=r,l", [pointers], dtype=gl.int32, is_pure=False, pack=1
    )


@gluon.jit
def prefetch_codes(step, codes, N, CONSTANTS: gl.constexpr):
    """Asks the L2 for the codes of a step that takes whole tiles. What comes next need not wait, unlike for a copy."""
    ROW_GROUPS: gl.constexpr = CONSTANTS.ROW_GROUPS
    WORDS: gl.constexpr = TILE_ROWS * TILE_COLUMNS // 8
    line = gl.arange(0, WORDS // LINE_WORDS, gl.BlockedLayout([1], [32], [1], [0]))
    for group in gl.static_range(ROW_GROUPS):  # pyright: ignore
        tile = (step // CONSTANTS.STEPS * ROW_GROUPS + group) * CONSTANTS.STEPS + step % CONSTANTS.STEPS
        tile = gl.minimum(tile, gl.cdiv(N, TILE_ROWS) * CONSTANTS.STEPS - 1)  # the last block may lack a tile
        prefetch(codes + gl.cast(tile, gl.int64) * WORDS + line * LINE_WORDS)


@gluon.jit
def copy(x, weight, codes, N, buffers, bars, steps, CONSTANTS: gl.constexpr):
    """This program's steps, (begin, end). Weights are read before the kernel ahead has ended, activations are not."""
    STAGES: gl.constexpr = CONSTANTS.STAGES
    begin, end = steps
    early = gl.minimum(end - begin, CONSTANTS.EARLY)
    for i in range(early):
        copy_weights(i, begin + i, weight, buffers, bars.full, CONSTANTS)
    for step in range(begin + early, gl.minimum(end, begin + early + CONSTANTS.PREFETCHED)):
        prefetch_codes(step, codes, N, CONSTANTS)
    gdc_wait()
    gdc_launch_dependents()
    for i in range(early):
        copy_activations(i, begin + i, x, buffers, bars.full, CONSTANTS)
    for i in range(early, end - begin):
        mbarrier.wait(bars.empty.index(i % STAGES), (i // STAGES & 1) ^ 1)
        copy_weights(i, begin + i, weight, buffers, bars.full, CONSTANTS)
        copy_activations(i, begin + i, x, buffers, bars.full, CONSTANTS)
