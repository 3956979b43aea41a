"""The Triton kernel that rounds activations to int8, in the order in which the matvec multiplies them.

It gives the codes of `activations.round_to_int8`, bit for bit.
"""

# pyright: reportAttributeAccessIssue=false
# A constexpr has the attributes of its value.

from __future__ import annotations

from typing import NamedTuple

import torch
import triton
import triton.language as tl
from triton.language.extra.cuda import gdc_launch_dependents

from ..launching.primitives import wide

ROUND = tl.constexpr(12582912.0)
"""1.5 * 2**23: adding it to a float32 below 2**22 and taking it away rounds to the nearest integer, ties to even."""
NOT_FINITE = tl.constexpr(0x7F800000)


class Blocks(NamedTuple):
    """Of each block of 32 activations the step of its codes, and their sum: float32 [rows, K / 32]."""

    step: torch.Tensor
    total: torch.Tensor


@triton.jit
def round_activations(
    x, codes, blocks, K: tl.constexpr, ORDER: tl.constexpr, BLOCKS: tl.constexpr, OVERLAP: tl.constexpr
):
    """Rounds BLOCKS blocks of 32 of one row of x: a `View` [rows, K].

    codes: int32 [rows, K / 4], four codes each, in the order in which weights meet them: two planes one after the
    other, of the even and the odd activations for int4 weights, of the halves of each block for int8 ones, and for
    weights in tiles as `packing` has their nibbles. ORDER: int4, int8, tiles; or given, as the activations stand.
    blocks: `Blocks`.
    A block's step is its largest magnitude / 127. One with a value that is not finite gets codes 0 and that step, so
    that its products are NaN. OVERLAP: the kernel that reads the codes may be launched while this one runs.
    Grid: (groups of BLOCKS blocks, rows).
    """
    if OVERLAP:
        gdc_launch_dependents()
    ALL: tl.constexpr = K // 32
    row = tl.program_id(1)
    b = tl.program_id(0) * BLOCKS + tl.arange(0, BLOCKS)
    plane = tl.arange(0, 2)[None, :, None, None]
    word = tl.arange(0, 4)[None, None, :, None]
    byte = tl.arange(0, 4)[None, None, None, :]
    if ORDER == "int4":
        k = word * 8 + byte * 2 + plane
    elif ORDER == "tiles":
        k = plane * 8 + byte % 2 * 16 + word * 2 + byte // 2
    else:
        k = plane * 16 + word * 4 + byte
    at = b[:, None, None, None] * 32 + k  # [BLOCKS, 2, 4, 4]
    x_row = x.ptr + wide(row) * x.strides[0]
    v = tl.load(x_row + at.to(tl.int64) * x.strides[1], mask=at < K, other=0.0).to(tl.float32)
    # the magnitude as an integer orders as the float does, with infinity and NaN above all others
    largest = tl.max(tl.reshape(v.to(tl.int32, bitcast=True) & 0x7FFFFFFF, [BLOCKS, 32]), axis=1)
    s = tl.div_rn(largest.to(tl.float32, bitcast=True), 127.0 + tl.zeros([BLOCKS], tl.float32))
    usable = (largest < NOT_FINITE) & (s > 0)
    divisor = tl.reshape(tl.where(usable, s, 1.0), [BLOCKS, 1, 1, 1]) + tl.zeros([BLOCKS, 2, 4, 4], tl.float32)
    v = tl.where(tl.reshape(usable, [BLOCKS, 1, 1, 1]), v, 0.0)
    # a division, because the product with 1 / step may be contracted with the sum and would round otherwise than torch
    code = ((tl.div_rn(v, divisor) + ROUND) - ROUND).to(tl.int32)
    code = tl.minimum(tl.maximum(code, -127), 127)  # a subnormal step is too coarse for the quotient
    packed = tl.reshape(tl.sum((code & 0xFF) << (byte * 8), axis=3), [BLOCKS, 2, 4])
    offset = tl.arange(0, 2)[None, :, None] * (ALL * 4) + b[:, None, None] * 4 + tl.arange(0, 4)[None, None, :]
    if ORDER == "given":
        offset = b[:, None, None] * 8 + tl.arange(0, 2)[None, :, None] * 4 + tl.arange(0, 4)[None, None, :]
    tl.store(codes + wide(row) * (ALL * 8) + offset, packed, mask=(b < ALL)[:, None, None])
    tl.store(blocks.step + wide(row) * ALL + b, s, mask=b < ALL)
    total = blocks.total + wide(row) * ALL + b
    tl.store(total, tl.sum(tl.reshape(code, [BLOCKS, 32]), axis=1).to(tl.float32), mask=b < ALL)
