"""Descriptors that the host makes: where it knows sizes and strides, and each call of a kind has the same."""

from __future__ import annotations

from ...launching.dispatch import TmaTensor
from ...launching.view import View
from ..band import Lengths

COPIED = 8
"""Elements of what is copied at once, 16 bytes."""


def is_known(lengths: Lengths) -> bool:
    """Whether the host knows how many keys there are, and each call of this kind has as many."""
    on_device = lengths.pointer is not None or lengths.items is not None
    return not on_device and type(lengths.kv_len) is int


def described(view: View, rows: int, length: int, width: int) -> TmaTensor:
    """Blocks [1, 1, rows, width] of a tensor [batch, heads, length, head_dim]; width: a power of two."""
    *sizes, head_dim = view.shape[0], view.shape[1], length, view.shape[3]
    # the stride of a dimension of one entry may be anything, also what a descriptor does not take
    strides = (stride if size > 1 else COPIED for size, stride in zip(view.shape[:3], view.strides[:3], strict=True))
    swizzle = min(128, width * view.ptr.element_size())
    return TmaTensor(view.ptr, (*sizes, head_dim), (*strides, 1), (1, 1, rows, width), swizzle)


def moves(view: View) -> bool:
    """Whether no dimension of several entries repeats one, which a host's descriptor cannot describe."""
    return all(stride > 0 for size, stride in zip(view.shape, view.strides, strict=True) if size > 1)
