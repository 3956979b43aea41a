"""Tables that figures draw: ratios of measured rows, predictions, and published results, all with `store.COLUMNS`."""

from __future__ import annotations

import csv
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pandas as pd

from skiplab.measure.point import OTHER_DEVICE
from skiplab.operations import OPERATIONS, Predicted
from skiplab.paths import data_path
from skiplab.store import COLUMNS, Run, frame

if TYPE_CHECKING:
    from skiplab.machine import Machine
    from skiplab.workload import Problem

AXES = (
    "operation", "q_len", "kv_len", "window", "mask", "batch", "q_heads", "kv_heads", "head_dim", "dtype", "kv_dtype",
    "ragged", "sinks",
)  # fmt: skip
ORIGIN = ("source", "device")
EXECUTORCH = "ExecuTorch PR 20198 (Gemma 4 31B int4, GPU not named)"


def speedups(table: pd.DataFrame, base: str = "sdpa", axes: Sequence[str] = AXES) -> pd.DataFrame:
    """Rows with `speedup` (time of `base` / time), `speedup_low` and `speedup_high` (from the quartiles of both).

    Only points whose result was checked count (status ok), each against `base` at the same `axes`, source and device; a
    point that has no such partner is left out, and one that was measured on another GPU of that kind than the rest of
    its workload. Empty when there is none.
    """
    moved = table["flags"].str.contains(OTHER_DEVICE, regex=False, na=False)
    good: Any = table[(table["status"] == "ok") & table["median_ms"].notna() & ~moved]
    keys = [*ORIGIN, *axes]
    times = ["median_ms", "low_ms", "high_ms"]
    partner = good.loc[good["contender"] == base, keys + times].drop_duplicates(keys, keep="last")
    others = good[good["contender"] != base]
    merged = others.merge(partner, on=keys, suffixes=("", "_base"))
    merged["speedup"] = merged["median_ms_base"] / merged["median_ms"]
    merged["speedup_low"] = merged["low_ms_base"] / merged["high_ms"]
    merged["speedup_high"] = merged["high_ms_base"] / merged["low_ms"]
    return merged


def predictions(workloads: Iterable[Problem], machine: Machine, **how: Any) -> pd.DataFrame:
    """Times at the roofs of `machine` for each workload, for its operation's predicted contenders; source `predicted`.

    how: what else the workloads' `work` takes, such as `block_m` and `block_n` of attention. Optimistic on purpose
    (`roofline.predict`): launches, grid tails, softmax and the merge of splits are left out.
    """
    return _table([
        _prediction(workload, one, machine, how)
        for workload in workloads
        for one in OPERATIONS[workload.operation].predicted
    ])  # fmt: skip


def _prediction(workload: Problem, one: Predicted, machine: Machine, how: Mapping[str, Any]) -> dict[str, object]:
    from skiplab.machine.roofline import bound, predict, predicted_parts

    operation, axes = OPERATIONS[workload.operation], workload.axes()
    work, least = workload.work(**one.work, **how), workload.work(**how)
    seconds = predict(workload, machine, **one.work, **how).seconds
    parts = {
        name: round(least.seconds * 1e9)
        for name, least in predicted_parts(workload, machine, **one.work, **how).items()
    }
    derived = {name: make(axes) for name, make in operation.derived.items()}
    return {
        **axes, **derived, "run_id": f"roofline of {machine.name}", "source": "predicted", "device": machine.name,
        "contender": one.contender, "label": one.label(workload), "status": "ok", "flags": "", "error_text": "",
        **dict.fromkeys(("median_ms", "low_ms", "high_ms"), seconds * 1e3),
        "bound_ms": bound(work, machine).seconds * 1e3, "parts": parts if len(parts) > 1 else None,
        "useful_flops": work.useful_flops, "executed_flops": work.executed_flops, "dense_flops": work.dense_flops,
        "useful_tflops": work.useful_flops / seconds / 1e12, "executed_tflops": work.executed_flops / seconds / 1e12,
        "bytes": work.bytes, "gbps": least.bytes / seconds / 1e9,
        "tokens_per_s": math.prod(axes[name] for name in operation.tokens) / seconds,
    }  # fmt: skip


def by_method(run: Run) -> pd.DataFrame:
    """The run's points with a row for each way in which they were timed (`method`: graph, eager, warm; cpu)."""
    others: dict[str, list[Mapping[str, Any]]] = {}
    for row in run.rows:
        for method, samples in row.get("other_samples_ns", {}).items():
            others.setdefault(method, []).append({**row, "method": method, "samples_ns": samples})
    parts = [frame(run), *(frame(replace(run, rows=tuple(rows))) for rows in others.values())]
    return pd.concat([part for part in parts if len(part)] or parts[:1], ignore_index=True)


def published_prefill() -> pd.DataFrame:
    """ExecuTorch PR 20198's prefill table: tokens/s of the whole model, not of one layer's attention.

    Its operation is `prefill`, so that it never stands in one line with `attention`. Contenders: `sdpa` is its rate
    before, `blockskip` after, `llama.cpp` the peer it quotes. Rates are the authors'; times are prompt length / rate.
    """
    path = data_path("published", "executorch-20198-prefill.csv")
    names = {
        "before_tps": ("sdpa", "before: dense + mask"),
        "after_tps": ("blockskip", "after: masked blocks skipped"),
        "llama_cpp_tps": ("llama.cpp", "llama.cpp"),
    }
    rows = []
    with path.open(encoding="utf-8", newline="") as file:
        for line in csv.DictReader(file):
            rows += [_published(line, column, *name) for column, name in names.items()]
    return _table(rows)


def _published(line: Mapping[str, str], column: str, contender: str, label: str) -> dict[str, object]:
    rate, tokens = float(line[column]), int(line["prompt_tokens"])
    return {
        "run_id": "executorch-20198-prefill", "source": "published", "device": EXECUTORCH, "contender": contender,
        "label": label, "operation": "prefill", "q_len": tokens, "kv_len": tokens, "mask": "whole model", "batch": 1,
        "status": "ok", "median_ms": tokens / rate * 1e3, "tokens_per_s": rate, "flags": "", "error_text": "",
    }  # fmt: skip


def _table(rows: list[dict[str, object]]) -> pd.DataFrame:
    table = pd.DataFrame.from_records(rows).reindex(columns=list(COLUMNS))
    return table.astype({"window": "float64", "low_ms": "float64", "high_ms": "float64"})
