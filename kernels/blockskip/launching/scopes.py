"""The beginning and end of a part of a kernel, for who records a timeline from inside it. Imports triton.

They are compiled to nothing. A recording process of the lab puts Triton's Proton in their place, before anything is
compiled: so a kernel that is not recorded costs nothing, and blockskip imports no profiler.
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def enter_scope(NAME: tl.constexpr):
    """What follows on this warp is NAME, up to `exit_scope(NAME)`."""


@triton.jit
def exit_scope(NAME: tl.constexpr):
    """The end of what `enter_scope(NAME)` began."""
