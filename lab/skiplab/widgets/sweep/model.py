"""The panel's form for whole models."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

from skiplab.figures import model, predicted
from skiplab.model import model_names
from skiplab.store import frame, published, recorded_llama_bench
from skiplab.sweep import ModelSweep
from skiplab.widgets.sweep.settings import Field, PanelForm, choice, listed, numbers, one
from skiplab.workload import DTYPES, ModelWorkload


def _sweep(names: tuple[str, ...], values: Mapping[str, Any], device: str, budget_s: float) -> ModelSweep:
    return ModelSweep(names, device=device, budget_s=budget_s, **values)


FORM = PanelForm(
    "model", "whole model", ("blockskip", "sdpa", "tinygemm"),
    (
        choice("model", "Model", "laptop", model_names()),
        Field("prompt", "Prompt lengths", (256, 512), numbers, listed, "tokens", "tokens, commas between"),
        Field("depth", "Depths", (0, 2048), partial(numbers, least=0), listed, "tokens before", "commas between"),
        Field("rows", "Tokens a step", (1,), numbers, listed, "1 to 16", "tokens a step, commas between"),
        Field("new", "Steps timed", 16, one, str, "at each depth"),
        Field("bits", "Bits", 4, one, str, "4 or 8", "bits of a code, of weights that are quantised"),
        choice("dtype", "Number format", "bfloat16", DTYPES),
    ),
    ModelWorkload("prefill", 256), _sweep, lambda point: point.size,
    {
        "prompt tokens/s, by prompt length": model.prefill,
        "tokens/s of steps, by depth": model.decode,
        "where the time of a call goes": model.fullest,
        "measured against predicted": predicted.measured_vs_predicted,
    },
    {
        "published: ExecuTorch PR 20571, Gemma 4 31B": lambda: published("model"),
        "recorded: llama.cpp on an H200, Gemma 4 31B": lambda: frame(recorded_llama_bench()),
    },
)  # fmt: skip
