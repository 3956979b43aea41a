"""Barriers in shared memory, as Hopper's warps wait at. Imports Gluon."""

# pyright: reportAttributeAccessIssue=false
# Gluon's functions are typed as what they are in Python, not as what they are compiled to.

from __future__ import annotations

from triton.experimental import gluon
from triton.experimental.gluon import language as gl
from triton.experimental.gluon.language.nvidia.hopper import mbarrier


@gluon.jit
def barriers(STAGES: gl.constexpr, COUNT: gl.constexpr):
    """A barrier a stage, which completes when COUNT arrive."""
    bars = gl.allocate_shared_memory(gl.int64, [STAGES, 1], mbarrier.MBarrierLayout())
    for stage in gl.static_range(STAGES):  # pyright: ignore
        mbarrier.init(bars.index(stage), count=COUNT)
    return bars
