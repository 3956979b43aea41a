"""Rows of runs as one pandas table: `COLUMNS`, derived times and rates, and a filter."""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np

from skiplab.store.reading import Rows
from skiplab.store.runs import Run
from skiplab.store.schema import Attention, Decode, Linear, Timed, Work, fault

if TYPE_CHECKING:
    import pandas as pd

COLUMNS = (
    "run_id", "source", "device", "contender", "label", "operation", "q_len", "kv_len", "window", "mask", "batch",
    "q_heads", "kv_heads", "head_dim", "dtype", "status", "method", "median_ms", "low_ms", "high_ms", "samples",
    "error", "tolerance", "useful_tflops", "executed_tflops", "dense_flops", "useful_flops", "executed_flops",
    "bytes", "gbps", "bound_ms", "tokens_per_s", "buffer", "rows", "out_features", "in_features", "bits", "group_size",
    "symmetric", "bits_per_weight", "flags", "error_text",
)  # fmt: skip
TEXTS = (
    "run_id", "source", "device", "contender", "label", "operation", "mask", "dtype", "status", "method", "flags",
    "error_text",
)  # fmt: skip
COUNTS = ("q_len", "kv_len", "batch", "q_heads", "kv_heads", "head_dim", "samples")
AXES = ("operation", "q_len", "kv_len", "window", "mask", "batch", "q_heads", "kv_heads", "head_dim", "dtype", "buffer",
        "rows", "out_features", "in_features", "bits", "group_size", "symmetric")  # fmt: skip
ROW = ("contender", "label", "status", "method", "error_text", "flags", "error", "tolerance")
WORK = Work.__struct_fields__
NUMBERS = ("error", "tolerance", "window", "buffer", "rows", "out_features", "in_features", "bits", "group_size",
           "symmetric")  # fmt: skip
_NO_WORK = (None,) * len(WORK)

Column = list[Any] | np.ndarray
Axes = Attention | Decode | Linear


def frame(runs: Run | Iterable[Run]) -> pd.DataFrame:
    """Rows of one or several runs as a pandas table with `COLUMNS`; of a point measured twice the last row counts."""
    parts = [_columns(run) for run in ([runs] if isinstance(runs, Run) else runs)]
    return table_of({name: _joined([part[name] for part in parts]) for name in COLUMNS})


def table_of(columns: Mapping[str, Column]) -> pd.DataFrame:
    """Columns as a table with `COLUMNS`: counts and texts as they are, every other column float64; None is nan."""
    import pandas as pd

    held = {name: columns[name] if len(columns[name]) else np.array([], object) for name in COLUMNS}
    table = pd.DataFrame(held)
    return table.astype({name: "float64" for name in COLUMNS if name not in (*TEXTS, *COUNTS)})


def _joined(parts: Sequence[Column]) -> Column:
    """One column of several runs."""
    if len(parts) == 1:
        return parts[0]
    if parts and all(isinstance(part, np.ndarray) for part in parts):
        return np.concatenate(parts)
    return [value for part in parts for value in part]


def _columns(run: Run) -> dict[str, Column]:
    """The run's points by column: each point once, where it was first measured, as it was measured last."""
    from skiplab.workload.linear import bits_per_weight

    read = _read(run)
    numbers = {name: _numbers(read.columns[name]) for name in (*NUMBERS, *WORK)}
    low, median, high = _quartiles_ms(read.samples_ns, read.counts)
    seconds = median / 1e3
    columns: dict[str, Column] = {
        **{name: [getattr(run, name)] * len(median) for name in ("run_id", "source", "device")},
        **{name: read.columns[name] for name in ROW + AXES if name not in NUMBERS}, **numbers,
        "median_ms": median, "low_ms": low, "high_ms": high, "samples": read.counts,
        "useful_tflops": numbers["useful_flops"] / seconds / 1e12,
        "executed_tflops": numbers["executed_flops"] / seconds / 1e12,
        "gbps": numbers["minimal_bytes"] / seconds / 1e9,
        "bits_per_weight": bits_per_weight(numbers["bits"], numbers["group_size"], numbers["symmetric"]),
        "bound_ms": _bound_ms(run, numbers["useful_flops"], numbers["minimal_bytes"]),
        "tokens_per_s": _tokens(read.columns) / seconds,
    }  # fmt: skip
    if len(read.latest) == len(median):
        return columns
    keep = np.array(read.latest, int)
    return {name: _taken(column, keep) for name, column in columns.items()}


def _taken(column: Column, keep: np.ndarray) -> Column:
    return column[keep] if isinstance(column, np.ndarray) else [column[index] for index in keep]


@dataclass(frozen=True)
class _Read:
    """What a frame needs of a run's rows, by column. samples_ns: all rows' after each other, `counts` of each row;
    latest: the number of each point's last row."""

    columns: Mapping[str, list[Any]]
    samples_ns: np.ndarray
    counts: np.ndarray
    latest: list[int]


def _read(run: Run) -> _Read:
    """The rows, one at a time: as Python's objects all of their samples would be most of a gigabyte."""
    samples, counts = array("q"), array("q")
    points: dict[str, int] = {}
    records: list[tuple] = []
    share = dict[Any, Any]().setdefault  # what many rows say is held once
    for number, row in enumerate(_timed(run)):
        samples.extend(row.samples_ns)
        counts.append(len(row.samples_ns))
        points[row.point] = number
        label = row.contender if row.label is None else row.label
        texts = (row.contender, label, row.status, row.method, row.error_text, ", ".join(row.flags))
        own = (*map(share, texts, texts), row.error, row.tolerance)
        axes = _axes_getter(type(row.axes))(msgspec.structs.astuple(row.axes))
        records.append((*own, *map(share, axes, axes), *(msgspec.structs.astuple(row.work) if row.work else _NO_WORK)))
    names = (*ROW, *AXES, *WORK)
    columns = zip(*records, strict=True) if records else ((),) * len(names)
    by_name = {name: list(column) for name, column in zip(names, columns, strict=True)}
    return _Read(by_name, np.asarray(samples, np.int64), np.asarray(counts, np.int64), list(points.values()))


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


@cache
def _axes_getter(kind: type[Axes]) -> Callable[[tuple], tuple]:
    """From a struct's values to those of `AXES`, None for an axis that the operation does not have."""
    fields = kind.__struct_fields__
    places = [fields.index(name) if name in fields else -1 for name in AXES[1:]]
    return lambda values: (kind.operation, *(values[place] if place >= 0 else None for place in places))


def _numbers(column: Sequence[Any]) -> np.ndarray:
    """float64, None as nan."""
    return np.array(column, np.float64)


def _quartiles_ms(samples_ns: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Low quartile, median and high one of each row's samples, milliseconds [3, rows]; nan without samples."""
    found = np.full((3, len(counts)), np.nan)
    starts = np.cumsum(counts) - counts
    for count in np.unique(counts[counts > 0]):  # rows of as many samples at once
        alike = np.flatnonzero(counts == count)
        values = samples_ns[starts[alike, None] + np.arange(count)]  # [rows, samples]
        found[:, alike] = np.percentile(values, (25, 50, 75), axis=1) / 1e6
    return found


def _tokens(columns: Mapping[str, list[Any]]) -> np.ndarray:
    """Tokens that one call computes: rows of activations, or queries of all sequences."""
    q_len, batch, rows = (_numbers(columns[name]) for name in ("q_len", "batch", "rows"))
    return np.where(np.isnan(rows), q_len * batch, rows)


def _bound_ms(run: Run, useful_flops: np.ndarray, minimal_bytes: np.ndarray) -> np.ndarray:
    """The roofline bound of the useful work, from the roof that the run's header holds; nan without one."""
    from skiplab.machine import Machine
    from skiplab.roofline import roof_seconds

    roof = run.header.get("roof")
    if not roof:
        return np.full(len(useful_flops), np.nan)
    machine = Machine(run.device, run.header["device"].get("kind", ""), roof["bandwidth_gbps"], roof["tflops"])
    return np.maximum(*roof_seconds(useful_flops, minimal_bytes, machine)) * 1e3

def query(table: pd.DataFrame, **wanted: Any) -> pd.DataFrame:
    """Rows whose columns equal the given values, or lie in the given lists; None stands for no window.

    Example: `query(frame, contender=["blockskip", "flex"], window=512, status="ok")`.
    """
    for name, value in wanted.items():
        if name not in table.columns:
            raise ValueError(f"query: no column {name!r}; there are {', '.join(table.columns)}")
        values = list(value) if isinstance(value, list | tuple | set) else [value]
        keep = table[name].isin([item for item in values if item is not None])
        if None in values:
            keep |= table[name].isna()
        table = table.loc[keep]
    return table
