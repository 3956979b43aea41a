"""What is asked of each table's figures, whether it is met, and why not where it is missed: `data/TARGETS.md`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from skiplab.results.tables import MissingRun, Table, axis_name, axis_text, entries, gather, number
from skiplab.store import Run
from skiplab.text import listed, markdown


@dataclass(frozen=True)
class TargetsTable:
    """The targets of these tables, in their order, as one table; what is missed is told below it."""

    tables: Mapping[str, Table]

    def markdown(self, runs: Iterable[Run], page: Path) -> str:
        """For a page: a line for each table with a target and a run, then where each is missed, and why."""
        runs, lines, missed = list(runs), [], []
        for name, table in self.tables.items():
            if table.target:
                subject = table.about.split("**")[1]
                cells = _judged(name, table, runs)
                devices = " and ".join(dict.fromkeys(cells["device"]))
                if len(cells):
                    lines.append((subject, table.target, _verdict(cells), devices))
                missed += [f"- **{subject}** ({devices}): {text}" for text in _misses(cells, table)]
        below = "\n".join(missed) or "Nothing is missed."
        return f"{markdown(('figures', 'asked for', 'met', 'recorded on'), lines)}\n\n{below}"


def _judged(name: str, table: Table, runs: list[Run]) -> pd.DataFrame:
    """The cells of which something is asked, with `missed`; none where no run has any."""
    try:
        cells = entries(name, table, gather(table, runs))
    except MissingRun:
        return pd.DataFrame({"missed": [], "device": []})
    asked = [table.items[row["order"]].is_asked(row) for row in _records(cells)]
    judged: Any = cells[pd.Series(asked, cells.index) & cells["number"].notna()]
    return judged


def _verdict(cells: pd.DataFrame) -> str:
    """`all 14 points` or `8 of 14 points`."""
    met = list(cells["missed"]).count(False)
    return f"all {met} points" if met == len(cells) else f"{met} of {len(cells)} points"


def _misses(cells: pd.DataFrame, table: Table) -> list[str]:
    """Where the target is missed, by how much, and why: a sentence for each reason."""
    by_reason: dict[str, list[dict[str, Any]]] = {}
    for row in _records(cells):
        if row["missed"]:
            point = tuple(None if pd.isna(row[axis]) else row[axis] for axis in table.axes)
            by_reason.setdefault(table.reasons.get(point, "the reason has not been found yet"), []).append(row)
    return [f"{_places(rows, table)}: {reason}." for reason, rows in by_reason.items()]


def _places(rows: list[dict[str, Any]], table: Table) -> str:
    """`*a* at prompt length 1,024 (0.95×) and 2,048 (0.97×); *b* at …`."""
    by_head: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        by_head.setdefault(row["head"], []).append(row)
    return "; ".join(f"*{head}* at {_points(own, table)}" for head, own in by_head.items())


def _points(rows: list[dict[str, Any]], table: Table) -> str:
    """`heads 32/8 of 128, window 128 (38 %) and 512 (59 %)`: the last axis' values together, by the others'."""
    *others, last = table.axes
    lines: dict[str, list[str]] = {}
    for row in rows:
        line = "".join(f"{axis_name(axis, table.axes)} {axis_text(axis, row[axis])}, " for axis in others)
        value = number(row["number"], table.items[row["order"]].value)
        lines.setdefault(line, []).append(f"{axis_text(last, row[last])} ({value})")
    return ", and ".join(f"{line}{axis_name(last, table.axes)} {listed(values)}" for line, values in lines.items())


def _records(cells: pd.DataFrame) -> list[dict[str, Any]]:
    return [{str(name): value for name, value in row.items()} for row in cells.to_dict("records")]
