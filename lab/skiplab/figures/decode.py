"""Charts of decode: time, bandwidth and rate over the length of the cache, and where splitting the keys pays."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd

from skiplab.figures import series, theme
from skiplab.figures.charts import BarChart, Bars, HeatChart, Hover, LineChart
from skiplab.figures.frames import AXES, ORIGIN, speedups
from skiplab.figures.series import RowDict
from skiplab.text import digits, percent

OPTIONAL = ("kv_dtype", "ragged")
KEYS = "keys in the cache (tokens)"
METHODS = {
    "graph": "in a CUDA graph",
    "eager": "launched one by one",
    "warm": "in a CUDA graph, caches warm",
    "cpu": "",
}
"""Timing methods in words: one by one, a launch's own time hides what a kernel takes."""
STANDARD = (("blockskip", "blockskip-one"), ("blockskip", "blockskip-prefill"),
            ("executorch split-K", "executorch standard"))  # fmt: skip
"""Split-K, and the kernel without splits that it is held against."""


def decode_time(table: pd.DataFrame) -> LineChart:
    """Median time over the cache's length, a line for each contender, window and source; the roofs' floor in grey."""
    good = _good(table).assign(time=lambda rows: rows["median_ms"] / 1e3)
    good = good.assign(low=good["low_ms"] / 1e3, high=good["high_ms"] / 1e3, floor=good["bound_ms"] / 1e3)
    name = _namer(good)
    shown = series.lines(good, "kv_len", "time", "low", "high", name, _hover)
    floors = series.limits(good, "kv_len", "floor", "least time that the roofs allow", name)
    return LineChart(
        "One decode step's attention: time by keys", KEYS, "median time", (*shown, *floors), series.sources(good),
        series.note(table, good), y_is_time=True,
    )  # fmt: skip


def decode_ratio(table: pd.DataFrame) -> LineChart:
    """Time over the cache's length as a multiple of the least that the roofs allow, a line for each contender.

    Behind a long cache the times of good kernels run together on an axis of decades; these multiples do not.
    """
    good = _good(table)
    good = good[good["bound_ms"] > 0]
    good = good.assign(**{name: good[f"{name}_ms"] / good["bound_ms"] for name in ("median", "low", "high")})
    note = series.note(table, good, "no checked point has a roof in its run's header")
    shown = series.lines(good, "kv_len", "median", "low", "high", _namer(good), _hover)
    return LineChart(
        "One decode step's attention: times the least that the roofs allow", KEYS,
        "times the least for the keys it sees", shown, series.sources(good), note, level=1.0,
    )  # fmt: skip


def settings(table: pd.DataFrame) -> dict[str, Any]:
    """The decode rows of each device, head shape, window and number of queries timed with several caches, by name."""
    rows: Any = table[table["operation"] == "decode"]

    def name(row: RowDict) -> str:
        queries = f"{int(row['q_len'])} queries" if row["q_len"] > 1 else ""
        batch = f"batch {int(row['batch'])}" if row["batch"] > 1 else ""
        return ", ".join(filter(None, [series.shape(row), _window(row), queries, batch]))

    return series.by_setting(
        rows, ["head_dim", "q_heads", "kv_heads", "dtype", "batch", "q_len", "window", *OPTIONAL], "kv_len", name
    )


def decode_rate(table: pd.DataFrame) -> LineChart:
    """Tokens a second that one layer's attention allows, over the cache's length; the roofs' ceiling in grey."""
    good = _good(table)
    good = good.assign(rate=good["tokens_per_s"])
    good = good.assign(low=good["rate"] * good["median_ms"] / good["high_ms"])
    good = good.assign(high=good["rate"] * good["median_ms"] / good["low_ms"])
    good = good[good["rate"].notna()]
    good = good.assign(roof=good["rate"] * good["median_ms"] / good["bound_ms"])
    return _rates(table, good, "One decode step's attention: rate by keys", "queries/s of one layer",
                  "rate at the roofs")  # fmt: skip


def decode_bandwidth(table: pd.DataFrame) -> LineChart:
    """Bytes that must move / time, over the cache's length, beside the device's bandwidth."""
    good = _good(table)
    good = good[good["gbps"].notna()]
    good = good.assign(rate=good["gbps"])
    good = good.assign(low=good["rate"] * good["median_ms"] / good["high_ms"])
    good = good.assign(high=good["rate"] * good["median_ms"] / good["low_ms"])
    good = good.assign(roof=good["rate"] * good["median_ms"] / good["bound_ms"])
    return _rates(table, good, "One decode step's attention: bandwidth by keys", "compulsory bytes / time (GB/s)",
                  "bandwidth at the roofs")  # fmt: skip


def crossover(table: pd.DataFrame) -> LineChart:
    """Speed-up of split-K over kernels without splits, over the cache's length; a line for each way of timing.

    `frames.by_method(run)` gives the rows of both ways, launched one by one and in a CUDA graph.
    """
    decode: Any = table[table["operation"] == "decode"]
    labels, parts = dict(zip(decode["contender"], decode["label"], strict=True)), []
    for split, standard in STANDARD:
        pair = decode[decode["contender"].isin([split, standard])]
        parts.append(speedups(pair, standard, (*AXES, "buffer", "method")).assign(base=labels.get(standard, standard)))
    good: Any = pd.concat(parts, ignore_index=True)
    good = good.assign(kind=good["contender"] + good["base"])
    differing = [name for name in _differing(good) if name != "window" or good["window"].nunique(dropna=False) > 1]

    def name(row: RowDict) -> str:
        parts = [f"against {row['base']}", METHODS.get(row["method"], str(row["method"])), *_settings(row, differing)]
        return ", ".join(filter(None, parts))

    bases = set(good["base"])
    than = bases.pop() if len(bases) == 1 else "without splits"
    return LineChart(
        "Where splitting the keys pays", KEYS, f"times faster than {than}",
        series.lines(good, "kv_len", "speedup", "speedup_low", "speedup_high", name, _hover, True),
        series.sources(good),
        series.note(decode, good, "no checked point has a partner without splits at the same setting"), level=1.0,
    )  # fmt: skip


def decode_speedup(table: pd.DataFrame, base: str = "sdpa") -> LineChart:
    """Speed-up over `base`, over the cache's length."""
    decode: Any = table[table["operation"] == "decode"]
    good = speedups(decode, base, (*AXES, "buffer", "method"))
    return LineChart(
        f"Speed-up over {base} by keys", KEYS, f"times faster than {base}",
        series.lines(good, "kv_len", "speedup", "speedup_low", "speedup_high", _namer(good), _hover),
        series.sources(good), series.note(decode, good, f"no checked point has a partner of {base}"), level=1.0,
    )  # fmt: skip


def decode_grid(table: pd.DataFrame, y: str = "time", contender: str = "blockskip") -> HeatChart:
    """Time (`y="time"`) or rate (`y="rate"`) of one contender: cache length across, window down; one source and device.

    Measured rows are preferred to recorded, published and predicted ones. ValueError lists what `y` may be.
    """
    if y not in ("time", "rate"):
        raise ValueError(f"y: got {y!r}; allowed are time, rate")
    good = _good(table)
    good = good[good["contender"] == contender]
    for source in ("measured", "recorded", "published", "predicted"):
        if len(here := good[good["source"] == source]):
            good = here[here["device"] == here["device"].iloc[0]]
            break
    good = good.assign(order=good["window"].fillna(np.inf)).sort_values(["order", "kv_len"])
    lengths, rows = sorted(good["kv_len"].unique()), series.rows_of(good)
    names = list(dict.fromkeys(_window(row) for row in rows))
    cells = {(_window(row), row["kv_len"]): _value(row, y) for row in rows}
    label = good["label"].iloc[0] if len(good) else contender
    return HeatChart(
        f"{label}: {'time of one decode step' if y == 'time' else 'queries/s of one layer'}", KEYS, "window (keys)",
        tuple(theme.tokens(length) for length in lengths), tuple(name.removeprefix("window ") for name in names),
        tuple(tuple(float(cells.get((name, length), np.nan)) for length in lengths) for name in names),
        series.sources(good), series.note(table, good, f"no point of {contender} yet"), "s" if y == "time" else "/s",
    )  # fmt: skip


def generation(table: pd.DataFrame) -> BarChart:
    """Tokens a second of a whole model before and after each change (operation `generate`), as they are published."""
    good: Any = table[(table["operation"] == "generate") & table["tokens_per_s"].notna()]
    sides = {"before": theme.VERMILLION, "after": theme.style("executorch").colour}
    cells: dict[tuple[str, str], float] = {}
    for row in series.rows_of(good):
        side, _, change = row["label"].partition(" ")
        cells[side, change] = row["tokens_per_s"]
    groups = tuple(dict.fromkeys(change for _, change in cells))
    bars = []
    for side, colour in sides.items():
        values = tuple(cells.get((side, change), np.nan) for change in groups)
        rates = (f": {rate:g} tokens/s" for rate in values)
        hover = tuple(Hover(side, rate, (change,)) for change, rate in zip(groups, rates, strict=True))
        bars.append(Bars(side, values, colour, theme.HATCHES["published"], hover=hover))
    return BarChart(
        "A whole model's decode, change by change", "change", "tokens/s", groups, tuple(bars), series.sources(good),
        "" if len(good) else "lay the published rates over this figure: choose them in the list of runs",
        y_is_log=False,
    )  # fmt: skip


def _value(row: RowDict, y: str) -> float:
    return row["median_ms"] / 1e3 if y == "time" else row["tokens_per_s"]


def _good(table: pd.DataFrame) -> Any:
    """Checked decode points that have a time, one row each: a CUDA graph's if it was timed so."""
    good: Any = table[(table["operation"] == "decode") & (table["status"] == "ok") & table["median_ms"].notna()]
    good = good.reset_index(drop=True)
    rank = good["method"].map({"eager": 1, "warm": 2}).fillna(0)
    ranked = good.assign(rank=rank).sort_values("rank", ascending=False, kind="stable")
    kept = ranked.drop_duplicates([*ORIGIN, *AXES, "run_id", "buffer", "contender"], keep="last").index
    return good[good.index.isin(kept)]


def _rates(table: pd.DataFrame, good: Any, title: str, y_title: str, roof: str) -> LineChart:
    name = _namer(good)
    shown = series.lines(good, "kv_len", "rate", "low", "high", name, _hover)
    roofs = series.limits(good, "kv_len", "roof", roof, name)
    return LineChart(title, KEYS, y_title, (*shown, *roofs), series.sources(good), series.note(table, good))


def _namer(table: Any) -> Callable[[RowDict], str]:
    """A function of a row that names its setting by the columns in which this table's settings differ."""
    differing = _differing(table)
    return lambda row: ", ".join(_settings(row, differing))


def _differing(table: Any) -> list[str]:
    """The columns in which settings differ; the window always is one, a buffer where it is no plain kv_len."""
    # what a source does not tell (a published table has no buffer) is no setting of its own
    known = [row for row in series.rows_of(table) if row["source"] != "published"]
    differing = [
        "window",
        *series.several(known, "q_len", "batch", "q_heads", "kv_heads", "head_dim", "dtype", *OPTIONAL),
    ]
    if any(row["buffer"] == row["buffer"] and row["buffer"] != row["kv_len"] for row in known):
        differing.append("buffer")
    return differing


def _settings(row: RowDict, differing: list[str]) -> list[str]:
    words = {
        "window": _window, "shape": series.shape,
        "q_len": lambda r: f"{int(r['q_len'])} queries",
        "batch": lambda r: f"batch {int(r['batch'])}",
        "buffer": lambda r: f"buffer {theme.tokens(r['buffer'])}" if r["buffer"] == r["buffer"] else "",
    }  # fmt: skip
    heads = {"q_heads", "kv_heads", "head_dim", "dtype", *OPTIONAL}
    names = dict.fromkeys("shape" if name in heads else name for name in differing)
    return [text for name in names if (text := words[name](row))]


def _window(row: RowDict) -> str:
    """`window 1k`, or that all keys are seen."""
    window = row["window"]
    return "all keys" if window is None or window != window else f"window {theme.tokens(window)}"


def _hover(row: RowDict) -> Hover:
    """A point's hover text: keys, time, rate, bandwidth and doubts."""
    lines = [series.time_text(row)]
    if row["gbps"] == row["gbps"]:
        reached = row["bound_ms"] / row["median_ms"]
        share = f", {percent(reached)} of the roofs" if reached == reached else ""
        lines.append(f"{digits(row['gbps'])} GB/s of compulsory bytes{share}")
    if "speedup" in row:
        base = theme.seconds(row["median_ms_base"] / 1e3)
        lines.append(f"{theme.ratio(row['speedup'])} as fast as without splits ({base})" if "base" in row
                     else f"{theme.ratio(row['speedup'])} as fast as the base ({base})")  # fmt: skip
    if row["method"] == row["method"] and METHODS.get(row["method"]):
        lines.append(f"timed {METHODS[row['method']]}")
    return Hover(row["label"], f", {int(row['kv_len']):,} keys, {_window(row)}", (*lines, *series.doubts(row)))


def problem(row: RowDict) -> str:
    """A point's problem in words."""
    queries = f"{int(row['q_len'])} queries, " if row["q_len"] > 1 else ""
    batch = f"batch {int(row['batch'])}, " if row["batch"] > 1 else ""
    return f"{int(row['kv_len']):,} keys, {series.window(row) or 'all seen'}, {queries}{batch}{series.shape(row)}"


def overview(table: Any) -> LineChart:
    """The first chart to look at."""
    return decode_time(table)
