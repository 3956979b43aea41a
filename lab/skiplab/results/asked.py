"""What is asked of a kernel at a point: the least of a table's value there, nan for nothing."""

from __future__ import annotations

import math
from collections.abc import Callable

from skiplab.rated import RowDict


def always(least: float) -> Callable[[RowDict], float]:
    """That much is asked for at every point."""
    return lambda row: least


def from_four_windows(row: RowDict) -> float:
    """At least as fast, from a prompt of four windows on."""
    return 1.0 if row["q_len"] >= 4 * row["window"] else math.nan


def windowed_share(row: RowDict) -> float:
    """Share of the product's rate that is asked for with a window, by head size."""
    return {128: 0.6, 256: 0.5}.get(row["head_dim"], math.nan) if row["window"] > 0 else math.nan


def long_cache(row: RowDict) -> float:
    """Share of the read rate that is asked for from 16,384 keys on."""
    return 0.85 if row["kv_len"] >= 16384 else math.nan


def large_layer(row: RowDict) -> float:
    """Share of the read rate that is asked for at the large layers, of more than 100 million weights."""
    return 0.8 if row["out_features"] * row["in_features"] > 1e8 else math.nan


def beside_humming(row: RowDict) -> float:
    """How many times faster than Humming is asked for."""
    return 1.0 if row["rows"] <= 256 else math.nan


def beside_bf16(row: RowDict) -> float:
    """How many times faster than the float weight is asked for: where products decide, unpacking may cost a little."""
    most_rows = ((128, 1.0), (256, 0.97), (512, 0.95))
    return next((least for rows, least in most_rows if row["rows"] <= rows), 0.98)
