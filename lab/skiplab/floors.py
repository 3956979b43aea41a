"""Floors of a prompt's time: lower bounds, each above the one before, that explain the time beyond the useful work."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import blockskip as bs
import numpy as np
import pandas as pd

from skiplab.rated import RowDict

FLOORS = {
    "bound_ms": "useful pairs at the roofs",
    "tiles_ms": "all pairs of the visited tiles",
    "busiest_ms": "on the busiest multiprocessor",
}
"""The columns that `floors_of` gives, in words; each is at least the one before."""


def floors_of(table: pd.DataFrame) -> pd.DataFrame:
    """The checked prefill rows of our kernels whose tiles and roofs are known, with the floors of their times.

    table: of `rated.rated`. `tiles_ms`: the least time when every pair of a visited tile is computed. `busiest_ms`:
    when each tile row of each head is done by one of `sms` multiprocessors alone, at its share of the product's rate.
    `programs`: how many such rows there are. All are computed, and leave out the softmax, loads and the kernel's start.
    Each is at least `bound_ms`, the roofline of the useful work.
    """
    usable = table["sms"].notna() & table["tiles"].notna() & table["product_tflops"].notna() & table["bound_ms"].notna()
    rows: Any = table[(table["operation"] == "attention") & (table["status"] == "ok") & usable]
    floors = [_floors(row) for row in rows.to_dict("records")]
    return rows.assign(**{name: [one[name] for one in floors] for name in ("tiles_ms", "busiest_ms", "programs")})


def _floors(row: RowDict) -> dict[str, float]:
    (block_m, block_n), heads = row["tiles"], int(row["q_heads"] * row["batch"])
    start = 0 if row["buffer"] == row["buffer"] else None
    tilemap = bs.TileMap.build(
        bs.Mask.from_spec(row["mask"]), int(row["q_len"]), int(row["kv_len"]), block_m, block_n, q_start=start
    )
    loads = np.diff(tilemap.to_csr()[0].numpy())
    tile_ms = 4 * row["head_dim"] * block_m * block_n / row["product_tflops"] / 1e9
    tiles = max(row["bound_ms"], heads * int(loads.sum()) * tile_ms)
    busiest = least_busiest(np.tile(loads, heads), int(row["sms"])) * row["sms"] * tile_ms
    return {"tiles_ms": tiles, "busiest_ms": max(tiles, busiest), "programs": heads * len(loads)}


def least_busiest(loads: Sequence[int] | np.ndarray, workers: int) -> int:
    """A lower bound of the busiest worker's load, however the loads are shared out.

    It is at least the mean, and the largest load; and some worker has k + 1 of the k * workers + 1 largest loads.
    """
    falling = np.sort(np.asarray(loads))[::-1]
    sums = np.concatenate([[0], np.cumsum(falling)])
    k = np.arange(1, (len(falling) - 1) // workers + 1)
    crowded = sums[k * workers + 1] - sums[k * workers - k]
    return max(-(-int(sums[-1]) // workers), int(falling[0]), int(crowded.max(initial=0)))
