"""The figures of a report on a prompt's attention."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from skiplab import figures, thin
from skiplab.report.rows import axis_text, records
from skiplab.store import query
from skiplab.templates import plotly_text

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go


def figures_of(table: pd.DataFrame, axes: list[str]) -> list[tuple[go.Figure, str]]:
    """Each figure and the text under it."""
    faster, times = thin.lines(table, "q_len", axes, "sdpa"), thin.lines(table, "q_len", axes)
    pairs = thin.grid(table[table["contender"].isin(["sdpa", "blockskip"])], "q_len", ["window", "mask"])
    ours = thin.groups(table[table["contender"] == "blockskip"], axes)
    slider = "; move the slider to change the window or mask" if len(set(table["mask"])) > 1 else ""
    return [
        (with_window_slider(figures.speedup, faster.table), f"Speed-up over dense + mask{slider}. {faster.left_out}"),
        (with_window_slider(figures.attention_ratio, times.table),
         f"The dashed line is the least time that the machine's roofs allow{slider}. {times.left_out}"),
        (figures.heatmap(pairs.table), f"Times that blockskip is faster than dense + mask. {pairs.left_out}"),
        (figures.flops(ours.table),
         f"What the mask keeps, what blockskip executes, what dense attention executes. {ours.left_out}"),
    ]  # fmt: skip


def with_window_slider(make: Callable[[pd.DataFrame], go.Figure], table: pd.DataFrame) -> go.Figure:
    """`make(table)` for all windows and for each in one figure, chosen with a native slider, if they are several."""
    masks = records(table.sort_values("window").drop_duplicates("mask"))  # windows, then what has none
    if len(masks) < 2:
        return make(table)
    choices = [("all", table), *((axis_text("window", row), query(table, mask=row["mask"])) for row in masks)]
    made: list[tuple[str, Any]] = [(name, make(part)) for name, part in choices]
    figure, first = made[0][1], min(1, len(made) - 1)  # one window at first: all of them at once are many lines
    owners = [index for index, (_, one) in enumerate(made) for _ in one.data]
    figure.add_traces([trace for _, one in made[1:] for trace in one.data])
    steps = [
        {"label": plotly_text(name), "method": "update", "args": [{"visible": [owner == index for owner in owners]}]}
        for index, (name, _) in enumerate(made)
    ]
    for trace, owner in zip(figure.data, owners, strict=True):
        trace.update(visible=owner == first)
    below = max(one.layout.margin.b or 80 for _, one in made)  # axis and sources, which the slider stands under
    slider = {"active": first, "steps": steps, "currentvalue": {"prefix": "window or mask: "}, "pad": {"t": below}}
    height = figure.layout.height or 450
    return figure.update_layout(sliders=[slider], height=height + 100, margin_b=below + 90)
