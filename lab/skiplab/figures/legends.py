"""Where a plotly figure's legend stands: over the plot in as many rows as are kept free for it, at any width."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

TITLE, MENU, ROW, UNDER = 44, 48, 19, 8
"""Pixels of a figure's title, of a menu under it, of a row of names under both, and between these and the plot."""
FOLLOWING = ("legend", "margin.t", "updatemenus[0].pad.b")
"""What a menu's button changes for the legend of its chart."""
FEW, NARROW = 6, 34
"""More names than these, none longer than that, stand in a column beside the plot."""
DASHED, PLAIN = 56, 30
"""Pixels of the line before a name: where dashes tell lines apart, the marker hides most of a short one; elsewhere."""
GAP, LETTER = 20, 6.2
"""Pixels around a name, and of a letter of 12 pixels' height on average."""
NARROWEST = 520
"""Pixels of a plot, without its margins, in a notebook 1,100 pixels wide beside the file browser."""


def place(figure: Any, names: Sequence[str], dashed: bool = False) -> None:
    """Give a figure the legend of these names, and the height that it takes; over panels, too, in one order.

    Names that fit beside each other in a narrow plot stand in one row, others in columns, each a share of the plot's
    width: so the number of rows is known here, and no blank is left over for rows that a wide page does not need.
    """
    longest = max(map(len, names), default=0)
    line = DASHED if dashed else PLAIN
    figure.update_layout(legend_itemwidth=line, legend_traceorder="normal")
    if len(names) > FEW and longest <= NARROW:
        column = {"orientation": "v", "x": 1.01, "y": 1, "yanchor": "top", "font": {"size": 11}}
        figure.update_layout(legend=column, height=max(figure.layout.height, 160 + 21 * len(names)))
    elif names:
        more = ROW * _rows(figure, names, line) + UNDER
        figure.update_layout(margin_t=figure.layout.margin.t + more, height=figure.layout.height + more)


def over(top: float) -> float:
    """Pixels between the plot and a menu over it, of a figure whose margin would be so many without: the legend's."""
    return top - TITLE + 10


def beside(figure: Any, width: int) -> None:
    """Give a figure on a wide page its legend in a column of so many pixels, and back the height that it took.

    A menu over the plot comes down to it, and its charts keep the legend in the column.
    """
    above = TITLE + MENU * len(figure.layout.updatemenus)
    taken = figure.layout.margin.t - above if figure.layout.legend.yanchor == "bottom" else 0
    for menu in figure.layout.updatemenus:
        menu.pad.b = over(TITLE)
        for button in menu.buttons:
            what, wanted = button.args
            button.args = (what, {name: value for name, value in wanted.items() if name not in FOLLOWING})
    column = {"orientation": "v", "x": 1.01, "xanchor": "left", "y": 1, "yanchor": "top"}
    figure.update_layout(legend={**column, "entrywidthmode": None, "entrywidth": None})
    figure.update_layout(margin_t=figure.layout.margin.t - taken, margin_r=width, height=figure.layout.height - taken)


def _rows(figure: Any, names: Sequence[str], line: int) -> int:
    """Sets the columns of a legend over the plot; returns how many rows it has."""
    widths = [line + GAP + LETTER * len(name) for name in names]
    if sum(widths) <= NARROWEST:
        return 1
    columns = max(1, int(NARROWEST / max(widths)))
    if columns == 1:
        figure.update_layout(legend_orientation="v")
        return len(names)
    figure.update_layout(legend_entrywidthmode="fraction", legend_entrywidth=0.99 / columns)
    return -(-len(names) // columns)
