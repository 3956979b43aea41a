"""The benchmarks of a CPU in `data/benchmarks` as frames for tables: the least time of each call."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from skiplab.paths import data_path
from skiplab.rated import ADDED
from skiplab.store import COLUMNS
from skiplab.text import counted


def cpu_prefill() -> pd.DataFrame:
    """`prefill_cpu.json`."""
    names = {"blockskip tiled": "blockskip", "FlexAttention": "flex", "dense + mask": "sdpa"}

    def axes(point: Mapping[str, Any], data: Mapping[str, Any]) -> dict[str, Any]:
        return {name: point[name] for name in ("q_len", "dtype")} | {
            name: data[name] for name in ("window", "head_dim")
        }

    return _frame("prefill_cpu.json", "attention", names, axes)


def cpu_linear() -> pd.DataFrame:
    """`linear_cpu_one_thread.json`."""
    names = {"blockskip": "blockskip", "blockskip tiled": "tiled", "float layer": "layer"}

    def axes(point: Mapping[str, Any], data: Mapping[str, Any]) -> dict[str, Any]:
        return {name: point[name] for name in ("dtype", "out_features", "in_features", "rows")}

    return _frame("linear_cpu_one_thread.json", "linear", names, axes)


def cpu_model() -> pd.DataFrame:
    """`model_cpu_one_thread.json`."""
    names = {
        "blockskip": "blockskip",
        "blockskip, float weights": "floats",
        "SDPA, float weights": "sdpa",
        "transformers, SDPA": "transformers",
    }

    def axes(point: Mapping[str, Any], data: Mapping[str, Any]) -> dict[str, Any]:
        return {"phase": point["phase"], "q_len": point["tokens"], "dtype": data["dtype"]}

    return _frame("model_cpu_one_thread.json", "model", names, axes)


def _frame(file: str, operation: str, names: Mapping[str, str], axes: Callable[..., dict[str, Any]]) -> pd.DataFrame:
    """A row for each point and call of a benchmark; names: contenders by what the benchmark calls them."""
    path = data_path("benchmarks", file)
    data = json.loads(path.read_text(encoding="utf-8"))
    rows = [
        _row(point, name, path, data["machine"])
        | {"operation": operation, "contender": contender, **axes(point, data)}
        | {"workload": " ".join(map(str, axes(point, data).values()))}
        for point in data["points"]
        for name, contender in names.items()
    ]
    return pd.DataFrame.from_records(rows).reindex(columns=[*COLUMNS, *ADDED])


def _row(point: Mapping[str, Any], name: str, path: Path, machine: Mapping[str, Any]) -> dict[str, Any]:
    errors = point.get("errors", {}).get(name)
    return {
        "status": "ok", "method": "cpu", "median_ms": min(point["samples_ns"][name]) / 1e6, "flags": "",
        "error": max(errors) if isinstance(errors, list) else errors,
        "device": f"{machine['cpu']} ({machine['instructions']}, {counted(machine['threads'], 'thread')})",
        "file": path,
        "versions": f"torch {machine['torch']}",
    }  # fmt: skip
