"""The same charts drawn by matplotlib: for papers, the README and readers without plotly.

Through matplotlib's objects alone, never pyplot: JupyterLab runs widget callbacks on a thread of their own, and
pyplot's state belongs to one.
"""

from __future__ import annotations

import io
import math
import textwrap
from typing import TYPE_CHECKING, Any

from matplotlib.axes import Axes
from matplotlib.axis import Tick
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.legend import Legend
from matplotlib.patches import Patch
from matplotlib.spines import Spine
from matplotlib.text import Text

from skiplab.figures import charts, theme, tiles
from skiplab.figures.charts import BarChart, Chart, HeatChart, LineChart

if TYPE_CHECKING:
    import blockskip as bs

WIDTH, HEIGHT, DPI = 7.6, 4.4, 110


def draw(chart: Chart) -> Figure:
    """The chart as a matplotlib figure on white; `figure.savefig("name.pdf")` writes it."""
    figure, axes = _blank()
    if isinstance(chart, BarChart):
        _bars(axes, chart)
    elif isinstance(chart, HeatChart):
        _heat(figure, axes, chart)
    else:
        _lines(figure, axes, chart)
    axes.set_title(chart.title, loc="left", fontsize=12)
    if charts.is_empty(chart):
        axes.text(0.5, 0.5, textwrap.fill(chart.note, 80), transform=axes.transAxes, ha="center")
    _sign(figure, "; ".join(filter(None, [chart.sources, chart.note if chart.sources else ""])))
    return figure


def tilemap(tilemap: bs.TileMap, longest: int = 512) -> Figure:
    """The tile map with token axes, its counts in words as the title."""
    figure, axes = _blank(5.6, 5.2)
    extent = (0, tilemap.kv_len, tilemap.q_len, 0)
    width, height = tiles.size(tilemap, longest)
    axes.imshow(
        tiles.pixels(tilemap, longest),
        extent=extent,
        aspect=height * tilemap.kv_len / (width * tilemap.q_len),
        interpolation="nearest",
    )
    axes.set(xlabel="key", ylabel="query")
    for axis, length in ((axes.xaxis, tilemap.kv_len), (axes.yaxis, tilemap.q_len)):
        marks = [length * quarter // 4 for quarter in range(5)]
        axis.set_ticks(marks, [theme.tokens(mark) for mark in marks])
    axes.set_title(f"{tilemap.mask!r}\n{tiles.words(tilemap)}", loc="left", fontsize=10)
    patches = [Patch(facecolor=theme.FULL, label="full"), Patch(facecolor=theme.PARTIAL, label="partial")]
    patches.append(Patch(facecolor="none", edgecolor="#999999", label="empty"))
    axes.legend(handles=patches, loc="upper left", bbox_to_anchor=(1.01, 1), frameon=False, fontsize=9)
    scale = tiles.scale_words(tilemap, longest)
    _sign(
        figure, f"tiles of {tilemap.block_m} × {tilemap.block_n}; counted, not measured{'; ' + scale if scale else ''}"
    )
    return figure


def png(chart: Chart | Figure, bare: bool = False) -> bytes:
    """The chart as a PNG file; `bare` has no ground, and grey text that reads on a light and on a dark page."""
    figure = chart if isinstance(chart, Figure) else draw(chart)
    if bare:
        _grey(figure)
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=DPI, transparent=bare)
    return file.getvalue()


def _grey(figure: Figure) -> None:
    items: list[Any] = figure.findobj(lambda artist: isinstance(artist, Text | Spine | Tick))
    for item in items:
        if isinstance(item, Tick):
            item.tick1line.set_color(theme.TEXT)
        elif isinstance(item, Spine):
            item.set_edgecolor(theme.TEXT)
        elif item.get_color() != "white":
            item.set_color(theme.TEXT)
    for legend in figure.findobj(Legend):
        legend.get_frame().set_alpha(0)


def text(chart: Chart) -> str:
    """One line for readers without pictures: the title, how much it shows, the sources."""
    if isinstance(chart, LineChart):
        shown = f"{len(chart.lines)} lines, {sum(len(line.x) for line in chart.lines)} points"
    elif isinstance(chart, BarChart):
        shown = f"{len(chart.groups)} settings"
    else:
        shown = f"{len(chart.y)} × {len(chart.x)} settings"
    return "; ".join(filter(None, [f"{chart.title}: {shown}", chart.sources, chart.note]))


def log_marks(values: list[float]) -> list[float]:
    """Round values that span the given ones, closer together where these lie close; 1 alone without any."""
    good = [value for value in values if value > 0 and math.isfinite(value)]
    if not good:
        return [1.0]
    low, high = math.floor(math.log10(min(good))), math.ceil(math.log10(max(good)))
    narrow = max(good) / min(good) < 5
    factors = (1, 1.2, 1.5, 2, 2.5, 3, 4, 5, 6, 8) if narrow else (1, 2, 5) if high - low <= 3 else (1,)
    return [factor * 10.0**power for power in range(low, high + 1) for factor in factors]


def mark(value: float, as_ratio: bool) -> str:
    """A tick's text: `2k`, `50M`, `0.5×`."""
    if as_ratio:
        return f"{value:g}×"
    return theme.quantity(value, "").strip().replace(" ", "")


def log2(value: float) -> float:
    """Binary logarithm; nan stays nan."""
    return math.log2(value) if value == value and value > 0 else math.nan


def heat_limit(chart: HeatChart) -> float:
    """How far the colours reach on both sides of 1, in powers of two, at least one."""
    logs = [abs(log2(value)) for row in chart.z for value in row if value == value]
    return max([1.0, *logs])


def _blank(width: float = WIDTH, height: float = HEIGHT) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(width, height), layout="constrained", facecolor="white")
    FigureCanvasAgg(figure)
    return figure, figure.add_subplot()


def _sign(figure: Figure, sources: str) -> None:
    """Where the numbers come from, at the foot of the figure."""
    if sources:
        figure.supxlabel(textwrap.fill(sources, 110), fontsize=8, x=0.01, ha="left", color="#555555")


def _lines(figure: Figure, axes: Axes, chart: LineChart) -> None:
    for line in chart.lines:
        dash = theme.STATIC_DASHES[line.dash] if line.joined else "none"
        errors = [
            [max(y - low, 0) for y, low in zip(line.y, line.low, strict=True)],
            [max(h - y, 0) for h, y in zip(line.high, line.y, strict=True)],
        ]
        spread = any(low < high for low, high in zip(line.low, line.high, strict=True))
        axes.errorbar(
            line.x, line.y, yerr=errors if spread else None, label=line.name, color=line.style.colour, linestyle=dash,
            marker=line.style.static_marker, markersize=5, capsize=2, linewidth=1.5,
            markerfacecolor="white" if line.style.marker.endswith("open") else None,
        )  # fmt: skip
    axes.set(xscale="log", yscale="log" if chart.y_is_log else "linear", xlabel=chart.x_title, ylabel=chart.y_title)
    axes.grid(True, color="#808080", alpha=0.3, linewidth=0.6)
    axes.minorticks_off()
    xs = sorted({x for line in chart.lines for x in line.x})
    ys = [y for line in chart.lines for y in line.y]
    if chart.x_is_time:
        for axis, values in ((axes.xaxis, xs), (axes.yaxis, ys)):
            marks = log_marks(list(values))
            axis.set_ticks(marks, [theme.seconds(m) for m in marks])
    elif xs:
        axes.set_xticks(xs, [theme.tokens(x) for x in xs])
        marks = [m for m in log_marks(ys) if min(ys) / 1.3 <= m <= max(ys) * 1.3]
        axes.set_yticks(marks, [mark(m, chart.level is not None) for m in marks])
    if chart.level is not None:
        axes.axhline(chart.level, color="#777777", linewidth=1, linestyle="--")
    if chart.diagonal and xs:
        axes.plot([xs[0], xs[-1]], [xs[0], xs[-1]], color="#777777", linewidth=1, linestyle="--", label="the roofs")
    if chart.lines:
        _legend(figure, axes)


def _legend(figure: Figure, axes: Axes) -> None:
    """Inside where there is room; for many lines over the figure, which grows by as much."""
    handles, labels = axes.get_legend_handles_labels()
    if len(labels) <= 4:
        axes.legend(fontsize=8, loc="best", framealpha=0.85)
        return
    columns = 3 if max(map(len, labels)) < 36 else 2
    figure.set_figheight(HEIGHT + 0.17 * -(-len(labels) // columns))
    figure.legend(handles, labels, loc="outside upper left", ncols=columns, fontsize=7.5, frameon=False)


def _bars(axes: Axes, chart: BarChart) -> None:
    width = 0.8 / max(len(chart.values), 1)
    for index, ((name, values), colour) in enumerate(zip(chart.values.items(), chart.colours, strict=True)):
        places = [group + (index - 1) * width for group in range(len(chart.groups))]
        axes.bar(places, values, width * 0.95, label=name, color=colour)
    axes.set_xticks(range(len(chart.groups)), chart.groups, rotation=30, ha="right", fontsize=8)
    axes.set(ylabel=chart.y_title, xlabel="prompt length, mask")
    if chart.groups:
        axes.set_yscale("log")
        axes.legend(loc="upper left", bbox_to_anchor=(1.01, 1), frameon=False, fontsize=8)


def _heat(figure: Figure, axes: Axes, chart: HeatChart) -> None:
    axes.set(xlabel=chart.x_title, ylabel=chart.y_title)
    if not chart.z:
        return
    limit = heat_limit(chart)
    colours = LinearSegmentedColormap.from_list("speedup", [theme.VERMILLION, "#F2F2F2", theme.BLUE])
    logs = [[log2(value) for value in row] for row in chart.z]
    picture = axes.imshow(logs, cmap=colours, vmin=-limit, vmax=limit, aspect="auto", origin="lower")
    for y, row in enumerate(chart.z):
        for x, value in enumerate(row):
            if value == value:
                dark = abs(log2(value)) > 0.6 * limit
                axes.text(
                    x, y, theme.ratio(value), ha="center", va="center", fontsize=9, color="white" if dark else "black"
                )
    axes.set_xticks(range(len(chart.x)), chart.x)
    axes.set_yticks(range(len(chart.y)), chart.y)
    ticks = [-limit, -limit / 2, 0, limit / 2, limit]
    bar = figure.colorbar(picture, ax=axes, ticks=ticks)
    bar.ax.set_yticklabels([theme.ratio(2**tick) for tick in ticks])
