"""Several charts of one kind in one plotly figure, with a menu to choose between them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from skiplab.figures import static
from skiplab.figures.charts import Chart
from skiplab.figures.interactive import Figure, draw
from skiplab.figures.legends import MENU, over
from skiplab.templates import plotly_text


def choose(charts: Mapping[str, Chart], first: str = "") -> Figure:
    """Charts of one kind in one figure, a menu to choose between them by name; it needs no kernel.

    It opens with a chart whose name contains `first`, else with the one of the most points, and keeps a picture of that
    for readers without plotly. ValueError without any chart.
    """
    if not charts:
        raise ValueError("charts: got none; at least one is needed")
    drawn = {name: draw(chart) for name, chart in charts.items()}
    lines: dict[str, Any] = {name: one.data for name, one in drawn.items()}
    shown = max(drawn, key=lambda name: (bool(first) and first in name, sum(len(line.x) for line in lines[name])))
    chart, setting = charts[shown], f"{shown}, one of {len(charts)} settings"
    picture = replace(chart, title=f"{chart.title}\n{setting}")
    words = f"{static.text(chart)}; {setting}"
    figure = Figure(layout=drawn[shown].layout, fallback=lambda: (static.jpeg(picture), words))
    owners = [name for name, own in lines.items() for _ in own]
    figure.add_traces([line.update(visible=name == shown) for name, own in lines.items() for line in own])
    buttons = [_button(name, one, owners) for name, one in drawn.items()]
    own = drawn[shown].layout.margin
    position = {"x": 0, "xanchor": "left", "y": 1, "yanchor": "bottom", "pad": {"b": over(own.t)}}
    look = {"bgcolor": "#F2F2F2", "font": {"color": "#333333", "size": 11}}
    menu = {"buttons": buttons, "active": list(drawn).index(shown), **position, **look}
    height = max(one.layout.height for one in drawn.values())
    figure.update_layout(updatemenus=[menu], height=height + MENU, margin_t=own.t + MENU)
    return figure


def _button(name: str, drawn: Figure, owners: list[str]) -> dict[str, Any]:
    """The button that shows a chart: which lines are visible, title, axes, notes, legend and margins."""
    keys = ("title", "xaxis", "yaxis", "annotations", "legend", "shapes")
    wanted = {key: value for key, value in drawn.layout.to_plotly_json().items() if key in keys}
    own = drawn.layout.margin
    wanted |= {"margin.t": own.t + MENU, "margin.b": own.b, "updatemenus[0].pad.b": over(own.t)}
    return {
        "label": plotly_text(name),
        "method": "update",
        "args": [{"visible": [owner == name for owner in owners]}, wanted],
    }
