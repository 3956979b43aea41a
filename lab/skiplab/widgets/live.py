"""A chart that grows while points come in: plotly's FigureWidget where it works, else a picture."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import anywidget
import ipywidgets as w

from skiplab.figures import interactive, static
from skiplab.figures.charts import Chart, LineChart
from skiplab.widgets import controls
from skiplab.widgets.fallback import Pictured


class Fit(anywidget.AnyWidget):
    """Shows nothing; charts beside it take the width of its place as soon as it has one, and whenever it changes."""

    _esm = Path(__file__).with_name("fit.js")


class LiveChart(Pictured, w.VBox):
    """Empty until `draw(chart)`; a further chart replaces it without a flicker. `chart` is what it shows.

    It is as wide as the page allows, and no wider than the panel's two columns. Its buttons show under the pointer.
    """

    def __init__(self) -> None:
        super().__init__([], layout=w.Layout(max_width="1020px"))
        self.add_class("skiplab-chart")
        self.chart: Chart | None = None
        self._view: Any = None

    def follow(self, explorer: Any, chart_of: Callable[[Any], Chart]) -> LiveChart:
        """Show `chart_of(settings)` of an explorer, now and after each of its changes; returns itself."""
        explorer.observe(lambda change: self.draw(chart_of(change["new"])), "settings")
        self.draw(chart_of(explorer.settings))
        return self

    def still(self) -> tuple[bytes, str]:
        """The chart as it is now; nothing drawn is a chart without lines."""
        chart = self.chart or LineChart("", "", "", (), "", "nothing is drawn yet")
        return static.png(chart, bare=True), static.text(chart)

    def draw(self, chart: Chart) -> None:
        """Show this chart."""
        self.chart = chart
        if self._view is None:
            self._view = _view()
            self.children = [controls.style(), Fit(), self._view]
        if isinstance(self._view, w.Image):
            self._view.value = static.png(chart, bare=True)
            return
        figure = interactive.draw(chart)
        before = set(self._view.layout.to_plotly_json())
        self._view.data = ()
        self._view.layout = figure.layout
        if gone := before - set(figure.layout.to_plotly_json()):
            # plotly's widget sends what a layout has, not what it lacks: a reference line of the last chart would stay
            self._view._send_relayout_msg(dict.fromkeys(gone))
        self._view.add_traces(list(figure.data))
        # plotly measured its place before the page had one; and a width that never was set, it would not take back
        self._view._send_relayout_msg({"autosize": True, "width": None})


def _view() -> Any:
    """A FigureWidget, or an image if plotly's widget or its dependencies are not installed."""
    try:
        import plotly.graph_objects as go

        view: Any = go.FigureWidget()
        view._config = {"responsive": True, **interactive.CONFIG}
        return view
    except ImportError:
        return w.Image(format="png")
