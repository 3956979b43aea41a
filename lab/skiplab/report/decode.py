"""The figures of a report on decode steps."""

from __future__ import annotations

from typing import TYPE_CHECKING

from skiplab import figures, thin

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go


def figures_of(table: pd.DataFrame, axes: list[str]) -> list[tuple[go.Figure, str]]:
    """Each figure and the text under it."""
    excerpt = thin.lines(table, "kv_len", axes)
    time = "Time of a decode step; the dashed line is the least that the machine's roofs allow."
    bytes_moved = "Bytes that a step must move, each once, over its time."
    return [
        (figures.decode_ratio(excerpt.table), f"{time} {excerpt.left_out}"),
        (figures.decode_bandwidth(excerpt.table), f"{bytes_moved} {excerpt.left_out}"),
    ]
