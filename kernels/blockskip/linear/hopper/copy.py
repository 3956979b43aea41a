"""The copying warp's part: which tiles and activations come into which stage, and when."""

# pyright: reportArgumentType=false, reportAssignmentType=false, reportOperatorIssue=false, reportIndexIssue=false
# pyright: reportCallIssue=false, reportAttributeAccessIssue=false, reportOptionalMemberAccess=false
# Gluon's functions are typed as what they are in Python, not as what they are compiled to.

from __future__ import annotations

from triton.experimental import gluon
from triton.experimental.gluon import language as gl
from triton.experimental.gluon.language.nvidia.hopper import mbarrier, tma
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait

TILE_ROWS = gl.constexpr(64)
TILE_COLUMNS = gl.constexpr(256)
EARLY = gl.constexpr(2)
"""Steps whose weights are copied before the activations may be read. Copies are done in their order: with more, the
first activations come late (0.6 to 0.9 us a step on an NVIDIA H200)."""


@gluon.jit
def copy_weights(
    i, step, weight, buffers, full,
    STEPS: gl.constexpr, BLOCK_M: gl.constexpr, BLOCK_K: gl.constexpr, GROUP: gl.constexpr, STAGES: gl.constexpr,
    ROW_GROUPS: gl.constexpr,
):  # fmt: skip
    """Begins the copies of a step's tiles into the i-th stage, whose barrier is told of the activations' bytes, too.

    Metadata comes for the tile's 256 columns, however few of them the step takes.
    """
    data, scale, zero = weight
    _, codes, scales, zeros = buffers
    metadata: gl.constexpr = TILE_COLUMNS // GROUP * 2 * (1 if zero is None else 2)
    size: gl.constexpr = BLOCK_M * BLOCK_K * 2 + ROW_GROUPS * TILE_ROWS * (BLOCK_K // 2 + metadata)
    shares: gl.constexpr = TILE_COLUMNS // BLOCK_K
    columns: gl.constexpr = STEPS // shares
    stage = i % STAGES
    bar = full.index(stage)
    mbarrier.expect(bar, size)
    for group in gl.static_range(ROW_GROUPS):  # pyright: ignore
        tile = (step // STEPS * ROW_GROUPS + group) * columns + step % STEPS // shares
        slot = stage * ROW_GROUPS + group
        at = [tile * TILE_ROWS, step % shares * (BLOCK_K // 8)]
        tma.async_copy_global_to_shared(data, at, bar, codes.index(slot))
        tma.async_copy_global_to_shared(scale, [tile * (TILE_COLUMNS // GROUP), 0], bar, scales.index(slot))
        if zero is not None:
            tma.async_copy_global_to_shared(zero, [tile * (TILE_COLUMNS // GROUP), 0], bar, zeros.index(slot))


@gluon.jit
def copy_activations(
    i, step, x, buffers, full, STEPS: gl.constexpr, BLOCK_M: gl.constexpr, BLOCK_K: gl.constexpr, STAGES: gl.constexpr
):
    """Begins the copy of a step's activations into the i-th stage; rows that x has not are zeros."""
    at = [gl.program_id(0) * BLOCK_M, step % STEPS * BLOCK_K]
    tma.async_copy_global_to_shared(x, at, full.index(i % STAGES), buffers[0].index(i % STAGES))


@gluon.jit
def copy(
    x, weight, buffers, bars, steps,
    STEPS: gl.constexpr, BLOCK_M: gl.constexpr, BLOCK_K: gl.constexpr, GROUP: gl.constexpr, STAGES: gl.constexpr,
    ROW_GROUPS: gl.constexpr,
):  # fmt: skip
    """This program's steps, (begin, end). Weights are read before the kernel ahead has ended, activations are not."""
    full, empty = bars
    begin, end = steps
    early = gl.minimum(end - begin, EARLY)
    for i in range(early):
        copy_weights(i, begin + i, weight, buffers, full, STEPS, BLOCK_M, BLOCK_K, GROUP, STAGES, ROW_GROUPS)
    gdc_wait()
    gdc_launch_dependents()
    for i in range(early):
        copy_activations(i, begin + i, x, buffers, full, STEPS, BLOCK_M, BLOCK_K, STAGES)
    for i in range(early, end - begin):
        mbarrier.wait(empty.index(i % STAGES), (i // STAGES & 1) ^ 1)
        copy_weights(i, begin + i, weight, buffers, full, STEPS, BLOCK_M, BLOCK_K, GROUP, STAGES, ROW_GROUPS)
        copy_activations(i, begin + i, x, buffers, full, STEPS, BLOCK_M, BLOCK_K, STAGES)
