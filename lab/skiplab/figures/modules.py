"""The module of each operation in this package, and what each of them must hold."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

from skiplab.figures.charts import BarChart, LineChart, PanelChart
from skiplab.figures.series import RowDict
from skiplab.operations import modules_of


class FigureModule(Protocol):
    """What figures need of an operation, beside the charts that it has of its own."""

    def overview(self, table: Any) -> LineChart | PanelChart | BarChart:
        """The first chart to look at."""
        ...

    def problem(self, row: RowDict) -> str:
        """A point's problem in words, for the text at the pointer."""
        ...


MODULES: Mapping[str, FigureModule] = modules_of("skiplab.figures")
