"""Rows of several runs as one frame: each point once, with what a run's header adds to it."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from fnmatch import fnmatch
from typing import Any

import numpy as np
import pandas as pd
from blockskip.linear.route import spelled

from skiplab.machine.roofs import Roofs, recorded_roofs
from skiplab.store import COLUMNS, Run, frame
from skiplab.store.keys import without_index

RowDict = dict[str, Any]
"""One row of a frame, by column."""

ADDED = (
    "file", "versions", "read_gbps", "product_tflops", "plain_us", "sms", "eager_ms", "heads", "tiles", "kernel",
    "workload",
)  # fmt: skip


def rated(runs: Iterable[Run], patterns: Sequence[str] = ("*",)) -> pd.DataFrame:
    """The frame of the runs whose files match, each point once for a contender, device and source; empty without any.

    patterns: of file names without `.jsonl`. Of a point that several runs hold, the run of the first pattern counts,
    and of one pattern the run that began last. Rows with an explicit config, such as those of tuning, are left
    out: it is not the contender's own choice. Columns beside `store.COLUMNS`:

    - `file` (path), `versions` (text), `read_gbps`, `product_tflops`, `sms`: of the run's header;
    - `plain_us`: the time of a plain read of the row's least bytes on that device, if `data/machines` has it;
    - `eager_ms`: the median of single calls, where they were timed too;
    - `tiles`: queries and keys of our kernels' tiles; None without a plan, or if several heads share a tile;
    - `kernel`: the route of our linear layer, by its plan; None without one;
    - `heads` (text), and `workload` (text): the problem, whoever solves it.
    """
    known = recorded_roofs()
    runs = [run for run in runs if run.path is not None]
    chosen: list[Run] = []
    for pattern in patterns:
        matching = [run for run in runs if run.path and fnmatch(run.path.stem, pattern)]
        chosen += sorted(matching, key=lambda run: run.header.get("start", ""), reverse=True)
    chosen = [_own_choice(run) for run in chosen]
    added = [_added(run, row, known.get(run.device)) for run in chosen for row in run.rows]
    if not added:
        return pd.DataFrame(columns=[*COLUMNS, *ADDED])
    table = pd.concat([frame(chosen), pd.DataFrame.from_records(added, columns=list(ADDED))], axis=1)
    return table.drop_duplicates(["source", "device", "contender", "workload"], ignore_index=True)


def rows_of(table: Any) -> list[RowDict]:
    """The frame's rows as dicts of Python's own numbers, as `to_dict("records")` gives them in five times the time."""
    names = list(table.columns)
    return [dict(zip(names, row, strict=True)) for row in table.to_numpy(object).tolist()]


def _own_choice(run: Run) -> Run:
    """The run with each point's last row, without rows of an explicit config."""
    rows = {without_index(row["point"]): row for row in run.rows if not row.get("config")}
    return replace(run, rows=tuple(rows.values()))


def _added(run: Run, row: Mapping[str, Any], roofs: Roofs | None) -> RowDict:
    """A row's `ADDED` columns."""
    roof = run.header.get("roof") or {}
    return {
        "file": run.path,
        "versions": ", ".join(f"{name} {run.header[name]}" for name in ("torch", "triton") if run.header.get(name)),
        "read_gbps": roof.get("bandwidth_gbps", np.nan),
        "product_tflops": roof.get("tflops", np.nan),
        "plain_us": np.nan if roofs is None else roofs.read_us(_least_bytes(row)),
        "sms": run.header["device"].get("sms", np.nan),
        "eager_ms": _eager_ms(row),
        "heads": _heads(row["axes"]),
        "tiles": _tiles(row.get("plan") or {}),
        "kernel": spelled((row.get("plan") or {}).get("kernel")),
        "workload": _workload(row["axes"]),
    }


def _workload(axes: Mapping[str, Any]) -> str:
    return json.dumps({name: value for name, value in axes.items() if value is not None}, sort_keys=True)


def _least_bytes(row: Mapping[str, Any]) -> float:
    return (row.get("work") or {}).get("minimal_bytes", np.nan)


def _eager_ms(row: Mapping[str, Any]) -> float:
    samples = row["samples_ns"] if row.get("method") == "eager" else row.get("other_samples_ns", {}).get("eager")
    return float(np.median(samples)) / 1e6 if samples else np.nan


def _tiles(plan: Mapping[str, Any]) -> tuple[int, int] | None:
    config = plan.get("config")
    return (config[0], config[1]) if config and not plan.get("packed") else None


def _heads(axes: Mapping[str, Any]) -> str:
    """`32/16 of 256`: query heads, key heads, head size; empty for a linear layer."""
    return f"{axes['q_heads']}/{axes['kv_heads']} of {axes['head_dim']}" if "head_dim" in axes else ""
