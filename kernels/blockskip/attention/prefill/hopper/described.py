"""What the kernel is compiled for, and what it takes keys, values and results as: views, or the host's descriptors."""

from __future__ import annotations

from ....config import TileConfig
from ....launching.dispatch import TmaTensor
from ....launching.view import View, in_pieces_of_16_bytes
from ...band import Lengths
from ...hopper.buffers import ROWS
from ...hopper.described import COPIED, described, is_mapped, keys_and_values, pieces_with
from .items import HopperConstants

AHEAD_HEAD_DIM = 128
"""Up to this size two buffers of queries fit beside the tiles."""


def constants_of(
    skip: str, q: View, k: View, v: View, out: View, lengths: Lengths, config: TileConfig
) -> HopperConstants:
    """What the kernel is compiled for."""
    head_dim = q.shape[3]
    ahead = head_dim <= AHEAD_HEAD_DIM and head_dim % COPIED == 0 and in_pieces_of_16_bytes(q)
    pieces = pieces_with(config, head_dim)
    mapped = is_mapped(lengths, pieces, (k, v, out))
    tiles = config.block_m, config.block_n, config.num_stages
    return HopperConstants(skip, head_dim, *pieces, *tiles, ahead, mapped, config.by_columns)


def tensors_of(
    constants: HopperConstants, k: View, v: View, out: View, kv_len: int
) -> tuple[View | TmaTensor, View | TmaTensor, View | TmaTensor]:
    """The kernel's arguments k, v and out."""
    of_out = described(out, ROWS.value, out.shape[2], constants.PIECE) if constants.MAPPED else out
    return *keys_and_values(constants, k, v, kv_len), of_out
