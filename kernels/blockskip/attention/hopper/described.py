"""Descriptors that the host makes: where it knows sizes and strides, and each call of a kind has the same."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from ...config import TileConfig, pieces_of
from ...launching.dispatch import TmaTensor
from ...launching.view import View, in_pieces_of_16_bytes
from ..band import Lengths

COPIED = 8
"""Elements of what is copied at once, 16 bytes."""


def pieces_with(config: TileConfig, head_dim: int) -> tuple[int, int]:
    """The two widths in which a head is multiplied, 0 for one: two equal ones where groups share its columns."""
    return (head_dim // 2, head_dim // 2) if config.by_columns else pieces_of(head_dim)


def is_mapped(lengths: Lengths, pieces: tuple[int, int], views: Iterable[View]) -> bool:
    """Whether the host can describe these tensors, by one descriptor for all pieces, for each call of a kind alike."""
    on_device = lengths.pointer is not None or lengths.items is not None
    known = not on_device and type(lengths.kv_len) is int
    alike = pieces[1] in (0, pieces[0])
    return known and alike and all(in_pieces_of_16_bytes(view) and _moves(view) for view in views)


def keys_and_values(constants: Any, k: View, v: View, kv_len: int) -> tuple[View | TmaTensor, View | TmaTensor]:
    """A kernel's arguments k and v, by what it is compiled for."""
    if not constants.MAPPED:
        return k, v._replace(strides=None) if v.strides == k.strides else v
    of_keys = constants.BLOCK_N, kv_len, constants.PIECE
    return described(k, *of_keys), described(v, *of_keys)


def described(view: View, rows: int, length: int, width: int) -> TmaTensor:
    """Blocks [1, 1, rows, width] of a tensor [batch, heads, length, head_dim]; width: a power of two."""
    *sizes, head_dim = view.shape[0], view.shape[1], length, view.shape[3]
    # the stride of a dimension of one entry may be anything, also what a descriptor does not take
    strides = (stride if size > 1 else COPIED for size, stride in zip(view.shape[:3], view.strides[:3], strict=True))
    swizzle = min(128, width * view.ptr.element_size())
    return TmaTensor(view.ptr, (*sizes, head_dim), (*strides, 1), (1, 1, rows, width), swizzle)


def _moves(view: View) -> bool:
    """Whether no dimension of several entries repeats one, which a host's descriptor cannot describe."""
    return all(stride > 0 for size, stride in zip(view.shape, view.strides, strict=True) if size > 1)
