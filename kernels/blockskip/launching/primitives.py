"""Small @triton.jit functions that the kernels share. Imports triton.

Kernels must compile from Triton 3.6 on, run in the interpreter, and hold no 32-bit offset that can wrap: an offset that
grows with a tensor's size is a 64-bit scalar, what is left inside a tile is 32 bits wide unless the strides forbid it.
"""

from __future__ import annotations

import triton
import triton.language as tl

from . import interpreter  # noqa: F401 - before a kernel runs in it


def interpreting() -> bool:
    """Whether kernels run in Triton's interpreter: decided by TRITON_INTERPRET when this module was imported."""
    return not isinstance(wide, triton.JITFunction)


@triton.jit
def wide(x):
    """A scalar as 64 bits; also a loop counter, which is a Python int in the interpreter."""
    return tl.cast(x, tl.int64)


@triton.jit
def base(view, batch, head):
    """Pointer to [batch, head], counted in 64 bits."""
    return view.ptr + wide(batch) * view.strides[0] + wide(head) * view.strides[1]


@triton.jit
def local(index, stride, WIDE: tl.constexpr):
    """index * stride inside one tile, in 32 bits unless WIDE."""
    if WIDE:
        index = index.to(tl.int64)
    return index * stride


@triton.jit
def ring_slots(n0, n, slots, RING: tl.constexpr):
    """int32 [n]: the slots of the positions n0 + n in a ring of `slots` slots.

    RING "long": there are as many slots as `n` has elements, or more, so that it wraps once at most; "short": fewer.
    """
    slot = n0 % slots + n
    if RING == "long":
        slot = tl.where(slot >= slots, slot - slots, slot)
    else:
        slot = slot % slots
    return slot


@triton.jit
def load_block(pointers, rows_ok, cols_ok, CHECK_COLS: tl.constexpr):
    """Loads a tile, with 0 where a row or column is not real; columns are checked if CHECK_COLS."""
    ok = rows_ok & cols_ok if CHECK_COLS else rows_ok
    return tl.load(pointers, mask=ok, other=0.0)


@triton.jit
def first_bits(count):
    """int64 scalar with the first `count` bits set; none of them up to 0, all of them from 64 on."""
    return tl.where(count >= 64, wide(-1), (wide(1) << wide(tl.minimum(tl.maximum(count, 0), 63))) - 1)


@triton.jit
def load_mask_bits(pointers, count, n0, real_row, BLOCK_N: tl.constexpr):
    """Two int64 [rows]: bit n says whether key n0 + n is kept; up to 64 keys are in the first alone.

    pointers [rows]: to the first of each row's `count` int64, whose bits begin at key 0.
    """
    first = tl.load(pointers + n0 // 64, mask=real_row, other=0)
    if BLOCK_N < 64:
        first = (first >> wide(n0 % 64)) & first_bits(BLOCK_N)
    if BLOCK_N <= 64:
        second = first
    else:
        second = tl.load(pointers + n0 // 64 + 1, mask=real_row & (n0 // 64 + 1 < count), other=0)
    return first, second


@triton.jit
def unpack_bits(first, second, BLOCK_N: tl.constexpr):
    """bool [rows, BLOCK_N] from two int64 [rows]: bit n says whether key n is kept; the second's are keys 64 .. 127."""
    n = tl.arange(0, BLOCK_N)[None, :]
    half = tl.where(n % 64 < 32, first.to(tl.int32)[:, None], (first >> 32).to(tl.int32)[:, None])
    if BLOCK_N > 64:
        other = tl.where(n % 64 < 32, second.to(tl.int32)[:, None], (second >> 32).to(tl.int32)[:, None])
        half = tl.where(n < 64, half, other)
    return ((half >> n % 32) & 1) != 0
