"""Others' published results, as a table with the same columns."""

from __future__ import annotations

import csv
from typing import TYPE_CHECKING, Any

import numpy as np

from skiplab.paths import data_path
from skiplab.store.frames import COLUMNS, table_of

if TYPE_CHECKING:
    import pandas as pd

PUBLISHER = "ExecuTorch pull request 20198 (Gemma 4 31B int4, GPU not named)"
LATER = "ExecuTorch pull request 20571 (Gemma 4 31B, Q4_K_M, A100)"


def published(operation: str | None = None) -> pd.DataFrame:
    """The tables of `data/published` with `COLUMNS`; source `published`, device the publisher.

    Operations: `model` (prompts and steps of a whole Gemma 4 31B: `tokens_per_s`, `peak_gb`), `prefill` and `generate`
    (an earlier state of the same: `tokens_per_s` alone), `decode` (one attention call at q_len 1: `median_ms`) and
    `linear` (one int4 product, before and after a change: `median_ms`; of which layer is not told). What the source
    does not tell is empty. ValueError lists the operations.
    """
    records = [
        *_published_prefill(), *_published_decode(), *_published_decode_attention(), *_published_linear(),
        *_published_model(),
    ]  # fmt: skip
    names = sorted({record["operation"] for record in records})
    if operation is not None and operation not in names:
        raise ValueError(f"operation: got {operation!r}; published are {', '.join(names)}")
    common = {
        "run_id": "executorch-20198", "source": "published", "device": PUBLISHER, "batch": 1,
        "status": "ok", "flags": "", "error_text": "", "dtype": "bfloat16",
    }  # fmt: skip
    chosen = [{**common, **record} for record in records if operation in (None, record["operation"])]
    return table_of({name: [record.get(name, np.nan) for record in chosen] for name in COLUMNS})


def _csv(name: str) -> list[dict[str, str]]:
    with data_path("published", name).open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def _published_prefill() -> list[dict[str, Any]]:
    columns = {"before_tps": "executorch before", "after_tps": "executorch after", "llama_cpp_tps": "llama.cpp"}
    return [
        {
            "operation": "prefill", "contender": name, "label": name.replace("executorch", "ExecuTorch"),
            "q_len": int(row["prompt_tokens"]), "kv_len": int(row["prompt_tokens"]), "mask": "whole model",
            "tokens_per_s": float(row[column]),
        }
        for row in _csv("executorch-20198-prefill.csv")
        for column, name in columns.items()
    ]  # fmt: skip


def _published_decode() -> list[dict[str, Any]]:
    return [
        {
            "operation": "generate", "contender": f"executorch {side}", "label": f"{side} {row['change']}",
            "q_len": 1, "kv_len": int(row["prompt_tokens"] or 0) or None, "tokens_per_s": float(row[f"{side}_tps"]),
        }
        for row in _csv("executorch-20198-decode.csv")
        for side in ("before", "after")
    ]  # fmt: skip


def _published_decode_attention() -> list[dict[str, Any]]:
    names = {
        "standard": ("executorch standard", "ExecuTorch, no splits"),
        "splitk": ("executorch split-K", "ExecuTorch, split-K"),
        "pytorch": ("sdpa", "SDPA"),
        "flash": ("sdpa-flash", "SDPA flash"),
    }
    return [
        {
            "operation": "decode", "contender": name, "label": label, "q_len": 1, "kv_len": int(row["kv_len"]),
            "q_heads": 32, "kv_heads": 16, "head_dim": 256, "method": "graph",
            **dict.fromkeys(("median_ms", "low_ms", "high_ms"), float(row[f"{column}_us"]) / 1e3),
        }
        for row in _csv("executorch-20198-decode-sdpa.csv")
        for column, (name, label) in names.items()
        if row[f"{column}_us"]
    ]  # fmt: skip


def _published_linear() -> list[dict[str, Any]]:
    return [
        {
            "operation": "linear", "contender": f"executorch {side}", "label": f"{side} {row['change']}",
            **{name: int(row[name]) for name in ("rows", "bits", "group_size")},
            **dict.fromkeys(("median_ms", "low_ms", "high_ms"), float(row[f"{side}_us"]) / 1e3),
        }
        for row in _csv("executorch-20198-linear.csv")
        for side in ("before", "after")
    ]  # fmt: skip


def _published_model() -> list[dict[str, Any]]:
    """A prompt's row, and that of one step behind it."""
    common = {"operation": "model", "run_id": "executorch-20571", "device": LATER, "model": "gemma4-31b", "bits": 4}
    rows = []
    for line in _csv("executorch-20571.csv"):
        tokens = int(line["prompt_tokens"])
        for column, name in (("executorch", "executorch"), ("llama_cpp", "llama.cpp")):
            label = "ExecuTorch" if name == "executorch" else name
            peak = {"contender": name, "label": label, "peak_gb": float(line[f"{column}_peak_gb"])}
            for phase, q_len, depth in (("prefill", tokens, 0), ("decode", 1, tokens)):
                rate, place = float(line[f"{column}_{phase}_tps"]), {"phase": phase, "q_len": q_len, "depth": depth}
                took = dict.fromkeys(("median_ms", "low_ms", "high_ms"), q_len / rate * 1e3)
                rows.append({**common, **peak, **place, **took, "by_kind": 0, "tokens_per_s": rate})
    return rows
