"""Charts as plotly figures that keep a picture of themselves for readers without plotly."""

from __future__ import annotations

import base64
import textwrap
from collections.abc import Callable
from html import escape
from typing import Any

import blockskip as bs
import plotly.graph_objects as go

from skiplab.figures import charts, static, theme, tiles
from skiplab.figures.charts import BarChart, Chart, HeatChart, Line, LineChart

FEW = 6
"""More lines than these have their legend in a column beside the figure instead of over it."""


class Figure(go.Figure):
    """A plotly figure; saved in a notebook it also holds a PNG and a line of text, for readers that have no plotly."""

    def __init__(self, *args: Any, fallback: Callable[[], tuple[bytes, str]] | None = None, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self._fallback = fallback

    _ipython_display_: Any = None  # else IPython takes plotly's own renderer and never asks for the bundle

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None, **kwargs: Any) -> dict[str, Any]:
        live = self.to_plotly_json() | {"config": {"responsive": True}}
        bundle: dict[str, Any] = {"application/vnd.plotly.v1+json": live}
        if self._fallback is not None:
            bundle["image/png"], bundle["text/plain"] = self._fallback()
        return bundle


def draw(chart: Chart) -> Figure:
    """The chart as a plotly figure."""
    if isinstance(chart, BarChart):
        figure = _bars(chart)
    elif isinstance(chart, HeatChart):
        figure = _heat(chart)
    else:
        figure = _line_figure(chart)
    if charts.is_empty(chart):
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
        "title": {"standoff": 10},
    }
    note = {
        "text": wrap(sources, 100), "showarrow": False, "xref": "paper", "yref": "paper", "x": 0, "y": 0,
        "yshift": -52,
        "xanchor": "left", "yanchor": "top", "align": "left", "font": {"size": 11}, "name": "sources",
    }  # fmt: skip
    return go.Layout(
        title={
            "text": title, "x": 0, "xanchor": "left", "xref": "paper", "y": 0.97, "yanchor": "top",
            "font": {"size": 16},
        },
        font={"color": theme.TEXT, "size": 13}, paper_bgcolor="rgba(0,0,0,0)", plot_bgcolor="rgba(0,0,0,0)",
        xaxis=axis, yaxis=axis, margin={"l": 70, "r": 20, "t": 90, "b": 100}, height=460, hovermode="closest",
        legend={
            "font": {"size": 12}, "orientation": "h", "x": 0, "xanchor": "left", "y": 1.02, "yanchor": "bottom",
        },
        annotations=[note] if sources else [], template="none",
        hoverlabel={"align": "left"}, showlegend=True,
    )  # fmt: skip


def foot(chart: Chart) -> str:
    """Where the numbers come from, and what makes some doubtful or is left out."""
    return "; ".join(filter(None, [chart.sources, chart.note if chart.sources else ""]))


def wrap(text: str, width: int = 110) -> str:
    """Plotly's annotations do not break lines by themselves."""
    return "<br>".join(textwrap.wrap(text, width))


def _line_figure(chart: LineChart) -> Figure:
    figure = Figure(
        layout=layout(chart.title, foot(chart)), fallback=lambda: (static.png(chart, bare=True), static.text(chart))
    )
    figure.add_traces([trace(line) for line in chart.lines])
    if len(chart.lines) > FEW:
        column = {"orientation": "v", "x": 1.01, "y": 1, "yanchor": "top", "font": {"size": 11}}
        figure.update_layout(legend=column, height=max(460, 150 + 20 * len(chart.lines)))
    xs = sorted({x for line in chart.lines for x in line.x})
    if chart.x_is_time:
        ys = [y for line in chart.lines for y in line.y]
        figure.update_xaxes(type="log", title_text=chart.x_title, **_time_ticks(xs))
        figure.update_yaxes(**_time_ticks(ys))
    else:
        ticks = {"tickvals": xs, "ticktext": [theme.tokens(x) for x in xs]} if len(xs) <= 12 else {}
        figure.update_xaxes(type="log", title_text=chart.x_title, **ticks)
    figure.update_yaxes(type="log" if chart.y_is_log else "linear", title_text=chart.y_title)
    if chart.y_is_log and not chart.x_is_time:
        values, texts = _log_ticks([y for line in chart.lines for y in line.y], chart.level is not None)
        figure.update_yaxes(tickvals=values, ticktext=texts)
    if chart.level is not None:
        figure.add_hline(chart.level, line={"color": theme.TEXT, "width": 1, "dash": "dash"})
    if chart.diagonal and xs:
        ends = [min(xs), max(xs)]
        line = {"color": theme.TEXT, "width": 1, "dash": "dash"}
        figure.add_scatter(x=ends, y=ends, mode="lines", line=line, name="the roofs", hoverinfo="skip")
    return figure


def _log_ticks(values: list[float], as_ratio: bool) -> tuple[list[float], list[str]]:
    """Ticks at round values, written in full (`2k`, `0.5×`): plotly's own 2 and 5 without their power are misread."""
    marks = static.log_marks(values)
    return marks, [static.mark(value, as_ratio) for value in marks]


def _time_ticks(values: list[float]) -> dict[str, Any]:
    marks = static.log_marks(values)
    return {"tickvals": marks, "ticktext": [theme.seconds(mark) for mark in marks]}


def _or_none(value: float) -> float | None:
    """JSON has no nan; plotly leaves out what is None."""
    return value if value == value else None


def trace(line: Line) -> go.Scatter:
    """One line; the range of its quartiles as error bars where it is more than nothing."""
    spread = any(low < high for low, high in zip(line.low, line.high, strict=True))
    error = {
        "type": "data", "symmetric": False, "thickness": 1, "width": 3,
        "array": [_or_none(high - y) for high, y in zip(line.high, line.y, strict=True)],
        "arrayminus": [_or_none(y - low) for low, y in zip(line.low, line.y, strict=True)],
    }  # fmt: skip
    return go.Scatter(
        x=line.x, y=line.y, name=line.name, mode="lines+markers" if line.joined else "markers",
        line={"color": line.style.colour, "dash": theme.DASHES[line.dash], "width": 2},
        marker={"symbol": line.style.marker, "size": 9, "color": line.style.colour},
        error_y=error if spread else None, hovertext=line.hover, hoverinfo="text",
    )  # fmt: skip


def _bars(chart: BarChart) -> Figure:
    figure = Figure(
        layout=layout(chart.title, foot(chart)), fallback=lambda: (static.png(chart, bare=True), static.text(chart))
    )
    for (name, values), colour in zip(chart.values.items(), chart.colours, strict=True):
        hover = [f"{name}: {theme.quantity(value, 'FLOP')}" for value in values]
        figure.add_bar(x=chart.groups, y=values, name=name, marker_color=colour, hovertext=hover, hoverinfo="text+x")
    figure.update_yaxes(type="log", title_text=chart.y_title, exponentformat="power", dtick=1)
    figure.update_xaxes(title_text="prompt length, mask", title_standoff=8)
    return figure


def _heat(chart: HeatChart) -> Figure:
    figure = Figure(
        layout=layout(chart.title, foot(chart)), fallback=lambda: (static.png(chart, bare=True), static.text(chart))
    )
    text = [[theme.ratio(value) if value == value else "" for value in row] for row in chart.z]
    limit = static.heat_limit(chart)
    logs = [[_or_none(static.log2(value)) for value in row] for row in chart.z]
    ticks = [-limit, -limit / 2, 0, limit / 2, limit]
    figure.add_heatmap(
        x=chart.x, y=chart.y, z=logs, text=text, texttemplate="%{text}", zmin=-limit, zmax=limit, xgap=2, ygap=2,
        colorscale=[[0, theme.VERMILLION], [0.5, "#F2F2F2"], [1, theme.BLUE]],
        hovertemplate="prompt %{x}, window %{y}: %{text}<extra></extra>",
        colorbar={"title": {"text": "times faster"}, "tickvals": ticks, "ticktext": [theme.ratio(2**t) for t in ticks]},
    )  # fmt: skip
    figure.update_xaxes(title_text=chart.x_title, type="category", showgrid=False)
    figure.update_yaxes(title_text=chart.y_title, type="category", showgrid=False)
    return figure


def tilemap(tilemap: bs.TileMap, longest: int = 512) -> Figure:
    """The tile map with token axes; as quick for 2,048 x 2,048 tiles as for ten: the tiles are a PNG."""
    words = tiles.words(tilemap)
    figure = Figure(
        layout=layout("", ""),
        fallback=lambda: (static.png(static.tilemap(tilemap, longest), bare=True), f"{tilemap.mask!r}: {words}"),
    )
    image = "data:image/png;base64," + base64.b64encode(tiles.png(tilemap, longest)).decode()
    figure.add_layout_image(
        source=image, xref="x", yref="y", x=0, y=0, sizex=tilemap.kv_len, sizey=tilemap.q_len, sizing="stretch",
        layer="below",
    )  # fmt: skip
    for name, colour in (("full tiles", theme.FULL), ("partial tiles", theme.PARTIAL)):
        marker = {"symbol": "square", "size": 12, "color": colour}
        figure.add_scatter(x=[None], y=[None], mode="markers", name=name, marker=marker)
    scale = tiles.scale_words(tilemap, longest)
    detail = f"{words}; tiles of {tilemap.block_m} × {tilemap.block_n}{'; ' + scale if scale else ''}"
    width, height = tiles.size(tilemap, longest)
    title = f"{escape(repr(tilemap.mask))}<br><sup>{detail}</sup>"
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
