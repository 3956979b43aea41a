"""Which rows of a long run a page shows, and the words that say what it leaves out.

A figure is some hundred pixels wide, and a line crosses each column of them from its least to its greatest point
there: what lies between these, nobody sees. So of each line the first, last, least and greatest point of each column
stay. Where there are more lines than a legend can name, settings are left out evenly. A run of ordinary size is whole.
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
class Part:
    """Rows that are shown, and in words what is left out; no words where these are all rows."""

    table: Any
    words: str = ""


def evenly(count: int, most: int) -> np.ndarray:
    """At most that many of the numbers from 0 to count - 1, at even distances, first and last among them."""
    return np.unique(np.linspace(0, count - 1, min(count, most)).round().astype(int)) if count else np.arange(0)


def settings(table: Any, axes: Sequence[str], most: int) -> Part:
    """Rows of at most that many settings (values of the axes), in the order of their values."""
    found = table[list(axes)].drop_duplicates().sort_values(list(axes), ignore_index=True)
    if len(found) <= most:
        return Part(table)
    chosen = found.iloc[evenly(len(found), most)]
    return Part(_at(table, chosen, axes), f"{len(chosen):,} of {len(found):,} settings")


def lines(table: Any, x: str, axes: Iterable[str], base: str | None = None) -> Part:
    """Rows of a figure of lines over x, one for each contender and setting of `axes`; base: of ratios over that one."""
    others = [axis for axis in axes if axis != x]
    room = SETTINGS if len(table) <= POINTS else min(SETTINGS, LINES // table["contender"].nunique())
    part = settings(table, others, max(1, room))
    if len(part.table) <= POINTS:
        return _said(part, table)
    if base is None:
        kept = part.table[_apart(part.table, x, "median_ms", ["contender", *others])]
    else:
        ratios: Any = speedups(part.table, base)
        chosen = ratios[_apart(ratios, x, "speedup", ["contender", *others])]
        partners = part.table[part.table["contender"] == base]
        kept = pd.concat([
            _at(part.table, chosen, [*AXES, "contender"]), _at(partners, chosen[list(AXES)].drop_duplicates(), AXES),
        ])  # fmt: skip
    return _said(Part(kept, part.words), table)


def scatter(table: Any, x: str, y: str) -> Part:
    """Rows of a figure of markers: one of each contender in each square that a marker covers."""
    good = table[(table[x] > 0) & (table[y] > 0)]
    if len(good) <= POINTS:
        return Part(table)
    for columns in COLUMNS:
        cells = pd.DataFrame({"x": _column(good[x], columns), "y": _column(good[y], columns // 2)})
        kept = good[~cells.assign(contender=good["contender"]).duplicated()]
        if len(kept) <= POINTS:
            break
    return _said(Part(kept), good)


def grid(table: Any, x: str, y: Sequence[str]) -> Part:
    """Rows of a heat map: so many lengths across, so many settings down."""
    part = settings(table, y, CELLS)
    across = settings(part.table, [x], CELLS)
    words = filter(None, [part.words, across.words.replace("settings", "lengths")])
    return Part(across.table, _sentence(" at ".join(words)))


def groups(table: Any, axes: Sequence[str]) -> Part:
    """Rows of a figure of bars, a group for each setting."""
    part = settings(table, axes, GROUPS)
    return Part(part.table, _sentence(part.words))


def places(table: Any, axes: Sequence[str]) -> Part:
    """Rows of a table that has a line for each setting."""
    part = settings(table, axes, ROWS)
    return Part(part.table, _sentence(part.words, "are listed"))


def points(table: Any) -> Part:
    """Rows of a table that has a line for each point: what failed first, at most half of them."""
    if len(table) <= ROWS:
        return Part(table)
    failed, ok = table[table["status"] != "ok"], table[table["status"] == "ok"]
    failed = failed.iloc[evenly(len(failed), ROWS // 2 if len(ok) else ROWS)]
    kept = pd.concat([failed, ok.iloc[evenly(len(ok), ROWS - len(failed))]])
    first = f", {len(failed):,} that failed first," if len(failed) else ""
    return Part(kept, _sentence(f"{len(kept):,} of {len(table):,} points{first}", "are listed"))


def _apart(table: Any, x: str, y: str, names: list[str]) -> pd.Series:
    """Which rows a figure of lines needs: the ends and extremes of each line in each column of its width."""
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
    """Which column of pixels a value falls into on a logarithmic axis."""
    logs = np.log(values.astype(float))
    low, high = logs.min(), logs.max()
    return ((logs - low) / max(high - low, 1e-9) * columns).clip(upper=columns - 1).fillna(-1).astype(int)


def _at(table: Any, chosen: Any, axes: Sequence[str]) -> Any:
    """The rows whose axes have one of the chosen combinations of values."""
    return table[pd.MultiIndex.from_frame(table[list(axes)]).isin(pd.MultiIndex.from_frame(chosen[list(axes)]))]


def _said(part: Part, whole: Any) -> Part:
    """The part with a sentence of how many points are drawn, if not all are; its words so far are its settings."""
    if len(part.table) == len(whole):
        return part
    chosen = f", of {part.words}," if part.words else ""
    others = "the others lie between these" + (", or in settings that no legend has room for" if part.words else "")
    return Part(part.table, f"{len(part.table):,} of {len(whole):,} points{chosen} are drawn; {others}.")


def _sentence(words: str, rest: str = "are drawn, at even distances") -> str:
    return f"{words} {rest}." if words else ""
