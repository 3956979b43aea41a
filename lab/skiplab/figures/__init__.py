"""Figures: a frame (`store.frame`, `predictions`, `store.published`) in, a figure that names its sources out.

The functions here give plotly figures, which keep a PNG of themselves for readers without plotly. Each is a chart of a
module of this package, drawn; for papers `static.draw(attention.speedup(frame)).savefig("speedup.pdf")`. Figures know
no widget and no timer.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import wraps
from typing import Any, ParamSpec

import pandas as pd

from skiplab.figures import (
    attention,
    charts,
    decode,
    interactive,
    ladder,
    linear,
    menu,
    model,
    predicted,
    static,
    theme,
)
from skiplab.figures.frames import (
    by_method,
    predictions,
    published_prefill,
    speedups,
)
from skiplab.figures.interactive import Figure, tilemap
from skiplab.figures.modules import MODULES
from skiplab.floors import floors_of
from skiplab.ladder import CALLS
from skiplab.operations import DEFAULT_OPERATION, operation_of
from skiplab.store import query

__all__ = [
    "Figure", "attention", "attention_ratio", "attention_times", "bits_error", "by_method", "charts",
    "crossover", "decode", "decode_bandwidth", "decode_bandwidths", "decode_grid", "decode_rate",
    "decode_ratio", "decode_speedup", "decode_time", "floors", "flops", "generation", "heatmap", "interactive",
    "ladder", "linear", "linear_bandwidth", "linear_bandwidths", "linear_layers", "linear_row_times",
    "linear_rows", "linear_time", "measured_vs_predicted", "model", "model_decode", "model_ladder",
    "model_parts", "model_prefill", "overview", "predicted", "predictions", "published_prefill", "speedup",
    "speedups", "static", "theme", "throughput", "tilemap", "waste",
]  # fmt: skip

Given = ParamSpec("Given")


def _drawn(chart: Callable[Given, charts.Chart]) -> Callable[Given, Figure]:
    """The chart as a figure; it takes and says the same."""

    @wraps(chart)
    def draw(*args: Given.args, **named: Given.kwargs) -> Figure:
        return interactive.draw(chart(*args, **named))

    return draw


throughput = _drawn(attention.throughput)
speedup = _drawn(attention.speedup)
attention_ratio = _drawn(attention.attention_ratio)
heatmap = _drawn(attention.heatmap)
flops = _drawn(attention.flops)
waste = _drawn(attention.waste)
decode_time = _drawn(decode.decode_time)
decode_ratio = _drawn(decode.decode_ratio)
decode_rate = _drawn(decode.decode_rate)
decode_bandwidth = _drawn(decode.decode_bandwidth)
decode_grid = _drawn(decode.decode_grid)
decode_speedup = _drawn(decode.decode_speedup)
crossover = _drawn(decode.crossover)
generation = _drawn(decode.generation)
linear_time = _drawn(linear.linear_time)
linear_bandwidth = _drawn(linear.linear_bandwidth)
linear_rows = _drawn(linear.linear_rows)
linear_layers = _drawn(linear.linear_layers)
model_prefill = _drawn(model.prefill)
model_decode = _drawn(model.decode)
bits_error = _drawn(linear.bits_error)
measured_vs_predicted = _drawn(predicted.measured_vs_predicted)


def attention_times(table: pd.DataFrame, first: str = "") -> Figure:
    """`attention.attention_ratio`, time over the least that the roofs allow; a menu chooses device, heads, mask.

    first: as `floors`.
    """
    return _menu(attention.settings(table), attention.attention_ratio, table, first)


def floors(table: pd.DataFrame, first: str = "") -> Figure:
    """What our recorded times are made of (`floors.floors_of`); a menu chooses device, heads and mask.

    first: words of the setting to open with, `window 1k`; without them it is the one with the most points.
    """
    ours = floors_of(query(table, contender="blockskip"))
    return _menu(attention.settings(ours), attention.floors, table, first)


def decode_bandwidths(table: pd.DataFrame, first: str = "") -> Figure:
    """`decode_bandwidth`, with a menu that chooses device, heads and window; first: as `floors`."""
    return _menu(decode.settings(table), decode.decode_bandwidth, table, first)


def linear_bandwidths(table: pd.DataFrame, first: str = "") -> Figure:
    """`linear_bandwidth` for one token, with a menu that chooses device and form of weight; first: as `floors`."""
    return _menu(linear.one_row(table), linear.linear_bandwidth, table, first)


def linear_row_times(table: pd.DataFrame) -> Figure:
    """`linear_rows`, with a menu that chooses device, layer, bits and group size."""
    return _menu(linear.several_rows(table), linear.linear_rows, table)


def model_parts(table: pd.DataFrame, first: str = "") -> Figure:
    """Where the time of one call of a model goes, with a menu that chooses the call; first: as `floors`."""
    return _menu(model.settings(table), model.parts, table, first)


def model_ladder(table: pd.DataFrame, first: str = "") -> Figure:
    """The ladder (`skiplab.ladder.ladder`), rung by rung, with a menu that chooses the call; first: as `floors`."""
    return menu.choose(ladder.charts(table) or {"": ladder.rungs(table.iloc[:0], CALLS[0])}, first)


def _menu(
    chosen: Mapping[str, Any], make: Callable[[Any], charts.Chart], table: pd.DataFrame, first: str = ""
) -> Figure:
    """A chart of each of the chosen rows; without any, an empty one of the table's columns that says so."""
    return menu.choose({name: make(rows) for name, rows in chosen.items()} or {"": make(table.iloc[:0])}, first)


def overview(table: pd.DataFrame) -> Figure:
    """The first figure to look at for this frame's operation (that of its first row); an empty frame's is attention's.

    ValueError lists the operations that have one.
    """
    name = table["operation"].iloc[0] if len(table) else DEFAULT_OPERATION
    if name == "prefill":  # a published rate of a whole model
        name = DEFAULT_OPERATION
    return interactive.draw(MODULES[operation_of(name).name].overview(table))
