"""The module of each operation in this package, and what each of them must hold."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Protocol

from skiplab.operations import modules_of

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go


class ReportModule(Protocol):
    """What a report needs of an operation."""

    def figures_of(self, table: pd.DataFrame, axes: list[str]) -> list[tuple[go.Figure, str]]:
        """The figures of its rows and the text under each; of a long table an excerpt is drawn, and the text says so.

        axes: what its rows differ in, the mask included.
        """
        ...


MODULES: Mapping[str, ReportModule] = modules_of("skiplab.report")
