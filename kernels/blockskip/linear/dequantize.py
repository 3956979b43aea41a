"""The Triton kernel that turns packed weights back to floats, for matrix products with many rows."""

from __future__ import annotations

import triton
import triton.language as tl

from ..device import wide


@triton.jit
def dequantize(
    data,
    scale,
    zero,
    out,
    N,
    K: tl.constexpr,
    GROUP: tl.constexpr,
    BITS: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
):
    """out [N, K] = (code - zero) * scale for BLOCK_N rows x BLOCK_K columns; tensors as in QuantizedWeight."""
    n0 = tl.program_id(0) * BLOCK_N
    n = tl.arange(0, BLOCK_N)
    rows = tl.minimum(n, N - 1 - n0)[:, None]
    k = (tl.program_id(1) * BLOCK_K + tl.arange(0, BLOCK_K))[None, :]
    data += wide(n0) * (K * BITS // 8)
    if BITS == 4:
        byte = (tl.program_id(1) * (BLOCK_K // 2) + tl.arange(0, BLOCK_K // 2))[None, :]
        pairs = tl.load(data + rows * (K // 2) + byte, mask=byte < K // 2, other=0)
        code = tl.reshape(tl.join(pairs & 15, pairs >> 4), [BLOCK_N, BLOCK_K])
    else:
        at = k % 32 // 16 * (K // 2) + k // 32 * 16 + k % 16
        code = tl.load(data + rows * K + at, mask=k < K, other=0)
    group = wide(n0) * (K // GROUP) + rows * (K // GROUP) + k // GROUP
    value = code.to(tl.float32)
    if zero is not None:
        value -= tl.load(zero + group, mask=k < K, other=0.0).to(tl.float32)
    elif BITS == 4:
        value -= 8.0
    value *= tl.load(scale + group, mask=k < K, other=0.0).to(tl.float32)
    tl.store(
        out + wide(n0) * K + n[:, None] * K + k, value.to(out.dtype.element_ty), mask=(n0 + n < N)[:, None] & (k < K)
    )
