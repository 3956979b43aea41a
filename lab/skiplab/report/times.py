"""The table of times: a row for each workload, a column for each contender; and what is said above it."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Set
from typing import TYPE_CHECKING, Any

from skiplab.figures import theme
from skiplab.operations import OPERATIONS
from skiplab.report.rows import axis_text, records
from skiplab.text import called

if TYPE_CHECKING:
    import pandas as pd

UNUSUAL, WITHOUT = "*", "○"
"""Marks of a time: it has a flag that is not usual in its table; it lacks one that is."""


def usual_flags(table: pd.DataFrame) -> frozenset[str]:
    """The flags that more than half of the times have: said once, for a mark on nearly every cell says nothing."""
    found = [_flags(row) for row in records(table) if row["status"] == "ok"]
    return frozenset(flag for flag in set[str]().union(*found) if 2 * sum(flag in one for one in found) > len(found))


def marks_note(table: pd.DataFrame) -> str:
    """What is usual in the table, and what its marks say; empty where no time is flagged."""
    usual = usual_flags(table)
    marks = "".join(_marks(row, usual) for row in records(table) if row["status"] == "ok")
    most = f"all but those marked {WITHOUT}" if WITHOUT in marks else "all times"
    return "; ".join([
        *([f"flagged {', '.join(sorted(usual))}: {most}"] if usual else []),
        *([f"{UNUSUAL} for {'other ' if usual else ''}flags"] if UNUSUAL in marks else []),
    ])  # fmt: skip


def notes_above(table: pd.DataFrame) -> str:
    """What stands in brackets, where the base was timed, and what marks say; empty without either."""
    timed = set(table.loc[table["status"] == "ok", "contender"])
    bases = [OPERATIONS[name].baseline for name in table["operation"].unique()]
    return "; ".join(filter(None, [*(base.note for base in bases if base.contender in timed), marks_note(table)]))


def time_table(table: pd.DataFrame) -> pd.DataFrame:
    """A row for each workload, a column for each contender: `median (speed-up over the base)` or the status."""
    import pandas as pd

    if not len(table):
        return pd.DataFrame()
    operation = OPERATIONS[table["operation"].iloc[0]]
    axes, base, usual = operation.varying_in(table), operation.baseline, usual_flags(table)
    cells: dict[tuple[Any, ...], dict[str, dict[str, Any]]] = {}
    for row in records(table):
        key = *(_order(row[name]) for name in axes), str(row["mask"])
        cells.setdefault(key, {})[row["contender"]] = row
    lines, heads = [], _heads(table)
    for _, rows in sorted(cells.items()):
        first = next(iter(rows.values()))
        time = rows[base.contender]["median_ms"] if base.contender in rows else math.nan
        described = {operation.heading(name): axis_text(name, first) for name in axes}
        times = {head: _cell(rows.get(name), time, base.contender, usual) for name, head in heads.items()}
        lines.append({**described, **times})
    return pd.DataFrame.from_records(lines)


def _heads(table: pd.DataFrame) -> dict[str, str]:
    """By contender, its name; with what to type for it where two have the same one."""
    labels = dict(zip(table["contender"], table["label"], strict=True))
    shared = Counter(labels.values())
    return {
        name: called(label, name) if shared[label] > 1 else called(label, name).removesuffix(f" ({name})")
        for name, label in labels.items()
    }


def narrow_notes(table: pd.DataFrame) -> list[str]:
    """Of each contender that was timed with keys and values in 8 bits: its speed beside the others, and its error."""
    rows = [row for row in records(table) if row["status"] == "ok"]
    wide = {_beside(row): row["median_ms"] for row in rows if not isinstance(row["kv_dtype"], str)}
    found: dict[tuple[str, str, str], list[dict[str, Any]]] = {}
    for row in rows:
        if isinstance(row["kv_dtype"], str):
            found.setdefault((row["contender"], row["kv_dtype"], row["dtype"]), []).append(row)
    return [
        f"{contender}, keys and values in {narrow}: {_narrow([(row, wide.get(_beside(row))) for row in own], plain)}"
        for (contender, narrow, plain), own in found.items()
    ]


def _beside(row: dict[str, Any]) -> str:
    """A point but for the dtype of its keys."""
    operation = OPERATIONS[row["operation"]]
    return str([row["contender"], *(row[name] for name in operation.columns if name != "kv_dtype")])


def _narrow(rows: list[tuple[dict[str, Any], float | None]], plain: str) -> str:
    times = sorted(wide / row["median_ms"] for row, wide in rows if wide is not None)
    ratios = sorted(row["snr_db"] for row, _ in rows if not math.isnan(row["snr_db"]))
    said = [
        *([f"{_span(times, theme.ratio)} as fast as in {plain}"] if times else []),
        *([f"signal-to-noise ratio {_span(ratios, lambda value: f'{value:.1f}')} dB"] if ratios else []),
    ]
    return ", ".join(said) or "not compared"


def _span(values: list[float], text: Callable[[float], str]) -> str:
    """The least and the greatest, once where they read alike."""
    return " to ".join(dict.fromkeys(map(text, (values[0], values[-1]))))


def _order(value: float | str | None) -> tuple[float, str]:
    """Causal, which has no window, comes after the widest one; words are in their own order, behind none."""
    if isinstance(value, str):
        return math.inf, value
    return math.inf if value is None or math.isnan(value) else value, ""


def _cell(row: dict[str, Any] | None, base: float, base_name: str, usual: Set[str]) -> str:
    if row is None or row["status"] != "ok":
        return "" if row is None else row["status"]
    text = theme.seconds(row["median_ms"] / 1e3) + _marks(row, usual)
    faster = base / row["median_ms"]
    return text if math.isnan(faster) or row["contender"] == base_name else f"{text} ({theme.ratio(faster)})"


def _marks(row: dict[str, Any], usual: Set[str]) -> str:
    own = _flags(row)
    return UNUSUAL * bool(own - usual) + WITHOUT * bool(usual - own)


def _flags(row: dict[str, Any]) -> frozenset[str]:
    return frozenset(filter(None, row["flags"].split(", ")))
