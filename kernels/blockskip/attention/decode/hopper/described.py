"""What the kernel is compiled for."""

from __future__ import annotations

from ....config import TileConfig
from ....launching.view import View
from ...band import Lengths
from ...hopper.described import is_mapped, pieces_with
from .kernel import HopperConstants


def constants_of(q: View, k: View, v: View, lengths: Lengths, config: TileConfig) -> HopperConstants:
    """What the kernel is compiled for."""
    pieces = pieces_with(config, q.shape[3])
    tiles = config.block_m, config.block_n, config.num_stages
    mapped = is_mapped(lengths, pieces, (k, v))
    return HopperConstants(q.shape[3], *pieces, *tiles, q.shape[1] // k.shape[1], config.by_columns, mapped)
