"""Shared memory: tiles of queries, keys and values, and the barriers by which warps hand them to each other."""

# pyright: reportArgumentType=false, reportAssignmentType=false, reportOperatorIssue=false, reportIndexIssue=false
# pyright: reportCallIssue=false, reportAttributeAccessIssue=false, reportOptionalMemberAccess=false
# pyright: reportGeneralTypeIssues=false
# Gluon's functions are typed as what they are in Python, not as what they are compiled to.

from __future__ import annotations

from typing import Any, NamedTuple

from triton.experimental import gluon
from triton.experimental.gluon import language as gl
from triton.experimental.gluon.language.nvidia.hopper import mbarrier

ROWS = gl.constexpr(64)
"""Query rows of a warp group: what one of its products takes. An item has those of all groups."""


class Buffers(NamedTuple):
    """Tiles in shared memory, for each piece of the head; q: a warp group's queries, then its results.

    With AHEAD there are two for each group: while an item is attended, the queries of the next one come into the other.
    scores: see `halves_of_scores`.
    """

    q: Any
    k: Any
    v: Any
    scores: Any


class Barriers(NamedTuple):
    """full: a tile has come; empty: it has been read. scores: both groups' halves are there, or () without halves."""

    k_full: Any
    k_empty: Any
    v_full: Any
    v_empty: Any
    scores: Any


@gluon.jit
def barriers(STAGES: gl.constexpr, COUNT: gl.constexpr):
    """A barrier a stage, which completes when COUNT arrive."""
    bars = gl.allocate_shared_memory(gl.int64, [STAGES, 1], mbarrier.MBarrierLayout())
    for stage in gl.static_range(STAGES):  # pyright: ignore
        mbarrier.init(bars.index(stage), count=COUNT)
    return bars


@gluon.jit
def tiles_of_pieces(dtype: gl.constexpr, COUNT: gl.constexpr, LINES: gl.constexpr, CONSTANTS: gl.constexpr):
    """Shared memory [COUNT, LINES, piece] for each piece of the head."""
    PIECE: gl.constexpr = CONSTANTS.PIECE
    REST: gl.constexpr = CONSTANTS.REST
    first: gl.constexpr = gl.NVMMASharedLayout.get_default_for([LINES, PIECE], dtype)
    tiles = (gl.allocate_shared_memory(dtype, [COUNT, LINES, PIECE], first),)
    if REST > 0:
        rest: gl.constexpr = gl.NVMMASharedLayout.get_default_for([LINES, REST], dtype)
        tiles = tiles + (gl.allocate_shared_memory(dtype, [COUNT, LINES, REST], rest),)  # noqa: RUF005
    return tiles


@gluon.jit
def all_barriers(CONSTANTS: gl.constexpr):
    """The `Barriers` of a program with CONSTANTS.GROUPS computing warp groups."""
    STAGES: gl.constexpr = CONSTANTS.STAGES
    of_keys = (barriers(STAGES, 1), barriers(STAGES, CONSTANTS.GROUPS))
    of_values = (barriers(STAGES, 1), barriers(STAGES, CONSTANTS.GROUPS))
    of_scores = ()
    if CONSTANTS.BY_COLUMNS:
        of_scores = barriers(2, CONSTANTS.GROUPS)
    return Barriers(of_keys[0], of_keys[1], of_values[0], of_values[1], of_scores)


@gluon.jit
def halves_of_scores(CONSTANTS: gl.constexpr):
    """Shared memory, twice [2, ROWS, BLOCK_N], for two groups' halves of a tile's scores; () where there are none."""
    halves = ()
    if CONSTANTS.BY_COLUMNS:
        # without conflicts where a thread has two adjoining scores
        layout: gl.constexpr = gl.SwizzledSharedLayout(2, 1, 8, [1, 0])
        shape: gl.constexpr = [2, ROWS, CONSTANTS.BLOCK_N]
        halves = (
            gl.allocate_shared_memory(gl.float32, shape, layout),
            gl.allocate_shared_memory(gl.float32, shape, layout),
        )
    return halves


@gluon.jit
def own_buffers(GROUP: gl.constexpr, buffers, CONSTANTS: gl.constexpr):
    """The buffers as a group sees them: with its pieces alone, and its halves of scores before the other group's."""
    if CONSTANTS.BY_COLUMNS:
        k, v, scores = buffers.k, buffers.v, buffers.scores
        buffers = Buffers(buffers.q, (k[GROUP],), (v[GROUP],), (scores[GROUP], scores[1 - GROUP]))
    return buffers


@gluon.jit
def buffers_at(buffers, i):
    """The i-th buffer of each piece."""
    if len(buffers) == 2:
        return buffers[0].index(i), buffers[1].index(i)
    else:  # noqa: RET505 - the other way must not be compiled
        return (buffers[0].index(i),)


@gluon.jit
def fill(tiles, values):
    """Writes a tensor a piece into shared memory."""
    tiles[0].store(values[0])
    if len(tiles) == 2:
        tiles[1].store(values[1])
