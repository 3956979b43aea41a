"""Rows of runs as one pandas table: `COLUMNS`, derived times and rates, and a filter."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from skiplab.store.runs import Run

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
AXES = ("operation", "q_len", "kv_len", "mask", "batch", "q_heads", "kv_heads", "head_dim", "dtype", "buffer", "rows",
        "out_features", "in_features", "bits", "group_size", "symmetric")  # fmt: skip


def frame(runs: Run | Iterable[Run]) -> pd.DataFrame:
    """Rows of one or several runs as a pandas table with `COLUMNS`; of a point measured twice the last row counts."""
    runs = [runs] if isinstance(runs, Run) else list(runs)
    return table_of([_flat(run, row) for run in runs for row in {row["point"]: row for row in run.rows}.values()])


def table_of(records: list[dict[str, Any]]) -> pd.DataFrame:
    """Records as a table with `COLUMNS`: counts and texts as they are, every other column float64."""
    import pandas as pd

    table = pd.DataFrame.from_records(records, columns=list(COLUMNS))
    return table.astype({name: "float64" for name in COLUMNS if name not in (*TEXTS, *COUNTS)})


def _flat(run: Run, row: Mapping[str, Any]) -> dict[str, Any]:
    axes, work = row["axes"], row.get("work") or {}
    low, median, high = _quartiles_ms(row["samples_ns"])
    seconds = median / 1e3
    executed = work.get("executed_flops")
    return {
        "run_id": run.run_id, "source": run.source, "device": run.device,
        "contender": row["contender"], "label": row.get("label", row["contender"]),
        **{name: axes.get(name) for name in AXES},
        "window": axes["window"] if axes.get("window") is not None else np.nan,
        "status": row["status"], "method": row.get("method"),
        "median_ms": median, "low_ms": low, "high_ms": high, "samples": len(row["samples_ns"]),
        "error": row.get("error"), "tolerance": row.get("tolerance"),
        "useful_tflops": work.get("useful_flops", np.nan) / seconds / 1e12,
        "executed_tflops": (np.nan if executed is None else executed) / seconds / 1e12,
        "dense_flops": work.get("dense_flops"), "useful_flops": work.get("useful_flops"),
        "executed_flops": executed, "bytes": work.get("bytes"),
        "gbps": work.get("minimal_bytes", np.nan) / seconds / 1e9, "bits_per_weight": _bits_per_weight(axes),
        "bound_ms": _bound_ms(run, work),
        "tokens_per_s": (axes["rows"] if "rows" in axes else axes["q_len"] * axes["batch"]) / seconds,
        "flags": ", ".join(row.get("flags", ())), "error_text": row.get("error_text", ""),
    }  # fmt: skip


def _bits_per_weight(axes: Mapping[str, Any]) -> float:
    from skiplab.workload import LinearWorkload

    return LinearWorkload.from_axes(axes).bits_per_weight if axes["operation"] == "linear" else np.nan


def _quartiles_ms(samples_ns: list[int]) -> tuple[float, float, float]:
    if not samples_ns:
        return np.nan, np.nan, np.nan
    low, median, high = np.percentile(samples_ns, (25, 50, 75)) / 1e6
    return float(low), float(median), float(high)


def _bound_ms(run: Run, work: Mapping[str, Any]) -> float:
    """The roofline bound of the useful work, from the roof that the run's header holds."""
    from skiplab.machine import Machine
    from skiplab.roofline import bound_of

    roof = run.header.get("roof")
    if not roof or not work:
        return np.nan
    machine = Machine(run.device, run.header["device"].get("kind", ""), roof["bandwidth_gbps"], roof["tflops"])
    return bound_of(work["useful_flops"], work["minimal_bytes"], machine).seconds * 1e3


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
