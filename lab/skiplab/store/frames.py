"""Rows of runs as one pandas table: `COLUMNS`, derived times and rates."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import chain, count, islice
from operator import attrgetter
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np

from skiplab.contenders import contenders
from skiplab.machine import Machine
from skiplab.machine.roofline import roof_seconds
from skiplab.operations import OPERATIONS, operation_of
from skiplab.store.faults import fault
from skiplab.store.keys import without_index
from skiplab.store.reading import Rows
from skiplab.store.schema import RowWork, Timed

if TYPE_CHECKING:
    import pandas as pd

    from skiplab.store.runs import Run

SHAPE = ("q_len", "kv_len", "window", "mask", "batch", "q_heads", "kv_heads", "head_dim", "dtype")
"""Axes that stand before the times; those that another operation adds stand behind them."""
ADDED = tuple(
    dict.fromkeys(name for one in OPERATIONS.values() for name in one.columns if name not in SHAPE)
)  # fmt: skip
DERIVED = {name: make for one in OPERATIONS.values() for name, make in one.derived.items()}
COLUMNS = (
    "run_id", "source", "device", "contender", "label", "operation", *SHAPE, "status", "method", "median_ms", "low_ms",
    "high_ms", "samples", "error", "tolerance", "snr_db", "useful_tflops", "executed_tflops", "dense_flops",
    "useful_flops", "executed_flops", "bytes", "gbps", "bound_ms", "tokens_per_s", *ADDED, *DERIVED, "peak_gb", "parts",
    "flags", "error_text",
)  # fmt: skip
AXIS_TEXTS = tuple(dict.fromkeys(name for one in OPERATIONS.values() for name in one.texts))
TEXTS = (
    "run_id", "source", "device", "contender", "label", "operation", *AXIS_TEXTS, "status", "method", "flags",
    "error_text",
)  # fmt: skip
OBJECTS = ("parts",)
"""Neither text nor number: nanoseconds by name, None where a call was not taken apart."""
COUNTS = ("q_len", "kv_len", "batch", "q_heads", "kv_heads", "head_dim", "samples")
OWN_LABELS = {
    operation: {name: entry.label for name, entry in contenders(operation).items() if entry.is_own}
    for operation in OPERATIONS
}
"""The names of the lab's own contenders, which older run files may call otherwise."""
TEXT_COLUMNS = ("contender", "label", "status", "method", "flags", "error_text")
SIZES = tuple(name for name in ("window", *ADDED) if name not in AXIS_TEXTS)
AXIS_COLUMNS = ("operation", *(name for name in (*SHAPE, *ADDED) if name not in SIZES))
WORK = RowWork.__struct_fields__
NUMBERS = (*SIZES, *WORK, "peak_gb", "error", "tolerance", "snr_db", "low_ms", "median_ms", "high_ms")
HELD = {
    **dict.fromkeys((*TEXT_COLUMNS, *AXIS_COLUMNS, *OBJECTS), object),
    **dict.fromkeys(NUMBERS, float),
    "samples": np.int64,
}
"""What rows hold by themselves; the other columns follow from these, or are the run's."""
NO_WORK = RowWork(None, None)  # type: ignore[arg-type]
AT_ONCE = 512
"""Rows decoded at once: their samples stay in a core's cache."""

Column = list[Any] | np.ndarray


def frame(runs: Run | Iterable[Run]) -> pd.DataFrame:
    """Rows of one or several runs as a pandas table with `COLUMNS`; of a point measured twice the last row counts."""
    runs = list(runs) if isinstance(runs, Iterable) else [runs]
    return framed(runs, map(_held, runs))


def framed(runs: Iterable[Run], held: Iterable[Mapping[str, Column]]) -> pd.DataFrame:
    """The frame of runs, of what is held of the rows of each of them."""
    parts = [_columns(run, columns) for run, columns in zip(runs, held, strict=True)]
    return table_of({name: _joined([part[name] for part in parts]) for name in COLUMNS})


def table_of(columns: Mapping[str, Column]) -> pd.DataFrame:
    """Columns as a table with `COLUMNS`: counts, texts and parts as they are, every other column float64."""
    import pandas as pd

    held = {name: columns[name] if len(columns[name]) else np.array([], object) for name in COLUMNS}
    table = pd.DataFrame(held, copy=False)
    return table.astype({name: "float64" for name in COLUMNS if name not in (*TEXTS, *COUNTS, *OBJECTS)})


def _joined(parts: Sequence[Column]) -> Column:
    """One column of several runs, joined."""
    if len(parts) == 1:
        return parts[0]
    if parts and all(isinstance(part, np.ndarray) for part in parts):
        return np.concatenate(parts)
    return [value for part in parts for value in part]


def _columns(run: Run, held: Mapping[str, Column]) -> dict[str, Column]:
    """The run's points by column: each point once, at its first position, with its last measurement."""
    numbers = {name: np.asarray(held[name]) for name in NUMBERS}
    seconds = numbers["median_ms"] / 1e3
    return {
        **{name: [getattr(run, name)] * len(seconds) for name in ("run_id", "source", "device")},
        **held,
        "useful_tflops": numbers["useful_flops"] / seconds / 1e12,
        "executed_tflops": numbers["executed_flops"] / seconds / 1e12,
        "gbps": numbers["minimal_bytes"] / seconds / 1e9,
        **{name: make(numbers) for name, make in DERIVED.items()},
        "bound_ms": _bound_ms(run, numbers["useful_flops"], numbers["minimal_bytes"]),
        "tokens_per_s": _tokens(run, held) / seconds,
    }  # fmt: skip


def _held(run: Run) -> dict[str, Column]:
    """The columns of rows, and their times, filled some hundred rows at a time.

    The samples of all rows, as Python objects, would take most of a gigabyte.
    """
    size = len(run.rows)
    columns = {name: np.empty(size, HELD[name]) for name in HELD}
    share = dict[Any, Any]().setdefault  # what many rows say is held once
    points: dict[str, int] = {}
    rows, number = _timed(run), count()
    for start in range(0, size, AT_ONCE):
        part = list(islice(rows, AT_ONCE))
        points.update((without_index(row.point), next(number)) for row in part)
        for name, values in _part(part, share).items():
            columns[name][start : start + len(part)] = values
    latest = np.array(list(points.values()), np.int64)
    del points, share
    if len(latest) < size:
        columns = {name: column[latest] for name, column in columns.items()}
    return {name: column.tolist() if name in COUNTS else column for name, column in columns.items()}


def label_of(operation: str, contender: str, label: str | None) -> str:
    """A contender's name in every figure and table: that of today, and what the row says more, as `blockskip, rows`."""
    label = label or contender
    known = OWN_LABELS.get(operation, {}).get(contender, label)
    return label if label.startswith(known) else known


def _part(rows: list[Timed], share: Callable[[Any, Any], Any]) -> dict[str, Column]:
    axes, works = [row.axes for row in rows], [row.work or NO_WORK for row in rows]
    texts = {
        "contender": [row.contender for row in rows],
        "label": [label_of(row.axes.operation, row.contender, row.label) for row in rows],
        "status": [row.status for row in rows], "method": [row.method for row in rows],
        "flags": [", ".join(row.flags) for row in rows], "error_text": [row.error_text for row in rows],
        **{name: _axis(axes, name) for name in AXIS_COLUMNS},
    }  # fmt: skip
    counts = np.array([len(row.samples_ns) for row in rows], np.int64)
    samples = np.fromiter(chain.from_iterable(row.samples_ns for row in rows), np.int64, int(counts.sum()))
    low, median, high = quartiles_ms(samples, counts)
    return {
        **{name: [share(value, value) for value in column] for name, column in texts.items()},
        **{name: _numbers(_axis(axes, name)) for name in SIZES},
        "error": _numbers([row.error for row in rows]), "tolerance": _numbers([row.tolerance for row in rows]),
        "snr_db": _numbers([row.snr_db for row in rows]),
        **{name: _numbers(list(map(attrgetter(name), works))) for name in WORK},
        "peak_gb": _numbers([row.peak_bytes for row in rows]) / 1e9, "parts": [row.parts_ns or None for row in rows],
        "samples": counts, "low_ms": low, "median_ms": median, "high_ms": high,
    }  # fmt: skip


def _axis(axes: list[Any], name: str) -> list[Any]:
    """One axis of each row; None where the operation does not have it."""
    have = {name in kind.__struct_fields__ or name == "operation" for kind in set(map(type, axes))}
    if have == {True}:
        return list(map(attrgetter(name), axes))
    return [getattr(one, name, None) for one in axes] if True in have else [None] * len(axes)


def _timed(run: Run) -> Iterator[Timed]:
    """The rows as the schema has them; ValueError names a row of this session that it does not allow."""
    if isinstance(run.rows, Rows):
        yield from run.rows.timed()
        return
    for number, row in enumerate(run.rows):
        try:
            yield msgspec.convert(row, Timed)
        except msgspec.ValidationError as error:
            raise ValueError(f"{run.run_id}, row {number}: {fault(error, row, 'row')}") from error


def _numbers(column: Column) -> np.ndarray:
    """float64, None as nan."""
    return np.asarray(column, np.float64)


def quartiles_ms(samples_ns: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Low quartile, median and high one of each row's samples, milliseconds [3, rows]; nan without samples."""
    found = np.full((3, len(counts)), np.nan)
    starts = np.cumsum(counts) - counts
    for size in np.unique(counts[counts > 0]):  # rows of as many samples at once
        alike = np.flatnonzero(counts == size)
        values = samples_ns[starts[alike, None] + np.arange(size)]  # [rows, samples]
        found[:, alike] = quartiles(values) / 1e6
    return found


def quartiles(values: np.ndarray) -> np.ndarray:
    """Each row's quartiles [3, rows], with the bits of np.percentile in a third of its time; sorts the rows."""
    values.sort(axis=1)
    last = values.shape[1] - 1
    at = np.array((0.25, 0.5, 0.75)) * last
    below = at.astype(np.int64)
    low, high, share = values[:, below], values[:, np.minimum(below + 1, last)], at - below
    return np.where(share < 0.5, low + (high - low) * share, high - (high - low) * (1 - share)).T


def _tokens(run: Run, columns: Mapping[str, Column]) -> np.ndarray:
    """Tokens that one call computes: rows of activations, or queries of all sequences."""
    return np.prod([_numbers(columns[name]) for name in operation_of(run.operation).tokens], axis=0)


def _bound_ms(run: Run, useful_flops: np.ndarray, minimal_bytes: np.ndarray) -> np.ndarray:
    """The roofline bound of the useful work, from the roof that the run's header holds; nan without one."""
    roof = run.header.get("roof")
    if not roof:
        return np.full(len(useful_flops), np.nan)
    machine = Machine(run.device, run.header["device"].get("kind", ""), roof["bandwidth_gbps"], roof["tflops"])
    return np.maximum(*roof_seconds(useful_flops, minimal_bytes, machine)) * 1e3
