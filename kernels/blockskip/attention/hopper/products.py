"""A tile's two products, and what lies in the head's pieces: accumulators and results.

A head whose size is no power of two is two pieces, such as 64 and 16 of 80: products run over each, so that none is
padded. Tensors of a head are tuples, a tensor a piece. Where two warp groups have the same rows (BY_COLUMNS), because
one's registers do not hold their results, a head is two equal pieces: both groups compute all scores, and each the
results of one piece.
"""

# pyright: reportArgumentType=false, reportAssignmentType=false, reportOperatorIssue=false, reportIndexIssue=false
# pyright: reportCallIssue=false, reportAttributeAccessIssue=false, reportOptionalMemberAccess=false
# pyright: reportGeneralTypeIssues=false
# Gluon's functions are typed as what they are in Python, not as what they are compiled to.

from __future__ import annotations

from triton.experimental import gluon
from triton.experimental.gluon import language as gl
from triton.experimental.gluon.language.nvidia.hopper import warpgroup_mma, warpgroup_mma_wait

from .buffers import ROWS


@gluon.jit
def zeros_of(CONSTANTS: gl.constexpr):
    """float32 [ROWS, piece] for each piece, or for a group's own: an accumulator of results before the first tile."""
    PIECE: gl.constexpr = CONSTANTS.PIECE
    first: gl.constexpr = gl.NVMMADistributedLayout([3, 0], [4, 1], [16, PIECE, 16])
    acc = (gl.zeros([ROWS, PIECE], gl.float32, first),)
    if CONSTANTS.REST > 0 and not CONSTANTS.BY_COLUMNS:
        REST: gl.constexpr = CONSTANTS.REST
        rest: gl.constexpr = gl.NVMMADistributedLayout([3, 0], [4, 1], [16, REST, 16])
        acc = acc + (gl.zeros([ROWS, REST], gl.float32, rest),)  # noqa: RUF005 - Gluon knows no starred items
    return acc


@gluon.jit
def begin_scores(q_tiles, buffers, stage, zeros):
    """The products of the queries and a tile of keys, begun: one a piece, in one sum."""
    score = warpgroup_mma(q_tiles[0], buffers.k[0].index(stage).permute((1, 0)), zeros, use_acc=False, is_async=True)
    if len(q_tiles) == 2:
        score = warpgroup_mma(q_tiles[1], buffers.k[1].index(stage).permute((1, 0)), score, is_async=True)
    return score


@gluon.jit
def begin_sums(operand, buffers, stage, acc, CONSTANTS: gl.constexpr):
    """The products of the weights and a tile of values, added to acc, begun: one a piece."""
    summed = (warpgroup_mma(operand, buffers.v[0].index(stage), acc[0], is_async=True),)
    if len(acc) == 2:
        REST: gl.constexpr = CONSTANTS.REST
        rest: gl.constexpr = gl.DotOperandLayout(0, gl.NVMMADistributedLayout([3, 0], [4, 1], [16, REST, 16]), 2)
        own = gl.convert_layout(operand, rest, assert_trivial=True)
        summed = summed + (warpgroup_mma(own, buffers.v[1].index(stage), acc[1], is_async=True),)  # noqa: RUF005
    return summed


@gluon.jit
def end_sums(summed):
    """The accumulators, once the products have ended."""
    if len(summed) == 2:
        first, rest = warpgroup_mma_wait(0, deps=(summed[0], summed[1]))
        return first, rest
    else:  # noqa: RET505 - the other way must not be compiled
        return (warpgroup_mma_wait(0, deps=(summed[0],)),)


@gluon.jit
def times(acc, factor, CONSTANTS: gl.constexpr):
    """Each row of each piece times its factor [ROWS]."""
    PIECE: gl.constexpr = CONSTANTS.PIECE
    first: gl.constexpr = gl.NVMMADistributedLayout([3, 0], [4, 1], [16, PIECE, 16])
    scaled = (acc[0] * gl.convert_layout(factor, gl.SliceLayout(1, first))[:, None],)
    if len(acc) == 2:
        REST: gl.constexpr = CONSTANTS.REST
        rest: gl.constexpr = gl.NVMMADistributedLayout([3, 0], [4, 1], [16, REST, 16])
        scaled = scaled + (acc[1] * gl.convert_layout(factor, gl.SliceLayout(1, rest))[:, None],)  # noqa: RUF005
    return scaled


@gluon.jit
def shares(sums, CONSTANTS: gl.constexpr):
    """(acc / sum, 0 for rows that saw nothing; natural logarithm of the sum of exponentials, -inf for them)."""
    acc, row_max, row_sum = sums
    saw_nothing = row_sum == 0
    divisor = gl.where(saw_nothing, 1.0, row_sum)
    factor = 1.0 / divisor
    ln2 = 0.6931471805599453
    # `softmax.log_sum_exp`, written out: calling it changes the machine code
    logarithm = gl.where(saw_nothing, float("-inf"), (row_max + gl.log2(divisor)) * ln2)
    return times(acc, factor, CONSTANTS), logarithm


@gluon.jit
def rounded(values, DTYPE: gl.constexpr):
    """Each piece in the tensors' dtype."""
    if len(values) == 2:
        return values[0].to(DTYPE), values[1].to(DTYPE)
    else:  # noqa: RET505 - the other way must not be compiled
        return (values[0].to(DTYPE),)
