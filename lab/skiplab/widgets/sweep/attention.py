"""The panel's form for a prompt's attention."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from skiplab.contenders import varlen
from skiplab.figures import attention, frames, predicted
from skiplab.sweep import DEFAULT_CONTENDERS, Sweep, interleaved
from skiplab.widgets.sweep.settings import (
    Field,
    PanelForm,
    choice,
    heads,
    listed,
    numbers,
    windows,
    windows_shown,
)
from skiplab.workload import DTYPES, MODELS, Workload


def _sweep(names: tuple[str, ...], values: Mapping[str, Any], device: str, budget_s: float) -> Sweep:
    return Sweep(
        names, values["q_len"], values["window"], device=device, budget_s=budget_s,
        interleave=interleaved(None, device), **heads(values),
    )  # fmt: skip


FORM = PanelForm(
    "attention", "attention of a prompt", DEFAULT_CONTENDERS,
    (
        Field("q_len", "Prompt lengths", (512, 1024, 2048, 4096), numbers, listed, "tokens", "tokens, commas between"),
        Field("window", "Windows", (256, 512, 1024, None), windows, windows_shown("causal"), "keys, or causal",
              "keys, commas between; causal for no window"),
        choice("model", "Head shape", "laptop", MODELS),
        choice("dtype", "Number format", "bfloat16", DTYPES),
    ),
    Workload(64), _sweep, lambda point: f"{point.q_len:,} tokens",
    {
        "speed-up, by prompt length": attention.speedup,
        "speed-up, by window": lambda table: attention.speedup(table, x="window"),
        "speed-up, prompt length × window": attention.heatmap,
        "times the least, by prompt length": attention.attention_ratio,
        "tokens/s, by prompt length": attention.throughput,
        "useful TFLOP/s, by prompt length": lambda table: attention.throughput(table, "useful_tflops"),
        "useful, executed and dense work": attention.flops,
        "measured against predicted": predicted.measured_vs_predicted,
    },
    {"published: ExecuTorch PR 20198, prefill of the whole model": frames.published_prefill},
    without=varlen.NAMES,
)  # fmt: skip
