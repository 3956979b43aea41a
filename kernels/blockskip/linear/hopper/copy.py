"""The copying warp's part: which tiles and activations come into which stage, and when."""

# pyright: reportArgumentType=false, reportAssignmentType=false, reportOperatorIssue=false, reportIndexIssue=false
# pyright: reportCallIssue=false, reportAttributeAccessIssue=false, reportOptionalMemberAccess=false
# Gluon's functions are typed as what they are in Python, not as what they are compiled to.

from __future__ import annotations

from triton.experimental import gluon
from triton.experimental.gluon import language as gl
from triton.experimental.gluon.language.nvidia.hopper import mbarrier, tma
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait

from ...launching.scopes import enter_scope, exit_scope
from .constants import TILE_COLUMNS, TILE_ROWS
from .share import coordinates_of

EARLY = gl.constexpr(2)
"""Steps whose weights are copied before the activations may be read. Copies are done in their order: with more, the
first activations come late (0.6 to 0.9 us a step on an NVIDIA H200)."""


@gluon.jit
def copy_weights(i, step, weight, N, buffers, full, CONSTANTS: gl.constexpr):
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
    _, n_tile = coordinates_of(step // STEPS, N, CONSTANTS)
    mbarrier.expect(bar, SIZE)
    for group in gl.static_range(ROW_GROUPS):  # pyright: ignore
        tile = (n_tile * ROW_GROUPS + group) * (STEPS // PARTS) + step % STEPS // PARTS
        slot = stage * ROW_GROUPS + group
        at = [tile * TILE_ROWS, step % PARTS * (BLOCK_K // 8)]
        tma.async_copy_global_to_shared(data, at, bar, buffers.codes.index(slot))
        tma.async_copy_global_to_shared(scale, [tile * GROUPS, 0], bar, buffers.scales.index(slot))
        if not CONSTANTS.SYMMETRIC:
            tma.async_copy_global_to_shared(zero, [tile * GROUPS, 0], bar, buffers.zeros.index(slot))


@gluon.jit
def copy_activations(i, step, x, N, buffers, full, CONSTANTS: gl.constexpr):
    """Begins the copy of a step's activations into the i-th stage; rows beyond x's last read as zeros."""
    m_block, _ = coordinates_of(step // CONSTANTS.STEPS, N, CONSTANTS)
    at = [m_block * CONSTANTS.BLOCK_M, step % CONSTANTS.STEPS * CONSTANTS.BLOCK_K]
    stage = i % CONSTANTS.STAGES
    tma.async_copy_global_to_shared(x, at, full.index(stage), buffers.activations.index(stage))


@gluon.jit
def copy(x, weight, N, buffers, bars, steps, CONSTANTS: gl.constexpr):
    """This program's steps, (begin, end). Weights are read before the kernel ahead has ended, activations are not."""
    STAGES: gl.constexpr = CONSTANTS.STAGES
    begin, end = steps
    enter_scope("copies")
    early = gl.minimum(end - begin, EARLY)
    for i in range(early):
        copy_weights(i, begin + i, weight, N, buffers, bars.full, CONSTANTS)
    gdc_wait()
    gdc_launch_dependents()
    for i in range(early):
        copy_activations(i, begin + i, x, N, buffers, bars.full, CONSTANTS)
    for i in range(early, end - begin):
        mbarrier.wait(bars.empty.index(i % STAGES), (i // STAGES & 1) ^ 1)
        copy_weights(i, begin + i, weight, N, buffers, bars.full, CONSTANTS)
        copy_activations(i, begin + i, x, N, buffers, bars.full, CONSTANTS)
    exit_scope("copies")
