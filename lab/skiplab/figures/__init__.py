"""Figures: a frame (`store.frame`, `predictions`, `published_prefill`) in, a figure that names its sources out.

The functions here give plotly figures, which keep a PNG of themselves for readers without plotly. The same charts for
papers: `static.draw(charts.speedup(frame)).savefig("speedup.pdf")`. Figures know no widget and no timer.
"""

from __future__ import annotations

from collections.abc import Iterable

import blockskip as bs
import pandas as pd

from skiplab.figures import charts, interactive, static, theme
from skiplab.figures.frames import predictions, published_prefill, speedups
from skiplab.figures.interactive import Figure, tilemap


def throughput(table: pd.DataFrame, y: str = "tokens_per_s") -> Figure:
    """Rate over prompt length, a line for each contender and mask.

    `y`: tokens_per_s, useful_tflops or executed_tflops.
    """
    return interactive.draw(charts.throughput(table, y))


def speedup(table: pd.DataFrame, base: str = "sdpa", x: str = "q_len") -> Figure:
    """Speed-up over `base` by prompt length (`x="q_len"`) or by window (`x="window"`)."""
    return interactive.draw(charts.speedup(table, base, x))


def heatmap(table: pd.DataFrame, contender: str = "blockskip", base: str = "sdpa") -> Figure:
    """Speed-up of `contender` over `base`, prompt length across, window down."""
    return interactive.draw(charts.heatmap(table, contender, base))


def flops(table: pd.DataFrame, contender: str = "blockskip") -> Figure:
    """Useful, executed and dense FLOPs of each setting of `contender`."""
    return interactive.draw(charts.flops(table, contender))


def waste(tilemaps: Iterable[bs.TileMap]) -> Figure:
    """Pairs computed for each kept pair by tile size, a line for each mask."""
    return interactive.draw(charts.waste(tilemaps))


def measured_vs_predicted(table: pd.DataFrame) -> Figure:
    """Measured time against the least that the device's roofs allow."""
    return interactive.draw(charts.measured_vs_predicted(table))


__all__ = [
    "Figure",
    "charts",
    "flops",
    "heatmap",
    "interactive",
    "measured_vs_predicted",
    "predictions",
    "published_prefill",
    "speedup",
    "speedups",
    "static",
    "theme",
    "throughput",
    "tilemap",
    "waste",
]
