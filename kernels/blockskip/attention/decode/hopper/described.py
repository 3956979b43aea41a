"""What the kernel is compiled for, and what it takes keys and values as: views, or the host's descriptors."""

from __future__ import annotations

from ....config import TileConfig, pieces_of
from ....launching.dispatch import TmaTensor
from ....launching.view import View, in_pieces_of_16_bytes
from ...band import Lengths
from ...hopper.buffers import ROWS
from ...hopper.described import described, is_known, moves
from .kernel import HopperConstants


def constants_of(q: View, k: View, v: View, lengths: Lengths, config: TileConfig) -> HopperConstants:
    """What the kernel is compiled for."""
    head_dim = q.shape[3]
    by_columns = config.block_m == ROWS.value
    piece, rest = (head_dim // 2, head_dim // 2) if by_columns else pieces_of(head_dim)
    alike = is_known(lengths) and (rest == 0 or by_columns)
    mapped = alike and all(in_pieces_of_16_bytes(view) and moves(view) for view in (k, v))
    tiles = config.block_m, config.block_n, config.num_stages
    return HopperConstants(head_dim, piece, rest, *tiles, q.shape[1] // k.shape[1], by_columns, mapped)


def tensors_of(constants: HopperConstants, k: View, v: View, kv_len: int) -> tuple[View | TmaTensor, View | TmaTensor]:
    """The kernel's arguments k and v."""
    if not constants.MAPPED:
        return k, v._replace(strides=None) if v.strides == k.strides else v
    of_keys = constants.BLOCK_N, kv_len, constants.PIECE
    return described(k, *of_keys), described(v, *of_keys)
