"""int4 weights and rounded activations on int8 tensor cores, at any number of rows. Imports triton.

Each 32 columns have scales of their own on both sides, so each sum of 32 products leaves the tensor cores an integer,
becomes a float and is scaled: three instructions a sum and thread for each product that the tensor cores do in the
time of one. That is what this contender shows: data/TUNING.md, "int4 in tiles on Hopper".
"""

from __future__ import annotations

from typing import Any

import blockskip as bs
import torch
import triton
import triton.language as tl
from blockskip.launching.primitives import wide

BLOCK_M, BLOCK_N = 64, 64
"""Rows of activations and of the weight that a program takes, at most."""


@triton.jit
def product_of_integers(
    values, scales, codes, weight_scales, zeros, out, M, N,
    K: tl.constexpr, GROUP: tl.constexpr, CENTRE: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
):  # fmt: skip
    """out [M, N] of values int8 [M, K], scales float32 [M, K / 32], codes uint8 [N, K / 2], two int4 each.

    weight_scales, zeros (None: CENTRE): [N, K / GROUP]; zero points are whole numbers from -112 to 112.
    Grid: (blocks of M, blocks of N). All tensors are dense.
    """
    m = tl.program_id(0) * BLOCK_M + tl.arange(0, BLOCK_M)
    n = tl.program_id(1) * BLOCK_N + tl.arange(0, BLOCK_N)
    acc = tl.zeros([BLOCK_M, BLOCK_N], tl.float32)
    for block in range(K // 32):
        k, byte = block * 32 + tl.arange(0, 32), block * 16 + tl.arange(0, 16)
        x = tl.load(values + m.to(tl.int64)[:, None] * K + k[None, :], mask=m[:, None] < M, other=0)
        pairs = tl.load(codes + n.to(tl.int64)[:, None] * (K // 2) + byte[None, :], mask=n[:, None] < N, other=0)
        weights = tl.reshape(tl.join(pairs & 15, pairs >> 4), [BLOCK_N, 32]).to(tl.int8)
        at = n * (K // GROUP) + block // (GROUP // 32)
        if zeros is None:
            weights -= CENTRE
        else:
            zero = tl.load(zeros + at, mask=n < N, other=0.0)
            weights -= zero.to(tl.float32).to(tl.int8)[:, None]
        sums = tl.dot(x, tl.trans(weights), out_dtype=tl.int32).to(tl.float32)
        row_scale = tl.load(scales + m * (K // 32) + block, mask=m < M, other=0.0)
        scale = tl.load(weight_scales + at, mask=n < N, other=0.0).to(tl.float32)
        acc += sums * (row_scale[:, None] * scale[None, :])
    pointers = out + wide(tl.program_id(0)) * BLOCK_M * N + tl.arange(0, BLOCK_M)[:, None] * N + n[None, :]
    tl.store(pointers, acc.to(out.dtype.element_ty), mask=(m < M)[:, None] & (n < N)[None, :])


def product(x: torch.Tensor, w: bs.QuantizedWeight) -> torch.Tensor:
    """x [M, K] times the transpose of an int4 weight in rows [N, K] with a scale, and perhaps a zero point, a group.

    Activations are rounded to int8 in the call. Returns [M, N] in x's dtype.
    """
    rounded = bs.round_activations(x)
    rows, outputs = x.shape[0], w.shape[0]
    out = torch.empty((rows, outputs), dtype=x.dtype, device=x.device)
    block_m = min(BLOCK_M, max(16, triton.next_power_of_2(rows)))
    grid = triton.cdiv(rows, block_m), triton.cdiv(outputs, BLOCK_N)
    tensors = rounded.values, rounded.scales, w.data, w.scale, w.zero, out
    sizes: Any = rows, outputs, w.shape[1], w.group_size, w.centre, block_m, BLOCK_N
    product_of_integers[grid](*tensors, *sizes)
    return out
