"""What the kernel is compiled for, and what it takes keys, values and results as: views, or the host's descriptors."""

from __future__ import annotations

from ....config import TileConfig, pieces_of
from ....launching.dispatch import TmaTensor
from ....launching.view import View, in_pieces_of_16_bytes
from ...band import Lengths
from .items import ROWS, HopperConstants

AHEAD_HEAD_DIM = 128
"""Up to this size two buffers of queries fit beside the tiles."""
COPIED = 8
"""Elements of what is copied at once, 16 bytes."""


def constants_of(
    skip: str, q: View, k: View, v: View, out: View, lengths: Lengths, config: TileConfig
) -> HopperConstants:
    """What the kernel is compiled for."""
    head_dim = q.shape[3]
    ahead = head_dim <= AHEAD_HEAD_DIM and head_dim % COPIED == 0 and in_pieces_of_16_bytes(q)
    alike = _is_known(lengths) and pieces_of(head_dim)[1] == 0
    mapped = alike and all(in_pieces_of_16_bytes(view) and _moves(view) for view in (k, v, out))
    tiles = config.block_m, config.block_n, config.num_stages
    return HopperConstants(skip, head_dim, *pieces_of(head_dim), *tiles, ahead, mapped)


def tensors_of(
    constants: HopperConstants, k: View, v: View, out: View, kv_len: int
) -> tuple[View | TmaTensor, View | TmaTensor, View | TmaTensor]:
    """The kernel's arguments k, v and out."""
    if not constants.MAPPED:
        return k, v._replace(strides=None) if v.strides == k.strides else v, out
    of_keys = constants.BLOCK_N, kv_len
    return _described(k, *of_keys), _described(v, *of_keys), _described(out, ROWS.value, out.shape[2])


def _is_known(lengths: Lengths) -> bool:
    """Whether the host knows how many keys there are, and each call of this kind has as many."""
    on_device = lengths.pointer is not None or lengths.items is not None
    return not on_device and type(lengths.kv_len) is int


def _described(view: View, rows: int, length: int) -> TmaTensor:
    """Blocks [1, 1, rows, head_dim's power of two] of a tensor [batch, heads, length, head_dim]."""
    *sizes, head_dim = view.shape[0], view.shape[1], length, view.shape[3]
    # the stride of a dimension of one entry may be anything, also what a descriptor does not take
    strides = (stride if size > 1 else COPIED for size, stride in zip(view.shape[:3], view.strides[:3], strict=True))
    width = pieces_of(head_dim)[0]
    swizzle = min(128, width * view.ptr.element_size())
    return TmaTensor(view.ptr, (*sizes, head_dim), (*strides, 1), (1, 1, rows, width), swizzle)


def _moves(view: View) -> bool:
    """Whether no dimension of several entries repeats one, which a host's descriptor cannot describe."""
    return all(stride > 0 for size, stride in zip(view.shape, view.strides, strict=True) if size > 1)
