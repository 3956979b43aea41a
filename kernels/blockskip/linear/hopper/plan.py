"""Which sizes the product of a weight in tiles is done with: a function of its shape, the rows and the device."""

from __future__ import annotations

from dataclasses import dataclass, replace

from ..packing import TILE_ROWS

SIZES = {8: (256, 4, 2), 16: (256, 4, 2), 32: (256, 4, 2), 64: (256, 4, 2), 128: (128, 4, 2), 256: (64, 4, 2)}
"""block_k, stages and row_groups by block_m: data/TUNING.md, "int4 in tiles on Hopper"."""
LARGE_WEIGHT = 10**8
"""Numbers of a weight from which three groups of 64 rows are faster than two with 16 rows of activations."""
MOST_ROWS = 256
"""Rows of activations of one program. With more, blocks of so many read the weights again, from the L2."""
EXACT_ROWS = 8
"""Rows of activations up to which sums are scaled, and so no weight is rounded to the activations' dtype."""
UNPACKED_AHEAD = 128
"""Rows of activations of one program from which a step is unpacked while the one before it is multiplied. With fewer
it took as long or longer: it needs three steps in shared memory at a time, not one."""
WHOLE_ENOUGH = 0.95
"""Of the multiprocessors, where programs get whole tiles."""
MANY_TILES = 1.5
"""Tiles a program from which what is shared no longer counts: all multiprocessors have a program."""
IN_CACHE = 32 << 20
"""Bytes of activations that stay in the L2 although programs read different columns of them."""
PARTS = 12
"""Else programs get whole twelfths of a tile where that leaves few idle: few share one, and at the same columns."""
BUSY_ENOUGH = 0.87
"""Of the multiprocessors, where programs get whole twelfths."""


@dataclass(frozen=True)
class HopperConfig:
    """block_m rows of activations, block_k columns a step, stages steps that are copied ahead.

    row_groups warp groups take 64 rows of the weight each. programs: among which the steps of all tiles, of all blocks
    of rows, are divided, at least one each.
    """

    block_m: int
    block_k: int
    stages: int
    row_groups: int
    programs: int

    def __post_init__(self) -> None:
        if self.block_m >= UNPACKED_AHEAD and self.stages < 3:
            raise ValueError(f"stages: got {self.stages}; from {UNPACKED_AHEAD} rows of activations on at least 3")

    @property
    def block_n(self) -> int:
        return self.row_groups * TILE_ROWS


def choose_config(rows: int, out_features: int, in_features: int, multiprocessors: int) -> HopperConfig:
    """The configuration for so many rows of activations and a weight [out_features, in_features] in tiles.

    The fastest or within 5 % of it at Gemma's four layers on an NVIDIA H200, of those that were tried.
    """
    block_m = min(MOST_ROWS, max(8, 1 << (rows - 1).bit_length()))
    config = HopperConfig(block_m, *SIZES[block_m], 1)
    if block_m == 16 and out_features * in_features >= LARGE_WEIGHT:
        config = replace(config, row_groups=3)
    return replace(config, programs=programs_of(config, rows, out_features, in_features, multiprocessors))


def programs_of(config: HopperConfig, rows: int, out_features: int, in_features: int, multiprocessors: int) -> int:
    """Among how many programs the steps of all tiles are divided.

    As many as get whole tiles, where that keeps nearly all multiprocessors busy. Else one for each, where a program
    has several tiles and the activations stay in the L2. Else as many as get whole twelfths of tiles, if that keeps
    enough of them busy.
    """
    tiles, steps = tiles_of(config, rows, out_features), in_features // config.block_k
    most = max(1, min(multiprocessors, tiles * steps))
    whole = _largest_divisor(tiles, most)
    if whole >= WHOLE_ENOUGH * most:
        return whole
    if tiles >= MANY_TILES * most and rows * in_features * 2 <= IN_CACHE:
        return most
    even = _largest_divisor(PARTS * tiles, most)
    return even if even >= BUSY_ENOUGH * most else most


def _largest_divisor(number: int, most: int) -> int:
    return max(count for count in range(1, most + 1) if number % count == 0)


def of_each_block(config: HopperConfig, rows: int) -> HopperConfig:
    """The sizes of one block of rows for all of them: each is divided alike, so a row's bits depend on no other row."""
    return replace(config, programs=config.programs * cdiv(rows, config.block_m))


def tiles_of(config: HopperConfig, rows: int, out_features: int) -> int:
    """Tiles of the weight, times the blocks of rows that each is multiplied with."""
    return cdiv(rows, config.block_m) * cdiv(out_features, config.block_n)


def cdiv(a: int, b: int) -> int:
    return -(-a // b)
