"""Tables that figures draw: ratios of measured rows, predictions, and published results, all with `store.COLUMNS`."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

import pandas as pd

from skiplab.store import COLUMNS, data_path

if TYPE_CHECKING:
    from skiplab.machine import Machine
    from skiplab.workload import Workload

AXES = ("operation", "q_len", "kv_len", "window", "mask", "batch", "q_heads", "kv_heads", "head_dim", "dtype")
PLACE = ("source", "device")
PREDICTED = {"sdpa": ("dense + mask", "none"), "blockskip": ("block-skip", "map")}
"""Contenders that are predicted: their label, and the skip mode whose FLOPs and bytes the prediction takes."""

EXECUTORCH = "ExecuTorch PR 20198 (Gemma 4 31B int4, GPU not named)"


def speedups(table: pd.DataFrame, base: str = "sdpa") -> pd.DataFrame:
    """Rows with `speedup` (time of `base` / time), `speedup_low` and `speedup_high` (from the quartiles of both).

    Only points whose result was checked count (status ok), each against `base` at the same axes, source and device; a
    point that has no such partner is left out. Empty when there is none.
    """
    good: Any = table[(table["status"] == "ok") & table["median_ms"].notna()]
    keys = [*PLACE, *AXES]
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
    from skiplab.roofline import bound, predict

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
