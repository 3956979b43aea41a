"""Tables that figures draw: ratios of measured rows, predictions, and published results, all with `store.COLUMNS`."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import product
from typing import TYPE_CHECKING, Any

import pandas as pd

from skiplab.paths import data_path
from skiplab.store import COLUMNS, Run, frame

if TYPE_CHECKING:
    from skiplab.machine import Machine
    from skiplab.workload import Workload

AXES = ("operation", "q_len", "kv_len", "window", "mask", "batch", "q_heads", "kv_heads", "head_dim", "dtype")
PLACE = ("source", "device")
PREDICTED = {"sdpa": ("dense + mask", "none"), "blockskip": ("block-skip", "map")}
"""Contenders that are predicted: their label, and the skip mode whose FLOPs and bytes the prediction takes."""

EXECUTORCH = "ExecuTorch PR 20198 (Gemma 4 31B int4, GPU not named)"


def speedups(table: pd.DataFrame, base: str = "sdpa", axes: Sequence[str] = AXES) -> pd.DataFrame:
    """Rows with `speedup` (time of `base` / time), `speedup_low` and `speedup_high` (from the quartiles of both).

    Only points whose result was checked count (status ok), each against `base` at the same `axes`, source and device; a
    point that has no such partner is left out. Empty when there is none.
    """
    good: Any = table[(table["status"] == "ok") & table["median_ms"].notna()]
    keys = [*PLACE, *axes]
    times = ["median_ms", "low_ms", "high_ms"]
    partner = good.loc[good["contender"] == base, keys + times].drop_duplicates(keys, keep="last")
    others = good[good["contender"] != base]
    merged = others.merge(partner, on=keys, suffixes=("", "_base"))
    merged["speedup"] = merged["median_ms_base"] / merged["median_ms"]
    merged["speedup_low"] = merged["low_ms_base"] / merged["high_ms"]
    merged["speedup_high"] = merged["high_ms_base"] / merged["low_ms"]
    return merged


def predictions(workloads: Iterable[Workload], machine: Machine, block_m: int = 128, block_n: int = 64) -> pd.DataFrame:
    """What the roofs of `machine` allow for dense + mask and for block-skip on each workload; source `predicted`.

    Optimistic on purpose (`roofline.predict`): launches, grid tails and softmax are left out.
    """
    from skiplab.machine.roofline import bound, predict

    rows = []
    for workload in workloads:
        for contender, (label, skip) in PREDICTED.items():
            work = workload.work(skip, block_m, block_n)
            time = predict(workload, skip, machine, block_m, block_n).seconds
            rows.append(
                {
                    **workload.axes(), "run_id": f"roofline of {machine.name}", "source": "predicted",
                    "device": machine.name, "contender": contender, "label": label, "status": "ok",
                    "median_ms": time * 1e3, "low_ms": time * 1e3, "high_ms": time * 1e3,
                    "useful_tflops": work.useful_flops / time / 1e12,
                    "executed_tflops": work.executed_flops / time / 1e12,
                    "dense_flops": work.dense_flops, "useful_flops": work.useful_flops,
                    "executed_flops": work.executed_flops, "bytes": work.bytes,
                    "bound_ms": bound(work, machine).seconds * 1e3,
                    "tokens_per_s": workload.q_len * workload.batch / time, "flags": "", "error_text": "",
                }
            )  # fmt: skip
    return _table(rows)


def predicted_decode(
    kv_len: Iterable[int], window: Iterable[int | None] = (None,), *, machine: Machine, **shape: Any
) -> pd.DataFrame:
    """What the roofs of `machine` allow for a decode step at each length and window; source `predicted`.

    shape: the other fields of `DecodeWorkload`. Optimistic on purpose: the keys that a query sees are read once at the
    full bandwidth, launches and the merge of splits are left out.
    """
    from skiplab.machine.roofline import predict_decode
    from skiplab.workload import DecodeWorkload

    rows = []
    for keys, size in product(kv_len, window):
        workload = DecodeWorkload(keys, size, **shape)
        seconds = predict_decode(workload, machine).seconds
        rows.append(_prediction(workload, workload.work(), seconds, machine, "split-K at the roofs"))
    return _table(rows)


def predicted_linear(
    shape: Iterable[tuple[int, int]], rows: Iterable[int] = (1,), *, machine: Machine, **fields: Any
) -> pd.DataFrame:
    """What the roofs of `machine` allow for a quantised linear layer of each shape (N, K); source `predicted`.

    fields: the other fields of `LinearWorkload`. Optimistic on purpose, as `predicted_decode`.
    """
    from skiplab.machine.roofline import predict_linear
    from skiplab.workload import LinearWorkload

    found = []
    for (out_features, in_features), count in product(shape, rows):
        workload = LinearWorkload(out_features, in_features, count, **fields)
        seconds = predict_linear(workload, machine).seconds
        found.append(_prediction(workload, workload.work(), seconds, machine, f"int{workload.bits} at the roofs"))
    return _table(found)


def _prediction(workload: Any, work: Any, seconds: float, machine: Machine, label: str) -> dict[str, object]:
    axes = workload.axes()
    queries = axes.get("rows") or axes["q_len"] * axes["batch"]
    extra = {} if axes["operation"] == "decode" else {"bits_per_weight": workload.bits_per_weight}
    return {
        **axes, **extra, "run_id": f"roofline of {machine.name}", "source": "predicted", "device": machine.name,
        "contender": "blockskip", "label": label, "status": "ok",
        **dict.fromkeys(("median_ms", "low_ms", "high_ms", "bound_ms"), seconds * 1e3),
        "useful_flops": work.useful_flops, "bytes": work.bytes, "gbps": work.bytes / seconds / 1e9,
        "useful_tflops": work.useful_flops / seconds / 1e12, "tokens_per_s": queries / seconds,
        "flags": "", "error_text": "",
    }  # fmt: skip


def by_method(run: Run) -> pd.DataFrame:
    """The run's rows once for each way in which its points were timed (`method`: graph, eager, warm; cpu)."""
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
