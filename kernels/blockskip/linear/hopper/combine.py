"""The sum of a tile whose steps several programs of `kernel.product` shared."""

from __future__ import annotations

import triton
import triton.language as tl
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait

COLUMNS = tl.constexpr(64)
AT_ONCE = tl.constexpr(4)


@triton.jit
def share_of(shares, program, last, at, SIZE: tl.constexpr):
    """What a program up to the last one left of a tile that an earlier one began; 0 beyond."""
    return tl.load(shares + program * (2 * SIZE) + at, mask=(at >= 0) & (program <= last), other=0.0)


@triton.jit
def combine(
    shares, bias, out, M, N, PROGRAMS,
    STEPS: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, ROWS: tl.constexpr, OVERLAP: tl.constexpr,
):  # fmt: skip
    """out [M, N] of tiles that several programs have a share of, summed in the programs' order.

    shares: as `multiply.multiply_shares` has it. OVERLAP: it is launched early, and waits for the shares.
    Grid: (tiles * BLOCK_N / 64, BLOCK_M / ROWS, blocks of M).
    """
    if OVERLAP:
        gdc_launch_dependents()
        gdc_wait()  # all programs do, so that this kernel does not end before the products have
    SIZE: tl.constexpr = BLOCK_M * BLOCK_N
    tile = (tl.program_id(0) // (BLOCK_N // COLUMNS)).to(tl.int64)
    steps = tl.cdiv(N, BLOCK_N).to(tl.int64) * STEPS
    first = ((tile * STEPS + 1) * PROGRAMS - 1) // steps
    last = ((tile * STEPS + STEPS) * PROGRAMS - 1) // steps
    if first < last:
        i = tl.program_id(0) % (BLOCK_N // COLUMNS) * COLUMNS + tl.arange(0, COLUMNS)
        j = tl.program_id(1) * ROWS + tl.arange(0, ROWS)
        at = i[:, None] * BLOCK_M + j[None, :]
        shares += tl.program_id(2).to(tl.int64) * PROGRAMS * (2 * SIZE)
        acc = tl.load(shares + (first * 2 + 1) * SIZE + at)
        for program in range(first + 1, last + 1, AT_ONCE):
            second = share_of(shares, program + 1, last, at, SIZE)
            third = share_of(shares, program + 2, last, at, SIZE)
            fourth = share_of(shares, program + 3, last, at, SIZE)
            acc += share_of(shares, program, last, at, SIZE)
            acc += second
            acc += third
            acc += fourth
        n, m = tile * BLOCK_N + i, tl.program_id(2) * BLOCK_M + j
        if bias is not None:
            acc += tl.load(bias + n, mask=n < N, other=0.0).to(tl.float32)[:, None]
        pointers = out + m.to(tl.int64)[None, :] * N + n[:, None]
        tl.store(pointers, acc.to(out.dtype.element_ty), mask=(n < N)[:, None] & (m < M)[None, :])
