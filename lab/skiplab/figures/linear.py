"""Charts of quantised linear layers: time and bandwidth beside what the roofs allow, and error against bits."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from skiplab.figures import series, theme
from skiplab.figures.charts import BarChart, Bars, Beginning, Hover, Line, LineChart, PanelChart
from skiplab.figures.series import RowDict
from skiplab.text import digits, percent
from skiplab.workload import LINEARS, model_of
from skiplab.workload.models import Shape

if TYPE_CHECKING:
    from skiplab.packed_weight import Quality

OURS, FLOAT = "blockskip", "bf16"
WHOLE = ("blockskip-tiles",)
"""Of our contenders, beside `blockskip`, those that are a way to do every product, and no part left out."""
LEAST = "1×: the least time that the roofs allow with the packed weight"
ROUTES = "dotted lines: the first rows, of those timed, at which our own choice is that kernel"
SETTINGS = ("rows", "bits", "group_size", "symmetric", "dtype")
DB_A_BIT = 20 * np.log10(2)
"""Halving a uniform quantiser's step halves its error: 6.02 dB a bit."""


def linear_time(table: pd.DataFrame) -> BarChart:
    """Median time of a product: a group of bars for each layer, a bar for each contender, the roofs' least time on it.

    The least time is that of the packed weight: a contender that reads another format (bf16) has a higher floor, by the
    ratio of the bits.
    """
    good = _good(table)
    bars = _bars(good, lambda row: row["median_ms"] / 1e3, lambda row: row["bound_ms"] / 1e3, True)
    return BarChart(
        "Quantised linear layers: time of a product", _across(good), "median time", _groups(good), bars,
        series.sources(good), series.note(table, good), "s", True, "least time with the packed weight",
    )  # fmt: skip


def linear_bandwidth(table: pd.DataFrame) -> BarChart:
    """Compulsory bytes (packed weight, activations, output) / time, a group of bars a layer, and each bar's roof."""
    good = _good(table)
    good = good[good["gbps"].notna()]
    bars = _bars(
        good, lambda row: row["gbps"] * 1e9, lambda row: row["gbps"] * 1e9 * row["median_ms"] / row["bound_ms"], False
    )
    return BarChart(
        "Quantised linear layers: bandwidth", _across(good), "compulsory bytes / time", _groups(good), bars,
        series.sources(good), series.note(table, good), "B/s", False, "rate at the roofs",
    )  # fmt: skip


def one_row(table: pd.DataFrame) -> dict[str, Any]:
    """The rows for one token of each device and form of weight timed with several layers, by name."""
    rows: Any = table[(table["operation"] == "linear") & (table["rows"] == 1)]
    names = ("bits", "group_size", "symmetric", "dtype")
    return series.by_setting(rows, names, "out_features", lambda row: _setting(row, names))


def several_rows(table: pd.DataFrame) -> dict[str, Any]:
    """The rows of each device, layer and form of weight timed with several rows of activations, by name."""
    rows: Any = table[table["operation"] == "linear"]
    names = ("bits", "group_size", "symmetric", "dtype")
    keys = ("out_features", "in_features", *names)
    return series.by_setting(rows, keys, "rows", lambda row: f"{_layer(row)}, {_setting(row, names)}")


def linear_rows(table: pd.DataFrame) -> LineChart:
    """Median time over the rows of the activations, a line for each contender, layer and source."""
    good = _good(table).assign(time=lambda rows: rows["median_ms"] / 1e3)
    good = good.assign(low=good["low_ms"] / 1e3, high=good["high_ms"] / 1e3, floor=good["bound_ms"] / 1e3)
    differing = series.several(series.rows_of(good), "out_features", "in_features", *SETTINGS[1:])

    def name(row: RowDict) -> str:
        layer = _layer(row) if {"out_features", "in_features"} & set(differing) else ""
        return ", ".join(filter(None, [layer, _setting(row, differing)]))

    shown = series.lines(good, "rows", "time", "low", "high", name, _hover)
    floors = series.limits(good, "rows", "floor", "least time with the packed weight", name)
    return LineChart(
        "Quantised linear layers: time by rows", "rows of activations (tokens)", "median time", (*shown, *floors),
        series.sources(good), series.note(table, good), y_is_time=True,
    )  # fmt: skip


def linear_layers(
    table: pd.DataFrame, layers: Mapping[str, Shape] | None = None, device: str | None = None, group_size: int = 32
) -> PanelChart:
    """Times of int4 products by rows as multiples of the least, a panel a layer; thin lines mark where routes begin.

    Times of many rows run together on an axis of decades; how far each is from the least tells them apart.
    table: with `rated`'s column `kernel` for the routes, which are those of the contender `blockskip`. layers: name ->
    (out_features, in_features), by default Gemma 4 31B's, fused; one without a row has no panel. device: the one with
    the most points here, if none is named. Contenders that show one choice of ours alone are left out. Of a point that
    was timed with zero points and without, the first counts; a name then says how many bits its weights have.
    """
    layers = model_of("gemma4-31b").linears(fused=True) if layers is None else layers
    good = _of_layers(_good(table), layers, group_size)
    device = device or next(iter(good["device"].value_counts(sort=True).index), "")
    good = good[good["device"] == device]
    by_layer = {name: good[(good["out_features"] == n) & (good["in_features"] == k)] for name, (n, k) in layers.items()}
    bits = series.several(series.rows_of(good[good["contender"] != FLOAT]), "bits_per_weight")
    panels = [
        _panel(f"{name}, {layers[name][0]}×{layers[name][1]}", rows, bits)
        for name, rows in by_layer.items()
        if len(rows)
    ]
    seen = table[(table["operation"] == "linear") & (table["device"] == device)] if len(good) else table
    routes = ROUTES if any(panel.beginnings for panel in panels) else ""
    notes = [series.note(seen, good), LEAST if panels else "", routes]
    return PanelChart(
        f"int4 linear layers: time over the least by rows, groups of {group_size}", tuple(panels), series.sources(good),
        "; ".join(filter(None, notes)),
    )  # fmt: skip


def _of_layers(good: Any, layers: Mapping[str, Shape], group_size: int) -> Any:
    """The int4 rows of these layers, without ablations, each point once."""
    shapes = set(map(tuple, layers.values()))

    def shown(name: str, shape: tuple[float, float]) -> bool:
        return shape in shapes and (name in WHOLE or not name.startswith("blockskip-"))

    sizes = zip(good["out_features"], good["in_features"], strict=True)
    chosen = [shown(*one) for one in zip(good["contender"], sizes, strict=True)]
    good = good[np.array(chosen, bool) & (good["bits"] == 4) & (good["group_size"] == group_size)]
    good = good.sort_values("symmetric", kind="stable").drop_duplicates(
        ["source", "device", "contender", "out_features", "in_features", "rows"]
    )
    return good.sort_values(["size", "out_features", "rows"], kind="stable")


def _panel(title: str, rows: Any, bits: list[str]) -> LineChart:
    """One layer's chart; the least time is that of our own packed weight, else that of the most bits."""
    labels = [_with_bits(row, bits) for row in series.rows_of(rows)]
    named = rows.assign(label=labels)
    ours = named[named["contender"] == OURS]
    floor = ours if len(ours) else named.sort_values("bits_per_weight").drop_duplicates("rows", keep="last")
    least = named["rows"].map(floor.set_index("rows")["bound_ms"]).fillna(named["bound_ms"])
    named = named.assign(**{name: named[f"{name}_ms"] / least for name in ("median", "low", "high")})
    return LineChart(
        title, "rows of activations (tokens)", "times the least", series.lines(
            named[named["median"].notna()], "rows", "median", "low", "high", lambda row: "", _hover
        ),
        series.sources(rows), level=1.0, beginnings=_beginnings(ours),
    )  # fmt: skip


def _with_bits(row: RowDict, bits: list[str]) -> str:
    """The label, with the bits of a weight if those differ between contenders."""
    return row["label"] if not bits or row["contender"] == FLOAT else f"{row['label']}, {row['bits_per_weight']:g} bits"


def _beginnings(ours: Any) -> tuple[Beginning, ...]:
    """The smallest timed number of rows at which our product took each of its routes."""
    first_rows: dict[str, float] = {}
    for row in series.rows_of(ours.sort_values("rows")):
        if isinstance(row.get("kernel"), str):
            first_rows.setdefault(row["kernel"], float(row["rows"]))
    return tuple(Beginning(x, name) for name, x in first_rows.items())


def bits_error(rows: Iterable[Quality], weights: str = "the given weight") -> LineChart:
    """Signal-to-noise ratio in dB over bits a weight, a point for each format; `weights` says what was quantised.

    `packed_weight.qualities(weight)` and `random_qualities()` give the rows. The dotted line climbs 6.02 dB a bit, as
    any uniform quantiser does, from the best format of 4 bits.
    """
    by_format: dict[str, list[Quality]] = {}
    for one in rows:
        packed = one.packed
        kind = "symmetric" if packed.symmetric else "asymmetric"
        coded = "" if packed.metadata == "bfloat16" else f", metadata in {packed.metadata}"
        by_format.setdefault(f"int{packed.bits} {kind}{coded}", []).append(one)
    lines = []
    for number, (name, ones) in enumerate(by_format.items()):
        ones = sorted(ones, key=lambda one: one.packed.bits_per_weight)
        x, y = tuple(one.packed.bits_per_weight for one in ones), tuple(one.snr_db for one in ones)
        hover = [
            Hover(
                one.packed.description, lines=(f"{one.packed.bits_per_weight:g} bits a weight", f"{one.snr_db:.1f} dB")
            )
            for one in ones
        ]
        look = theme.Style(theme.VARIANTS[number % len(theme.VARIANTS)], *series.MARKERS[number % len(series.MARKERS)])
        lines.append(Line(name, x, y, y, y, tuple(hover), look))
    guide = _guide([one for ones in by_format.values() for one in ones])
    return LineChart(
        "Error against bits", "bits a weight, metadata included", "signal to noise (dB)",
        (*lines, *guide), f"calculated from {weights}, quantised here" if lines else "", "" if lines else "no format",
        y_is_log=False, x_is_log=False,
    )  # fmt: skip


def _guide(qualities: list[Quality]) -> tuple[Line, ...]:
    """6.02 dB a bit from the best format of the fewest bits to the most bits."""
    if not qualities:
        return ()
    fewest = min(one.packed.bits for one in qualities)
    best = max((one for one in qualities if one.packed.bits == fewest), key=lambda one: one.snr_db)
    x = (best.packed.bits_per_weight, max(one.packed.bits_per_weight for one in qualities))
    y = (best.snr_db, best.snr_db + DB_A_BIT * (x[1] - x[0]))
    words = "6.02 dB a bit"
    look = theme.Style(theme.GREY, "line-ew-open", "_")
    return (Line(words, x, y, y, y, (Hover(words, ": halving the step halves the error"),) * 2, look, 2),)


def _good(table: pd.DataFrame) -> Any:
    """Checked linear points that have a time, layers in order of size."""
    good: Any = table[(table["operation"] == "linear") & (table["status"] == "ok") & table["median_ms"].notna()]
    return good.assign(size=good["out_features"] * good["in_features"]).sort_values(
        ["size", "out_features", "rows", "bits", "group_size"], kind="stable"
    )


def _groups(good: Any) -> tuple[str, ...]:
    rows = series.rows_of(good)
    return tuple(dict.fromkeys(_group(row, _differing(rows)) for row in rows))


def _group(row: RowDict, differing: list[str]) -> str:
    return ", ".join(filter(None, [_layer(row), _setting(row, differing)]))


def _differing(rows: list[RowDict]) -> list[str]:
    # what a publisher does not tell is no setting of its own
    return series.several((row for row in rows if row["source"] != "published"), *SETTINGS)


def _across(good: Any) -> str:
    """The title of the axis of groups, with the settings that all groups share."""
    rows = [row for row in series.rows_of(good) if row["source"] != "published"]
    shared = [name for name in SETTINGS if name not in _differing(rows)]
    words = ", ".join(filter(None, [_setting(rows[0], shared) if rows else ""]))
    return f"layer: outputs × inputs{f' ({words})' if words else ''}"


def _layer(row: RowDict) -> str:
    """`21504×5376`, with the layer's name if it is one of Gemma's; a text for published rows without a shape."""
    if row["out_features"] != row["out_features"]:
        return "layer not told"
    shape = (int(row["out_features"]), int(row["in_features"]))
    name = next((name for name, known in LINEARS.items() if tuple(known) == shape), "")
    return f"{name} {shape[0]}×{shape[1]}".strip()


def _setting(row: RowDict, names: Iterable[str]) -> str:
    words: dict[str, Callable[[Any], str]] = {
        "rows": lambda n: f"{int(n)} row{'s' * (n != 1)}", "bits": lambda n: f"int{int(n)}",
        "group_size": lambda n: f"groups of {int(n)}", "symmetric": lambda on: "symmetric" * bool(on), "dtype": str,
    }  # fmt: skip
    known = ((name, row.get(name)) for name in SETTINGS if name in names)
    return ", ".join(
        filter(None, (words[name](value) for name, value in known if value is not None and value == value))
    )


def _bars(
    good: Any, value: Callable[[RowDict], float], limit: Callable[[RowDict], float], is_time: bool
) -> tuple[Bars, ...]:
    """Bars of each source, device and contender; a rate's quartiles are those of its time, swapped."""
    rows = series.rows_of(good)
    differing, groups = _differing(rows), _groups(good)
    labels = theme.source_labels((row["source"], row["device"]) for row in rows)
    cells: dict[tuple[str, str, str, str], dict[str, RowDict]] = {}
    for row in rows:
        owner = (row["source"], row["device"], row["contender"], row["label"])
        cells.setdefault(owner, {})[_group(row, differing)] = row
    series_of_bars: list[Bars] = []
    for (source, device, contender, label), here in cells.items():
        chosen = [here.get(group) for group in groups]

        def each(measure: Callable[[RowDict], float], chosen: list[RowDict | None] = chosen) -> tuple[float, ...]:
            return tuple(float("nan") if row is None else float(measure(row)) for row in chosen)

        first, last = (
            each(lambda row, end=end: value(row) * (row[end] / row["median_ms"]) ** (1 if is_time else -1))
            for end in ("low_ms", "high_ms")
        )
        predicted = [origin for origin in labels if origin[0] == "predicted"]
        colour = theme.style(contender).colour
        if source == "predicted":
            colour = theme.predicted_colour(predicted.index((source, device)))
        series_of_bars.append(Bars(
            ", ".join(filter(None, [label, labels[source, device]])), each(value), colour,
            theme.hatch(source, colour, ((bars.colour, bars.hatch) for bars in series_of_bars)),
            *((first, last) if is_time else (last, first)),
            each(limit if source in ("measured", "recorded") else lambda row: float("nan")),
            tuple(Hover("") if row is None else _hover(row) for row in chosen),
        ))  # fmt: skip
    return tuple(series_of_bars)


def _hover(row: RowDict) -> Hover:
    """A point's hover text: layer, setting, time, bandwidth and doubts."""
    setting = _setting(row, SETTINGS)
    if row["bits_per_weight"] == row["bits_per_weight"]:
        setting += f", {row['bits_per_weight']:g} bits a weight"
    lines = [setting, series.time_text(row)]
    if row["gbps"] == row["gbps"]:
        lines.append(f"{digits(row['gbps'])} GB/s of compulsory bytes")
    if row["bound_ms"] == row["bound_ms"]:
        least = theme.seconds(row["bound_ms"] / 1e3)
        lines.append(f"the roofs allow {least}: it reaches {percent(row['bound_ms'] / row['median_ms'])}")
    return Hover(row["label"], f", {_layer(row)}", (*lines, *series.doubts(row)))


def problem(row: RowDict) -> str:
    """A point's problem in words."""
    rows, bits, group = (int(row[name]) for name in ("rows", "bits", "group_size"))
    size = f"{int(row['out_features'])}×{int(row['in_features'])}"
    return f"{size}, {rows} row{'s' * (rows != 1)}, int{bits}, groups of {group}, {row['dtype']}"


def overview(table: Any) -> BarChart:
    """The first chart to look at."""
    return linear_time(table)
