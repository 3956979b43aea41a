"""The kernel: its buffers and barriers, and which warps do what."""

# pyright: reportArgumentType=false, reportAssignmentType=false, reportOperatorIssue=false, reportIndexIssue=false
# pyright: reportCallIssue=false, reportAttributeAccessIssue=false, reportOptionalMemberAccess=false
# Gluon's functions are typed as what they are in Python, not as what they are compiled to.

from __future__ import annotations

from triton.experimental import gluon
from triton.experimental.gluon import language as gl

from ...launching.barriers import barriers
from .constants import TILE_COLUMNS, TILE_ROWS, Barriers, Buffers, Shares
from .copy import copy
from .multiply import multiply
from .share import all_steps, steps_of
from .unpack import SUMMED_ROWS

COPY_REGISTERS = gl.constexpr(24)
"""Registers a thread of the copying warp."""


@gluon.jit
def buffers_of(DTYPE: gl.constexpr, CONSTANTS: gl.constexpr):
    """Memory for activations, codes, scales and zero points of all stages, and for results."""
    STAGES: gl.constexpr = CONSTANTS.STAGES
    BLOCK_M: gl.constexpr = CONSTANTS.BLOCK_M
    BLOCK_K: gl.constexpr = CONSTANTS.BLOCK_K
    TILES: gl.constexpr = STAGES * CONSTANTS.ROW_GROUPS
    GROUPS: gl.constexpr = TILE_COLUMNS // CONSTANTS.GROUP
    activations: gl.constexpr = gl.NVMMASharedLayout.get_default_for([BLOCK_M, BLOCK_K], DTYPE)
    codes: gl.constexpr = gl.NVMMASharedLayout.get_default_for([TILE_ROWS, BLOCK_K // 8], gl.int32)
    metadata: gl.constexpr = gl.NVMMASharedLayout(0, 16, 2)
    # a tile's metadata comes in lines of 128 bytes
    scales = gl.allocate_shared_memory(gl.bfloat16, [TILES, GROUPS, TILE_ROWS], metadata)
    zeros = scales
    if not CONSTANTS.SYMMETRIC:
        zeros = gl.allocate_shared_memory(gl.bfloat16, [TILES, GROUPS, TILE_ROWS], metadata)
    results = scales
    if BLOCK_M > SUMMED_ROWS:
        result: gl.constexpr = gl.NVMMASharedLayout.get_default_for([BLOCK_M, TILE_ROWS], DTYPE)
        results = gl.allocate_shared_memory(DTYPE, [CONSTANTS.ROW_GROUPS, BLOCK_M, TILE_ROWS], result)
    return Buffers(
        gl.allocate_shared_memory(DTYPE, [STAGES, BLOCK_M, BLOCK_K], activations),
        gl.allocate_shared_memory(gl.int32, [TILES, TILE_ROWS, BLOCK_K // 8], codes),
        scales,
        zeros,
        results,
    )


@gluon.jit
def product(x, data, scale, zero, bias, out, sums, flags, M, N, CONSTANTS: gl.constexpr):
    """out [M, N] = x [M, K] weight^T + bias, of a weight in tiles.

    x, the weight's codes as int32, scales and zero points (None: 8 for all), and out where there are more than a few
    rows, come as descriptors; bias is None or [N], dense; sums and flags: `Shares`. Grid: (programs,). CONSTANTS:
    `ProductConstants`.
    """
    ROW_GROUPS: gl.constexpr = CONSTANTS.ROW_GROUPS
    REGISTERS: gl.constexpr = CONSTANTS.REGISTERS
    weight = (data, scale, zero)
    shares = Shares(sums, flags)
    buffers = buffers_of(x.dtype, CONSTANTS)
    bars = Barriers(barriers(CONSTANTS.STAGES, 1), barriers(CONSTANTS.STAGES, ROW_GROUPS))
    steps = steps_of(all_steps(M, N, CONSTANTS))
    if ROW_GROUPS == 3:
        gl.warp_specialize(
            [
                (multiply, (0, out, bias, shares, M, N, buffers, bars, steps, CONSTANTS)),
                (multiply, (1, out, bias, shares, M, N, buffers, bars, steps, CONSTANTS)),
                (multiply, (2, out, bias, shares, M, N, buffers, bars, steps, CONSTANTS)),
                (copy, (x, weight, N, buffers, bars, steps, CONSTANTS)),
            ],
            [4, 4, 1],
            [REGISTERS, REGISTERS, COPY_REGISTERS],
        )
    else:
        gl.warp_specialize(
            [
                (multiply, (0, out, bias, shares, M, N, buffers, bars, steps, CONSTANTS)),
                (multiply, (1, out, bias, shares, M, N, buffers, bars, steps, CONSTANTS)),
                (copy, (x, weight, N, buffers, bars, steps, CONSTANTS)),
            ],
            [4, 1],
            [REGISTERS, COPY_REGISTERS],
        )
