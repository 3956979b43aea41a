"""The online softmax of FlashAttention-2 (arXiv 2307.08691), in base 2: what the kernels share. Imports triton.

A row's state is its largest scaled score so far (row_max) and the sum of exp2(scaled score - row_max) (row_sum). When
row_max grows, what was summed before is multiplied by `rescale`. A row that has seen no key has -inf and 0.
"""

from __future__ import annotations

import triton
import triton.language as tl


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
