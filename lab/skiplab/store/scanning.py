"""The columns of run files as DuckDB reads them, in the types of the schema; what `frames` holds of each row."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
import numpy as np
from msgspec import inspect

from skiplab.operations.base import fields_of, kind_of
from skiplab.store.frames import AXIS_COLUMNS, COUNTS, SIZES, WORK, Column, label_of, quartiles_ms
from skiplab.store.keys import without_index
from skiplab.store.reading import RESPELLED
from skiplab.store.runs import Run
from skiplab.store.schema import RunFileError, Timed

TYPES = {inspect.IntType: "BIGINT", inspect.FloatType: "DOUBLE", inspect.BoolType: "BOOLEAN"}


def held_columns(runs: Sequence[Run]) -> list[dict[str, Column]]:
    """What `frames` derives a frame from, of each of these runs, which were read from files."""
    import duckdb

    paths = [str(run.path) for run in runs]
    if not paths:
        return []
    names = {field.name: _type(field.type) for field in fields_of(Timed)}
    with duckdb.connect() as connection:
        try:
            connection.execute(
                f"CREATE TEMP TABLE rows AS SELECT {_selected()}, filename FROM read_json($paths, columns = $columns, "
                "format = 'newline_delimited', filename = true) WHERE record = 'point'",
                {"paths": paths, "columns": {"record": "VARCHAR", **names}},
            )
        except duckdb.Error as error:
            raise RunFileError(f"{', '.join(run.path.name for run in runs if run.path)}: {error}") from error
        return [_held(connection, path) for path in paths]


def _held(connection: Any, path: str) -> dict[str, Column]:
    """One file's columns, each point once, at its first row's place with its last row's values."""
    where = (path,)
    samples = connection.execute("SELECT unnest(samples_ns) AS ns FROM rows WHERE filename = ?", where)
    samples_ns = np.ma.filled(samples.fetchnumpy()["ns"], 0).astype(np.int64)
    parts = connection.execute("SELECT parts_ns FROM rows WHERE filename = ?", where).fetchall()
    query = "SELECT * EXCLUDE (samples_ns, parts_ns, filename) FROM rows WHERE filename = ?"
    columns = connection.execute(query, where).fetchnumpy()
    counts = np.asarray(columns.pop("samples"), np.int64)
    low, median, high = quartiles_ms(samples_ns, counts)
    points = columns.pop("point")
    numbers = {
        name: _numbers(columns.pop(name)) for name in (*SIZES, *WORK, "error", "tolerance", "snr_db", "peak_bytes")
    }
    held = {
        **{name: _objects(values) for name, values in columns.items()}, **numbers, "samples": counts,
        "peak_gb": numbers.pop("peak_bytes") / 1e9, "low_ms": low, "median_ms": median, "high_ms": high,
    }  # fmt: skip
    del held["peak_bytes"]
    held["parts"] = np.array([one or None for (one,) in parts], object)
    named = zip(held["operation"], held["contender"], held["label"], strict=True)
    held["label"] = np.array([label_of(*one) for one in named], object)
    latest = {without_index(point): number for number, point in enumerate(points)}
    kept = np.array(list(latest.values()), np.int64)
    held = {name: column if len(kept) == len(points) else column[kept] for name, column in held.items()}
    return {name: column.tolist() if name in COUNTS else column for name, column in held.items()}


def _numbers(column: Any) -> np.ndarray:
    return np.ma.filled(np.ma.asarray(column).astype(np.float64), np.nan)


def _objects(column: Any) -> np.ndarray:
    """As Python objects; None where there is none."""
    column = np.ma.asarray(column)
    values = column.data.astype(object)
    values[np.ma.getmaskarray(column)] = None
    return values


def _selected() -> str:
    """The columns, in SQL, named as a frame's."""
    texts = {name: name for name in ("point", "contender", "status", "method", "error_text")}
    texts["label"] = "coalesce(label, contender)"
    texts["flags"] = "coalesce(array_to_string(flags, ', '), '')"
    texts["error_text"] = "coalesce(error_text, '')"
    old, new = (word.decode() for word in RESPELLED)
    told = {name: f"replace({text}, '{old}', '{new}')" for name, text in texts.items()}
    axes = {name: _axis(name) for name in (*AXIS_COLUMNS, *SIZES)}
    numbers = {name: name for name in ("error", "tolerance", "snr_db", "peak_bytes", "samples_ns", "parts_ns")}
    work = {name: f"work.{name}" for name in WORK}
    counts = {"samples": "len(samples_ns)"}
    return ", ".join(f"{text} AS {name}" for name, text in {**told, **axes, **numbers, **work, **counts}.items())


def _axis(name: str) -> str:
    """One axis: its default where its operation has it, NULL where not."""
    if name == "operation":
        return "axes.operation"
    defaults = {
        kind.tag: field.default
        for kind in _axes().types
        for field in kind.fields
        if field.name == name and field.default not in (None, msgspec.NODEFAULT)
    }
    value = f"axes.{name}"
    if not defaults:
        return value
    cases = " ".join(
        f"WHEN '{tag}' THEN coalesce({value}, {str(default).lower()})" for tag, default in defaults.items()
    )
    return f"CASE axes.operation {cases} ELSE {value} END"


def _axes() -> Any:
    """The type of a row's axes: of one operation or another."""
    return kind_of(next(field.type for field in fields_of(Timed) if field.name == "axes"))


def _type(annotated: inspect.Type) -> str:
    """The schema's type as DuckDB's; axes of any operation are one structure with the fields of all."""
    kind = kind_of(annotated)
    if isinstance(kind, inspect.UnionType | inspect.StructType):
        return _structure(kind.types if isinstance(kind, inspect.UnionType) else (kind,))
    if isinstance(kind, inspect.ListType):
        return f"{_type(kind.item_type)}[]"
    if isinstance(kind, inspect.DictType):
        return f"MAP(VARCHAR, {_type(kind.value_type)})"
    return TYPES.get(type(kind), "VARCHAR")


def _structure(kinds: Sequence[Any]) -> str:
    tags: Mapping[str, str] = {kind.tag_field: "VARCHAR" for kind in kinds if kind.tag_field}
    fields = {field.name: _type(field.type) for kind in kinds for field in kind.fields}
    members = [f'"{name}" {text}' for name, text in {**tags, **fields}.items()]
    return f"STRUCT({', '.join(members)})"
