"""What the kernel is compiled for, and what it takes keys, values and results as: views, or the host's descriptors."""

from __future__ import annotations

from ....config import TileConfig, pieces_of
from ....launching.dispatch import TmaTensor
from ....launching.view import View, in_pieces_of_16_bytes
from ...band import Lengths
from ...hopper.buffers import ROWS
from ...hopper.described import COPIED, described, is_known, moves
from .items import HopperConstants

AHEAD_HEAD_DIM = 128
"""Up to this size two buffers of queries fit beside the tiles."""


def constants_of(
    skip: str, q: View, k: View, v: View, out: View, lengths: Lengths, config: TileConfig
) -> HopperConstants:
    """What the kernel is compiled for."""
    head_dim = q.shape[3]
    ahead = head_dim <= AHEAD_HEAD_DIM and head_dim % COPIED == 0 and in_pieces_of_16_bytes(q)
    by_columns = config.block_m == ROWS.value
    pieces = (head_dim // 2, head_dim // 2) if by_columns else pieces_of(head_dim)
    alike = is_known(lengths) and (pieces[1] == 0 or by_columns)
    mapped = alike and all(in_pieces_of_16_bytes(view) and moves(view) for view in (k, v, out))
    tiles = config.block_m, config.block_n, config.num_stages
    return HopperConstants(skip, head_dim, *pieces, *tiles, ahead, mapped, by_columns)


def tensors_of(
    constants: HopperConstants, k: View, v: View, out: View, kv_len: int
) -> tuple[View | TmaTensor, View | TmaTensor, View | TmaTensor]:
    """The kernel's arguments k, v and out."""
    if not constants.MAPPED:
        return k, v._replace(strides=None) if v.strides == k.strides else v, out
    of_keys = constants.BLOCK_N, kv_len, constants.PIECE
    of_out = ROWS.value, out.shape[2], constants.PIECE
    return described(k, *of_keys), described(v, *of_keys), described(out, *of_out)
