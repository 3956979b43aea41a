"""Gluon's names that its releases call differently. Imports Gluon."""

# pyright: reportAttributeAccessIssue=false
# The installed release has one of them.

from __future__ import annotations

from triton.experimental.gluon import language as gl

thread_barrier = gl.barrier if hasattr(gl, "barrier") else gl.thread_barrier
"""Waits for the group's threads; Triton 3.7 gave it another name."""
