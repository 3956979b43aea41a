"""What stands beside a model's predictions: calls that runs took apart, and tokens/s measured or published."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from skiplab.contenders.ladder import LADDER
from skiplab.paths import data_path, runs_directory
from skiplab.rated import RowDict, rows_of
from skiplab.store import Run, RunFileError, frame, operation_in, published, read_run, recorded_llama_bench
from skiplab.throughput import CallTime
from skiplab.workload import ModelWorkload

RUNGS_BELOW = LADDER[:-1]
"""Our decoder without one or more of its choices, which is the ladder's subject, not the explorer's."""
OURS = {True: "blockskip", False: "sdpa"}
"""Whose parts stand beside the bars: of quantised weights, and of floats."""


@dataclass(frozen=True)
class Beside:
    """Rows of whole models, as `store.frame` has them. unreadable: why files of a folder could not be read."""

    table: pd.DataFrame
    unreadable: tuple[str, ...] = ()

    @classmethod
    def of(cls, runs: Iterable[Run] | None = None) -> Beside:
        """Of these runs (None: all that `stored` finds), of what others published, and of llama.cpp's recorded run."""
        found, unreadable = (list(runs), ()) if runs is not None else stored()
        mine = [run for run in found if run.operation == ModelWorkload.operation]
        parts = [frame([*mine, recorded_llama_bench()]), published(ModelWorkload.operation)]
        table: Any = pd.concat(parts, ignore_index=True)
        shown = (table["status"] == "ok") & table["tokens_per_s"].notna() & ~table["contender"].isin(RUNGS_BELOW)
        return cls(table[shown], unreadable)

    def taken_apart(self, call: CallTime, quantised: bool) -> RowDict | None:
        """The row of a run on that machine that took the same call of our decoder apart; the last of several."""
        wanted = {**call.workload.axes(), "device": call.machine.name, "contender": OURS[quantised]}
        columns = ["device", "contender", "model", "phase", "q_len", "depth", "dtype", *(["bits"] if quantised else [])]
        rows: Any = self.table
        for name in columns:
            rows = rows[rows[name] == wanted[name]]
        return next((row for row in reversed(rows_of(rows)) if isinstance(row["parts"], dict)), None)

    def lengths(self, model: str, machine: str) -> list[int]:
        """The prompt lengths, and depths, of that model at which runs on that machine were taken apart."""
        rows: Any = self.table[(self.table["model"] == model) & (self.table["device"] == machine)]
        return sorted({
            int(row["q_len"] if row["phase"] == "prefill" else row["depth"])
            for row in rows_of(rows) if isinstance(row["parts"], dict)
        })  # fmt: skip

    def nearest(self, model: str, bits: int, prompt: int, tokens: int) -> list[tuple[RowDict | None, RowDict | None]]:
        """Of every contender of each source and device: its prompt and its step that are nearest in length.

        The step is one of so many tokens, or of a single one where there is none.
        """
        rows: Any = self.table[(self.table["model"] == model) & (self.table["bits"] == bits)]
        found = []
        for _, group in rows.groupby(["source", "device", "contender", "label"], sort=False):
            calls = rows_of(group)
            read = _nearest((row for row in calls if row["phase"] == "prefill"), "q_len", prompt)
            steps = [row for row in calls if row["phase"] == "decode"]
            alike = [row for row in steps if row["q_len"] == tokens] or [row for row in steps if row["q_len"] == 1]
            step = _nearest(alike, "depth", prompt)
            if read or step:
                found.append((read, step))
        return found


def _nearest(rows: Iterable[RowDict], column: str, length: int) -> RowDict | None:
    """The row whose length differs by the smallest factor; of several a whole model's, and then the later one."""

    def distance(row: RowDict) -> tuple[float, bool]:
        return abs(math.log((row[column] + 1) / (length + 1))), row["by_kind"] == 1

    return min(reversed(list(rows)), key=distance, default=None)


def stored() -> tuple[list[Run], tuple[str, ...]]:
    """The runs of whole models in `data/runs`, where runs go, and in the folder `runs` here; what is unreadable."""
    folders = dict.fromkeys(folder.resolve() for folder in (data_path("runs"), runs_directory(), Path("runs")))
    runs, unreadable = [], []
    for path in (path for folder in folders for path in sorted(folder.glob("*.jsonl"))):
        if operation_in(path) == ModelWorkload.operation:
            try:
                runs.append(read_run(path))
            except RunFileError as error:
                unreadable.append(str(error))
    return runs, tuple(unreadable)
