"""How many shares (splits) decode divides a KV head's keys into: chosen on the host, from sizes alone.

From the buffer's length, not from a kv_len on the device, which may change under a CUDA graph.
"""

from __future__ import annotations

FEW_TILES = 3
"""Up to so many tiles are read by one program: sharing them would not pay for the merge (data/TUNING.md, "Decode")."""
FEW_TILES_FLASH_ATTENTION_3 = 4
BUSY_ENOUGH = 0.85
"""The least share of multiprocessors, or of the best use of waves, that is worth having."""
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
