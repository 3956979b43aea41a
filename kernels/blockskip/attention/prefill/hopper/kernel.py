"""The kernel: its buffers and barriers, and which warps do what."""

# pyright: reportArgumentType=false, reportAssignmentType=false, reportOperatorIssue=false, reportIndexIssue=false
# pyright: reportCallIssue=false, reportAttributeAccessIssue=false, reportOptionalMemberAccess=false
# Gluon's functions are typed as what they are in Python, not as what they are compiled to.

from __future__ import annotations

from triton.experimental import gluon
from triton.experimental.gluon import language as gl

from ...hopper.buffers import ROWS, Buffers, all_barriers, tiles_of_pieces
from ...hopper.tiles import Visible
from .attend import attend
from .copy import copy


@gluon.jit(do_not_specialize=["interleave"])
def prefill(
    q, k, v, out, lse, visits, mask, lengths, band, scoring, interleave, CONSTANTS: gl.constexpr
):  # fmt: skip
    """A program does item after item, each BLOCK_M query rows of one head. Arguments: as of `prefill.kernel.prefill`.

    Grid: as many programs as there are items, or fewer, along the first axis; how many, and `interleave`, a divisor of
    batches x heads, is `schedule.programs_of`'s choice. visits: None, none are recorded. CONSTANTS: `HopperConstants`.
    k, v, out: `described.tensors_of`. The program may begin before the kernel ahead of it has ended.
    """
    GROUPS: gl.constexpr = CONSTANTS.GROUPS
    BLOCKS: gl.constexpr = CONSTANTS.BLOCK_M // ROWS  # of queries that are multiplied at once
    HEAD_DIM: gl.constexpr = CONSTANTS.HEAD_DIM
    BLOCK_N: gl.constexpr = CONSTANTS.BLOCK_N
    STAGES: gl.constexpr = CONSTANTS.STAGES
    dtype: gl.constexpr = q.ptr.dtype.element_ty
    q_buffers = tiles_of_pieces(dtype, BLOCKS * (2 if CONSTANTS.AHEAD else 1), ROWS, CONSTANTS)
    k_buffers = tiles_of_pieces(dtype, STAGES, BLOCK_N, CONSTANTS)
    v_buffers = tiles_of_pieces(dtype, STAGES, BLOCK_N, CONSTANTS)
    buffers = Buffers(q_buffers, k_buffers, v_buffers)
    bars = all_barriers(CONSTANTS)
    visible = Visible(mask, lengths, band)
    # warps, and registers a thread, of the other groups and of the copying warp; the first group has what is left
    if GROUPS == 2:
        gl.warp_specialize(
            [
                (attend, (0, (q, out, lse), buffers, bars, visible, scoring, interleave, CONSTANTS)),
                (attend, (1, (q, out, lse), buffers, bars, visible, scoring, interleave, CONSTANTS)),
                (copy, (q, k, v, buffers, bars, visible, interleave, CONSTANTS)),
            ],
            [4, 1],
            [240, 24 if HEAD_DIM > 128 else 32],
        )
    else:
        gl.warp_specialize(
            [
                (attend, (0, (q, out, lse), buffers, bars, visible, scoring, interleave, CONSTANTS)),
                (attend, (1, (q, out, lse), buffers, bars, visible, scoring, interleave, CONSTANTS)),
                (attend, (2, (q, out, lse), buffers, bars, visible, scoring, interleave, CONSTANTS)),
                (copy, (q, k, v, buffers, bars, visible, interleave, CONSTANTS)),
            ],
            [4, 4, 1],
            [160, 160, 32],
        )
