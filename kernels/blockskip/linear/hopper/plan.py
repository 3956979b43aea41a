"""Which sizes the product of a weight in tiles is done with: a function of its shape, the rows and the device."""

from __future__ import annotations

from dataclasses import dataclass

from ..packing import TILE_COLUMNS, TILE_ROWS

MOST_ROWS = 128
"""Rows of activations of one program: with more, blocks of so many read the weights again, from the L2."""
SMALL_WEIGHT = 100_000_000
"""Weights up to which whole tiles a program are sooner than shares of them. Measured on an NVIDIA H200, 16 rows:
16384 x 5376 took 18.5 us against 20.0 to 23.4, 5376 x 8192 12.9 against 16.6; 43008 x 5376 47.3 against 46.0,
5376 x 21504 30.0 against 30.3; at 8 rows 44.9 against 43.7 and 28.4 against 27.5."""
BUSY_ENOUGH = 0.6
"""Of the multiprocessors: with fewer programs of whole tiles, memory is not kept busy."""
EVEN_ENOUGH = 0.95
"""Of the multiprocessors: programs with whole tiles each are taken where so many have the same number of them."""

WHOLE = {8: 14, 16: 11, 32: 7}
"""Stages where programs do whole tiles, by block_m: what shared memory holds."""
SHARED = {8: (256, 5, 3), 16: (256, 5, 3), 32: (256, 4, 3), 64: (256, 4, 2), 128: (128, 4, 2)}
"""block_k, stages and row_groups where they share tiles, by block_m."""


@dataclass(frozen=True)
class HopperConfig:
    """block_m rows of activations, block_k columns a step, stages steps that are copied ahead.

    row_groups warp groups take 64 rows of the weight each; or k_groups of them take every k_groups-th step of the same
    64 rows, and a program does whole tiles. programs: among which the weight's steps are divided, at least one each.
    """

    block_m: int
    block_k: int
    stages: int
    row_groups: int
    k_groups: int
    programs: int

    @property
    def block_n(self) -> int:
        return self.row_groups * TILE_ROWS


def choose_config(rows: int, out_features: int, in_features: int, multiprocessors: int) -> HopperConfig:
    """The configuration for so many rows of activations and a weight [out_features, in_features] in tiles.

    Of eleven to fourteen a number of rows, the soonest at Gemma's four layers on an NVIDIA H200, or within 3 % of it.
    """
    block_m = min(MOST_ROWS, max(8, 1 << (rows - 1).bit_length()))
    blocks = -(-rows // block_m)
    tiles, weights = out_features // TILE_ROWS, out_features * in_features
    if block_m <= 32 and weights <= SMALL_WEIGHT and tiles >= BUSY_ENOUGH * multiprocessors:
        return HopperConfig(block_m, TILE_COLUMNS, WHOLE[block_m], 1, 3, min(tiles, multiprocessors))
    block_k, stages, groups = SHARED[block_m]
    steps = in_features // block_k
    row_blocks = -(-tiles // groups)
    wanted = max(1, min(multiprocessors // blocks, row_blocks * steps))
    return HopperConfig(block_m, block_k, stages, groups, 1, _even(row_blocks, wanted))


def _even(tiles: int, programs: int) -> int:
    """Programs with equally many whole tiles, where that keeps nearly as many busy; else as many as are asked for."""
    even = max(count for count in range(1, min(tiles, programs) + 1) if tiles % count == 0)
    return even if even >= EVEN_ENOUGH * programs else programs
