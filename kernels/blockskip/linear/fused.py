"""The Triton kernel for more rows: packed weights to floats in registers, and their product on tensor cores.

The product is taken as weights x activations^T, so that the weights, which come through registers anyhow, are the
operand that tensor cores take from registers. The weights become floats exactly as `dequantize` makes them: in float32,
rounded once to the activations' dtype.
"""

# pyright: reportAttributeAccessIssue=false
# A constexpr has the attributes of its value.

from __future__ import annotations

import triton
import triton.language as tl

from ..launching.primitives import wide
from ..launching.scopes import enter_scope, exit_scope


@triton.jit
def metadata_tile(
    values, step, rows, u0, ok, K: tl.constexpr, GROUP: tl.constexpr, UNIT: tl.constexpr, UNITS: tl.constexpr
):
    """Float32 [rows, UNITS, 1]: for each UNIT weights their group's number, or a code times its 256 weights' step."""
    u = (u0 + tl.arange(0, UNITS))[None, :]
    SHARE: tl.constexpr = GROUP // UNIT
    value = tl.load(values + rows[:, None] * (K // GROUP) + u // SHARE, mask=ok, other=0).to(tl.float32)
    if step is not None:
        at = step + rows[:, None] * (K // 256) + u // (256 // UNIT)
        value *= tl.load(at, mask=ok, other=0.0).to(tl.float32)
    return value[:, :, None]


@triton.jit
def codes_tile(data, rows, b0, K: tl.constexpr, BITS: tl.constexpr, BLOCKS: tl.constexpr):
    """Codes [rows, BLOCKS, 32] of BLOCKS blocks of 32 from block b0 on; any where there is no block."""
    ALL: tl.constexpr = K // 32
    CHECK: tl.constexpr = ALL % BLOCKS != 0
    ROWS: tl.constexpr = rows.shape[0]
    if BITS == 4:
        byte = (b0 * 16 + tl.arange(0, BLOCKS * 16))[None, :]
        at = data + rows[:, None] * (K // 2) + byte
        pairs = tl.load(at, mask=byte < K // 2, other=0) if CHECK else tl.load(at)
        codes = tl.join(pairs & 15, pairs >> 4)
    else:
        # each plane in a load of its own, of adjoining bytes; put together they are 16 of one, then 16 of the other
        byte = (b0 * 16 + tl.arange(0, BLOCKS * 16))[None, :]
        at = data + rows[:, None] * K + byte
        first = tl.load(at, mask=byte < K // 2, other=0) if CHECK else tl.load(at)
        second = tl.load(at + K // 2, mask=byte < K // 2, other=0) if CHECK else tl.load(at + K // 2)
        first, second = tl.reshape(first, [ROWS, BLOCKS, 16]), tl.reshape(second, [ROWS, BLOCKS, 16])
        codes = tl.permute(tl.join(first, second), (0, 1, 3, 2))
    return tl.reshape(codes, [ROWS, BLOCKS, 32])


@triton.jit
def weight_tile(data, meta, n0, rows, b0, FORMAT: tl.constexpr, BLOCKS: tl.constexpr):
    """Float32 [rows, BLOCKS * 32]: the values of a QuantizedWeight's rows n0 + rows from block b0 on.

    data begins at row n0. meta, FORMAT: as in `matvec`.
    """
    K: tl.constexpr = FORMAT.in_features
    GROUP: tl.constexpr = FORMAT.group_size
    BITS: tl.constexpr = FORMAT.bits
    CENTRE: tl.constexpr = FORMAT.centre
    OFFSET: tl.constexpr = FORMAT.offset
    # what has one scale: a block, or each half of it
    UNIT: tl.constexpr = 16 if GROUP == 16 else 32  # pyright: ignore[reportAssignmentType]
    UNITS: tl.constexpr = BLOCKS * 32 // UNIT
    u0 = b0 if UNIT == 32 else b0 * 2
    ok = (u0 + tl.arange(0, UNITS) < K // UNIT)[None, :]
    ROWS: tl.constexpr = rows.shape[0]
    value = codes_tile(data, rows, b0, K, BITS, BLOCKS).to(tl.float32)
    if UNIT == 16:
        value = tl.reshape(value, [ROWS, UNITS, UNIT])
    rows += n0
    scale = metadata_tile(meta.scale, meta.scale_step, rows, u0, ok, K, GROUP, UNIT, UNITS)
    if meta.shift is None:
        value = (value - CENTRE) * scale
    elif OFFSET:
        shift = metadata_tile(meta.shift, meta.shift_step, rows, u0, ok, K, GROUP, UNIT, UNITS)
        value = (value - CENTRE) * scale + shift
    else:
        value = (value - metadata_tile(meta.shift, meta.shift_step, rows, u0, ok, K, GROUP, UNIT, UNITS)) * scale
    return tl.reshape(value, [ROWS, BLOCKS * 32])


@triton.jit
def add_splits(parts, bias, out, SPLITS: tl.constexpr, BLOCK: tl.constexpr):
    """out [M, N] = parts [SPLITS, M, N] summed in their order, + bias: BLOCK columns of one row a program.

    parts, bias: dense; bias may be None. out: a dense `View`. Grid: (M, blocks of N).
    """
    N = out.shape[1]
    n = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    row = wide(tl.program_id(0)) * N
    acc = tl.load(parts + row + n, mask=n < N, other=0.0)
    for split in tl.static_range(1, SPLITS):  # pyright: ignore[reportGeneralTypeIssues]
        acc += tl.load(parts + wide(split) * out.shape[0] * N + row + n, mask=n < N, other=0.0)
    if bias is not None:
        acc += tl.load(bias + n, mask=n < N, other=0.0).to(tl.float32)
    tl.store(out.ptr + row + n, acc.to(out.ptr.dtype.element_ty), mask=n < N)


@triton.jit
def rounded_to_bfloat16(value):
    """Float32 rounded to bfloat16 and kept in float32: Triton's interpreter, which has no bfloat16, computes so."""
    bits = value.to(tl.uint32, bitcast=True)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) & 0xFFFF0000).to(tl.float32, bitcast=True)


@triton.jit
def fused(
    x, data, meta, bias, out, N,
    FORMAT: tl.constexpr, CONFIG: tl.constexpr, STEPS: tl.constexpr, ROUND: tl.constexpr,
):  # fmt: skip
    """out [splits, M, N] = x weights^T, + bias where there is one split: block_m x block_n of CONFIG a program.

    x: a `View` [M, K]. data, meta, FORMAT: as in `matvec`, data by bytes. CONFIG: `plan.FusedConfig`.
    A program takes STEPS times CONFIG.blocks blocks of 32 along K, or what is left of them; each split has a plane of
    `out` to itself, so that sums run in an order that the sizes fix. ROUND: x holds bfloat16 values in float32, and the
    weights are rounded like them.
    Grid: (blocks of M, blocks of N, splits).
    """
    enter_scope("program")
    K: tl.constexpr = FORMAT.in_features
    BITS: tl.constexpr = FORMAT.bits
    BLOCK_M: tl.constexpr = CONFIG.block_m
    BLOCK_N: tl.constexpr = CONFIG.block_n
    BLOCKS: tl.constexpr = CONFIG.blocks
    ALL: tl.constexpr = K // 32
    M = x.shape[0]
    m0, n0, split = tl.program_id(0) * BLOCK_M, tl.program_id(1) * BLOCK_N, tl.program_id(2)
    n = tl.arange(0, BLOCK_N)
    rows = tl.minimum(n, N - 1 - n0)  # rows past the end read the last one again
    m = tl.arange(0, BLOCK_M)
    x_ptr = x.ptr + wide(m0) * x.strides[0]
    data += wide(n0) * (K * BITS // 8)
    k = tl.arange(0, BLOCKS * 32)
    x_at = x_ptr + tl.minimum(m, M - 1 - m0)[None, :] * x.strides[0]
    acc = tl.zeros((BLOCK_N, BLOCK_M), tl.float32)
    first = split * STEPS * BLOCKS
    for b0 in tl.range(first, tl.minimum(first + STEPS * BLOCKS, ALL), BLOCKS):
        activations = tl.load(x_at + (b0 * 32 + k)[:, None] * x.strides[1], mask=(b0 * 32 + k < K)[:, None], other=0.0)
        weights = weight_tile(data, meta, n0, rows, b0, FORMAT, BLOCKS)
        if ROUND:
            weights = rounded_to_bfloat16(weights)
        acc = tl.dot(weights.to(x.ptr.dtype.element_ty), activations, acc, input_precision="ieee")
    if bias is not None:
        acc += tl.load(bias + n0 + rows).to(tl.float32)[:, None]
    start = out + (wide(split) * M + m0) * N + n0
    real = (n0 + n < N)[:, None] & (m0 + m < M)[None, :]
    tl.store(start + m[None, :] * N + n[:, None], acc.to(out.dtype.element_ty), mask=real)
    exit_scope("program")
