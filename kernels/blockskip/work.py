"""Work: the FLOPs and bytes of an attention call, counted from its tile map.

Formulas: a kept pair costs 2 D multiply-adds, D for the score and D for the output, so 4 D FLOPs a query head.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .arguments import choice, integer
from .tilemap import TileMap

SKIPS = ("none", "mask", "bounds", "map")
RUN_BYTES = 12  # three int32 a run
MASK_BITS_PER_WORD = 64


@dataclass(frozen=True)
class Work:
    """FLOPs and bytes of one call. `bytes` is compulsory traffic: each input read once, each output written once."""

    useful_flops: int
    executed_flops: int
    dense_flops: int
    bytes: int

    @property
    def intensity(self) -> float:
        """Useful FLOPs a byte."""
        return self.useful_flops / self.bytes


def attention_work(
    tilemap: TileMap,
    batch: int,
    q_heads: int,
    kv_heads: int,
    head_dim: int,
    element_bytes: int,
    skip: str = "map",
) -> Work:
    """The work of attention over `tilemap`, the same for each batch and head.

    useful counts kept pairs, executed the real pairs of the tiles that `skip` computes, dense all pairs: 4 D FLOPs for
    each and query head. Bytes are q, out, and the keys and values that some tile touches, plus what the skip mode
    itself reads: `none` and `mask` the mask as packed bits (8 bytes a row and 64 keys), `map` the tile map's runs,
    `bounds` nothing. Raises TypeError for kinds, ValueError for counts below 1 and an unknown `skip`.
    """
    choice("skip", skip, SKIPS)
    if not isinstance(tilemap, TileMap):
        raise TypeError(f"tilemap: given {type(tilemap).__name__}; a TileMap is needed")
    counts = {"batch": batch, "q_heads": q_heads, "kv_heads": kv_heads, "head_dim": head_dim}
    batch, q_heads, kv_heads, head_dim = (integer(name, value, 1) for name, value in counts.items())
    element_bytes = integer("element_bytes", element_bytes, 1)
    flops_per_pair = 4 * batch * q_heads * head_dim
    all_pairs = tilemap.q_len * tilemap.kv_len
    executed = all_pairs if skip == "none" else tilemap.visited_pairs
    keys = tilemap.kv_len if skip == "none" else _keys_touched(tilemap)
    moved = 2 * element_bytes * batch * head_dim * (q_heads * tilemap.q_len + kv_heads * keys)
    return Work(
        useful_flops=flops_per_pair * tilemap.kept_pairs,
        executed_flops=flops_per_pair * executed,
        dense_flops=flops_per_pair * all_pairs,
        bytes=moved + _mask_bytes(tilemap, skip),
    )


def _keys_touched(tilemap: TileMap) -> int:
    """Keys in the columns that any row visits: the union of all runs."""
    first, end = tilemap.runs[:, 0], tilemap.runs[:, 1]
    change = np.zeros(tilemap.cols + 1, np.int64)
    np.add.at(change, first, 1)
    np.add.at(change, end, -1)
    touched = np.flatnonzero(np.cumsum(change)[:-1])
    overhang = tilemap.cols * tilemap.block_n - tilemap.kv_len
    has_last = len(touched) > 0 and touched[-1] == tilemap.cols - 1
    return len(touched) * tilemap.block_n - (overhang if has_last else 0)


def _mask_bytes(tilemap: TileMap, skip: str) -> int:
    if skip in ("none", "mask"):
        return tilemap.q_len * -(-tilemap.kv_len // MASK_BITS_PER_WORD) * 8
    return RUN_BYTES * len(tilemap.runs) + 8 * (tilemap.rows + 1) if skip == "map" else 0
