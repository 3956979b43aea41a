"""A run on disk: JSON lines, one header, then one row a point, each on the disk before the next point starts.

A reader refuses what it cannot trust (a newer schema, a broken line, a field that `schema.py` does not allow, rows of
another device) with a message that names file, line and field.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from skiplab.operations import DEFAULT_OPERATION, operation_of
from skiplab.paths import data_path, is_shipped
from skiplab.store.frames import frame
from skiplab.store.reading import Rows, scan
from skiplab.store.schema import RunFileError
from skiplab.text import called, digits, why

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

SHOWN = 60
"""Rows of a run that a notebook shows; of more, the first and the last."""


HEADS = {"median_ms": "median ms", "useful_tflops": "useful TFLOP/s", "gbps": "GB/s"}
"""Numbers of a run's table in a notebook, and what they are called there."""


@dataclass(frozen=True)
class Run:
    """A run: its header, a row a point, and whether the user measured it or skiplab brought it with it as recorded."""

    header: Mapping[str, Any]
    rows: Sequence[Mapping[str, Any]] = ()
    source: str = "recorded"
    path: Path | None = field(default=None, compare=False)
    draws: ClassVar[Callable[[pd.DataFrame], go.Figure] | None] = None
    """What `plot` draws with. `skiplab` sets it: figures know runs, and runs no figures."""

    @property
    def run_id(self) -> str:
        return self.header["run_id"]

    @property
    def operation(self) -> str:
        """The name of its operation: a run holds one."""
        return self.rows[0]["axes"]["operation"] if self.rows else self.header.get("operation", DEFAULT_OPERATION)

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
        return frame(self)

    def plot(self) -> go.Figure:
        """The operation's overview: throughput over prompt lengths, time over a cache's keys, time of each layer."""
        if self.draws is None:
            raise RuntimeError("plot: nothing draws runs here; import skiplab, or call skiplab.figures.overview")
        return self.draws(self.frame())

    def _repr_html_(self) -> str:
        from skiplab.templates import cells, render

        table = self.frame()
        operation = operation_of(self.operation)
        axes = operation.varying
        if (self.header.get("parameters") or {}).get("mask") is not None:
            axes = (*axes, "mask")  # else the rows of a sweep over masks look alike
        numbers = {name: [digits(value) for value in table[name]] for name in HEADS}
        names = list(map(called, table["label"], table["contender"]))
        table = table.assign(contender=names, **numbers)[["contender", *axes, "status", *numbers, "flags"]]
        rows = cells(table)
        first, last = (rows, []) if len(rows) <= SHOWN else (rows[: SHOWN // 2], rows[-SHOWN // 2 :])
        return render(
            "tables.run", run_id=self.run_id, points=len(self.rows), provenance=self.provenance,
            heads=[HEADS.get(name) or operation.heading(name) for name in table], first=first, last=last,
        )  # fmt: skip


def read_run(path: Path | str) -> Run:
    """Read a run file; RunFileError names file, line and field of what is wrong with it.

    Its source is `recorded` for those of `data/runs`, which skiplab brings with it, and `measured` for all others.
    """
    path = Path(path)
    try:
        with path.open("rb") as file:
            held = scan(path.name, file)
    except OSError as error:
        raise RunFileError(f"{path.name}: cannot be read: {why(error)}") from error
    repair = "by a write that was interrupted; the command that made the run repairs it and goes on"
    if held.header is None:
        wrong = f"the header breaks off, {repair}" if held.cut else "the file is empty; a run starts with its header"
        raise RunFileError(f"{path.name}, line 1: {wrong}")
    if held.cut:
        raise RunFileError(f"{path.name}, last line: broken line: it breaks off, {repair}")
    source = "recorded" if is_shipped(path) else "measured"
    return Run(held.header, Rows(tuple(held.rows), path.name), source, path)


def read_runs(directory: Path | str | None = None, operation: str | None = None) -> list[Run]:
    """Every run of a folder (default: the recorded ones, `data/runs`), oldest name first.

    operation: only those that name it; the others are not read.
    """
    folder = Path(directory) if directory is not None else data_path("runs")
    paths = sorted(folder.glob("*.jsonl"))
    return [read_run(path) for path in paths if operation is None or operation_in(path) == operation]


def operation_in(path: Path) -> str | None:
    """The operation that a run file's header or first point names; None if neither does."""
    with path.open(encoding="utf-8", errors="replace") as file:
        for line in (file.readline(), file.readline()):
            try:
                row = json.loads(line)
                operation = row.get("operation") or row.get("axes", {}).get("operation")
            except (ValueError, AttributeError, RecursionError):  # `read_run` will say what is wrong with the file
                return None
            if operation is not None:
                return operation
    return None
