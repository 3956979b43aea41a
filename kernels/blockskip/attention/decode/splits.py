"""How many shares decode divides a KV head's keys into: a pure function of sizes, fixed on the host.

It looks at the buffer, never at the true kv_len, which may stand on the device and change under a CUDA graph.
"""

from __future__ import annotations

FEW_TILES = 3
"""Up to here one program reads all tiles, sooner than a second kernel would merge: measured on an H100, where 4 tiles
took, split and whole, 4.5 and 4.6 us (D 64), 5.0 and 5.4 (D 128), 7.2 and 9.9 (D 256), 6.7 and 7.9 (D 512)."""
FEW_TILES_FLASH_ATTENTION_3 = 4
BUSY_ENOUGH = 0.85
MOST_SPLITS = 128


def tiles_at_most(kv_len: int, q_len: int, window: int | None, block_n: int) -> int:
    """Most tiles of block_n keys that q_len last queries can touch in a buffer of kv_len keys."""
    tiles = -(-kv_len // block_n)
    if window is None:
        return tiles
    span = window + q_len - 1  # keys that some query sees
    return min(tiles, -(-(span - 1) // block_n) + 1)  # wherever the span begins inside a tile


def choose_splits(programs: int, tiles: int, multiprocessors: int) -> int:
    """Shares for `programs` programs (batch * KV heads * blocks of rows), each with at most `tiles` tiles.

    As many as fill the multiprocessors once, where that keeps 85 % of them busy; else FlashAttention-3's choice.
    132 multiprocessors: 16 programs -> 8, 4 programs -> 33.
    """
    if tiles <= FEW_TILES:
        return 1
    once = min(multiprocessors // programs, tiles)
    filled = once * programs >= BUSY_ENOUGH * multiprocessors
    return once if filled or once == tiles else flash_attention_3_splits(programs, tiles, multiprocessors)


def flash_attention_3_splits(programs: int, tiles: int, multiprocessors: int) -> int:
    """FlashAttention-3's rule (its heuristics.h): the fewest shares within 85 % of the best use of the waves."""
    if programs >= 0.8 * multiprocessors or tiles <= FEW_TILES_FLASH_ATTENTION_3:
        return 1

    def efficiency(splits: int) -> float:
        waves = programs * splits / multiprocessors
        return waves / -(-programs * splits // multiprocessors)

    allowed = range(1, min(MOST_SPLITS, multiprocessors, tiles) + 1)
    best = max(map(efficiency, allowed))
    return next(splits for splits in allowed if efficiency(splits) >= BUSY_ENOUGH * best)
