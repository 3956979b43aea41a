"""The online softmax of FlashAttention-2 (arXiv 2307.08691), in base 2: what the kernels share. Imports triton.

A row's state is its largest scaled score so far (row_max) and the sum of exp2(scaled score - row_max) (row_sum). When
row_max grows, what was summed before is multiplied by `rescale`. A row that has seen no key has -inf and 0.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
import triton
import triton.language as tl

from .call import AttentionCall, DecodeCall


class Scoring(NamedTuple):
    """What makes weights of products q k.

    scale: > 0, log2 e times the scores' scale, or times the soft cap. angle: None without a cap; with one, what
    products are multiplied by for `tangent`: 2 log2 e times scale / softcap. sinks: [Hq], a logit a query head that
    joins the softmax without a value, and its stride; None where there is none. k_scale, v_scale: the scales of float8
    keys and values with their strides over KV heads, 0 for one scale; None where there is none.
    """

    scale: float
    angle: float | None
    sinks: torch.Tensor | None
    sinks_stride: int | None
    k_scale: torch.Tensor | None
    k_scale_stride: int | None
    v_scale: torch.Tensor | None
    v_scale_stride: int | None


def scoring_of(scale: float, call: AttentionCall | DecodeCall) -> Scoring:
    """scale: > 0, times log2 e, as of `sign_and_scale`."""
    angle = None
    if call.softcap is not None:
        scale, angle = call.softcap * math.log2(math.e), 2 * scale / call.softcap
    return Scoring(scale, angle, *_by_head(call.sinks), *_by_head(call.k_scale), *_by_head(call.v_scale))


def _by_head(numbers: torch.Tensor | None) -> tuple[torch.Tensor | None, int | None]:
    """Numbers [heads] or [] and their stride."""
    return numbers, None if numbers is None else numbers.stride(0) if numbers.ndim else 0


@triton.jit
def tangent(y):
    """tanh(y / (2 log2 e)), off by 16 * 2**-24 of itself at most. (`tanh.approx.f32` is off by 2**-11.)

    For |x| = |y| / (2 log2 e) from 1/4 on it is (1 - u) / (1 + u) with u = exp2(-|y|). At 1/4 u is off by 5 units of
    2**-24 of itself, of which 1 / sinh(2 |x|) = 1.92 times as many arrive, and sum and quotient add 5; beyond it is
    less. Nearer to 0, where 1 - u loses digits, it is its series up to x**9; the next term is below 2**-26 of it.
    """
    u = tl.exp2(-tl.abs(y))
    away = (1.0 - u) / (1.0 + u)
    x = y * 0.34657359027997264
    square = x * x
    series = tl.fma(square, 0.021869488536155203, -0.05396825396825397)  # 62/2835, -17/315
    series = tl.fma(square, tl.fma(square, series, 0.13333333333333333), -0.3333333333333333)
    near = tl.fma(x * square, series, x)
    return tl.where(tl.abs(y) < 0.72, near, tl.where(y < 0, -away, away))


@triton.jit
def scaled_by_head(factor, scoring, kv_head):
    """(sign, size) of factor * k_scale, in the way of `sign_and_scale`: the size is above 0."""
    factor *= tl.load(scoring.k_scale + kv_head * scoring.k_scale_stride)
    size = tl.abs(factor)
    vanishes = size < 1.1754943508222875e-38  # float32's least number of full precision
    return tl.where(vanishes, 0, tl.where(factor < 0, -1, 1)), tl.where(vanishes, 1.0, size)


@triton.jit
def after_sink(sink):
    """(row_max, row_sum) of a row that has seen this sink alone; -inf is none."""
    row_max = tl.cast(sink, tl.float32) * 1.4426950408889634
    return row_max, tl.where(row_max == float("-inf"), 0.0, 1.0)


@triton.jit
def first_sums(scoring, heads, real_row, ROWS: tl.constexpr):
    """(row_max, row_sum) [ROWS] before the first tile: those of nothing, or of the rows' sinks; heads: the rows'."""
    row_max = tl.full((ROWS,), float("-inf"), tl.float32)
    row_sum = tl.zeros((ROWS,), tl.float32)
    if scoring.sinks is not None:
        pointers = scoring.sinks + heads.to(tl.int64) * scoring.sinks_stride
        row_max, row_sum = after_sink(tl.load(pointers, mask=real_row, other=float("-inf")))  # pyright: ignore
    return row_max, row_sum


@triton.jit
def finite_max(row_max):
    """`row_max`, or 0 where it is -inf: exp2(x - finite_max(row_max)) is then 0 and never nan."""
    return tl.where(row_max == float("-inf"), 0.0, row_max)


@triton.jit
def online_softmax(score, row_max, row_sum, scale):
    """(weights, rescale, row_max, row_sum) after a tile of unscaled scores [rows, keys], -inf where masked."""
    new_max = tl.maximum(row_max, tl.max(score, 1) * scale)
    # `finite_max`, written out: a further level of calls changes the machine code
    safe_max = tl.where(new_max == float("-inf"), 0.0, new_max)
    weight = tl.exp2(tl.fma(score, scale, -safe_max[:, None]))
    rescale = tl.exp2(row_max - safe_max)
    return weight, rescale, new_max, row_sum * rescale + tl.sum(weight, 1)


@triton.jit
def accumulate(state, score, v_tile, scale):
    """state = (acc [BLOCK_M, BLOCK_D], row_max [BLOCK_M], row_sum [BLOCK_M]) after one more tile."""
    acc, row_max, row_sum = state
    weight, rescale, row_max, row_sum = online_softmax(score, row_max, row_sum, scale)  # pyright: ignore
    acc = tl.dot(weight.to(v_tile.dtype), v_tile, acc * rescale[:, None], input_precision="ieee")
    return acc, row_max, row_sum


@triton.jit
def log_sum_exp(row_max, row_sum):
    """The natural logarithm of the sum of exponentials; -inf for a row that saw nothing."""
    saw_nothing = row_sum == 0
    log2_sum = row_max + tl.log2(tl.where(saw_nothing, 1.0, row_sum))
    return tl.where(saw_nothing, float("-inf"), log2_sum * 0.6931471805599453)
