"""Charts of prefill attention: from a frame to what a figure shows (`charts`), before anybody draws it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import blockskip as bs
import numpy as np
import pandas as pd

from skiplab.figures import series, theme
from skiplab.figures.charts import BarChart, Bars, HeatChart, Hover, Line, LineChart
from skiplab.figures.frames import ORIGIN, speedups
from skiplab.figures.series import doubts, note, sources, time_text
from skiplab.floors import FLOORS
from skiplab.rated import RowDict, rows_of
from skiplab.text import mask_words

OPTIONAL = ("kv_dtype", "sinks")
SHAPE = ("batch", "q_heads", "kv_heads", "head_dim", "dtype", *OPTIONAL)


def throughput(table: pd.DataFrame, y: str = "tokens_per_s") -> LineChart:
    """Rate over prompt length, a line for each contender and mask.

    `y`: tokens_per_s, useful_tflops or executed_tflops; ValueError lists them.
    """
    titles = {
        "tokens_per_s": "prompt tokens/s",
        "useful_tflops": "useful TFLOP/s (pairs that the mask keeps)",
        "executed_tflops": "executed TFLOP/s (pairs of visited tiles)",
    }
    if y not in titles:
        raise ValueError(f"y: got {y!r}; allowed are {', '.join(titles)}")
    good: Any = table[(table["status"] == "ok") & table[y].notna()].copy()
    # a rate is fast where the time is short: its quartiles change places
    good["y_low"] = good[y] * good["median_ms"] / good["high_ms"]
    good["y_high"] = good[y] * good["median_ms"] / good["low_ms"]
    whole = set(good["operation"]) == {"prefill"}
    title = "Prefill of the whole model" if whole else "One layer's attention"
    return LineChart(
        f"{title}: {'tokens/s' if y == 'tokens_per_s' else 'TFLOP/s'} by prompt length", "prompt length (tokens)",
        titles[y], _lines(good, "q_len", y, "y_low", "y_high"), sources(good), note(table, good),
    )  # fmt: skip


def attention_time(table: pd.DataFrame) -> LineChart:
    """Median time over prompt length, a line for each contender and mask; the roofs' lower bound in grey."""
    good: Any = table[(table["operation"] == "attention") & (table["status"] == "ok") & table["median_ms"].notna()]
    good = good.assign(time=good["median_ms"] / 1e3, low=good["low_ms"] / 1e3, high=good["high_ms"] / 1e3)
    shown = series.lines(good, "q_len", "time", "low", "high", _variant, _hover)
    good = good.assign(floor=good["bound_ms"] / 1e3)
    least = series.limits(good, "q_len", "floor", "least time that the roofs allow", _variant)
    return LineChart(
        "One layer's attention: time by prompt length", "prompt length (tokens)", "median time", (*shown, *least),
        sources(good), note(table, good), y_is_time=True,
    )  # fmt: skip


def attention_ratio(table: pd.DataFrame) -> LineChart:
    """Time over prompt length as a multiple of the least that the roofs allow, a line for each contender and mask.

    Times of many contenders run together on an axis of decades; how far each is from the roofs tells them apart.
    """
    good: Any = table[(table["operation"] == "attention") & (table["status"] == "ok") & (table["bound_ms"] > 0)]
    good = good.assign(**{name: good[f"{name}_ms"] / good["bound_ms"] for name in ("median", "low", "high")})
    return LineChart(
        "One layer's attention: time over the least that the roofs allow", "prompt length (tokens)",
        "times the least for the useful work", series.lines(good, "q_len", "median", "low", "high", _variant, _hover),
        sources(good), note(table, good, "no checked point has a roof in its run's header"), level=1.0,
    )  # fmt: skip


def floors(table: pd.DataFrame) -> LineChart:
    """Lower bounds of a recorded time (`floors`), and the time, as multiples of the least time of the useful work.

    table: from `floors.floors_of`, of one setting. Each floor is above the one before; the time is above them all.
    """
    good: Any = table.sort_values("q_len")
    looks = {**FLOORS, "median_ms": "the time itself"}
    colours = dict(zip(looks, (theme.GREEN, theme.AMBER, theme.AZURE, theme.BLUE), strict=True))
    lines = []
    for column, words in looks.items() if len(good) else ():
        texts = [
            Hover(
                words,
                f", prompt {int(row['q_len']):,}",
                (
                    f"{theme.seconds(row[column] / 1e3)}, {theme.ratio(row[column] / row['bound_ms'])} the least",
                    f"{row['programs']:,.0f} programs",
                ),
            )
            for row in rows_of(good)
        ]
        xs, ys = (tuple(map(float, values)) for values in (good["q_len"], good[column] / good["bound_ms"]))
        last = column == "median_ms"
        style = theme.Style(colours[column], "circle" if last else "line-ew-open", "o" if last else "_")
        lines.append(Line(words, xs, ys, ys, ys, tuple(texts), style, 0 if last else theme.SOURCE_DASH["predicted"]))
    origin = f"times {sources(good)}; floors computed from its runs' roofs and the tile maps" if lines else ""
    return LineChart(
        "What the time is made of", "prompt length (tokens)", "times the least for the useful work", tuple(lines),
        origin, note(table, good, "no row of ours with tiles and roofs"), level=1.0,
    )  # fmt: skip


def speedup(table: pd.DataFrame, base: str = "sdpa", x: str = "q_len") -> LineChart:
    """Speed-up over `base` by prompt length (`x="q_len"`) or by window (`x="window"`); ValueError lists the two."""
    titles = {"q_len": "prompt length (tokens)", "window": "window (keys)"}
    if x not in titles:
        raise ValueError(f"x: got {x!r}; allowed are {', '.join(titles)}")
    good: Any = speedups(table, base)
    good = good[good[x].notna()]
    name = _label(table, base)
    return LineChart(
        f"Speed-up over {name} by {titles[x].split(' (')[0]}", titles[x], f"times faster than {name}",
        _lines(good, x, "speedup", "speedup_low", "speedup_high"),
        sources(good), note(table, good, f"no checked point has a partner of {name} at the same setting"), level=1.0,
    )  # fmt: skip


def heatmap(table: pd.DataFrame, contender: str = "blockskip", base: str = "sdpa") -> HeatChart:
    """Speed-up of `contender` over `base`: prompt length across, window down; the table's first source and device."""
    ratios: Any = speedups(table, base)
    ratios = ratios[ratios["contender"] == contender]
    if len(ratios):
        origin = ratios.iloc[0][list(ORIGIN)]
        ratios = ratios[(ratios[list(ORIGIN)] == origin).all(axis=1)]
    lengths = sorted(ratios["q_len"].unique())
    masks = ratios.assign(order=ratios["window"].fillna(np.inf)).sort_values("order")
    names = list(dict.fromkeys(_variant(row) for row in rows_of(masks)))
    values = {(_variant(row), row["q_len"]): row["speedup"] for row in rows_of(ratios)}
    z = tuple(tuple(float(values.get((name, length), np.nan)) for length in lengths) for name in names)
    label = ratios["label"].iloc[0] if len(ratios) else contender
    return HeatChart(
        f"Speed-up of {label} over {_label(table, base)}", "prompt length (tokens)",
        "window (keys)",
        tuple(theme.tokens(length) for length in lengths), tuple(name.removeprefix("window ") for name in names), z,
        sources(ratios), note(table, ratios, "no checked pair of points"),
    )  # fmt: skip


def flops(table: pd.DataFrame, contender: str = "blockskip") -> BarChart:
    """Useful (kept pairs), executed (visited tiles) and dense (all pairs) FLOPs of each setting of `contender`."""
    chosen: Any = table[(table["contender"] == contender) & table["executed_flops"].notna()]
    one = len({_variant(row) for row in rows_of(chosen)}) == 1
    names = [theme.tokens(row["q_len"]) + ("" if one else f", {_variant(row)}") for row in rows_of(chosen)]
    chosen = chosen.assign(group=names)
    chosen = chosen.sort_values(["q_len", "window"]).drop_duplicates("group")
    groups = tuple(chosen["group"])
    colours = {"useful": theme.GREEN, "executed": theme.BLUE, "dense": theme.GREY}
    bars = []
    for name, colour in colours.items():
        values = tuple(chosen[f"{name}_flops"].astype(float))
        amounts = [f": {theme.quantity(n, 'FLOP')}" for n in values]
        hover = [Hover(name, amount, (group,)) for group, amount in zip(groups, amounts, strict=True)]
        bars.append(Bars(name, values, colour, hover=tuple(hover)))
    return BarChart(
        f"Useful, executed and dense work{', ' + _variant(rows_of(chosen)[0]) if one else ''}",
        "prompt length (tokens)" if one else "prompt length, mask", "FLOPs of one layer's attention",
        groups, tuple(bars),
        "counted from the tile maps, not measured" if len(chosen) else "",
        "" if len(chosen) else f"no row of {contender} says how much it executes", "FLOP",
    )  # fmt: skip


def waste(tilemaps: Iterable[bs.TileMap]) -> LineChart:
    """Pairs computed for each kept pair by the area of a tile, a line for each mask; counted, not measured."""
    by_mask: dict[str, list[tuple[float, float, Hover]]] = {}
    for tilemap in tilemaps:
        side = (tilemap.block_m * tilemap.block_n) ** 0.5
        words = f"tiles of {tilemap.block_m} × {tilemap.block_n}: waste {tilemap.waste:.3f}"
        hover = Hover(repr(tilemap.mask), lines=(words,))
        by_mask.setdefault(repr(tilemap.mask), []).append((side, tilemap.waste, hover))
    drawn = []
    for number, (name, points) in enumerate(by_mask.items()):
        x, y, hover = zip(*sorted(points, key=lambda point: point[:2]), strict=True)
        drawn.append(Line(name, x, y, y, y, hover, _by_number(number), number % len(theme.DASHES)))
    return LineChart(
        "Waste grows with the tile", "side of a tile (queries, keys)", "pairs computed for each kept one", tuple(drawn),
        "counted from the tile maps, not measured", "" if drawn else "no tile map given", level=1.0,
    )  # fmt: skip


def _lines(table: Any, x: str, y: str, low: str, high: str) -> tuple[Line, ...]:
    """A line for each source, device, contender and setting that x does not run over."""
    if not len(table):
        return ()
    named = table.assign(variant=[_variant(row, x) for row in rows_of(table)])
    shapes = named.groupby(list(ORIGIN))[list(SHAPE)].transform(lambda column: column.nunique(dropna=False)).max(axis=1)
    named["shape"] = [_shape(row) if many > 1 else "" for row, many in zip(rows_of(named), shapes, strict=True)]
    labels = theme.source_labels(named[list(ORIGIN)].itertuples(index=False, name=None))
    single = named["contender"].nunique() == 1
    # what colours (of a single contender) or dashes (of several) tell apart
    groups = ["variant", "shape", *ORIGIN] if single else ["variant", "shape"]
    variants = list(dict.fromkeys(named.sort_values("window")[groups].itertuples(index=False, name=None)))
    lines = []
    for keys, rows in named.groupby([*ORIGIN, "contender", "label", "variant", "shape"], sort=False, dropna=False):
        source, device, contender, label, variant, heads = keys
        parts = [label, variant, heads, labels[source, device]]
        number = variants.index((variant, heads, source, device) if single else (variant, heads))
        look = _by_number(number) if single and len(variants) > 1 else theme.style(contender)
        look, dash = theme.beside(look, 0 if single else number % len(theme.DASHES), source, set(table["source"]))
        rows = rows.sort_values(x)
        columns = [tuple(map(float, rows[name])) for name in (x, y, low, high)]
        hover = tuple(_hover(row) for row in rows_of(rows))
        xs, ys, lows, highs = columns
        lines.append(Line(", ".join(filter(None, parts)), xs, ys, lows, highs, hover, look, dash))
    return tuple(lines)


def _label(table: pd.DataFrame, contender: str) -> str:
    """The contender's name in a legend: for torch's default what it does, for others the label of their rows."""
    labels: Any = table.loc[table["contender"] == contender, "label"]
    return "dense + mask" if contender == "sdpa" else str(labels.iloc[0]) if len(labels) else contender


def _by_number(number: int) -> theme.Style:
    """Colours and markers for the windows of a single contender."""
    marker, plain = series.MARKERS[number % len(series.MARKERS)]
    return theme.Style(theme.VARIANTS[number % len(theme.VARIANTS)], marker, plain)


def settings(table: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """The prefill rows of each device, head shape and mask timed at several lengths, by a name in words.

    Devices come in the table's order; of each, small heads first, then narrow windows, causal last.
    """
    rows: Any = table[(table["operation"] == "attention") & table["buffer"].isna()]
    keys = ["head_dim", "q_heads", "kv_heads", "dtype", "batch", "window", "mask", *OPTIONAL]
    return series.by_setting(rows, keys, "q_len", lambda row: f"{_shape(row)}, {_variant(row)}")


def _shape(row: RowDict) -> str:
    """Heads, head size and dtype, and how many prompts come together where it is more than one."""
    return ", ".join(filter(None, [series.shape(row), _batch(row)]))


def _batch(row: RowDict) -> str:
    return f"batch {int(row['batch'])}" if row["batch"] > 1 else ""


def _variant(row: RowDict, x: str = "q_len") -> str:
    """The mask in words: `window 512`, `causal`, or the mask's own text."""
    window = row["window"]
    if x == "window":
        return f"prompt {theme.tokens(row['q_len'])}"
    if window == window and window is not None:
        return f"window {theme.tokens(window)}"
    return mask_words(row)


def _hover(row: RowDict) -> Hover:
    """A point's hover text: time, rate, error and doubts."""
    lines = [f"{time_text(row)}, {row['tokens_per_s']:,.0f} tokens/s"]
    if "speedup" in row:
        lines.append(
            f"{theme.ratio(row['speedup'])} as fast as the base ({theme.seconds(row['median_ms_base'] / 1e3)})"
        )
    point = ", ".join(filter(None, [_variant(row), f"prompt {int(row['q_len']):,}", _batch(row)]))
    return Hover(row["label"], f", {point}", (*lines, *doubts(row)))


def problem(row: RowDict) -> str:
    """A point's problem in words."""
    return f"prompt {int(row['q_len']):,}, {series.window(row) or mask_words(row)}, {_shape(row)}"


def overview(table: Any) -> LineChart:
    """The first chart to look at."""
    return throughput(table)
