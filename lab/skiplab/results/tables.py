"""Tables made of recorded runs: those of README and of `data/RESULTS.md`, so that no number in them is typed.

A `Table` says which rows of which runs it shows, how they are arranged, and the targets; `results.TABLES` declares all
of them. On a page a table stands between two comments, `<!-- table: NAME -->` and `<!-- end -->`; `fill` writes it
anew.
"""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pandas as pd

from skiplab.rated import RowDict, rated, rows_of
from skiplab.results.marks import APART, REFUSED, above, close, marks_of, notes_of, shown, spread_of, usual
from skiplab.store import Run, query
from skiplab.templates import render
from skiplab.text import digits, listed, percent
from skiplab.text import markdown as markdown_table

HEADS = {
    "q_len": "prompt length", "kv_len": "keys", "out_features": "outputs", "in_features": "inputs",
    "group_size": "group size", "head_dim": "head size",
}  # fmt: skip
METHODS = {"graph": "of a CUDA graph's replay", "eager": "of single calls", "cpu": "of calls in turn"}
MEANINGS = {
    "reads": "of the rate of a plain sum over memory, which a kernel can surpass",
    "plain": "the time of a kernel that only reads so many bytes, if `data/machines` has it, over ours",
}
"""What is said below a table of items of these values, by the first one's head."""
BESIDE: Mapping[str, Callable[[Any, Any], Any]] = {
    "faster": lambda rows, other: other["median_ms"] / rows["median_ms"],
    "slower": lambda rows, other: rows["median_ms"] / other["median_ms"],
    "share": lambda rows, other: rows["useful_tflops"] / other["useful_tflops"],
}
"""What is told of rows and their partners, frames of as many rows."""
CAMEL = re.compile(r"(?<=[a-z])(?=[A-Z][a-z])")
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
    bytes, as `data/machines` has it), `products` (useful FLOPs, share of the product's rate in the header), `tflops`
    (useful FLOPs), `tbps` (the least bytes), `error`, `db` (signal over the noise of rounding to 8 bits); or beside the
    fastest of `than` at the same point, but for the axes `at`: `faster`, its time over ours, `slower`, ours over its,
    `share`, of its useful FLOPs a second. least, most: the target at a point; nan: none.
    """

    head: str
    where: Mapping[str, Any]
    value: str = "ms"
    than: tuple[str, ...] = ()
    least: Callable[[RowDict], float] = nothing
    most: Callable[[RowDict], float] = nothing
    at: Mapping[str, Any] = field(default_factory=dict)

    def is_asked(self, row: RowDict) -> bool:
        """Whether something is asked of the number at this point."""
        return self.least(row) == self.least(row) or self.most(row) == self.most(row)

    def is_missed(self, row: RowDict) -> bool:
        return bool(row["number"] < self.least(row) or row["number"] > self.most(row))


@dataclass(frozen=True)
class Table:
    """A table: a line for each value of `axes` and a column for each item, or the other way round (`across`).

    about: the caption's beginning, in Markdown. runs: patterns of file names under `data/runs`; of a point that several
    runs hold, the run of the first pattern counts, and of one pattern the one that began last. target: the target in
    words, for `data/TARGETS.md`; reasons: why it is missed at a point, given by the axes' values. statistic: what
    `median_ms` holds, in a word. source: rows from elsewhere than runs.
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
    """The rows with the item's `number` (nan without a partner or roof) and `marks`: what makes it doubtful."""
    spread = spread_of(rows)
    if item.value in BESIDE:
        good: Any = everything[everything["contender"].isin(item.than) & (everything["status"] == "ok")]
        fastest = good.sort_values("median_ms").drop_duplicates("workload").set_index("workload")
        looked_for: Any = rows["workload"].map(lambda workload: _elsewhere(workload, item.at))
        told = ["median_ms", "low_ms", "high_ms", "useful_tflops", "file", "flags"]
        other = looked_for.to_frame().join(fastest[told], on="workload")
        apart = other["file"].notna() & (other["file"] != rows["file"])
        flags = rows["flags"] + ", " + other["flags"].fillna("")
        marks = _marks(flags, np.fmax(spread, spread_of(other)), apart)
        return rows.assign(number=BESIDE[item.value](rows, other), flags=flags, apart=apart, marks=marks)
    numbers = {
        "ms": lambda: rows["median_ms"],
        "us": lambda: rows["median_ms"] * 1e3,
        "eager": lambda: rows["eager_ms"] * 1e3,
        "reads": lambda: rows["gbps"] / rows["read_gbps"],
        "plain": lambda: rows["plain_us"] / rows["median_ms"] / 1e3,
        "products": lambda: rows["useful_tflops"] / rows["product_tflops"],
        "rate": lambda: rows["tokens_per_s"],
        "peak": lambda: rows["peak_gb"],
        "ones": lambda: rows["steps_of_one"],
        "tflops": lambda: rows["useful_tflops"],
        "tbps": lambda: rows["gbps"] / 1e3,
        "error": lambda: rows["error"],
        "db": lambda: rows["snr_db"],
    }
    if item.value not in numbers:
        raise ValueError(f"value: got {item.value!r}; allowed are {', '.join([*numbers, *BESIDE])}")
    return rows.assign(number=numbers[item.value](), apart=False, marks=_marks(rows["flags"], spread, spread < 0))


def _elsewhere(workload: str, at: Mapping[str, Any]) -> str:
    """The text of a workload, as `rated` has it, with these axes in the place of its own; None leaves one out."""
    if not at:
        return workload
    axes = {name: value for name, value in {**json.loads(workload), **at}.items() if value is not None}
    return json.dumps(axes, sort_keys=True)


def _marks(flags: Any, spread: Any, apart: Any) -> list[str]:
    return [marks_of(*row) + APART * two for *row, two in zip(flags, spread, apart, strict=True)]


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
    records = rows_of(cells)
    missed = [table.items[row["order"]].is_missed(row) for row in records]
    common = usual([row["marks"] for row in records if row["number"] == row["number"]])
    texts = [_text(row, table.items[row["order"]].value, common) for row in records]
    cells = cells.assign(missed=missed, text=texts, usual=common)
    return cells.sort_values([*table.axes, "order"], kind="stable")


def _text(row: RowDict, value: str, common: str) -> str:
    """A cell's text: three digits and marks; without a time the status, abbreviated if `notes` says more."""
    if row["status"] != "ok":
        return REFUSED if row["status"] == "unsupported" else row["status"].replace("-", " ")
    if row["number"] != row["number"]:
        return ""
    return number(row["number"], value) + shown(row["marks"], common)


def number(value: float, kind: str) -> str:
    """`1.29`, `0.0700` or `4,678` for a time; `95 %`, `1.62×`, `7.5e-03` for the other kinds of values."""
    if kind in ("reads", "plain", "products", "share"):
        return percent(value)
    if kind == "db":
        return f"{value:.1f}"
    if kind in ("faster", "slower", "ones"):
        return f"{value:.2f}×" if value < 10 else f"{value:.1f}×"
    if kind == "error":
        return f"{value:.1e}"
    return digits(value)


def axis_text(name: str, value: Any) -> str:
    """An axis's value in a table: `1,024`, `causal`, `32/16 of 256`."""
    if isinstance(value, str):
        return value.replace(" ", "\u00a0")
    return ("causal" if name == "window" else "") if value != value else f"{value:,.0f}"


def axis_name(axis: str, axes: Collection[str] = ()) -> str:
    """An axis's heading; axes: the table's, for few queries over keys are no prompt."""
    if axis == "q_len" and "kv_len" in axes:
        return "queries"
    return HEADS.get(axis, axis.replace("_", " "))


def grid(cells: pd.DataFrame, table: Table) -> pd.DataFrame:
    """The cells as a table of texts, its first columns the axes' (or, across, the items')."""
    named = cells.assign(**{axis: [axis_text(axis, value) for value in cells[axis]] for axis in table.axes})
    lines = list(dict.fromkeys(named[list(table.axes)].itertuples(index=False, name=None)))
    filled = set(cells.loc[cells["text"] != "", "head"])  # a peer that no run has is no line of blanks
    heads = [item.head for item in table.items if item.head in filled]
    wide = named.pivot(index=list(table.axes), columns="head", values="text").reindex(columns=heads).fillna("")
    wide = wide.loc[lines if len(table.axes) > 1 else [line[0] for line in lines]]
    names = [axis_name(axis, table.axes) for axis in table.axes]
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
    recorded = f"Recorded on {' and '.join(dict.fromkeys(used['device']))}, {time}."
    return f"{table.about} {recorded}"


def common(cells: pd.DataFrame) -> str:
    """What most cells have in common, said once; empty where they have nothing."""
    return above(cells["usual"].iloc[0], "".join(cells["text"]))


def origin(cells: pd.DataFrame, link: Callable[[Path, int], str]) -> str:
    """With which versions the cells were measured, and in which run files they are."""
    used = cells[cells["text"] != ""]
    files = ", ".join(link(path, number) for number, path in enumerate(dict.fromkeys(used["file"])))
    return f"With {' and '.join(dict.fromkeys(used['versions']))} ({files})."


def notes(cells: pd.DataFrame, table: Table, link: Callable[[Path, int], str]) -> list[str]:
    """What the marks mean, and where the cells are from: what stands below the table."""
    timed: Any = cells[cells["number"].notna()]
    lines = [origin(cells, link), *notes_of("".join(cells["text"])), close(timed["flags"], timed["marks"])]
    lines.append(_refused(cells))
    for value, meaning in MEANINGS.items():
        heads = [item.head for item in table.items if item.value == value]
        if any(cells["head"].isin(heads) & (cells["text"] != "")):
            lines.append(f"*{heads[0]}*: {meaning}")
    return [line + ("" if line.endswith(".") else ".") for line in lines if line]


def _refused(cells: pd.DataFrame) -> str:
    """Who does not support which points, and why; empty without any."""
    found: dict[str, dict[str, str]] = {}
    refused: Any = cells[cells["text"] == REFUSED]
    for row in rows_of(refused):
        found.setdefault(row["error_text"], {})[row["head"]] = f"*{row['head']}*"
    reasons = "; ".join(f"{listed(list(heads.values()))}: {reason}" for reason, heads in found.items())
    return f"{REFUSED} not supported. {reasons}" if reasons else ""


def markdown(name: str, table: Table, everything: pd.DataFrame, page: Path) -> str:
    """Caption, table and notes; links run from the folder of `page`."""

    def link(path: Path, number: int) -> str:
        return f"[{'run' if number == 0 else number + 1}]({Path(os.path.relpath(path, page.parent)).as_posix()})"

    cells = entries(name, table, everything)
    wide = grid(cells, table)
    rows = markdown_table(list(wide.columns), wide.to_numpy().tolist())
    above_it = " ".join(filter(None, (caption(cells, table), common(cells))))
    return "\n\n".join([above_it, rows, *notes(cells, table, link)])


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
    """A table that is read: its caption above its cells, its notes below. words: heads of columns that hold words."""

    caption: str
    cells: pd.DataFrame
    notes: tuple[str, ...] = ()
    words: tuple[str, ...] = ()

    def markdown(self) -> str:
        """For a file."""
        table = markdown_table(list(self.cells.columns), self.cells.to_numpy().tolist())
        return "\n\n".join((self.caption, table, *self.notes)) + "\n"

    def _repr_html_(self) -> str:
        heads = [CAMEL.sub("\u200b", str(head)) for head in self.cells.columns]  # where a narrow column breaks
        left = [number for number, head in enumerate(self.cells.columns) if number == 0 or head in self.words]
        rows = self.cells.to_numpy().tolist()
        return render("tables.captioned", caption=self.caption, notes=self.notes, heads=heads, rows=rows, left=left)

    def __str__(self) -> str:
        return "\n".join([self.caption, "", self.cells.to_string(index=False), "", *self.notes])

    __repr__ = __str__  # what a notebook keeps beside the HTML


def styled(name: str, table: Table, everything: pd.DataFrame) -> Shown:
    """The table for a notebook, with its caption and notes."""
    cells = entries(name, table, everything)
    below = [*filter(None, [common(cells)]), *notes(cells, table, lambda path, number: path.name)]
    wide = grid(cells, table).rename(columns=_plain).map(_plain)
    return Shown(_plain(caption(cells, table)), wide, tuple(map(_plain, below)))


def _plain(text: str) -> str:
    return re.sub(r"[*`]", "", text)
