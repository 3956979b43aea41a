"""The kernel that lists the work items of packed sequences, the longest first, without reading lengths back.

An item is a row of tiles of one sequence, for all heads. Where its keys end grows with its row, so that how many items
are longer than a given one is a sum over the sequences, which each program makes for its own items. Imports triton.
"""

from __future__ import annotations

import triton
import triton.language as tl

from ..sequences import ITEM

ROWS = 64
"""Rows of tiles whose places in the list a program finds at once."""
SEQUENCES = 64
"""Sequences that are looked at together."""
MOST_PARTS = 16
"""The most programs that share a sequence's rows."""


def most_items(queries: int, sequences: int, tile: int) -> int:
    """The most rows of `tile` queries that so many sequences have, and the rows behind them, in so many queries."""
    return queries // tile + sequences + 1


def parts_of(queries: int, tile: int) -> int:
    """How many programs share a sequence's rows: of one that has all queries, a few turns each."""
    return min(MOST_PARTS, -(-queries // (tile * ROWS)))


@triton.jit
def extent(cu, s, count, size):
    """(first, end) of the sequences s in rows of a tensor, in its bounds; of s == count what lies behind them all."""
    first = tl.minimum(tl.maximum(tl.load(cu + s, mask=s <= count, other=0), 0), size)
    end = tl.load(cu + s + 1, mask=s < count, other=size)
    return first, tl.minimum(tl.maximum(end, first), size)


@triton.jit
def levels(s, cu_q, cu_k, count, q_rows, k_rows, band, QUERIES: tl.constexpr):
    """(rows of tiles, level of row -1, highest level) of the sequences s.

    A row's level is about how many keys its last query sees, in tiles: of row r it is r + 1 more than that of row -1,
    but at least 0 and at most the highest. Behind the last sequence are queries without keys.
    """
    q_first, q_end = extent(cu_q, s, count, q_rows)  # pyright: ignore
    k_first, k_end = extent(cu_k, s, count, k_rows)  # pyright: ignore
    q_len, kv_len = q_end - q_first, tl.where(s < count, k_end - k_first, 0)
    rows = tl.where(s <= count, tl.cdiv(q_len, QUERIES), 0)
    highest = tl.cdiv(kv_len, QUERIES)
    before = highest  # without a limit on the right a row sees all
    if band.right is not None:
        before = (kv_len - q_len + band.right) // QUERIES
        if band.left is not None:
            highest = tl.minimum(highest, tl.maximum(band.left + band.right, 0) // QUERIES + 2)
    return rows, before, highest


@triton.jit
def rows_above(level, rows, before, highest):
    """How many of a sequence's rows have a higher level; level: from -1 on."""
    above = rows - tl.minimum(tl.maximum(level - before, 0), rows)
    return tl.where(level < 0, rows, tl.where(level >= highest, 0, above))


@triton.jit(do_not_specialize=["count", "q_rows", "k_rows", "capacity"])
def schedule(
    items, cu_q, cu_k, count, q_rows, k_rows, capacity, band, QUERIES: tl.constexpr, ROWS: tl.constexpr,
    SEQUENCES: tl.constexpr,
):  # fmt: skip
    """Writes the list of items, see `sequences.item_at`: those of the highest level first.

    cu_q, cu_k: int32 [count + 1], where each of `count` sequences' queries and keys begin, and behind them the end.
    q_rows, k_rows: of the tensors that hold them. capacity: how many items the list can hold. QUERIES: of a tile.
    Grid: (count + 1, programs that share a sequence's rows). The last sequence is what lies behind all others: its
    queries see nothing.
    """
    own = tl.program_id(0)
    rows, before, highest = levels(own, cu_q, cu_k, count, q_rows, k_rows, band, QUERIES)  # pyright: ignore
    q_first, q_end = extent(cu_q, own, count, q_rows)  # pyright: ignore
    k_first, k_end = extent(cu_k, own, count, k_rows)  # pyright: ignore
    kv_len = tl.where(own < count, k_end - k_first, 0)
    for first in tl.range(tl.program_id(1) * ROWS, rows, tl.num_programs(1) * ROWS):
        row = first + tl.arange(0, ROWS)
        level = tl.minimum(tl.maximum(row + 1 + before, 0), highest)
        # before it in the order are the later rows of its own sequence with the same level
        place = rows - 1 - row - rows_above(level, rows, before, highest)
        for start in tl.range(0, count + 1, SEQUENCES):
            s = start + tl.arange(0, SEQUENCES)
            of_rows, of_before, of_highest = levels(s, cu_q, cu_k, count, q_rows, k_rows, band, QUERIES)  # pyright: ignore
            of_rows, of_before, of_highest = of_rows[None, :], of_before[None, :], of_highest[None, :]
            above = rows_above(level[:, None], of_rows, of_before, of_highest)
            alike = rows_above(level[:, None] - 1, of_rows, of_before, of_highest) - above
            place += tl.sum(above + tl.where((s < own)[None, :], alike, 0), 1)
        pointers = items + (place + 1) * ITEM
        real = (row < rows) & (place < capacity)
        tl.store(pointers, row, mask=real)
        tl.store(pointers + 1, q_first, mask=real)
        tl.store(pointers + 2, q_end - q_first, mask=real)
        tl.store(pointers + 3, k_first, mask=real)
        tl.store(pointers + 4, kv_len, mask=real)
    if own == count and tl.program_id(1) == 0:
        found = own * 0
        for start in tl.range(0, count + 1, SEQUENCES):
            s = start + tl.arange(0, SEQUENCES)
            of_rows, _, _ = levels(s, cu_q, cu_k, count, q_rows, k_rows, band, QUERIES)  # pyright: ignore
            found += tl.sum(of_rows, 0)
        tl.store(items, tl.minimum(tl.maximum(found, 1), capacity))
        for start in tl.range(found, capacity, SEQUENCES):
            entry = start + tl.arange(0, SEQUENCES)
            for word in tl.static_range(5):
                tl.store(items + (entry + 1) * ITEM + word, 0, mask=entry < capacity)
