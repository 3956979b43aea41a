"""Charts as plotly figures, each with a picture of itself for readers without plotly."""

from __future__ import annotations

import base64
import math
import sys
import textwrap
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import blockskip as bs
import plotly.graph_objects as go

from skiplab.figures import legends, static, theme, tiles
from skiplab.figures.charts import (
    BarChart,
    Bars,
    Beginning,
    Chart,
    HeatChart,
    Hover,
    Line,
    LineChart,
    PanelChart,
    foot,
    is_empty,
)
from skiplab.figures.legends import TITLE
from skiplab.templates import macro, plotly_text, render

LETTERS, NAMES = 84, 50
"""Letters that fit over or under a figure 700 pixels wide, and beside each other under its bars."""
ROOFS = "the roofs"
CONFIG = {"displayModeBar": "hover", "displaylogo": False,
          "modeBarButtonsToRemove": ["sendChartToCloud"]}  # fmt: skip
"""How plotly shows a figure: its buttons under the pointer alone, and none that sends the figure away."""
PLOT, PANEL, AXIS, NOTE = 270, 290, 58, 15
"""Heights in pixels: the plot itself, a row of panels; axis, a line of notes."""


class Figure(go.Figure):
    """A plotly figure that also saves a JPEG and a line of text in a notebook, for readers without plotly.

    Not a PNG: beside one, plotly's renderer in JupyterLab draws the live figure only once the pointer has touched it.
    """

    def __init__(self, *args: Any, fallback: Callable[[], tuple[bytes, str]] | None = None, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self._fallback = fallback

    layout: Any  # whose parts plotly makes at run time
    _ipython_display_: Any = None  # else IPython takes plotly's own renderer and never asks for the bundle

    def _repr_html_(self) -> str | None:
        """Plotly's HTML in Colab, which shows nothing else; elsewhere None, since it is blank without a network."""
        return super()._repr_html_() if "google.colab" in sys.modules else None

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None, **kwargs: Any) -> dict[str, Any]:
        live = self.to_plotly_json()
        bundle: dict[str, Any] = {"application/vnd.plotly.v1+json": {**live, "config": CONFIG}}
        if self._fallback is not None:
            bundle["image/jpeg"], bundle["text/plain"] = self._fallback()
        return bundle


def draw(chart: Chart) -> Figure:
    """The chart as a plotly figure."""
    if isinstance(chart, BarChart):
        figure = _bars(chart)
    elif isinstance(chart, HeatChart):
        figure = _heat(chart)
    elif isinstance(chart, PanelChart):
        figure = _panels(chart)
    else:
        figure = _line_figure(chart)
    if is_empty(chart):
        figure.update_xaxes(showticklabels=False, ticks="", showgrid=False)
        figure.update_yaxes(showticklabels=False, ticks="", showgrid=False)
        figure.add_annotation(text=wrap(chart.note), showarrow=False, xref="paper", yref="paper", x=0.5, y=0.5)
    return figure


def layout(title: str, sources: str) -> go.Layout:
    """What all figures share: transparent ground, a grey readable on light and dark, the sources under the axis."""
    axis = {
        "gridcolor": theme.GRID,
        "zeroline": False,
        "linecolor": theme.TEXT,
        "automargin": True,
        "ticks": "outside",
        "title": {"standoff": 10, "font": {"size": 13}},
    }
    text = wrap(sources, LETTERS)
    title = plotly_text(title)
    bottom = NOTE * (1 + text.count("<br>"))
    note = {
        "text": text, "showarrow": False, "xref": "paper", "yref": "paper", "x": 0, "y": 0,
        "yshift": -52,
        "xanchor": "left", "yanchor": "top", "align": "left", "font": {"size": 11}, "name": "sources",
    }  # fmt: skip
    return go.Layout(
        title={
            "text": title, "x": 0, "xanchor": "left", "xref": "paper", "y": 1, "yanchor": "top", "pad": {"t": 14},
            "font": {"size": 16},
        },
        font={"color": theme.TEXT, "size": 13}, paper_bgcolor="rgba(0,0,0,0)", plot_bgcolor="rgba(0,0,0,0)",
        xaxis=axis, yaxis=axis, hovermode="closest", height=PLOT + TITLE + AXIS + bottom,
        margin={"l": 70, "r": 20, "t": TITLE, "b": AXIS + bottom},
        legend={
            "font": {"size": 12}, "orientation": "h", "x": 0, "xanchor": "left", "y": 1.02, "yanchor": "bottom",
        },
        annotations=[note] if sources else [], template="none",
        hoverlabel={"align": "left"}, showlegend=True,
    )  # fmt: skip


def wrap(text: str, width: int = 110) -> str:
    """Text broken into lines, and escaped: plotly's annotations do not break lines by themselves."""
    return "<br>".join(map(plotly_text, textwrap.wrap(text, width, break_long_words=False)))


def hover_texts(hovers: Iterable[Hover]) -> list[str]:
    """The hover text of each point, as plotly's markup."""
    text = macro("plotly.hover")
    return [text(hover=hover) for hover in hovers]


def _line_figure(chart: LineChart) -> Figure:
    figure = Figure(layout=layout(chart.title, foot(chart)), fallback=lambda: (static.jpeg(chart), static.text(chart)))
    figure.add_traces([trace(line) for line in chart.lines])
    _legend(figure, chart)
    across, down = _axes_of(chart)
    figure.update_layout(xaxis=across, yaxis=down)
    for one in chart.beginnings:
        _begin(figure, one, "x", "y")
    if chart.level is not None and chart.lines:
        figure.add_hline(chart.level, line={"color": theme.TEXT, "width": 1, "dash": "dash"})
    xs = [x for line in chart.lines for x in line.x]
    if chart.diagonal and xs:
        ends = [min(xs), max(xs)]
        line = {"color": theme.TEXT, "width": 1, "dash": "dash"}
        figure.add_scatter(x=ends, y=ends, mode="lines", line=line, name=ROOFS, hoverinfo="skip")
    return figure


def _legend(figure: Figure, chart: LineChart | PanelChart) -> None:
    """The legend of the lines; the line of the roofs has an entry, too."""
    names = [line.name for line in chart.lines]
    roofs = [ROOFS] * bool(isinstance(chart, LineChart) and chart.diagonal and names)
    legends.place(figure, names + roofs, any(line.dash for line in chart.lines))


def _axes_of(chart: LineChart) -> tuple[dict[str, Any], dict[str, Any]]:
    """The layout of the axes x and y, with ticks written in full."""
    xs = sorted({x for line in chart.lines for x in line.x})
    ys = [y for line in chart.lines for y in line.y if y == y]
    across: dict[str, Any] = {"type": "log" if chart.x_is_log else "linear", "title_text": plotly_text(chart.x_title)}
    across["tickangle"] = 0  # slanted ones, in a narrow figure, push the title into the sources under it
    down: dict[str, Any] = {"type": "log" if chart.y_is_log else "linear", "title_text": plotly_text(chart.y_title)}
    if chart.x_is_time:
        across |= _time_ticks(xs)
    elif chart.x_is_log:
        marks = static.count_marks(xs)
        across |= {"tickvals": marks, "ticktext": [theme.tokens(x) for x in marks]}
    if chart.x_is_time or chart.y_is_time:
        down |= _time_ticks(ys)
    elif chart.y_is_log:
        values, texts = _log_ticks(ys, chart.level is not None)
        down |= {"tickvals": values, "ticktext": texts}
    return across, down


def _begin(figure: Figure, one: Beginning, x: str, y: str) -> None:
    """A thin vertical line over the whole height of the axes, with its name at the top."""
    line = {"color": theme.TEXT, "width": 1, "dash": "dot"}
    figure.add_shape(type="line", xref=x, yref=f"{y} domain", x0=one.x, x1=one.x, y0=0, y1=1, line=line)
    figure.add_annotation(
        text=plotly_text(one.name), showarrow=False, xref=x, yref=f"{y} domain", x=math.log10(one.x), y=1,
        xanchor="left", yanchor="top", font={"size": 10}, xshift=2,
    )  # fmt: skip


def _panels(chart: PanelChart) -> Figure:
    """Panels, two in a row; lines of one name share a legend entry, which hides them in all panels."""
    figure = Figure(layout=layout(chart.title, foot(chart)), fallback=lambda: (static.jpeg(chart), static.text(chart)))
    rows, named = -(-len(chart.panels) // 2), set[str]()
    base = {axis: figure.layout[f"{axis}axis"].to_plotly_json() for axis in "xy"}
    for number, panel in enumerate(chart.panels):
        x, y = _add_panel(figure, panel, number, rows, base)
        traces = [trace(line).update(xaxis=x, yaxis=y, legendgroup=line.name) for line in panel.lines]
        figure.add_traces([one.update(showlegend=one.legendgroup not in named) for one in traces])
        named |= {line.name for line in panel.lines}
        for one in panel.beginnings:
            _begin(figure, one, x, y)
        if panel.level is not None:
            line = {"color": theme.TEXT, "width": 1, "dash": "dash"}
            ends = {"x0": 0, "x1": 1, "y0": panel.level, "y1": panel.level}
            figure.add_shape(type="line", xref=f"{x} domain", yref=y, line=line, **ends)
    _legend(figure, chart)
    figure.update_layout(height=figure.layout.height + PANEL * max(rows, 1) - PLOT)
    return figure


def _add_panel(figure: Figure, panel: LineChart, number: int, rows: int, base: Mapping[str, Any]) -> tuple[str, str]:
    """Adds a panel's axes and title; returns the names of its axes."""
    row, column = divmod(number, 2)
    top, share = 1 - row / rows, 1 / rows
    number_of = str(number + 1) if number else ""
    x, y = f"x{number_of}", f"y{number_of}"
    across, down = _axes_of(panel)
    layout = {"anchor": y, "domain": [0.54 * column, 0.54 * column + 0.46]}
    figure.update_layout({f"xaxis{number_of}": {**base["x"], **layout}})
    figure.update_layout({f"xaxis{number_of}": across})
    layout = {"anchor": x, "domain": [top - share + (0.22 * share if row < rows - 1 else 0), top - 0.07 * share]}
    figure.update_layout({f"yaxis{number_of}": {**base["y"], **layout}})
    figure.update_layout({f"yaxis{number_of}": down | ({"title_text": ""} if column else {})})
    figure.add_annotation(
        text=plotly_text(panel.title), showarrow=False, xref=f"{x} domain", yref=f"{y} domain", x=0, y=1,
        xanchor="left", yanchor="bottom", font={"size": 13},
    )  # fmt: skip
    return x, y


def _log_ticks(values: list[float], as_ratio: bool) -> tuple[list[float], list[str]]:
    """Ticks at round values, written in full (`2k`, `0.5×`): plotly's own 2 and 5 without their power are misread."""
    marks = static.log_marks(values)
    return marks, [static.mark(value, as_ratio) for value in marks]


def _time_ticks(values: list[float]) -> dict[str, Any]:
    marks = static.log_marks(values)
    return {"tickvals": marks, "ticktext": [theme.tick(mark, "s") for mark in marks]}


def _or_none(value: float) -> float | None:
    """None for nan: JSON has no nan, and plotly leaves out None."""
    return value if value == value else None


def trace(line: Line) -> go.Scatter:
    """One line, with its quartiles as error bars where they differ."""
    spread = any(low < high for low, high in zip(line.low, line.high, strict=True))
    error = {
        "type": "data", "symmetric": False, "thickness": 1, "width": 3,
        "array": [_or_none(high - y) for high, y in zip(line.high, line.y, strict=True)],
        "arrayminus": [_or_none(y - low) for low, y in zip(line.low, line.y, strict=True)],
    }  # fmt: skip
    return go.Scatter(
        x=line.x, y=line.y, name=plotly_text(line.name), mode="lines+markers" if line.joined else "markers",
        line={"color": line.style.colour, "dash": theme.DASHES[line.dash], "width": 2},
        marker=_marker(line.style),
        error_y=error if spread else None, hovertext=hover_texts(line.hover), hoverinfo="text",
    )  # fmt: skip


def _marker(style: theme.Style) -> dict[str, Any]:
    """A marker; the dot in a full one is drawn by its outline, which plotly leaves out where nobody sets its width."""
    dotted = style.marker.endswith("-dot") and "open" not in style.marker
    outline = {"line": {"width": 1, "color": "white"}} if dotted else {}
    return {"symbol": style.marker, "size": 9, "color": style.colour, **outline}


def _bars(chart: BarChart) -> Figure:
    figure = Figure(layout=layout(chart.title, foot(chart)), fallback=lambda: (static.jpeg(chart), static.text(chart)))
    for number, bars in enumerate(chart.bars):
        figure.add_trace(_bar_trace(chart, number, bars))
    marked = [
        (chart.position(n, g), y) for n, bars in enumerate(chart.bars) for g, y in enumerate(bars.limit) if y == y
    ]
    if marked:
        # a line as wide as its bar: plotly's marker has a size in pixels, which no bar has
        error = {"type": "constant", "value": 0.47 * chart.width, "thickness": 3, "width": 0, "color": theme.TEXT}
        figure.add_scatter(
            x=[x for x, _ in marked], y=[y for _, y in marked], error_x=error, mode="markers",
            name=plotly_text(chart.limit_name),
            marker={"symbol": "line-ew", "size": 6, "line": {"width": 3, "color": theme.TEXT}}, hoverinfo="text",
            hovertext=hover_texts(Hover(chart.limit_name, f": {theme.quantity(y, chart.unit)}") for _, y in marked),
        )  # fmt: skip
    legends.place(figure, [bars.name for bars in chart.bars] + [chart.limit_name] * bool(marked))
    figure.update_yaxes(type="log" if chart.y_is_log else "linear", title_text=plotly_text(chart.y_title))
    if chart.y_is_log and chart.groups:
        low, high = static.bar_range(chart)
        marks = static.log_marks([low, high])
        texts = [theme.tick(m, chart.unit) for m in marks]
        figure.update_yaxes(tickvals=marks, ticktext=texts, range=[math.log10(low), math.log10(high)])
    elif chart.groups:
        marks = static.linear_marks(static.bar_range(chart)[1])
        texts = [theme.tick(m, chart.unit) for m in marks]
        figure.update_yaxes(tickvals=marks, ticktext=texts, rangemode="tozero")
    names = [_tick(group, NAMES // len(chart.groups)) for group in chart.groups]
    ticks = {"tickvals": list(range(len(names))), "ticktext": names, "tickangle": 0}
    figure.update_xaxes(title_text=plotly_text(chart.x_title), title_standoff=8, showgrid=False, **ticks)
    more = 16 * max((name.count("<br>") for name in names), default=0)
    figure.update_annotations(selector={"name": "sources"}, yshift=-52 - more)
    figure.update_layout(margin_b=figure.layout.margin.b + more, height=figure.layout.height + more)
    return figure


def _tick(name: str, width: int) -> str:
    """A group's name in lines of that width, at least 8; a shape that is longer is broken behind its `×`."""
    width = max(8, width)
    words = [word if len(word) <= width else word.replace("×", "× ") for word in name.split(" ")]
    return wrap(" ".join(words), width)


def _bar_trace(chart: BarChart, number: int, bars: Bars) -> go.Bar:
    spread = any(low < high for low, high in zip(bars.low, bars.high, strict=True))
    error = {
        "type": "data", "symmetric": False, "thickness": 1, "width": 3, "color": theme.TEXT,
        "array": [_or_none(high - y) for high, y in zip(bars.high, bars.values, strict=bool(bars.high))],
        "arrayminus": [_or_none(y - low) for low, y in zip(bars.low, bars.values, strict=bool(bars.low))],
    }  # fmt: skip
    return go.Bar(
        x=[chart.position(number, group) for group in range(len(chart.groups))], width=0.9 * chart.width,
        y=[_or_none(value) for value in bars.values], name=plotly_text(bars.name), marker_color=bars.colour,
        marker_pattern_shape=bars.hatch, error_y=error if spread else None, hoverinfo="text",
        hovertext=hover_texts(bars.hover or (Hover(bars.name),) * len(bars.values)),
    )  # fmt: skip


def _heat(chart: HeatChart) -> Figure:
    figure = Figure(layout=layout(chart.title, foot(chart)), fallback=lambda: (static.jpeg(chart), static.text(chart)))
    low, high, colours, ticks = static.heat_scale(chart)
    logs = [[_or_none(static.log2(value)) for value in row] for row in chart.z]
    across, down = (plotly_text(title.split(" (")[0]) for title in (chart.x_title, chart.y_title))
    bar = {
        "title": {"text": "" if chart.unit else "times faster", "font": {"size": 12}},
        "tickvals": ticks, "ticktext": [chart.text(2**t) for t in ticks],
    }  # fmt: skip
    figure.add_heatmap(
        x=list(map(plotly_text, chart.x)), y=list(map(plotly_text, chart.y)), z=logs,
        text=[[chart.text(value) for value in row] for row in chart.z],
        texttemplate="%{text}", zmin=low, zmax=high, xgap=2, ygap=2, colorbar=bar,
        colorscale=[[i / (len(colours) - 1), colour] for i, colour in enumerate(colours)],
        hovertemplate=f"{across} %{{x}}, {down} %{{y}}: %{{text}}<extra></extra>",
    )  # fmt: skip
    figure.update_xaxes(title_text=plotly_text(chart.x_title), type="category", showgrid=False)
    figure.update_yaxes(title_text=plotly_text(chart.y_title), type="category", showgrid=False)
    return figure


def tilemap(tilemap: bs.TileMap, longest: int = 512) -> Figure:
    """The tile map with token axes; as quick for 2,048 x 2,048 tiles as for ten: the tiles are a PNG."""
    words = tiles.summary(tilemap)
    figure = Figure(
        layout=layout("", ""),
        fallback=lambda: (static.jpeg(static.tilemap(tilemap, longest)), f"{tilemap.mask!r}: {words}"),
    )
    image = "data:image/png;base64," + base64.b64encode(tiles.png(tilemap, longest)).decode()
    figure.add_layout_image(
        source=image, xref="x", yref="y", x=0, y=0, sizex=tilemap.kv_len, sizey=tilemap.q_len, sizing="stretch",
        layer="below",
    )  # fmt: skip
    for name, colour in (("full tiles", theme.FULL), ("partial tiles", theme.PARTIAL)):
        marker = {"symbol": "square", "size": 12, "color": colour}
        figure.add_scatter(x=[None], y=[None], mode="markers", name=name, marker=marker)
    scale = tiles.scale_text(tilemap, longest)
    detail = f"{words}; tiles of {tilemap.block_m} × {tilemap.block_n}{'; ' + scale if scale else ''}"
    width, height = tiles.size(tilemap, longest)
    title = render("plotly.title", first=repr(tilemap.mask), second=detail)
    figure.update_layout(title_text=title, width=max(width + 110, 640), height=height + 170, margin={"t": 70, "b": 90})
    figure.update_layout(legend={"y": -0.14, "yanchor": "top"})
    for axis, length, name in (("xaxis", tilemap.kv_len, "key"), ("yaxis", tilemap.q_len, "query")):
        marks = [length * quarter // 4 for quarter in range(5)]
        ends = [0, length] if axis == "xaxis" else [length, 0]
        ticks = {"tickvals": marks, "ticktext": [theme.tokens(mark) for mark in marks]}
        figure.update_layout(
            {axis: {"range": ends, "title": {"text": name}, "showgrid": False, "mirror": True, **ticks}}
        )
    figure.update_xaxes(domain=[0, width / (max(width + 110, 640) - 90)])
    return figure
