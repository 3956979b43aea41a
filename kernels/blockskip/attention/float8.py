"""Float8 keys and values as tensor cores take them: in float16, which holds each of them. Imports triton.

From float8 to float16 is one instruction for two numbers; to bfloat16 it is four, of which two run at a quarter of its
rate, and a decode step would wait for them and not for memory.
"""

# pyright: reportArgumentType=false
# Triton's functions are typed as what they are in Python, not as what they are compiled to.

from __future__ import annotations

import triton
import triton.language as tl

from ..launching.primitives import interpreting
from .softmax import online_softmax, scaled_by_head, tangent

ASSEMBLY = tl.constexpr(not interpreting())

HALVES = tl.constexpr("""{
.reg .b32 sorted;
.reg .b16 even, odd;
prmt.b32 sorted, $2, 0, 0x3120;
mov.b32 {even, odd}, sorted;
cvt.rn.f16x2.e4m3x2 $0, even;
cvt.rn.f16x2.e4m3x2 $1, odd;
}""")


@triton.jit
def as_float16(x):
    """(bfloat16 x [rows, dims] times a power of two a row as float16, float32 [rows]: what undoes it).

    The largest size of a row becomes 2**14 or up to twice that. A number is exact down to 2**-28 of it, and below off
    by 2**-39 of it: less than float32 sums of products with the row are.
    """
    exponent = tl.maximum(tl.max(tl.abs(x).to(tl.float32), 1).to(tl.int32, bitcast=True) >> 23, 16)
    times = ((268 - exponent) << 23).to(tl.float32, bitcast=True)
    undo = ((exponent - 14) << 23).to(tl.float32, bitcast=True)
    return (x.to(tl.float32) * times[:, None]).to(tl.float16), undo


@triton.jit
def signed_queries(q_tile, scoring, kv_head, SIGN: tl.constexpr):
    """(q_tile times the scores' sign, factor, scale): all sizes are above 0.

    factor: what makes products a soft cap's angles, without one the scale; scale: the softmax's. SIGN: that of the
    scale, -1, 0 or 1; a KV head's k_scale joins both.
    """
    if SIGN != 1:
        q_tile = (q_tile * SIGN).to(q_tile.dtype)
    factor = scoring.scale if scoring.angle is None else scoring.angle
    if scoring.k_scale is not None:
        sign, factor = scaled_by_head(factor, scoring, kv_head)  # pyright: ignore
        q_tile = (q_tile * sign).to(q_tile.dtype)
    return q_tile, factor, factor if scoring.angle is None else scoring.scale


@triton.jit
def scores_of(q_tile, k_tile, undo, factor, scoring):
    """Unscaled scores [rows, keys], or what the soft cap makes of them; undo: what undoes `as_float16`, or None."""
    score = tl.dot(q_tile, tl.trans(k_tile), input_precision="ieee")
    if undo is not None:
        score *= undo[:, None]
    if scoring.angle is not None:
        score = tangent(score * factor)
    return score


@triton.jit
def halves(words):
    """float16 of the even and of the odd columns of float8, of which two neighbours are one of `words`, int16."""
    if ASSEMBLY:
        return tl.inline_asm_elementwise(HALVES, "=r,=r,r", [words], (tl.float16, tl.float16), is_pure=True, pack=2)
    else:  # noqa: RET505 - the other way must not be compiled
        even = words.to(tl.int8).to(tl.float8e4nv, bitcast=True).to(tl.float16)
        odd = (words >> 8).to(tl.int8).to(tl.float8e4nv, bitcast=True).to(tl.float16)
        return even, odd


@triton.jit
def accumulate_words(state, score, words, scale):
    """`accumulate` with values in words, each of two float8: acc is (of even columns, of odd columns).

    The product needs a value beside that of the next key. Words of 16 bits are transposed on their way from shared
    memory; bytes would be loaded one by one.
    """
    even, odd, row_max, row_sum = state
    weight, rescale, row_max, row_sum = online_softmax(score, row_max, row_sum, scale)  # pyright: ignore
    weight = weight.to(tl.float16)
    even_values, odd_values = halves(words)
    even = tl.dot(weight, even_values, even * rescale[:, None])
    odd = tl.dot(weight, odd_values, odd * rescale[:, None])
    return even, odd, row_max, row_sum
