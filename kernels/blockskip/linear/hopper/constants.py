"""What the kernel is compiled for, and what its functions hand each other."""

from __future__ import annotations

from typing import Any, NamedTuple

from triton.experimental.gluon import language as gl

TILE_ROWS = gl.constexpr(64)
TILE_COLUMNS = gl.constexpr(256)


class ProductConstants(NamedTuple):
    """What the kernel is compiled for."""

    STEPS: int
    """Of BLOCK_K columns, in a row of the weight."""
    BLOCK_M: int
    """Rows of activations."""
    BLOCK_K: int
    """Columns a step: 64, 128 or 256."""
    GROUP: int
    """Weights that share a scale."""
    STAGES: int
    """Steps in shared memory."""
    ROW_GROUPS: int
    """Warp groups; each multiplies 64 rows of the weight."""
    SYMMETRIC: bool
    """Whether all zero points are 8, and none are given."""
    BLOCKS: bool
    """Whether there are more rows of activations than one block."""
    REGISTERS: int
    """Of a thread of the second and third warp group; the first group has what is left."""


class Buffers(NamedTuple):
    """In shared memory: of all stages, and results of each warp group; the scales again for what there is not."""

    activations: Any
    codes: Any
    scales: Any
    zeros: Any
    results: Any


class Barriers(NamedTuple):
    """One a stage. full: its copies have come; empty: all warp groups have read it."""

    full: Any
    empty: Any


class Shares(NamedTuple):
    """Memory for the sums of tiles that programs share, as `share` uses it; None where each has whole tiles."""

    sums: Any
    flags: Any
