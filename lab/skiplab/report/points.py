"""The table of points of a page, as data for `templates/points.js`: of one run, or of runs that are compared."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from skiplab.compare import VERDICTS, Comparison, Pair, TimedPoint, Unpaired
from skiplab.compare.facts import differing_axes
from skiplab.compare.words import who
from skiplab.figures import speedups
from skiplab.figures.frames import AXES
from skiplab.operations import Operation, operation_of
from skiplab.report.rows import axis_text, records
from skiplab.text import called

if TYPE_CHECKING:
    import pandas as pd

    from skiplab.store import Run

URGENT = ("slower", "fails now", "unclear", "faster", "ok now", "same", "new", "missing", "never ok")
"""Verdicts, and what stands in their place, in the order in which a reader wants to see them."""
TOLD = {"tokens_per_s": "tokens/s", "peak_gb": "peak GB"}
assert set(VERDICTS) < set(URGENT)


@dataclass(frozen=True)
class PointColumn:
    """A column. kind: `text` (values are indices of `words`), `number`, `count`, `time` (ms), `span` (two of them),
    `change` (old and new ms), `percent`, `times`, `ratio`, `interval` or `trend` (timings).

    title: what a pointer on the head says. filter: whether its words can be chosen; several: whether a cell is a list
    of words. detail: shown where a row is opened, not in the table.
    """

    name: str
    head: str
    kind: str
    values: Sequence[Any]
    words: Sequence[str] = ()
    title: str = ""
    filter: bool = False
    several: bool = False
    detail: bool = False

    def record(self) -> dict[str, Any]:
        told = {name: getattr(self, name) for name in ("name", "head", "kind", "title")}
        flags = {name: True for name in ("filter", "several", "detail") if getattr(self, name)}
        return {**told, **flags, "values": list(self.values), **({"words": list(self.words)} if self.words else {})}


def data_of(
    fields: Iterable[PointColumn], runs: Sequence[Run] = (), words: Sequence[str] = (), sort: str = ""
) -> dict[str, Any]:
    """What the page's script reads; columns of which no point has a value are left out."""
    fields = [one for one in fields if any(map(_is_told, one.words or one.values))]
    return {
        "rows": len(fields[0].values) if fields else 0, "columns": [one.record() for one in fields], "sort": sort,
        "runs": [{"name": name_of(run), "start": str(run.header.get("start", ""))} for run in runs],
        "words": list(words),
    }  # fmt: skip


def name_of(run: Run) -> str:
    """The run as a page calls it."""
    return run.path.stem if run.path else run.run_id


def of_frame(table: pd.DataFrame) -> list[PointColumn]:
    """The columns of one run's points: who and what, time, rates, error, and what makes it doubtful."""
    operation = operation_of(table["operation"].iloc[0]) if len(table) else None
    if operation is None:
        return []
    rows, base = records(table), operation.baseline
    faster = _faster(table, operation)
    return [
        text("contender", "contender", map(called, table["label"], table["contender"]), filter=True),
        *axis_fields(operation, [{name: row[name] for name in operation.columns} for row in rows]),
        text("status", "status", table["status"] if set(table["status"]) != {"ok"} else [""] * len(rows), filter=True),
        numbers("median_ms", "time", "time", table["median_ms"], "Median of the samples"),
        PointColumn("quartiles", "quartiles", "span", [_two(row["low_ms"], row["high_ms"]) for row in rows],
              title="A half of the samples lies between these; sorted by how far they are apart"),
        numbers("faster", f"over {base.label}", "times", faster, f"Times faster than {base.label} at the same point"),
        *(numbers(name, TOLD.get(name, name), "number", table[name]) for name in operation.told),
        numbers("useful_tflops", "TFLOP/s", "number", table["useful_tflops"], "Useful FLOPs in that time"),
        numbers("gbps", "GB/s", "number", table["gbps"], "The least bytes in that time"),
        numbers("of_roof", "of roof", "percent", table["bound_ms"] / table["median_ms"],
                "The least time that the machine's roofs allow, over this one"),
        numbers("error", "error", "number", table["error"], "Largest difference from float64"),
        numbers("snr_db", "dB", "number", table["snr_db"], "Signal over the noise of keys and values in 8 bits"),
        text("flags", "flags", table["flags"], filter=True, several=True),
        numbers("tolerance", "tolerance", "number", table["tolerance"], detail=True),
        numbers("samples", "samples", "count", table["samples"].astype(float), detail=True),
        text("method", "timed by", table["method"].fillna(""), detail=True),
        text("why", "why", table["error_text"], detail=True),
    ]  # fmt: skip


def of_comparison(comparison: Comparison) -> tuple[list[PointColumn], list[str]]:
    """The columns of points over several runs, and the texts that their timings refer to by number."""
    operation = operation_of(comparison.operation)
    points: list[Pair | Unpaired] = [*comparison.pairs, *comparison.unpaired]
    table, coded = comparison.frame(), Words()
    return [
        text("contender", "contender", map(who, points), filter=True),
        *axis_fields(operation, axes_of(comparison)),
        text("verdict", "verdict", table["verdict"], URGENT, filter=True),
        numbers("ratio", "new / old", "ratio", table["ratio"], "A point's last time over its first; below 1 is faster"),
        PointColumn("interval", "95 % interval", "interval", list(map(_two, table["low"], table["high"])),
              title="Of the samples' scatter; sorted by its width"),
        PointColumn("change", "old → new", "change", [*map(_sides, table["old_ms"], table["new_ms"])],
              title="Medians in the first and the last run that have the point; sorted by the last"),
        PointColumn("trend", "by date", "trend", [[_timing(one, coded) for one in point.timings] for point in points],
              title="Each run's median; hollow where a flag makes it doubtful; sorted by the number of runs"),
        text("flags", "flags and doubts", map(_doubts, points), filter=True, several=True),
        text("kernels", "kernels", [_kernels(point.timings) for point in points], filter=True, detail=True),
    ], coded.texts  # fmt: skip


def axes_of(comparison: Comparison) -> list[dict[str, Any]]:
    """All axes of each of its points; None where a point lacks one."""
    points = [one.axes for one in (*comparison.pairs, *comparison.unpaired)]
    names = dict.fromkeys(name for axes in points for name in axes if name != "operation")
    return [{name: axes.get(name) for name in names} for axes in points]


class Words:
    """Texts by number, each once."""

    def __init__(self) -> None:
        self._numbers: dict[str, int] = {}

    def __getitem__(self, text: str) -> int:
        return self._numbers.setdefault(text, len(self._numbers))

    @property
    def texts(self) -> list[str]:
        return list(self._numbers)


def text(name: str, head: str, values: Iterable[str], order: Sequence[str] = (), **how: Any) -> PointColumn:
    """A column of texts; order: of those that are known, else they are sorted by the alphabet."""
    values = list(values)
    found = set(values)
    words = [*(word for word in order if word in found), *sorted(found - set(order))]
    numbers = {word: number for number, word in enumerate(words)}
    return PointColumn(name, head, "text", [numbers[value] for value in values], words, **how)


def numbers(
    name: str, head: str, kind: str, values: Iterable[float], title: str = "", detail: bool = False
) -> PointColumn:
    """A column of numbers in six digits; None for nan."""
    return PointColumn(name, head, kind, [_short(value) for value in values], title=title, detail=detail)


def axis_fields(operation: Operation, rows: Sequence[Mapping[str, Any]]) -> list[PointColumn]:
    """A column for each varying axis in which the points differ, and one for all others; those that follow have none.

    A mask stands in its window's cell, a cache's buffer beside its keys where they are as many.
    """
    axes = [{name: None if _is_none(row[name]) else row[name] for name in row} for row in rows]
    names = [name for name in differing_axes(operation.name, axes) if not _follows(name, operation, axes)]
    own = [_axis(name, operation, axes) for name in names if name in operation.varying]
    others = [name for name in names if name not in (*operation.varying, "mask")]
    beside = text("beside", "other axes", [_beside(others, row) for row in axes], filter=True)
    return [one for one in (*own, beside) if len(one.words) > 1]


def _beside(names: Sequence[str], row: Mapping[str, Any]) -> str:
    """The axes that have no column: `kv_heads 8, head_dim 128`; as many keys as queries go without saying."""
    told = [name for name in names if row[name] is not None and not (name == "kv_len" and row[name] == row["q_len"])]
    return ", ".join(f"{name} {row[name]}" for name in told)


def told_once(operation: Operation, rows: Sequence[Mapping[str, Any]]) -> str:
    """The varying axes that have one value in all points, in words; they need no column."""
    fields = [_axis(name, operation, rows) for name in operation.varying if not _follows(name, operation, rows)]
    return ", ".join(f"{one.head} {one.words[0]}" for one in fields if len(one.words) == 1 and one.words[0])


def _follows(name: str, operation: Operation, rows: Sequence[Mapping[str, Any]]) -> bool:
    other = operation.defaults.get(name)
    return other is not None and all(_is_none(row[name]) or row[name] == row[other] for row in rows)


def _axis(name: str, operation: Operation, rows: Sequence[Mapping[str, Any]]) -> PointColumn:
    """An axis as words in the order of its values; what has no window comes last."""
    told = [_axis_word(name, operation, row) for row in rows]
    order = {word: (row[name] if not _is_none(row[name]) else math.inf) for word, row in zip(told, rows, strict=True)}
    try:
        words = sorted(order, key=lambda word: (order[word], word))
    except TypeError:  # numbers and words in one axis
        words = sorted(order)
    return text(name, operation.heading(name), told, words, filter=True)


def _axis_word(name: str, operation: Operation, row: Mapping[str, Any]) -> str:
    value = row[name]
    if name == "window" and _is_none(value):
        return operation.without_window or axis_text(name, {**row, name: math.nan})
    if _is_none(value):
        return row["dtype"] if name == "kv_dtype" else ""
    if not isinstance(value, int | float) or isinstance(value, bool):
        return str(value)
    return f"{value:,.0f}" if value == round(value) else f"{value:g}"


def _faster(table: pd.DataFrame, operation: Operation) -> list[float]:
    """Each row's speed-up over the baseline at the same point, nan without one and for itself."""
    axes = (*AXES, *(set(operation.varying) - set(AXES)))
    over: Any = speedups(table.assign(number=range(len(table))), operation.baseline.contender, axes)
    found = dict(zip(over["number"], over["speedup"], strict=True))
    return [found.get(number, math.nan) for number in range(len(table))]


def _timing(one: TimedPoint, words: Words) -> list[Any]:
    """A timing as `points.js` reads it."""
    texts = (one.status, ", ".join(one.flags), one.source_hash, one.method or "", one.why)
    times = map(_short, (one.median_ms, one.low_ms, one.high_ms))
    return [one.run, *times, one.samples, *(words[text] for text in texts), int(one.is_doubtful)]


def _doubts(point: Pair | Unpaired) -> str:
    """Why there is no verdict, then the flags that do not say so."""
    doubts = point.doubts if isinstance(point, Pair) else ()
    flags = point.flags if isinstance(point, Pair) else sorted({flag for one in point.timings for flag in one.flags})
    return ", ".join([*doubts, *(flag for flag in flags if not any(doubt.startswith(flag) for doubt in doubts))])


def _kernels(timings: Sequence[TimedPoint]) -> str:
    """The hash of the sources that the first and the last timing are of."""
    before, after = timings[0].source_hash, timings[-1].source_hash
    return before if before == after else f"{before or 'unknown'} → {after or 'unknown'}"


def _two(low: float, high: float) -> list[float] | None:
    return None if math.isnan(low) else [float(f"{low:.6g}"), float(f"{high:.6g}")]


def _sides(old: float, new: float) -> list[float | None]:
    return [_short(old), _short(new)]


def _short(value: float) -> float | None:
    return None if math.isnan(value) else float(f"{value:.6g}")


def _is_none(value: Any) -> bool:
    return value is None or value != value


def _is_told(value: Any) -> bool:
    return value is not None and value != ""
