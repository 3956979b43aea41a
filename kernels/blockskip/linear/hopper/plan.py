"""Which sizes the product of a weight in tiles is done with: a function of its shape, the rows and the device."""

from __future__ import annotations

from dataclasses import dataclass

from ..packing import TILE_ROWS

MOST_ROWS = 128
"""Rows of activations of one program: with more, blocks of so many read the weights again, from the L2."""
EVEN_ENOUGH = 0.95
"""Of the multiprocessors: programs with whole tiles each are taken where so many have the same number of them."""

SIZES = {8: (256, 4, 2), 16: (256, 4, 3), 32: (256, 4, 3), 64: (256, 4, 2), 128: (128, 4, 2)}
"""block_k, stages and row_groups by block_m: data/TUNING.md, "int4 in tiles on Hopper"."""


@dataclass(frozen=True)
class HopperConfig:
    """block_m rows of activations, block_k columns a step, stages steps that are copied ahead.

    row_groups warp groups take 64 rows of the weight each. programs: among which the weight's steps are divided, at
    least one each.
    """

    block_m: int
    block_k: int
    stages: int
    row_groups: int
    programs: int

    @property
    def block_n(self) -> int:
        return self.row_groups * TILE_ROWS


def choose_config(rows: int, out_features: int, in_features: int, multiprocessors: int) -> HopperConfig:
    """The configuration for so many rows of activations and a weight [out_features, in_features] in tiles.

    The fastest or within 3 % of it at Gemma's four layers on an NVIDIA H200, of those that were tried.
    """
    block_m = min(MOST_ROWS, max(8, 1 << (rows - 1).bit_length()))
    blocks = -(-rows // block_m)
    block_k, stages, groups = SIZES[block_m]
    steps = in_features // block_k
    row_blocks = -(-out_features // (groups * TILE_ROWS))
    wanted = max(1, min(multiprocessors // blocks, row_blocks * steps))
    return HopperConfig(block_m, block_k, stages, groups, _even(row_blocks, wanted))


def _even(tiles: int, programs: int) -> int:
    """Programs with equally many whole tiles, where that keeps nearly as many busy; else as many as are asked for."""
    even = max(count for count in range(1, min(tiles, programs) + 1) if tiles % count == 0)
    return even if even >= EVEN_ENOUGH * programs else programs
