"""The same charts drawn by matplotlib: for papers, the README and readers without plotly.

It uses matplotlib's objects and never pyplot, whose state belongs to one thread: JupyterLab runs widget callbacks on
another.
"""

from __future__ import annotations

import io
import math
import textwrap
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from matplotlib.axes import Axes
from matplotlib.axis import Axis, Tick
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.legend import Legend
from matplotlib.patches import Patch
from matplotlib.spines import Spine
from matplotlib.text import Text
from matplotlib.ticker import MaxNLocator

from skiplab.figures import theme, tiles
from skiplab.figures.charts import BarChart, Chart, HeatChart, LineChart, PanelChart, foot, is_empty

if TYPE_CHECKING:
    import blockskip as bs

WIDTH, HEIGHT, DPI = 7.6, 4.4, 110
PANELS_WIDTH, PANEL_HEIGHT = 9.6, 3.1
FILLSTYLES = {"dot": "left", "open-dot": "top"}
"""matplotlib's fill for what a plotly marker's name ends with, beside full and open ones."""
TITLE_WIDTH = 68
"""Characters of a title in a line of that width."""


def draw(chart: Chart) -> Figure:
    """The chart as a matplotlib figure on white; `figure.savefig("name.pdf")` writes it."""
    if isinstance(chart, PanelChart) and not is_empty(chart):
        return _panels(chart)
    figure, axes = _blank()
    if isinstance(chart, BarChart):
        _bars(axes, chart)
    elif isinstance(chart, HeatChart):
        _heat(figure, axes, chart)
    elif isinstance(chart, LineChart):
        _lines(axes, chart)
    _head(figure, axes, chart)
    if is_empty(chart):
        axes.text(0.5, 0.5, textwrap.fill(chart.note, 80), transform=axes.transAxes, ha="center")
        axes.tick_params(which="both", left=False, bottom=False, labelleft=False, labelbottom=False)
    _sign(figure, foot(chart))
    return figure


def _title(chart: Chart) -> str:
    return "\n".join(textwrap.fill(line, TITLE_WIDTH) for line in chart.title.split("\n"))


def _panels(chart: PanelChart) -> Figure:
    """Two panels a row; the legend of all over them."""
    rows = -(-len(chart.panels) // 2)
    figure = Figure(figsize=(PANELS_WIDTH, 0.9 + PANEL_HEIGHT * rows), layout="constrained", facecolor="white")
    FigureCanvasAgg(figure)
    handles: dict[str, Any] = {}
    for number, panel in enumerate(chart.panels):
        axes = figure.add_subplot(rows, 2, number + 1)
        _lines(axes, panel)
        axes.set_title(panel.title, loc="left", fontsize=11)
        axes.set_ylabel("" if number % 2 and panel.y_title == chart.panels[number - 1].y_title else panel.y_title)
        handles |= {name: handle for handle, name in zip(*axes.get_legend_handles_labels(), strict=True)}
    shown = [line.name for line in chart.lines]
    _legend(figure, chart, [handles[name] for name in shown], shown)
    _sign(figure, foot(chart))
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
    axes.set_title(f"{tilemap.mask!r}\n{tiles.summary(tilemap)}", loc="left", fontsize=10)
    patches = [Patch(facecolor=theme.FULL, label="full"), Patch(facecolor=theme.PARTIAL, label="partial")]
    patches.append(Patch(facecolor="none", edgecolor="#999999", label="empty"))
    axes.legend(handles=patches, loc="upper left", bbox_to_anchor=(1.01, 1), frameon=False, fontsize=9)
    scale = tiles.scale_text(tilemap, longest)
    _sign(
        figure, f"tiles of {tilemap.block_m} × {tilemap.block_n}; counted, not measured{'; ' + scale if scale else ''}"
    )
    return figure


def png(chart: Chart | Figure, bare: bool = False) -> bytes:
    """The chart as a PNG file; `bare`: without a background, with grey text that reads on light and dark pages."""
    figure = chart if isinstance(chart, Figure) else draw(chart)
    if bare:
        _grey(figure)
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=DPI, transparent=bare)
    return file.getvalue()


def jpeg(chart: Chart | Figure) -> bytes:
    """The chart on white as a JPEG file, of a quality that does not blur letters."""
    figure = chart if isinstance(chart, Figure) else draw(chart)
    file = io.BytesIO()
    figure.savefig(file, format="jpeg", dpi=DPI, pil_kwargs={"quality": 92, "subsampling": 0})
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
    if isinstance(chart, LineChart | PanelChart):
        panels = chart.panels if isinstance(chart, PanelChart) else (chart,)
        points = sum(len(line.x) for panel in panels for line in panel.lines)
        apart = f" in {len(panels)} panels" if len(panels) > 1 else ""
        shown = f"{len(chart.lines)} lines{apart}, {points} points"
    elif isinstance(chart, BarChart):
        shown = f"{len(chart.groups)} settings"
    else:
        shown = f"{len(chart.y)} × {len(chart.x)} settings"
    return "; ".join(filter(None, [f"{chart.title}: {shown}", chart.sources, chart.note]))


def log_marks(values: list[float]) -> list[float]:
    """Round tick values that span the given ones, denser for a narrow range; just 1 if there are none."""
    good = [value for value in values if value > 0 and math.isfinite(value)]
    if not good:
        return [1.0]
    low, high = math.floor(math.log10(min(good))), math.ceil(math.log10(max(good)))
    narrow = max(good) / min(good) < 5
    factors = (1, 1.2, 1.5, 2, 2.5, 3, 4, 5, 6, 8) if narrow else (1, 2, 5) if high - low <= 3 else (1,)
    return [factor * 10.0**power for power in range(low, high + 1) for factor in factors]


def linear_marks(highest: float) -> list[float]:
    """Round values from 0 to the highest."""
    return [float(value) for value in MaxNLocator(6).tick_values(0, highest)]


def mark(value: float, as_ratio: bool) -> str:
    """A tick's text: `2k`, `50M`, `0.5×`."""
    if as_ratio:
        return f"{value:g}×"
    return theme.tick(value, "").strip().replace(" ", "")


def log2(value: float) -> float:
    """Binary logarithm; nan stays nan."""
    return math.log2(value) if value == value and value > 0 else math.nan


def heat_scale(chart: HeatChart) -> tuple[float, float, tuple[str, ...], list[float]]:
    """The range of colours in powers of two, the colour map, and the ticks of its bar.

    Ratios: symmetric around 1, at least a factor of two each way; quantities: from the least to the largest.
    """
    logs = [log2(value) for row in chart.z for value in row if value == value] or [0.0]
    if chart.unit:
        low, high = min(logs), max(max(logs), min(logs) + 1)
        return low, high, ("#F2F2F2", theme.SKY, theme.BLUE), [low + (high - low) * i / 4 for i in range(5)]
    limit = max([1.0, *map(abs, logs)])
    ticks = [limit * i / 2 for i in range(-2, 3)]
    return -limit, limit, (theme.VERMILLION, "#F2F2F2", theme.BLUE), ticks


def count_marks(values: list[float]) -> list[float]:
    """Those of the values, in order, that are labelled on a logarithmic axis: none closer than a third of an octave.

    Where two are closer the rounder one in binary has the label: 131,072, not 130,048 beside it.
    """
    marks: list[float] = []
    least = max(1.25, (max(values) / min(values)) ** (1 / 14)) if values else 1.0
    for value in sorted(values, key=lambda value: (-_roundness(value), value)):
        if all(max(value, mark) >= min(value, mark) * least for mark in marks):
            marks.append(value)
    return sorted(marks)


def _roundness(value: float) -> float:
    """1 for a power of two, 1/3 for three times one, 1/127 for 130,048; 0 for what is no whole number."""
    whole = int(value)
    return (whole & -whole) / whole if whole == value and whole else 0.0


def bar_range(chart: BarChart) -> tuple[float, float]:
    """The range of a logarithmic axis of bars, which begins at least a fifth of a decade below all bars and limits."""
    values = [y for bars in chart.bars for y in (*bars.values, *bars.limit, *bars.high) if y == y and y > 0] or [1.0]
    return 10 ** (math.floor(2 * math.log10(min(values) / 1.6)) / 2), max(values) * 1.4


def _blank(width: float = WIDTH, height: float = HEIGHT) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(width, height), layout="constrained", facecolor="white")
    FigureCanvasAgg(figure)
    return figure, figure.add_subplot()


def _sign(figure: Figure, sources: str) -> None:
    """Writes the sources at the foot of the figure."""
    if sources:
        figure.supxlabel(textwrap.fill(sources, 110), fontsize=8, x=0.01, ha="left", color="#555555")


def _lines(axes: Axes, chart: LineChart) -> None:
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
            fillstyle=FILLSTYLES.get(line.style.marker.partition("-")[2], "full"), markerfacecoloralt="white",
        )  # fmt: skip
    axes.set(xscale="log" if chart.x_is_log else "linear", yscale="log" if chart.y_is_log else "linear")
    axes.set(xlabel=chart.x_title, ylabel=chart.y_title)
    axes.grid(True, color="#808080", alpha=0.3, linewidth=0.6)
    axes.minorticks_off()
    xs = sorted({x for line in chart.lines for x in line.x})
    ys = [y for line in chart.lines for y in line.y if y == y]
    ys += [chart.level] if ys and chart.level is not None else []  # what all is held against has its mark, too
    if chart.x_is_time:
        _ticks(axes.xaxis, log_marks(xs), lambda m: theme.tick(m, "s"))
    elif xs and chart.x_is_log:
        _ticks(axes.xaxis, count_marks(xs), theme.tokens)
    if chart.x_is_time or chart.y_is_time:
        _ticks(axes.yaxis, _inside(log_marks(ys), ys), lambda m: theme.tick(m, "s"))
    elif ys and chart.y_is_log:
        _ticks(axes.yaxis, _inside(log_marks(ys), ys), lambda m: mark(m, chart.level is not None))
    if chart.level is not None and chart.lines:
        axes.axhline(chart.level, color="#777777", linewidth=1, linestyle="--")
    if chart.diagonal and xs:
        axes.plot([xs[0], xs[-1]], [xs[0], xs[-1]], color="#777777", linewidth=1, linestyle="--", label="the roofs")
    for one in chart.beginnings:
        axes.axvline(one.x, color="#777777", linewidth=1, linestyle=":")
        look = {"xytext": (2, -3), "textcoords": "offset points", "va": "top", "fontsize": 7.5, "color": "#555555"}
        axes.annotate(one.name, (one.x, 1), xycoords=("data", "axes fraction"), **look)


def _ticks(axis: Axis, marks: list[float], text: Callable[[float], str]) -> None:
    axis.set_ticks(marks, [text(m) for m in marks])


def _inside(marks: list[float], values: list[float]) -> list[float]:
    """Marks within the range of the values, or just outside."""
    return [m for m in marks if not values or min(values) / 1.3 <= m <= max(values) * 1.3]


def _head(figure: Figure, axes: Axes, chart: Chart) -> None:
    """Title and legend: a short one of lines stands inside the axes, others under the title, in a taller figure."""
    handles, labels = axes.get_legend_handles_labels()
    short = len(labels) <= 4 and max(map(len, labels), default=0) < 50
    if labels and (isinstance(chart, BarChart) or not short):
        figure.set_figheight(HEIGHT + 0.17 * -(-len(labels) // _columns(labels)))
        _legend(figure, chart, handles, labels)
        return
    axes.set_title(_title(chart), loc="left", fontsize=12)
    if labels:
        axes.legend(fontsize=8, loc="best", framealpha=0.85)


def _columns(names: list[str]) -> int:
    longest = max(map(len, names))
    return 3 if longest < 36 else 2 if longest < 68 else 1


def _legend(figure: Figure, chart: Chart, keys: list[Any], names: list[str]) -> None:
    """The legend over the axes, with the figure's title as its own: matplotlib lays a figure's over it."""
    look = {"ncols": _columns(names), "fontsize": 8, "frameon": False, "title_fontsize": 12, "alignment": "left"}
    figure.legend(keys, names, loc="outside upper left", title=_title(chart), **look)


def _bars(axes: Axes, chart: BarChart) -> None:
    numbers = range(len(chart.groups))
    for index, bars in enumerate(chart.bars):
        positions = [chart.position(index, group) for group in numbers]
        errors = [
            [max(0.0, y - low) for y, low in zip(bars.values, bars.low, strict=bool(bars.low))],
            [max(0.0, high - y) for y, high in zip(bars.values, bars.high, strict=bool(bars.high))],
        ]
        axes.bar(
            positions, bars.values, 0.9 * chart.width, label=bars.name, color=bars.colour, hatch=2 * bars.hatch,
            edgecolor="white", linewidth=0, yerr=errors if bars.low else None,
            error_kw={"lw": 0.8, "ecolor": "#555555"},
        )  # fmt: skip
    half = 0.47 * chart.width
    spans = [(chart.position(n, g), y) for n, bars in enumerate(chart.bars) for g, y in enumerate(bars.limit) if y == y]
    if spans:
        starts, ends = [x - half for x, _ in spans], [x + half for x, _ in spans]
        axes.hlines([y for _, y in spans], starts, ends, colors="black", linewidth=1.8, label=chart.limit_name)
    width = min(40, max(10, 64 // max(len(numbers), 1)))
    axes.set_xticks(numbers, [textwrap.fill(group, width) for group in chart.groups], fontsize=8)
    axes.set(ylabel=chart.y_title, xlabel=chart.x_title)
    if not chart.groups:
        return
    axes.yaxis.set_major_formatter(lambda value, _: theme.tick(value, chart.unit))
    if chart.y_is_log:
        low, high = bar_range(chart)
        axes.set_yscale("log")
        axes.set_ylim(low, high)
        _ticks(
            axes.yaxis,
            _inside(log_marks([low, high]), [1.3 * low, high / 1.3]),
            lambda m: theme.tick(m, chart.unit),
        )
        axes.minorticks_off()


def _heat(figure: Figure, axes: Axes, chart: HeatChart) -> None:
    axes.set(xlabel=chart.x_title, ylabel=chart.y_title)
    if not chart.z:
        return
    low, high, colours, ticks = heat_scale(chart)
    colour_map = LinearSegmentedColormap.from_list("heat", list(colours))
    logs = [[log2(value) for value in row] for row in chart.z]
    picture = axes.imshow(logs, cmap=colour_map, vmin=low, vmax=high, aspect="auto", origin="lower")
    for y, row in enumerate(chart.z):
        for x, value in enumerate(row):
            depth = (log2(value) - low) / (high - low)
            dark = depth > 0.7 if chart.unit else abs(depth - 0.5) > 0.3
            axes.text(x, y, chart.text(value), ha="center", va="center", fontsize=9, color="white" if dark else "black")
    axes.set_xticks(range(len(chart.x)), chart.x)
    axes.set_yticks(range(len(chart.y)), chart.y)
    bar = figure.colorbar(picture, ax=axes, ticks=ticks)
    bar.ax.set_yticklabels([chart.text(2**tick) for tick in ticks])
