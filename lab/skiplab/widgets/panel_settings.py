"""What the sweep panel asks for each operation: fields, contenders, figures, and what can be laid over them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from itertools import product
from typing import Any

import pandas as pd

from skiplab.figures import attention, decode, frames, linear, predicted
from skiplab.figures.model import Chart
from skiplab.machine import Machine
from skiplab.store import published
from skiplab.sweep import DEFAULT_CONTENDERS, DecodeSweep, LinearSweep, Sweep
from skiplab.workload import DTYPES, LINEARS, MODELS, DecodeWorkload, LinearWorkload, Workload

View = Callable[[pd.DataFrame], Chart]
AnySweep = Sweep | DecodeSweep | LinearSweep
LAYERS_ALLOWED = f"outputs x inputs, or {'; '.join(LINEARS)}; semicolons between"


@dataclass(frozen=True)
class Field:
    """A setting of the panel: a text that `read(label, text)` understands, or one of `options` where there are some.

    `start` is the first value; `show(value)` is a value as the field's text.
    """

    name: str
    label: str
    start: Any
    read: Callable[[str, str], Any]
    show: Callable[[Any], str]
    unit: str = ""
    tooltip: str = ""
    options: tuple[str, ...] = ()


@dataclass(frozen=True)
class Form:
    """One operation in the panel.

    sweep(contenders, values, device, budget_s) makes the sweep; `values` holds what each field reads. predicted(values,
    machine) is the frame of what that machine's roofs allow there. point(workload) names a point in the status line.
    """

    operation: str
    label: str
    contenders: tuple[str, ...]
    fields: tuple[Field, ...]
    probe: Any
    sweep: Callable[[tuple[str, ...], Mapping[str, Any], str, float], AnySweep]
    predicted: Callable[[Mapping[str, Any], Machine], pd.DataFrame]
    point: Callable[[Any], str]
    views: Mapping[str, View]
    published: Mapping[str, Callable[[], pd.DataFrame]]


def numbers(name: str, text: str) -> tuple[int, ...]:
    """`512, 1024` as numbers of at least 1, each once; ValueError names the field and the word."""
    words = [word for word in text.replace(",", " ").split() if word]
    wrong = [word for word in words if not word.isdecimal() or int(word) < 1]
    if wrong or not words:
        given = f"got {wrong[0]!r}" if wrong else "got nothing"
        raise ValueError(f"{name}: {given}; allowed are whole numbers of at least 1, commas between")
    return tuple(dict.fromkeys(int(word) for word in words))


def windows(name: str, text: str) -> tuple[int | None, ...]:
    """As `numbers`, and the words `causal`, `all` and `none` for no window (None)."""
    words = [word for word in text.replace(",", " ").split() if word]
    found: list[int | None] = []
    for word in words:
        found.append(None if word in ("causal", "all", "none") else numbers(name, word)[0])
    if not found:
        raise ValueError(f"{name}: got nothing; allowed are whole numbers of at least 1, or causal")
    return tuple(dict.fromkeys(found))


def slots(name: str, text: str) -> int | None:
    """One number, or nothing (None) for a cache as long as its keys."""
    if not text.strip():
        return None
    first, *others = numbers(name, text)
    if others:
        raise ValueError(f"{name}: got {text.strip()!r}; allowed is one whole number, or nothing")
    return first


def layers(name: str, text: str) -> tuple[tuple[int, int], ...]:
    """`query; 4096x2048` as (outputs, inputs): names of `LINEARS` or numbers, semicolons between."""
    found = []
    for word in (word.strip() for word in text.split(";")):
        sizes = word.replace("×", "x").split("x")
        if word in LINEARS:
            found.append(LINEARS[word])
        elif len(sizes) == 2 and all(size.strip().isdecimal() and int(size) > 0 for size in sizes):
            found.append((int(sizes[0]), int(sizes[1])))
        elif word:
            raise ValueError(f"{name}: got {word!r}; allowed are {LAYERS_ALLOWED}")
    if not found:
        raise ValueError(f"{name}: got nothing; allowed are {LAYERS_ALLOWED}")
    return tuple(dict.fromkeys(found))


def _listed(values: Iterable[Any]) -> str:
    return ", ".join(map(str, values))


def _windows_shown(word: str) -> Callable[[Iterable[int | None]], str]:
    return lambda values: _listed(word if value is None else value for value in values)


def _layers_shown(shapes: Iterable[tuple[int, int] | str]) -> str:
    names = {tuple(shape): name for name, shape in LINEARS.items()}
    return "; ".join(
        shape if isinstance(shape, str) else names.get(tuple(shape), f"{shape[0]}x{shape[1]}") for shape in shapes
    )


def _chosen(name: str, text: str) -> str:
    return text


def _choice(name: str, label: str, start: str, options: Iterable[str]) -> Field:
    return Field(name, label, start, _chosen, str, options=tuple(options))


def _heads(values: Mapping[str, Any]) -> dict[str, Any]:
    shape = MODELS[values["model"]]
    return {"q_heads": shape.q_heads, "kv_heads": shape.kv_heads, "head_dim": shape.head_dim, "dtype": values["dtype"]}


def _attention_sweep(names: tuple[str, ...], values: Mapping[str, Any], device: str, budget_s: float) -> Sweep:
    return Sweep(names, values["q_len"], values["window"], device=device, budget_s=budget_s, **_heads(values))


def _attention_predicted(values: Mapping[str, Any], machine: Machine) -> pd.DataFrame:
    sweep = _attention_sweep(("blockskip",), values, "cpu", 1.0)
    workloads = [sweep.workload(length, window) for length, window in product(values["q_len"], values["window"])]
    return frames.predictions(workloads, machine)


def _decode_sweep(names: tuple[str, ...], values: Mapping[str, Any], device: str, budget_s: float) -> DecodeSweep:
    return DecodeSweep(
        names, kv_len=values["kv_len"], window=values["window"], buffer=values["buffer"], device=device,
        budget_s=budget_s, **_heads(values),
    )  # fmt: skip


def _decode_predicted(values: Mapping[str, Any], machine: Machine) -> pd.DataFrame:
    return frames.predicted_decode(
        values["kv_len"], values["window"], machine=machine, buffer=values["buffer"], **_heads(values)
    )


def _linear_sweep(names: tuple[str, ...], values: Mapping[str, Any], device: str, budget_s: float) -> LinearSweep:
    return LinearSweep(
        names, shape=values["shape"], rows=values["rows"], bits=values["bits"], group_size=values["group_size"],
        dtype=values["dtype"], device=device, budget_s=budget_s,
    )  # fmt: skip


def _linear_predicted(values: Mapping[str, Any], machine: Machine) -> pd.DataFrame:
    parts = [
        frames.predicted_linear(
            values["shape"], values["rows"], machine=machine, bits=bits, group_size=size, dtype=values["dtype"]
        )
        for bits in values["bits"]
        for size in values["group_size"]
    ]
    return pd.concat(parts, ignore_index=True)


GENERATION = {"published: ExecuTorch PR 20198, tokens/s of the whole model": lambda: published("generate")}

ATTENTION = Form(
    "attention", "attention of a prompt", DEFAULT_CONTENDERS,
    (
        Field("q_len", "Prompt lengths", (512, 1024, 2048, 4096), numbers, _listed, "tokens", "tokens, commas between"),
        Field("window", "Windows", (256, 512, 1024, None), windows, _windows_shown("causal"), "keys, or causal",
              "keys, commas between; causal for no window"),
        _choice("model", "Head shape", "laptop", MODELS),
        _choice("dtype", "Number format", "bfloat16", DTYPES),
    ),
    Workload(64), _attention_sweep, _attention_predicted, lambda point: f"{point.q_len:,} tokens",
    {
        "speed-up over dense + mask, by prompt length": attention.speedup,
        "speed-up over dense + mask, by window": lambda table: attention.speedup(table, x="window"),
        "speed-up, prompt length × window": attention.heatmap,
        "tokens/s, by prompt length": attention.throughput,
        "useful TFLOP/s, by prompt length": lambda table: attention.throughput(table, "useful_tflops"),
        "useful, executed and dense work": attention.flops,
        "measured against predicted": predicted.measured_vs_predicted,
    },
    {"published: ExecuTorch PR 20198, prefill of the whole model": frames.published_prefill},
)  # fmt: skip

DECODE = Form(
    "decode", "decode over a cache", ("blockskip", "blockskip-one", "sdpa"),
    (
        Field("kv_len", "Cache lengths", (512, 2048, 8192, 16384), numbers, _listed, "keys", "keys, commas between"),
        Field("window", "Windows", (1024, None), windows, _windows_shown("all"), "keys, or all",
              "keys, commas between; all for no window"),
        Field("buffer", "Buffer", None, slots, lambda value: "" if value is None else str(value),
              "slots, or empty", "slots of the cache, one number; empty for as many as keys"),
        _choice("model", "Head shape", "laptop", MODELS),
        _choice("dtype", "Number format", "bfloat16", DTYPES),
    ),
    DecodeWorkload(64), _decode_sweep, _decode_predicted, lambda point: f"{point.kv_len:,} keys",
    {
        "time, by cache length": decode.decode_time,
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
)  # fmt: skip

LINEAR = Form(
    "linear", "quantised linear layer", ("blockskip", "bf16", "dequantise"),
    (
        Field("shape", "Layers", ("laptop", "query"), layers, _layers_shown, "outputs x inputs",
              LAYERS_ALLOWED),
        Field("rows", "Rows", (1,), numbers, _listed, "tokens", "rows of activations, commas between"),
        Field("bits", "Bits", (4,), numbers, _listed, "4 or 8", "bits of a code, commas between"),
        Field("group_size", "Group sizes", (32,), numbers, _listed, "32, 64, 128", "weights that share a scale"),
        _choice("dtype", "Number format", "bfloat16", DTYPES),
    ),
    LinearWorkload(2048, 2048), _linear_sweep, _linear_predicted,
    lambda point: f"{point.out_features} × {point.in_features}, {point.rows} row{'s' * (point.rows > 1)}",
    {
        "time, by layer": linear.linear_time,
        "bandwidth, by layer": linear.linear_bandwidth,
        "time, by rows": linear.linear_rows,
        "measured against predicted": predicted.measured_vs_predicted,
        "published tokens/s of a whole model": decode.generation,
    },
    GENERATION,
)  # fmt: skip

FORMS = {form.operation: form for form in (ATTENTION, DECODE, LINEAR)}
