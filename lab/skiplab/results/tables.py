"""Tables made of recorded runs: those of README and of `data/RESULTS.md`, so that no number in them is typed.

A `Table` says which rows of which runs it shows, how they are arranged, and the targets; `results.TABLES` declares all
of them. On a page a table stands between two comments, `<!-- table: NAME -->` and `<!-- end -->`; `fill` writes it
anew.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import pandas as pd

from skiplab.rated import RowDict, rated
from skiplab.store import Run, query
from skiplab.templates import render

MISSED, APART, REFUSED = "✗", "≈", "–"
MARKS = {
    "throttled": "†", "unconverged": "‡", "bimodal": "‡", "busy": "‡", "l2-resident": "◊", "impossible": "‖",
    "unchecked": "‖",
}  # fmt: skip
"""Flags that make a graph's replay doubtful; that a single call waits for its launch, or allocates, does not."""
NOTES = {
    "†": "the GPU had slowed its clocks to stay within its power",
    "‡": "the median had not settled, the samples fell into two groups, or the machine was busy",
    "◊": "what a call reads was not rotated past five times the last cache",
    APART: "the two were timed in different runs",
    "‖": "not to be trusted: faster than the roofs, or not compared with the reference",
    MISSED: "less than what is asked for",
}
HEADS = {
    "q_len": "prompt length", "kv_len": "keys", "out_features": "outputs", "in_features": "inputs",
    "group_size": "group size",
}  # fmt: skip
METHODS = {"graph": "of a CUDA graph's replay", "eager": "of single calls", "cpu": "of calls in turn"}
SECTION = re.compile(r"(<!-- table: ([\w-]+) -->\n).*?(<!-- end -->)", re.DOTALL)


class MissingRun(ValueError):
    """A table has no row to show; the message names the table and the run files it looks for."""


def nothing(row: RowDict) -> float:
    """No target."""
    return math.nan


@dataclass(frozen=True)
class Item:
    """The numbers under one head: which rows, which value, and the target.

    where: the rows, as `store.query` takes them. value: `ms` or `us` (the median), `eager` (us of single calls),
    `reads` (share of the read rate that the run's header holds), `plain` (of the speed of a plain read of as many
    bytes, as `data/machines` has it), `products` (useful FLOPs, share of the product's rate in the header), `error`, or
    `faster`: how many times faster than the fastest of `than` at the same point. least: the target at a point;
    nan: none.
    """

    head: str
    where: Mapping[str, Any]
    value: str = "ms"
    than: tuple[str, ...] = ()
    least: Callable[[RowDict], float] = nothing


@dataclass(frozen=True)
class Table:
    """A table: a line for each value of `axes` and a column for each item, or the other way round (`across`).

    about: the caption's beginning, in Markdown. runs: patterns of file names under `data/runs`; of a point that several
    runs hold, the run of the first pattern counts, and of one pattern the one that began last. target: the target in
    words; reasons: why it is missed at a point, given by the axes' values. statistic: what `median_ms` holds,
    in a word. source: rows from elsewhere than runs.
    """

    about: str
    axes: tuple[str, ...]
    items: tuple[Item, ...]
    where: Mapping[str, Any] = field(default_factory=dict)
    runs: tuple[str, ...] = ("*",)
    across: bool = False
    target: str = ""
    reasons: Mapping[tuple, str] = field(default_factory=dict)
    statistic: str = "median"
    source: Callable[[], pd.DataFrame] | None = None


def values(rows: pd.DataFrame, everything: pd.DataFrame, item: Item) -> pd.DataFrame:
    """The rows with the item's `number` (nan without a partner or roof) and `apart`: whether it compares two runs."""
    if item.value == "faster":
        good: Any = everything[everything["contender"].isin(item.than) & (everything["status"] == "ok")]
        fastest = good.sort_values("median_ms").drop_duplicates("workload").set_index("workload")
        other = rows[["workload"]].join(fastest[["median_ms", "file", "flags"]], on="workload")
        apart = other["file"].notna() & (other["file"] != rows["file"])
        flags = rows["flags"] + ", " + other["flags"].fillna("")
        return rows.assign(number=other["median_ms"] / rows["median_ms"], apart=apart, flags=flags)
    numbers = {
        "ms": lambda: rows["median_ms"],
        "us": lambda: rows["median_ms"] * 1e3,
        "eager": lambda: rows["eager_ms"] * 1e3,
        "reads": lambda: rows["gbps"] / rows["read_gbps"],
        "plain": lambda: rows["plain_us"] / rows["median_ms"] / 1e3,
        "products": lambda: rows["useful_tflops"] / rows["product_tflops"],
        "error": lambda: rows["error"],
    }
    if item.value not in numbers:
        raise ValueError(f"value: got {item.value!r}; allowed are {', '.join([*numbers, 'faster'])}")
    return rows.assign(number=numbers[item.value](), apart=False)


def gather(table: Table, runs: Iterable[Run]) -> pd.DataFrame:
    """All rows that the table may use: from its source, or from the runs whose names match."""
    return rated(runs, table.runs) if table.source is None else table.source()


def entries(name: str, table: Table, everything: pd.DataFrame) -> pd.DataFrame:
    """The table's cells, one a row: `head`, the axes, `number`, `text`, whether it is `missed`, and the rows' columns.

    everything: the result of `gather`. MissingRun where it holds none of the table's rows; ValueError where two of them
    claim one cell.
    """
    everything = query(everything, **table.where)
    parts = []
    for order, item in enumerate(table.items):
        rows = query(everything, **item.where)
        parts.append(values(rows, everything, item).assign(order=order, head=item.head))
    cells = pd.concat([part for part in parts if len(part)] or parts[:1], ignore_index=True)
    if not len(cells):
        files = ", ".join(f"data/runs/{pattern}.jsonl" for pattern in table.runs)
        raise MissingRun(f"{name}: no run has its rows; looked for {dict(table.where)} in {files}")
    twice: Any = cells[cells.duplicated(["head", *table.axes])]
    if len(twice):
        where = twice.iloc[0][["head", *table.axes]].to_dict()
        raise ValueError(f"{name}: several rows claim the cell {where}; its query must tell them apart")
    records = cells.to_dict("records")
    missed = [bool(row["number"] < table.items[row["order"]].least(row)) for row in records]
    texts = [_text(row, table.items[row["order"]].value, bad) for row, bad in zip(records, missed, strict=True)]
    return cells.assign(missed=missed, text=texts).sort_values([*table.axes, "order"], kind="stable")


def _text(row: RowDict, value: str, missed: bool) -> str:
    """A cell's text: three digits and marks; without a time the status, abbreviated if `notes` says more."""
    if row["status"] != "ok":
        return REFUSED if row["status"] == "unsupported" else row["status"].replace("-", " ")
    if row["number"] != row["number"]:
        return ""
    return number(row["number"], value) + marks_of(row["flags"]) + APART * row["apart"] + MISSED * missed


def marks_of(flags: str) -> str:
    """The marks of a row's flags."""
    return "".join(dict.fromkeys(MARKS[flag] for flag in flags.split(", ") if flag in MARKS))


def notes_of(text: str) -> list[str]:
    """A sentence on what the marks in a text mean; none without any."""
    meanings = "; ".join(f"{mark} {meaning}" for mark, meaning in NOTES.items() if mark in text)
    return [f"{meanings}."] if meanings else []


def number(value: float, kind: str) -> str:
    """`1.29`, `0.0700` or `4,678` for a time; `95 %`, `1.62×`, `7.5e-03` for the other kinds of values."""
    if kind in ("reads", "plain", "products"):
        return f"{value:.0%}".replace("%", "\u00a0%")
    if kind == "faster":
        return f"{value:.2f}×" if value < 10 else f"{value:.1f}×"
    if kind == "error":
        return f"{value:.1e}"
    return f"{value:,.0f}" if value >= 100 else f"{value:#.3g}"


def axis_text(name: str, value: Any) -> str:
    """An axis's value in a table: `1,024`, `causal`, `32/16 of 256`."""
    if isinstance(value, str):
        return value.replace(" ", "\u00a0")
    return ("causal" if name == "window" else "") if value != value else f"{value:,.0f}"


def _axis_name(axis: str) -> str:
    return HEADS.get(axis, axis.replace("_", " "))


def grid(cells: pd.DataFrame, table: Table) -> pd.DataFrame:
    """The cells as a table of texts, its first columns the axes' (or, across, the items')."""
    named = cells.assign(**{axis: [axis_text(axis, value) for value in cells[axis]] for axis in table.axes})
    lines = list(dict.fromkeys(named[list(table.axes)].itertuples(index=False, name=None)))
    filled = set(cells.loc[cells["text"] != "", "head"])  # a peer that no run has is no line of blanks
    heads = [item.head for item in table.items if item.head in filled]
    wide = named.pivot(index=list(table.axes), columns="head", values="text").reindex(columns=heads).fillna("")
    wide = wide.loc[lines if len(table.axes) > 1 else [line[0] for line in lines]]
    names = [_axis_name(axis) for axis in table.axes]
    if table.across:
        return wide.T.rename_axis(", ".join(names)).rename_axis(None, axis=1).reset_index()
    return wide.rename_axis(names).rename_axis(None, axis=1).reset_index()


def caption(cells: pd.DataFrame, table: Table) -> str:
    """What the table shows, on which device, and timed how: two lines, the rest is in its notes."""
    used = cells[cells["text"] != ""]
    eager = any(item.value == "eager" for item in table.items)  # then each line says how
    timed = (
        "" if eager else " and ".join(dict.fromkeys(METHODS[method] for method in used["method"] if method in METHODS))
    )
    units = [unit.replace("us", "µs") for unit in ("ms", "us") if any(item.value == unit for item in table.items)]
    time = (
        f"{table.statistic} {' and '.join(units)} {timed}".rstrip()
        if units
        else f"from {table.statistic} times {timed}"
    )
    return f"{table.about} Recorded on {' and '.join(dict.fromkeys(used['device']))}, {time}."


def origin(cells: pd.DataFrame, link: Callable[[Path, int], str]) -> str:
    """With which versions the cells were measured, and in which run files they are."""
    used = cells[cells["text"] != ""]
    files = ", ".join(link(path, number) for number, path in enumerate(dict.fromkeys(used["file"])))
    return f"With {' and '.join(dict.fromkeys(used['versions']))} ({files})."


def notes(cells: pd.DataFrame, table: Table, link: Callable[[Path, int], str]) -> list[str]:
    """What the marks mean, whether the target is met, and where the cells are from: what stands below the table."""
    text = "".join(cells["text"])
    lines = [origin(cells, link), *notes_of(text), _refused(cells)]
    plain = [item.head for item in table.items if item.value == "plain"]
    if any(cells["head"].isin(plain) & (cells["text"] != "")):
        lines.append(
            f"*{plain[0]}*: the time of a kernel that only reads so many bytes, if `data/machines` has it, over ours"
        )
    if table.target:
        lines.append(f"Asked for: {table.target}. {_missed(cells, table) or 'Met at every point here.'}")
    return [line + ("" if line.endswith(".") else ".") for line in lines if line]


def _refused(cells: pd.DataFrame) -> str:
    """Who does not support which points, and why; empty without any."""
    found: dict[str, dict[str, str]] = {}
    refused: Any = cells[cells["text"] == REFUSED]
    for row in refused.to_dict("records"):
        found.setdefault(row["error_text"], {})[row["head"]] = f"*{row['head']}*"
    reasons = "; ".join(f"{_listed(list(heads.values()))}: {reason}" for reason, heads in found.items())
    return f"{REFUSED} not supported. {reasons}" if reasons else ""


def _missed(cells: pd.DataFrame, table: Table) -> str:
    """Where the target is missed, and why: a sentence a reason, each item once; empty without any."""
    by_reason: dict[str, dict[str, list[tuple]]] = {}
    missed: Any = cells[cells["missed"]]
    for row in missed.to_dict("records"):
        point = tuple(row[axis] for axis in table.axes)
        reason = table.reasons.get(point, "the reason has not been found yet")
        by_reason.setdefault(reason, {}).setdefault(row["head"], []).append(point)
    return " ".join(f"Missed in {_places(items, table.axes)}: {reason}." for reason, items in by_reason.items())


def _places(items: Mapping[str, list[tuple]], axes: tuple[str, ...]) -> str:
    """`*a* and *b* at prompt length 1,024 and 2,048; *c* at …`: items of the same points share them."""
    shared: dict[str, list[str]] = {}
    for head, points in items.items():
        shared.setdefault(_points(points, axes), []).append(head)
    return "; ".join(f"{_listed([f'*{head}*' for head in heads])} at {points}" for points, heads in shared.items())


def _points(points: list[tuple], axes: tuple[str, ...]) -> str:
    """`heads 32/8 of 128, window 128 and 512`: the last axis' values together, for each of the others'."""
    lines: dict[str, list[str]] = {}
    for *others, last in points:
        line = ", ".join(
            f"{_axis_name(axis)} {axis_text(axis, value)}" for axis, value in zip(axes, others, strict=False)
        )
        lines.setdefault(line, []).append(axis_text(axes[-1], last))
    texts = [
        ", ".join([line] * bool(line) + [f"{_axis_name(axes[-1])} {_listed(values)}"]) for line, values in lines.items()
    ]
    return ", and ".join(texts)


def _listed(items: list[str]) -> str:
    return " and ".join([", ".join(items[:-1])] * (len(items) > 1) + items[-1:])


def markdown(name: str, table: Table, everything: pd.DataFrame, page: Path) -> str:
    """Caption, table and notes; links run from the folder of `page`."""

    def link(path: Path, number: int) -> str:
        return f"[{'run' if number == 0 else number + 1}]({Path(os.path.relpath(path, page.parent)).as_posix()})"

    cells = entries(name, table, everything)
    shown = grid(cells, table)
    lines = [list(shown.columns), ["---"] * shown.shape[1], *shown.to_numpy().tolist()]
    rows = "\n".join(f"| {' | '.join(map(str, line))} |" for line in lines)
    return "\n\n".join([caption(cells, table), rows, *notes(cells, table, link)])


class OwnTable(Protocol):
    """A table that is made in its own way."""

    def markdown(self, runs: Iterable[Run], page: Path) -> str:
        """As `markdown`."""
        ...


def fill(text: str, page: Path, tables: Mapping[str, Table | OwnTable], runs: Iterable[Run]) -> str:
    """The page's text with each of its tables made anew; ValueError names one that is not declared."""
    runs, gathered = list(runs), {}

    def made(match: re.Match[str]) -> str:
        start, name, end = match.groups()
        if name not in tables:
            raise ValueError(f"{page.name}: no table {name!r}; there are {', '.join(tables)}")
        table = tables[name]
        if not isinstance(table, Table):
            return f"{start}{table.markdown(runs, page)}\n{end}"
        source = table.source or table.runs
        if source not in gathered:
            gathered[source] = gather(table, runs)
        return f"{start}{markdown(name, table, gathered[source], page)}\n{end}"

    return SECTION.sub(made, text)


@dataclass(frozen=True)
class Shown:
    """A table for a notebook: its caption above its cells, its notes below. words: heads of columns that hold words."""

    caption: str
    cells: pd.DataFrame
    notes: tuple[str, ...] = ()
    words: tuple[str, ...] = ()

    def _repr_html_(self) -> str:
        heads = list(self.cells.columns)
        left = [number for number, head in enumerate(heads) if number == 0 or head in self.words]
        rows = self.cells.to_numpy().tolist()
        return render("tables.captioned", caption=self.caption, notes=self.notes, heads=heads, rows=rows, left=left)

    def __str__(self) -> str:
        return "\n".join([self.caption, "", self.cells.to_string(index=False), "", *self.notes])

    __repr__ = __str__  # what a notebook keeps beside the HTML


def styled(name: str, table: Table, everything: pd.DataFrame) -> Shown:
    """The table for a notebook, with its caption and notes."""
    cells = entries(name, table, everything)
    below = notes(cells, table, lambda path, number: path.name)
    shown = grid(cells, table).rename(columns=_plain).map(_plain)
    return Shown(_plain(caption(cells, table)), shown, tuple(map(_plain, below)))


def _plain(text: str) -> str:
    return re.sub(r"[*`]", "", text)
