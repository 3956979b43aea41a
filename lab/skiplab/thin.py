"""Excerpts of long runs: which rows a page shows, and a text that says what it leaves out.

A figure is some hundred pixels wide, and a line covers each column of pixels from its least to its greatest point
there; points between are invisible. So each line keeps the first, last, least and greatest point of each column. If
there are more lines than a legend can name, settings are left out evenly. A run of ordinary size is shown whole.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from skiplab.figures.frames import AXES, speedups

POINTS, LINES, SETTINGS, CELLS, GROUPS, ROWS = 4000, 48, 24, 24, 40, 1000
"""At most: points of a figure, and lines of one that has more; settings to choose from, rows of a heat map, groups of
bars, rows of a table."""
COLUMNS = (512, 256, 128, 64, 32, 16, 8)
"""Into how many columns a figure's width is divided, until its points are few enough."""


@dataclass(frozen=True)
class Excerpt:
    """The rows that are shown, and a text about what is left out; empty if these are all rows."""

    table: Any
    left_out: str = ""


def evenly(count: int, most: int) -> np.ndarray:
    """At most `most` of the numbers from 0 to count - 1, evenly spaced, first and last included."""
    return np.unique(np.linspace(0, count - 1, min(count, most)).round().astype(int)) if count else np.arange(0)


def settings(table: Any, axes: Sequence[str], most: int) -> Excerpt:
    """The rows of at most `most` settings (values of the axes), in the order of their values."""
    all_settings = table[list(axes)].drop_duplicates().sort_values(list(axes), ignore_index=True)
    if len(all_settings) <= most:
        return Excerpt(table)
    chosen = all_settings.iloc[evenly(len(all_settings), most)]
    return Excerpt(_at(table, chosen, axes), f"{len(chosen):,} of {len(all_settings):,} settings")


def lines(table: Any, x: str, axes: Iterable[str], base: str | None = None) -> Excerpt:
    """Rows for lines over x, one for each contender and setting of `axes`; base: for ratios over that contender."""
    others = [axis for axis in axes if axis != x]
    most = SETTINGS if len(table) <= POINTS else min(SETTINGS, LINES // table["contender"].nunique())
    excerpt = settings(table, others, max(1, most))
    if len(excerpt.table) <= POINTS:
        return _said(excerpt, table)
    if base is None:
        kept = excerpt.table[_apart(excerpt.table, x, "median_ms", ["contender", *others])]
    else:
        ratios: Any = speedups(excerpt.table, base)
        chosen = ratios[_apart(ratios, x, "speedup", ["contender", *others])]
        partners = excerpt.table[excerpt.table["contender"] == base]
        kept = pd.concat([
            _at(excerpt.table, chosen, [*AXES, "contender"]), _at(partners, chosen[list(AXES)].drop_duplicates(), AXES),
        ])  # fmt: skip
    return _said(Excerpt(kept, excerpt.left_out), table)


def scatter(table: Any, x: str, y: str) -> Excerpt:
    """Rows for a scatter plot: one of each contender in each square that a marker covers."""
    good = table[(table[x] > 0) & (table[y] > 0)]
    if len(good) <= POINTS:
        return Excerpt(table)
    for columns in COLUMNS:
        cells = pd.DataFrame({"x": _column(good[x], columns), "y": _column(good[y], columns // 2)})
        kept = good[~cells.assign(contender=good["contender"]).duplicated()]
        if len(kept) <= POINTS:
            break
    return _said(Excerpt(kept), good)


def grid(table: Any, x: str, y: Sequence[str]) -> Excerpt:
    """Rows for a heat map of at most `CELLS` lengths by `CELLS` settings."""
    excerpt = settings(table, y, CELLS)
    across = settings(excerpt.table, [x], CELLS)
    words = filter(None, [excerpt.left_out, across.left_out.replace("settings", "lengths")])
    return Excerpt(across.table, _sentence(" at ".join(words)))


def groups(table: Any, axes: Sequence[str]) -> Excerpt:
    """Rows for a bar chart with a group for each setting."""
    excerpt = settings(table, axes, GROUPS)
    return Excerpt(excerpt.table, _sentence(excerpt.left_out))


def by_setting(table: Any, axes: Sequence[str]) -> Excerpt:
    """Rows for a table with a line for each setting."""
    excerpt = settings(table, axes, ROWS)
    return Excerpt(excerpt.table, _sentence(excerpt.left_out, "are listed"))


def _apart(table: Any, x: str, y: str, names: list[str]) -> pd.Series:
    """Which rows a line plot needs: the ends and extremes of each line in each column of pixels."""
    line = table.groupby(names, dropna=False, sort=False).ngroup()
    for columns in COLUMNS:
        by = [line, _column(table[x], columns)]
        kept = set[Any]()
        for name in (x, y):
            values = table[name].dropna()
            grouped = values.groupby([one.loc[values.index] for one in by])
            kept.update(grouped.idxmin(), grouped.idxmax())
        if len(kept) <= POINTS:
            break
    return table.index.isin(kept)


def _column(values: Any, columns: int) -> pd.Series:
    """The column of pixels of each value on a logarithmic axis."""
    logs = np.log(values.astype(float))
    low, high = logs.min(), logs.max()
    return ((logs - low) / max(high - low, 1e-9) * columns).clip(upper=columns - 1).fillna(-1).astype(int)


def _at(table: Any, chosen: Any, axes: Sequence[str]) -> Any:
    """The rows whose axes have one of the chosen combinations of values."""
    return table[pd.MultiIndex.from_frame(table[list(axes)]).isin(pd.MultiIndex.from_frame(chosen[list(axes)]))]


def _said(excerpt: Excerpt, whole: Any) -> Excerpt:
    """The excerpt with a sentence on how many points are drawn, if not all; its text so far names its settings."""
    if len(excerpt.table) == len(whole):
        return excerpt
    chosen = f", of {excerpt.left_out}," if excerpt.left_out else ""
    others = "the others lie between these" + (
        ", or in settings that no legend has room for" if excerpt.left_out else ""
    )
    return Excerpt(excerpt.table, f"{len(excerpt.table):,} of {len(whole):,} points{chosen} are drawn; {others}.")


def _sentence(words: str, rest: str = "are drawn, at even distances") -> str:
    return f"{words} {rest}." if words else ""
