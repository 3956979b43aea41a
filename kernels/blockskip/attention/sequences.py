"""Packed sequences as kernels take them: a list of work items, which `varlen.schedule` writes on the device.

Imports triton.
"""

from __future__ import annotations

import triton
import triton.language as tl

ITEM = tl.constexpr(8)
"""int32 an item takes in the list, of which `item_at` reads five. As many lead it, the first is the number of items."""
ROWS_UNKNOWN = 1 << 29
"""What stands for the number of rows in the views that kernels get: so they are compiled once, whatever that number."""


@triton.jit
def item_count(items):
    """How many items the list holds."""
    return tl.load(items)


@triton.jit
def item_at(items, entry):
    """(row of tiles, first query, number of queries, first key, number of keys) of an item.

    The row counts from the first query of the item's sequence. Behind the last item are some without a query or key.
    """
    pointer = items + (entry + 1) * ITEM
    return tl.load(pointer), tl.load(pointer + 1), tl.load(pointer + 2), tl.load(pointer + 3), tl.load(pointer + 4)
