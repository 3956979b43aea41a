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

from ...launching.barriers import barriers

ROWS = gl.constexpr(64)
"""Query rows of a warp group: what one of its products takes. An item has those of all groups."""


class Buffers(NamedTuple):
    """Tiles in shared memory, for each piece of the head; q: a warp group's queries, then its results.

    With AHEAD there are two for each group: while an item is attended, the queries of the next one come into the other.
    """

    q: Any
    k: Any
    v: Any


class Barriers(NamedTuple):
    """full: a tile has come; empty: it has been read. queries: (full, empty) of those that two groups share, or ()."""

    k_full: Any
    k_empty: Any
    v_full: Any
    v_empty: Any
    queries: Any


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
    of_queries = ()
    if CONSTANTS.BY_COLUMNS:
        of_queries = (barriers(1, CONSTANTS.GROUPS), barriers(1, CONSTANTS.GROUPS))
    return Barriers(of_keys[0], of_keys[1], of_values[0], of_values[1], of_queries)


@gluon.jit
def share_queries(round_, bars):
    """Once a group has put its piece of the queries of a round where both read them: until the other has, too."""
    mbarrier.arrive(bars.queries[0].index(0))
    mbarrier.wait(bars.queries[0].index(0), round_ & 1)


@gluon.jit
def leave_queries(round_, bars):
    """Once a group has multiplied all its scores of a round: until the other has, too."""
    mbarrier.arrive(bars.queries[1].index(0))
    mbarrier.wait(bars.queries[1].index(0), round_ & 1)


@gluon.jit
def own_values(GROUP: gl.constexpr, buffers, CONSTANTS: gl.constexpr):
    """The buffers with those values alone that a group multiplies: all, or its piece of them."""
    if CONSTANTS.BY_COLUMNS:
        buffers = Buffers(buffers.q, buffers.k, (buffers.v[GROUP],))
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
