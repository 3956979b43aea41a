"""Tables for a notebook: the points of a frame with the doubts about each, and any other numbers, in three digits."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import pandas as pd

from skiplab.figures import theme
from skiplab.figures.modules import MODULES
from skiplab.rated import RowDict
from skiplab.results.tables import Shown, axis_name, axis_text
from skiplab.text import digits

VALUES: Mapping[str, tuple[str, Callable[[Any], str]]] = {
    "median_ms": ("median ms", digits),
    "gbps": ("GB/s", digits),
    "tokens_per_s": ("tokens/s", digits),
    "error": ("error", lambda value: f"{value:.1e}"),
    "tolerance": ("allowed", lambda value: f"{value:.1e}"),
}
"""Heads and texts of columns that hold numbers."""
PROBLEM = "problem"
WORDS = ("contender", PROBLEM, "status", "flags", "why not")


def points(table: pd.DataFrame, *columns: str) -> Shown:
    """A line for each row, with these columns: axes, and of `VALUES`; then its flags, and why a point has no time.

    `problem` is the whole problem in words. ValueError names a column that the table does not have.
    """
    unknown = [name for name in columns if name not in (PROBLEM, *table.columns)]
    if unknown:
        raise ValueError(f"columns: got {unknown[0]!r}; allowed are {PROBLEM}, {', '.join(table.columns)}")
    rows = table.to_dict("records")
    refused = any(row["status"] != "ok" for row in rows)
    heads = ["contender", *map(_head, columns), "flags", *(["status", "why not"] if refused else [])]
    cells = pd.DataFrame([_cells(row, columns, refused) for row in rows], columns=pd.Index(heads))
    origins = theme.provenances(zip(table["source"], table["device"], strict=True))
    return Shown(f"{len(rows)} points, {origins}." if rows else "Nothing is measured.", cells, words=WORDS)


def captioned(table: pd.DataFrame, caption: str) -> Shown:
    """The table's index, unless it only counts, and its columns, under that caption: three digits of every number."""
    named = table if isinstance(table.index, pd.RangeIndex) else table.rename_axis(table.index.name or "").reset_index()
    words = [str(name) for name in named if not pd.api.types.is_numeric_dtype(named[name])]
    cells = named.map(_written)
    return Shown(caption, cells.rename(columns=str), words=tuple(words))


def _written(value: Any) -> str:
    if isinstance(value, float):
        return digits(value)
    return value if isinstance(value, str) else f"{value:,}"


def _head(column: str) -> str:
    return VALUES[column][0] if column in VALUES else axis_name(column)


def _cells(row: RowDict, columns: tuple[str, ...], refused: bool) -> list[str]:
    texts = [_text(column, row) for column in columns]
    return [row["label"], *texts, row["flags"], *([row["status"], row["error_text"]] if refused else [])]


def _text(column: str, row: RowDict) -> str:
    if column == PROBLEM:
        return MODULES[row["operation"]].problem(row)
    value = row[column]
    if column not in VALUES:
        return "none" if column == "window" and value != value else axis_text(column, value)
    return "" if value != value else VALUES[column][1](value)
