"""Rows of a frame as lines: colour stands for the contender, marker for the setting, dash for the source."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any

import pandas as pd

from skiplab.figures import theme
from skiplab.figures.charts import Hover, Line
from skiplab.figures.frames import ORIGIN
from skiplab.figures.vision import alike
from skiplab.rated import RowDict, rows_of
from skiplab.text import percent

MARKERS = (
    ("circle", "o"), ("square", "s"), ("diamond", "D"), ("triangle-up", "^"), ("triangle-down", "v"), ("star", "*"),
    ("cross", "P"), ("hexagon", "h"),
)  # fmt: skip
"""Of settings: plotly's name of the marker, and matplotlib's."""
FILLS = ("", "-open", "-dot", "-open-dot")
"""Of contenders whose colours are alike, where the marker's shape is the setting's."""
ORIGIN_DASHES = (0, 3, 4)
"""Dashes of the devices on which something was measured; published and predicted lines have `theme.SOURCE_DASH`."""


@dataclass(frozen=True)
class Looks:
    """How the lines of a figure are named and drawn, so that no two are alike.

    several: whether predicted, and the contender, of those with several settings, whose markers stand for these.
    predicted: in order, device and contender of each prediction, whose colours stand for these.
    """

    variants: list[str]
    labels: dict[tuple[str, str], str]
    fills: dict[str, str]
    predicted: list[tuple[str, str]]
    several: set[tuple[bool, str]]
    by_variant: bool
    sources: set[str]

    @classmethod
    def of(cls, table: Any, variant: Callable[[RowDict], str], by_variant: bool) -> Looks:
        """Of the lines of that table's rows."""
        rows = rows_of(table)
        variants, settings = list(dict.fromkeys(map(variant, rows))), dict[tuple[bool, str], set[str]]()
        for row in rows:
            settings.setdefault((row["source"] == "predicted", row["contender"]), set()).add(variant(row))
        seen = {contender: own for (predicted, contender), own in settings.items() if not predicted}
        single = len(seen) <= 1 and any(len(own) > 1 for own in seen.values())
        return cls(
            variants, theme.source_labels((row["source"], row["device"]) for row in rows),
            _fills(dict.fromkeys(row["contender"] for row in rows)),
            list(dict.fromkeys((row["device"], row["contender"]) for row in rows if row["source"] == "predicted")),
            {key for key, own in settings.items() if len(own) > 1}, by_variant or single,
            {row["source"] for row in rows},
        )  # fmt: skip

    def name(self, source: str, device: str, label: str, setting: str) -> str:
        """A line's name: what tells it from the others."""
        return ", ".join(filter(None, [label, setting if len(self.variants) > 1 else "", self.labels[source, device]]))

    def look(self, source: str, device: str, contender: str, setting: str) -> tuple[theme.Style, int]:
        """A line's style and dash."""
        order = self.variants.index(setting)
        rank = [p for p in self.labels if p[0] == source].index((source, device))
        look = theme.style(contender)
        if (source == "predicted", contender) in self.several:
            marker, plain = MARKERS[order % len(MARKERS)]
            look = theme.Style(look.colour, marker + self.fills[contender], plain)
        if source == "predicted":
            look = replace(look, colour=theme.predicted_colour(self.predicted.index((device, contender))))
        elif self.by_variant:
            look = replace(look, colour=theme.VARIANTS[order % len(theme.VARIANTS)])
        return theme.beside(look, ORIGIN_DASHES[rank % len(ORIGIN_DASHES)], source, self.sources)


def lines(
    table: Any, x: str, y: str, low: str, high: str, variant: Callable[[RowDict], str],
    hover: Callable[[RowDict], Hover], by_variant: bool = False, whole: Any = None,
) -> tuple[Line, ...]:  # fmt: skip
    """A line for each source, device, contender and `variant(row)`, in which x (a column) grows.

    `by_variant`: colours stand for settings instead of contenders, as they also do if there is only one contender.
    `whole`: the rows of all panels of the figure, in which a line of one name looks alike; by default the table.
    """
    if not len(table):
        return ()
    looks = Looks.of(table if whole is None else whole, variant, by_variant)
    named = table.assign(variant=[variant(row) for row in rows_of(table)])
    made = []
    for keys, rows in named.groupby([*ORIGIN, "contender", "label", "variant"], sort=False, dropna=False):
        source, device, contender, label, setting = keys
        rows = rows.sort_values(x)
        xs, ys, lows, highs = (tuple(map(float, rows[name])) for name in (x, y, low, high))
        texts = tuple(hover(row) for row in rows_of(rows))
        name = looks.name(source, device, label, setting)
        made.append(Line(name, xs, ys, lows, highs, texts, *looks.look(source, device, contender, setting)))
    return tuple(made)


def _fills(contenders: Iterable[str]) -> dict[str, str]:
    """The fill of each contender's markers, by order; contenders whose colours are alike get different ones."""
    fills: dict[str, str] = {}
    for contender in contenders:
        colour = theme.style(contender).colour
        taken = [fill for other, fill in fills.items() if alike(colour, theme.style(other).colour)]
        fills[contender] = next((fill for fill in FILLS if fill not in taken), FILLS[-1])
    return fills


def limits(table: Any, x: str, y: str, name: str, variant: Callable[[RowDict], str]) -> tuple[Line, ...]:
    """The roofs' limits: a grey dotted line for each device with measured rows, and each variant."""
    known = table[table["source"].isin(["measured", "recorded"]) & table[y].notna()]
    if not len(known):
        return ()
    named = known.assign(variant=[variant(row) for row in rows_of(known)])
    variants, devices = list(dict.fromkeys(named["variant"])), named["device"].nunique()
    made = []
    for (device, setting), rows in named.groupby(["device", "variant"], sort=False):
        rows = rows.drop_duplicates(x).sort_values(x)
        xs, ys = (tuple(map(float, rows[column])) for column in (x, y))
        parts = [name, setting if len(variants) > 1 else "", device if devices > 1 else ""]
        look = theme.Style(theme.GREY, "line-ew-open", "_")
        if len(variants) > 1:
            look = theme.Style(theme.GREY, *MARKERS[variants.index(setting) % len(MARKERS)])
        words = ", ".join(filter(None, parts))
        texts = (Hover(name, lines=(f"from the roofs of {device}, as its run holds them",)),) * len(xs)
        made.append(Line(words, xs, ys, ys, ys, texts, look, theme.SOURCE_DASH["predicted"]))
    return tuple(made)


def by_setting(table: Any, keys: Iterable[str], x: str, name: Callable[[RowDict], str]) -> dict[str, Any]:
    """Groups of rows with equal `keys`, for each device, by `name(row)`; groups with a single x are left out.

    Devices come in the table's order; within a device small keys come first, and missing ones (no window) last.
    """
    rows = table.assign(origin=pd.factorize(table["source"] + table["device"])[0])
    groups = {}
    for _, group in rows.groupby(["origin", *keys], dropna=False):
        if group[x].nunique() > 1:
            first = rows_of(group.iloc[:1])[0]
            groups[f"{name(first)} ({theme.source_label(first['source'], first['device'])})"] = group
    return groups


def several(rows: Iterable[RowDict], *columns: str) -> list[str]:
    """Those of the columns in which the rows differ, and which a setting's name must therefore include."""
    rows = list(rows)
    return [name for name in columns if len({str(row.get(name)) for row in rows}) > 1]


def window(row: RowDict) -> str:
    """`window 1k`; empty where the row has none."""
    window = row["window"]
    return "" if window is None or window != window else f"window {theme.tokens(window)}"


def shape(row: RowDict) -> str:
    """Heads, head size and dtype, then what else there is; empty of no heads (a published rate of a whole model)."""
    if row["head_dim"] != row["head_dim"]:
        return ""
    heads = f"{int(row['q_heads'])}/{int(row['kv_heads'])} heads of {int(row['head_dim'])}, {row['dtype']}"
    more = [
        f"keys in {row['kv_dtype']}" if isinstance(row.get("kv_dtype"), str) else "",
        "sinks" if row.get("sinks") == 1 else "",
        f"lengths from {percent(row['ragged'])}" if row.get("ragged", math.nan) > 0 else "",
    ]
    return ", ".join(filter(None, [heads, *more]))


def time_text(row: RowDict) -> str:
    """The median with its quartiles."""
    words = theme.seconds(row["median_ms"] / 1e3)
    if row["low_ms"] < row["high_ms"]:
        words += f" (quartiles {theme.seconds(row['low_ms'] / 1e3)} to {theme.seconds(row['high_ms'] / 1e3)})"
    return words


def doubts(row: RowDict) -> list[str]:
    """Error, flags and provenance, with which every hover text ends."""
    error = row.get("error")
    return [
        *([f"error {error:.2g}, allowed {row['tolerance']:.2g}"] if error is not None and error == error else []),
        *([f"flags: {row['flags']}"] if row["flags"] else []),
        theme.provenance(row["source"], row["device"]),
    ]


def sources(table: Any) -> str:
    """The sources of all rows, in one line."""
    return theme.provenances(zip(table["source"], table["device"], strict=True))


def note(table: Any, shown: Any, empty: str = "no point to show yet") -> str:
    """Why a figure is empty, or how many points failed: a figure never hides a failure."""
    failed = table[table["status"] != "ok"]["status"].value_counts()
    parts = [f"{count} {status}" for status, count in failed.items()]
    if not len(shown):
        return f"{empty}: of {len(table)} points {', '.join(parts)}" if parts else empty
    flagged = sorted({flag for flags in shown["flags"].dropna() for flag in flags.split(", ") if flag})
    words = [
        f"not shown: {', '.join(parts)}" if parts else "",
        f"flags: {', '.join(flagged)}" if flagged else "",
    ]
    return "; ".join(filter(None, words))
