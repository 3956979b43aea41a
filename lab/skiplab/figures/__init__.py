"""Figures: a frame (`store.frame`, `predictions`, `store.published`) in, a figure that names its sources out.

The functions here give plotly figures, which keep a PNG of themselves for readers without plotly. The same charts for
papers: `static.draw(charts.speedup(frame)).savefig("speedup.pdf")`. Figures know no widget and no timer.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any

import blockskip as bs
import pandas as pd

from skiplab.figures import charts, decode, interactive, linear, model, predicted, static, theme
from skiplab.figures.frames import (
    by_method,
    predicted_decode,
    predicted_linear,
    predictions,
    published_prefill,
    speedups,
)
from skiplab.figures.interactive import Figure, tilemap
from skiplab.gaps import gaps
from skiplab.store import query

if TYPE_CHECKING:
    from skiplab.memory import Quality


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


def attention_times(table: pd.DataFrame, first: str = "") -> Figure:
    """Median time over prompt length with the roofs' floor; a menu chooses device, heads, mask; first: as `floors`."""
    return _menu(charts.settings(table), charts.attention_time, table, first)


def floors(table: pd.DataFrame, first: str = "") -> Figure:
    """What our recorded times are made of (`gaps.gaps`); a menu chooses device, heads and mask.

    first: words of the setting to open with, `window 1k`; without them it is the one with the most points.
    """
    return _menu(charts.settings(gaps(query(table, contender="blockskip"))), charts.floors, table, first)


def flops(table: pd.DataFrame, contender: str = "blockskip") -> Figure:
    """Useful, executed and dense FLOPs of each setting of `contender`."""
    return interactive.draw(charts.flops(table, contender))


def waste(tilemaps: Iterable[bs.TileMap]) -> Figure:
    """Pairs computed for each kept pair by tile size, a line for each mask."""
    return interactive.draw(charts.waste(tilemaps))


def measured_vs_predicted(table: pd.DataFrame) -> Figure:
    """Measured time of any operation against the least that the device's roofs allow."""
    return interactive.draw(predicted.measured_vs_predicted(table))


def decode_time(table: pd.DataFrame) -> Figure:
    """Median time of a decode step over the cache's length, with the roofs' floor."""
    return interactive.draw(decode.decode_time(table))


def decode_rate(table: pd.DataFrame) -> Figure:
    """Queries a second that one layer's attention allows, over the cache's length."""
    return interactive.draw(decode.decode_rate(table))


def decode_bandwidth(table: pd.DataFrame) -> Figure:
    """Compulsory bytes / time over the cache's length, beside the device's bandwidth."""
    return interactive.draw(decode.decode_bandwidth(table))


def decode_bandwidths(table: pd.DataFrame, first: str = "") -> Figure:
    """`decode_bandwidth`, with a menu that chooses device, heads and window; first: as `floors`."""
    return _menu(decode.settings(table), decode.decode_bandwidth, table, first)


def decode_grid(table: pd.DataFrame, y: str = "time", contender: str = "blockskip") -> Figure:
    """Time or rate (`y="rate"`) of one contender, cache length across, window down."""
    return interactive.draw(decode.decode_grid(table, y, contender))


def decode_speedup(table: pd.DataFrame, base: str = "sdpa") -> Figure:
    """Speed-up over `base` by the cache's length."""
    return interactive.draw(decode.decode_speedup(table, base))


def crossover(table: pd.DataFrame) -> Figure:
    """Speed-up of split-K over kernels without splits, a line for each way of timing (`by_method(run)`)."""
    return interactive.draw(decode.crossover(table))


def generation(table: pd.DataFrame) -> Figure:
    """Published tokens/s of a whole model before and after each change (`store.published("generate")`)."""
    return interactive.draw(decode.generation(table))


def linear_time(table: pd.DataFrame) -> Figure:
    """Median time of quantised products, a group of bars for each layer, the roofs' least time on each bar."""
    return interactive.draw(linear.linear_time(table))


def linear_bandwidth(table: pd.DataFrame) -> Figure:
    """Compulsory bytes / time of quantised products, the roof on each bar."""
    return interactive.draw(linear.linear_bandwidth(table))


def linear_rows(table: pd.DataFrame) -> Figure:
    """Median time of quantised products over the rows of the activations."""
    return interactive.draw(linear.linear_rows(table))


def linear_bandwidths(table: pd.DataFrame) -> Figure:
    """`linear_bandwidth` for one token, with a menu that chooses device, bits and group size."""
    return _menu(linear.one_row(table), linear.linear_bandwidth, table)


def linear_row_times(table: pd.DataFrame) -> Figure:
    """`linear_rows`, with a menu that chooses device, layer, bits and group size."""
    return _menu(linear.several_rows(table), linear.linear_rows, table)


def _menu(
    chosen: Mapping[str, Any], make: Callable[[Any], model.Chart], table: pd.DataFrame, first: str = ""
) -> Figure:
    """A chart of each of the chosen rows; without any, an empty one of the table's columns that says so."""
    return interactive.choose({name: make(rows) for name, rows in chosen.items()} or {"": make(table.iloc[:0])}, first)


def bits_error(rows: Iterable[Quality], weights: str = "the given weight") -> Figure:
    """Signal to noise in dB over bits a weight, a point for each format of `memory.qualities(weight)`."""
    return interactive.draw(linear.bits_error(rows, weights))


OVERVIEWS = {"attention": throughput, "decode": decode_time, "linear": linear_time}


def overview(table: pd.DataFrame) -> Figure:
    """The first figure to look at for this frame's operation (that of its first row); an empty frame's is attention's.

    ValueError lists the operations that have one.
    """
    operation = table["operation"].iloc[0] if len(table) else "attention"
    if operation == "prefill":  # a published rate of a whole model
        return throughput(table)
    if operation not in OVERVIEWS:
        raise ValueError(f"operation: got {operation!r}; allowed are {', '.join(OVERVIEWS)}")
    return OVERVIEWS[operation](table)


__all__ = [
    "Figure",
    "attention_times",
    "bits_error",
    "by_method",
    "charts",
    "crossover",
    "decode",
    "decode_bandwidth",
    "decode_bandwidths",
    "decode_grid",
    "decode_rate",
    "decode_speedup",
    "decode_time",
    "floors",
    "flops",
    "generation",
    "heatmap",
    "interactive",
    "linear",
    "linear_bandwidth",
    "linear_bandwidths",
    "linear_row_times",
    "linear_rows",
    "linear_time",
    "measured_vs_predicted",
    "overview",
    "predicted",
    "predicted_decode",
    "predicted_linear",
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
