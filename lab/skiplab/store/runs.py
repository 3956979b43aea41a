"""A run on disk: JSON lines, one header, then one row a point, each on the disk before the next point starts.

The schema stands in `data/README.md`. A reader refuses what it cannot trust (a newer schema, a broken line, rows
of another device) with a message that names file and line.
"""

from __future__ import annotations

import json
import os
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from skiplab.store.paths import data_path

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

SCHEMA = 1
STATUSES = ("ok", "wrong", "unsupported", "out-of-memory", "crashed", "timeout")
OPERATION_AXES = {
    "attention": ("q_len", "window"),
    "decode": ("kv_len", "window", "buffer", "q_len"),
    "linear": ("out_features", "in_features", "rows", "bits", "group_size"),
}
"""What the points of one run differ in."""
SHOWN = 60
"""Rows of a run that a notebook shows; of more, the first and the last."""


class RunFileError(ValueError):
    """A run file that cannot be trusted; the message names the file and the line."""


@dataclass(frozen=True)
class Run:
    """A run: its header, a row a point, and whether it was measured here and now or recorded earlier."""

    header: Mapping[str, Any]
    rows: tuple[Mapping[str, Any], ...] = ()
    source: str = "recorded"
    path: Path | None = field(default=None, compare=False)

    @property
    def run_id(self) -> str:
        return self.header["run_id"]

    @property
    def operation(self) -> str:
        """attention, decode or linear: a run holds one."""
        return self.rows[0]["axes"]["operation"] if self.rows else self.header.get("operation", "attention")

    @property
    def device(self) -> str:
        """The device's name, as figures print it."""
        return self.header["device"]["name"]

    @property
    def provenance(self) -> str:
        """`measured on X` or `recorded on X`."""
        return f"{self.source} on {self.device}"

    def frame(self) -> pd.DataFrame:
        """The rows as a table with `COLUMNS`; times in milliseconds."""
        from skiplab.store.frames import frame

        return frame(self)

    def plot(self) -> go.Figure:
        """The operation's overview: throughput over prompt lengths, time over a cache's keys, time of each layer."""
        from skiplab import figures

        return figures.overview(self.frame())

    def _repr_html_(self) -> str:
        from skiplab.templates import cells, render

        table = self.frame()
        axes = OPERATION_AXES[self.operation]
        if (self.header.get("parameters") or {}).get("mask") is not None:
            axes = (*axes, "mask")  # else the rows of a sweep over masks look alike
        table = table[["contender", *axes, "status", "median_ms", "useful_tflops", "gbps", "flags"]]
        rows = cells(table)
        first, last = (rows, []) if len(rows) <= SHOWN else (rows[: SHOWN // 2], rows[-SHOWN // 2 :])
        return render(
            "tables.run", run_id=self.run_id, points=len(self.rows), provenance=self.provenance,
            heads=list(table.columns), first=first, last=last,
        )  # fmt: skip


class RunWriter:
    """Appends rows to a run file; every row is on the disk (fsync) when `append` returns.

    An existing file is continued if it was made on the same device with the same versions, else ValueError. A last
    line without its newline is a write that was interrupted: it is cut off, and its point measured again.
    """

    def __init__(self, path: Path | str, header: Mapping[str, Any]):
        self.path = Path(path)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        if self.path.exists() and self.path.stat().st_size:
            _cut_interrupted_line(self.path)
        if self.path.exists() and self.path.stat().st_size:
            self.run = read_run(self.path)
            _same_identity(self.path, self.run.header, header)
        else:
            self.run = Run({"record": "header", "schema": SCHEMA, **header}, path=self.path)
            self._write(self.run.header)

    def settled(self, again: Collection[str] = ()) -> frozenset[str]:
        """The keys whose latest row has none of the statuses and flags in `again`."""
        latest = {row["key"]: row for row in self.run.rows}
        return frozenset(key for key, row in latest.items() if not {row["status"], *row.get("flags", ())} & set(again))

    def append(self, row: Mapping[str, Any]) -> None:
        """Write one row; ValueError when it is of another device than the header."""
        if row["device"] != self.run.device:
            raise ValueError(f"row: a run holds one device, {self.run.device!r}; got {row['device']!r}")
        row = {"record": "point", **row}
        self._write(row)
        self.run = replace(self.run, rows=(*self.run.rows, row))

    def finish(self, end: str) -> Run:
        """Note the time at which the run ended (ISO 8601) and return it."""
        self._write({"record": "end", "end": end})
        self.run = replace(self.run, header={**self.run.header, "end": end})
        return self.run

    def _write(self, record: Mapping[str, Any]) -> None:
        line = json.dumps(record, allow_nan=False, separators=(", ", ": "))
        with self.path.open("a", encoding="utf-8") as file:
            file.write(line + "\n")
            file.flush()
            os.fsync(file.fileno())


def read_run(path: Path | str) -> Run:
    """Read a run file; RunFileError names file and line of what is wrong with it."""
    path = Path(path)
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise RunFileError(f"{path.name}: cannot be read: {error}") from error
    if not lines:
        raise RunFileError(f"{path.name}, line 1: the file is empty; a run starts with its header")
    header = _header(path, lines[0])
    rows = []
    for number, line in enumerate(lines[1:], start=2):
        record = _record(path, number, line)
        kind = record.get("record")
        if kind == "end":
            header = {**header, "end": record.get("end")}
        elif kind == "point":
            rows.append(_checked_row(path, number, record, header["device"]["name"]))
        else:
            raise RunFileError(f"{path.name}, line {number}: record is {kind!r}; allowed are 'point' and 'end'")
    return Run(header, tuple(rows), path=path)


def read_runs(directory: Path | str | None = None) -> list[Run]:
    """Every run of a folder (default: the recorded ones, `data/runs`), oldest name first."""
    folder = Path(directory) if directory is not None else data_path("runs")
    return [read_run(path) for path in sorted(folder.glob("*.jsonl"))]


def _record(path: Path, number: int, line: str) -> dict[str, Any]:
    try:
        record = json.loads(line)
    except json.JSONDecodeError as error:
        raise RunFileError(f"{path.name}, line {number}: broken line: {error}") from error
    if not isinstance(record, dict):
        raise RunFileError(f"{path.name}, line {number}: a JSON object is expected, got {type(record).__name__}")
    return record


def _header(path: Path, line: str) -> dict[str, Any]:
    header = _record(path, 1, line)
    if header.get("record") != "header":
        raise RunFileError(f"{path.name}, line 1: a run starts with its header, got {header.get('record')!r}")
    schema = header.get("schema")
    if not isinstance(schema, int) or not 1 <= schema <= SCHEMA:
        raise RunFileError(f"{path.name}, line 1: schema {schema!r}; this version of skiplab reads 1 to {SCHEMA}")
    if "run_id" not in header or "name" not in header.get("device", {}):
        raise RunFileError(f"{path.name}, line 1: the header lacks run_id or device.name")
    return header


def _checked_row(path: Path, number: int, row: dict[str, Any], device: str) -> dict[str, Any]:
    missing = [
        name for name in ("key", "point", "axes", "contender", "status", "device", "samples_ns") if name not in row
    ]
    if missing:
        raise RunFileError(f"{path.name}, line {number}: the row lacks {', '.join(missing)}")
    if row["status"] not in STATUSES:
        raise RunFileError(f"{path.name}, line {number}: status {row['status']!r}; allowed are {', '.join(STATUSES)}")
    if row["device"] != device:
        raise RunFileError(
            f"{path.name}, line {number}: mixed devices: the header says {device!r}, the row {row['device']!r}"
        )
    return row


def _cut_interrupted_line(path: Path) -> None:
    content = path.read_bytes()
    if not content.endswith(b"\n"):
        with path.open("r+b") as file:
            file.truncate(content.rfind(b"\n") + 1)


def _same_identity(path: Path, old: Mapping[str, Any], new: Mapping[str, Any]) -> None:
    """Rows under one header must share what the header says of device and software."""
    for name in ("torch", "triton", "threads"):
        if old.get(name) != new.get(name):
            raise ValueError(
                f"{path.name}: was made with {name} {old.get(name)}, this is {new.get(name)}; name a new file"
            )
    if old["device"]["name"] != new["device"]["name"]:
        raise ValueError(
            f"{path.name}: was made on {old['device']['name']}, this is {new['device']['name']}; name a new file"
        )
