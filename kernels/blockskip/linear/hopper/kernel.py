"""The kernel: its buffers and barriers, and which warps do what."""

# pyright: reportArgumentType=false, reportAssignmentType=false, reportOperatorIssue=false, reportIndexIssue=false
# pyright: reportCallIssue=false, reportAttributeAccessIssue=false, reportOptionalMemberAccess=false
# Gluon's functions are typed as what they are in Python, not as what they are compiled to.

from __future__ import annotations

from triton.experimental import gluon
from triton.experimental.gluon import language as gl
from triton.experimental.gluon.language.nvidia.hopper import mbarrier

from .copy import copy
from .multiply import multiply
from .share import steps_of

TILE_ROWS = gl.constexpr(64)
TILE_COLUMNS = gl.constexpr(256)
COPY_REGISTERS = gl.constexpr(24)
"""Registers a thread of the copying warp."""


@gluon.jit
def barriers(COUNT: gl.constexpr, ARRIVALS: gl.constexpr):
    """COUNT barriers, each of which completes when ARRIVALS arrive."""
    bars = gl.allocate_shared_memory(gl.int64, [COUNT, 1], mbarrier.MBarrierLayout())
    for i in gl.static_range(COUNT):  # pyright: ignore
        mbarrier.init(bars.index(i), count=ARRIVALS)
    return bars


@gluon.jit
def buffers_of(
    DTYPE: gl.constexpr, SYMMETRIC: gl.constexpr,
    BLOCK_M: gl.constexpr, BLOCK_K: gl.constexpr, GROUP: gl.constexpr, STAGES: gl.constexpr, ROW_GROUPS: gl.constexpr,
):  # fmt: skip
    """Activations, codes, scales and zero points of all stages."""
    tiles: gl.constexpr = STAGES * ROW_GROUPS
    activations: gl.constexpr = gl.NVMMASharedLayout.get_default_for([BLOCK_M, BLOCK_K], DTYPE)
    codes: gl.constexpr = gl.NVMMASharedLayout.get_default_for([TILE_ROWS, BLOCK_K // 8], gl.int32)
    metadata: gl.constexpr = gl.NVMMASharedLayout(0, 16, 2)
    # a tile's metadata comes in lines of 128 bytes
    scales = gl.allocate_shared_memory(gl.bfloat16, [tiles, TILE_COLUMNS // GROUP, TILE_ROWS], metadata)
    zeros = scales
    if not SYMMETRIC:
        zeros = gl.allocate_shared_memory(gl.bfloat16, [tiles, TILE_COLUMNS // GROUP, TILE_ROWS], metadata)
    return (
        gl.allocate_shared_memory(DTYPE, [STAGES, BLOCK_M, BLOCK_K], activations),
        gl.allocate_shared_memory(gl.int32, [tiles, TILE_ROWS, BLOCK_K // 8], codes),
        scales,
        zeros,
    )


@gluon.jit
def product(
    x, data, scale, zero, bias, out, sums, flags, M, N,
    STEPS: gl.constexpr, BLOCK_M: gl.constexpr, BLOCK_K: gl.constexpr, GROUP: gl.constexpr, STAGES: gl.constexpr,
    ROW_GROUPS: gl.constexpr, REGISTERS: gl.constexpr,
):  # fmt: skip
    """out [M, N] = x [M, K] weight^T + bias, of a weight in tiles.

    x, and the weight's codes as int32, scales and zero points (None: 8 for all) come as descriptors; bias is None or
    [N], dense; sums and flags: what `share` needs, None where every program has whole tiles.
    STEPS: of BLOCK_K columns, in a row of the weight. REGISTERS: a thread of the second and third warp group; the first
    has what is left. Grid: (blocks of M, programs).
    """
    weight = (data, scale, zero)
    shares = (sums, flags)
    symmetric: gl.constexpr = zero is None
    buffers = buffers_of(x.dtype, symmetric, BLOCK_M, BLOCK_K, GROUP, STAGES, ROW_GROUPS)
    bars = (barriers(STAGES, 1), barriers(STAGES, ROW_GROUPS))
    steps = steps_of(gl.cdiv(N, ROW_GROUPS * TILE_ROWS) * STEPS)
    if ROW_GROUPS == 3:
        gl.warp_specialize(
            [
                (multiply, (out, bias, shares, M, N, buffers, bars, steps, 0,
                            STEPS, BLOCK_M, BLOCK_K, GROUP, STAGES, ROW_GROUPS, symmetric)),
                (multiply, (out, bias, shares, M, N, buffers, bars, steps, 1,
                            STEPS, BLOCK_M, BLOCK_K, GROUP, STAGES, ROW_GROUPS, symmetric)),
                (multiply, (out, bias, shares, M, N, buffers, bars, steps, 2,
                            STEPS, BLOCK_M, BLOCK_K, GROUP, STAGES, ROW_GROUPS, symmetric)),
                (copy, (x, weight, buffers, bars, steps, STEPS, BLOCK_M, BLOCK_K, GROUP, STAGES, ROW_GROUPS)),
            ],
            [4, 4, 1],
            [REGISTERS, REGISTERS, COPY_REGISTERS],
        )  # fmt: skip
    else:
        gl.warp_specialize(
            [
                (multiply, (out, bias, shares, M, N, buffers, bars, steps, 0,
                            STEPS, BLOCK_M, BLOCK_K, GROUP, STAGES, ROW_GROUPS, symmetric)),
                (multiply, (out, bias, shares, M, N, buffers, bars, steps, 1,
                            STEPS, BLOCK_M, BLOCK_K, GROUP, STAGES, ROW_GROUPS, symmetric)),
                (copy, (x, weight, buffers, bars, steps, STEPS, BLOCK_M, BLOCK_K, GROUP, STAGES, ROW_GROUPS)),
            ],
            [4, 1],
            [REGISTERS, COPY_REGISTERS],
        )  # fmt: skip
