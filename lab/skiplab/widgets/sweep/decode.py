"""The panel's form for decode steps."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from skiplab.figures import decode, predicted
from skiplab.store import published
from skiplab.sweep import DecodeSweep, interleaved
from skiplab.widgets.sweep.settings import (
    GENERATION,
    Field,
    PanelForm,
    choice,
    heads,
    listed,
    numbers,
    slots,
    windows,
    windows_shown,
)
from skiplab.workload import DTYPES, MODELS, DecodeWorkload


def _sweep(names: tuple[str, ...], values: Mapping[str, Any], device: str, budget_s: float) -> DecodeSweep:
    return DecodeSweep(
        names, kv_len=values["kv_len"], window=values["window"], buffer=values["buffer"], device=device,
        budget_s=budget_s, interleave=interleaved(None, device), **heads(values),
    )  # fmt: skip


FORM = PanelForm(
    "decode", "decode over a cache", ("blockskip", "blockskip-one", "sdpa"),
    (
        Field("kv_len", "Cache lengths", (512, 2048, 8192, 16384), numbers, listed, "keys", "keys, commas between"),
        Field("window", "Windows", (1024, None), windows, windows_shown("all"), "keys, or all",
              "keys, commas between; all for no window"),
        Field("buffer", "Buffer", None, slots, lambda value: "" if value is None else str(value),
              "slots, or empty", "slots of the cache, one number; empty for as many as keys"),
        choice("model", "Head shape", "laptop", MODELS),
        choice("dtype", "Number format", "bfloat16", DTYPES),
    ),
    DecodeWorkload(64), _sweep, lambda point: f"{point.kv_len:,} keys",
    {
        "time, by cache length": decode.decode_time,
        "times the least, by cache length": decode.decode_ratio,
        "queries/s, by cache length": decode.decode_rate,
        "bandwidth, by cache length": decode.decode_bandwidth,
        "time, cache length × window": decode.decode_grid,
        "queries/s, cache length × window": lambda table: decode.decode_grid(table, "rate"),
        "speed-up over SDPA, by cache length": decode.decode_speedup,
        "speed-up of splitting the keys": decode.crossover,
        "measured against predicted": predicted.measured_vs_predicted,
        "published tokens/s of a whole model": decode.generation,
    },
    {"published: ExecuTorch PR 20198, one layer's attention": lambda: published("decode"), **GENERATION},
    each_method=True,  # the crossover differs between them
)  # fmt: skip
