"""The Triton kernel that turns packed weights back to floats, for matrix products with many rows."""

from __future__ import annotations

import triton
import triton.language as tl

from ..launching.primitives import wide


@triton.jit
def read_metadata(values, step, group, unit, ok, UNIT: tl.constexpr):
    """Float32 [units, 1]: for each UNIT weights their group's number, or a code times the step of its 256 weights."""
    value = tl.load(values + group, mask=ok, other=0).to(tl.float32)
    if step is not None:
        value *= tl.load(step + unit // (256 // UNIT), mask=ok, other=0.0).to(tl.float32)
    return value[:, None]


@triton.jit
def dequantize(
    data,
    meta,
    out,
    COUNT,
    K: tl.constexpr,
    GROUP: tl.constexpr,
    BITS: tl.constexpr,
    CENTRE: tl.constexpr,
    OFFSET: tl.constexpr,
    BLOCKS: tl.constexpr,
    TILES: tl.constexpr,
):
    """out [N, K], the values of a QuantizedWeight. data: as there. meta, CENTRE, OFFSET: as in `matvec`.

    The weight's COUNT = N * K / 32 blocks of 32 are taken in the order of `out`, BLOCKS a program. TILES: it lies in
    tiles of 64 rows x 8 blocks, as `packing` has it.
    """
    first = tl.program_id(0) * BLOCKS
    i = tl.arange(0, BLOCKS)
    ok = first + i < COUNT
    if TILES:
        row, column = (first + i) // (K // 32), (first + i) % (K // 32)
        # where the block lies among all blocks, and its group among all groups
        here = (row // 64 * (K // 256) + column // 8) * 512 + row % 64 * 8 + column % 8
        byte = tl.arange(0, 16)[None, :]
        pairs = tl.load(data + here.to(tl.int64)[:, None] * 16 + byte, mask=ok[:, None], other=0)
        code = tl.reshape(tl.join(pairs & 15, pairs >> 4), [BLOCKS, 4, 2, 2, 2])  # word, byte 2 a + b, nibble c
        code = tl.reshape(tl.permute(code, (0, 3, 4, 1, 2)), [BLOCKS, 32])  # the code is 16 b + 8 c + 2 word + a
    elif BITS == 4:
        byte = i[:, None] * 16 + tl.arange(0, 16)[None, :]
        pairs = tl.load(data + wide(first) * 16 + byte, mask=ok[:, None], other=0)
        code = tl.reshape(tl.join(pairs & 15, pairs >> 4), [BLOCKS, 32])
    else:
        k = tl.arange(0, 32)[None, :]
        row, block = ((first + i) // (K // 32))[:, None], ((first + i) % (K // 32))[:, None]
        at = row.to(tl.int64) * K + k // 16 * (K // 2) + block * 16 + k % 16
        code = tl.load(data + at, mask=ok[:, None], other=0)
    value = code.to(tl.float32)
    unit = first + i
    UNIT: tl.constexpr = 16 if GROUP == 16 else 32  # pyright: ignore[reportAssignmentType]
    if UNIT == 16:  # each half of a block has its scale
        value = tl.reshape(value, [BLOCKS * 2, UNIT])
        first, i = first * 2, tl.arange(0, BLOCKS * 2)
        unit = first + i
        ok = unit < COUNT * 2
    group = (here if TILES else unit) // (GROUP // UNIT)
    scale = read_metadata(meta.scale, meta.scale_step, group, unit, ok, UNIT)
    if meta.shift is None:
        value = (value - CENTRE) * scale
    elif OFFSET:
        value = (value - CENTRE) * scale + read_metadata(meta.shift, meta.shift_step, group, unit, ok, UNIT)
    else:
        value = (value - read_metadata(meta.shift, meta.shift_step, group, unit, ok, UNIT)) * scale
    pointers = out + wide(first) * UNIT + i[:, None] * UNIT + tl.arange(0, UNIT)[None, :]
    tl.store(pointers, value.to(out.dtype.element_ty), mask=ok[:, None])
