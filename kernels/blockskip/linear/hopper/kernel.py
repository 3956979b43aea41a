"""The kernel: its buffers and barriers, and which warps do what."""

# pyright: reportArgumentType=false, reportAssignmentType=false, reportOperatorIssue=false, reportIndexIssue=false
# pyright: reportCallIssue=false, reportAttributeAccessIssue=false, reportOptionalMemberAccess=false
# Gluon's functions are typed as what they are in Python, not as what they are compiled to.

from __future__ import annotations

from triton.experimental import gluon
from triton.experimental.gluon import language as gl
from triton.experimental.gluon.language.nvidia.hopper import mbarrier

from .copy import copy
from .multiply import multiply_shares, multiply_tiles

TILE_ROWS = gl.constexpr(64)
TILE_COLUMNS = gl.constexpr(256)
COPY_REGISTERS = gl.constexpr(24)
REGISTERS_OF_TWO = gl.constexpr(224)
REGISTERS_OF_THREE = gl.constexpr(152)
"""Registers a thread of the second and third group; the first has what is left."""


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
    x, data, scale, zero, bias, out, shares, M, N,
    STEPS: gl.constexpr, BLOCK_M: gl.constexpr, BLOCK_K: gl.constexpr, GROUP: gl.constexpr, STAGES: gl.constexpr,
    ROW_GROUPS: gl.constexpr, K_GROUPS: gl.constexpr,
):  # fmt: skip
    """out [M, N] = x [M, K] weight^T + bias, of a weight in tiles.

    x, and the weight's codes as int32, scales and zero points (None: 8 for all) come as descriptors; bias is None or
    [N], dense; shares is as `multiply_shares` has it: where a tile's steps are shared, `combine` adds them up.
    STEPS: of BLOCK_K columns, in a row of the weight. Grid: (blocks of M, programs).
    """
    weight = (data, scale, zero)
    symmetric: gl.constexpr = zero is None
    buffers = buffers_of(x.dtype, symmetric, BLOCK_M, BLOCK_K, GROUP, STAGES, ROW_GROUPS)
    bars = (barriers(STAGES, 1), barriers(STAGES, ROW_GROUPS))
    program, programs = gl.program_id(1), gl.num_programs(1)
    unit: gl.constexpr = STEPS if K_GROUPS > 1 else 1  # steps that stay together
    units = gl.cdiv(N, ROW_GROUPS * TILE_ROWS) * (STEPS // unit)  # times programs: within 32 bits up to 1e11 weights
    begin, end = program * units // programs * unit, (program + 1) * units // programs * unit
    if K_GROUPS > 1:
        memory: gl.constexpr = gl.SwizzledSharedLayout(1, 1, 1, [1, 0])
        sums = (
            gl.allocate_shared_memory(gl.float32, [K_GROUPS - 1, TILE_ROWS, BLOCK_M], memory),
            barriers(1, K_GROUPS - 1),
            barriers(1, 1),
        )
        gl.warp_specialize(
            [
                (multiply_tiles, (out, bias, sums, M, N, buffers, bars, begin, end, 0,
                                  STEPS, BLOCK_M, BLOCK_K, GROUP, STAGES, K_GROUPS, symmetric)),
                (multiply_tiles, (out, bias, sums, M, N, buffers, bars, begin, end, 1,
                                  STEPS, BLOCK_M, BLOCK_K, GROUP, STAGES, K_GROUPS, symmetric)),
                (multiply_tiles, (out, bias, sums, M, N, buffers, bars, begin, end, 2,
                                  STEPS, BLOCK_M, BLOCK_K, GROUP, STAGES, K_GROUPS, symmetric)),
                (copy, (x, weight, buffers, bars, begin, end, STEPS, BLOCK_M, BLOCK_K, GROUP, STAGES, ROW_GROUPS)),
            ],
            [4, 4, 1],
            [REGISTERS_OF_THREE, REGISTERS_OF_THREE, COPY_REGISTERS],
        )  # fmt: skip
    elif ROW_GROUPS == 3:
        gl.warp_specialize(
            [
                (multiply_shares, (out, bias, shares, M, N, buffers, bars, begin, end, 0,
                                   STEPS, BLOCK_M, BLOCK_K, GROUP, STAGES, ROW_GROUPS, symmetric)),
                (multiply_shares, (out, bias, shares, M, N, buffers, bars, begin, end, 1,
                                   STEPS, BLOCK_M, BLOCK_K, GROUP, STAGES, ROW_GROUPS, symmetric)),
                (multiply_shares, (out, bias, shares, M, N, buffers, bars, begin, end, 2,
                                   STEPS, BLOCK_M, BLOCK_K, GROUP, STAGES, ROW_GROUPS, symmetric)),
                (copy, (x, weight, buffers, bars, begin, end, STEPS, BLOCK_M, BLOCK_K, GROUP, STAGES, ROW_GROUPS)),
            ],
            [4, 4, 1],
            [REGISTERS_OF_THREE, REGISTERS_OF_THREE, COPY_REGISTERS],
        )  # fmt: skip
    else:
        gl.warp_specialize(
            [
                (multiply_shares, (out, bias, shares, M, N, buffers, bars, begin, end, 0,
                                   STEPS, BLOCK_M, BLOCK_K, GROUP, STAGES, ROW_GROUPS, symmetric)),
                (multiply_shares, (out, bias, shares, M, N, buffers, bars, begin, end, 1,
                                   STEPS, BLOCK_M, BLOCK_K, GROUP, STAGES, ROW_GROUPS, symmetric)),
                (copy, (x, weight, buffers, bars, begin, end, STEPS, BLOCK_M, BLOCK_K, GROUP, STAGES, ROW_GROUPS)),
            ],
            [4, 1],
            [REGISTERS_OF_TWO, COPY_REGISTERS],
        )  # fmt: skip
