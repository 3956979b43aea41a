"""The panel's form for quantised linear layers."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from skiplab.figures import decode, linear, predicted
from skiplab.sweep import LinearSweep, interleaved
from skiplab.widgets.sweep.settings import (
    GENERATION,
    Field,
    PanelForm,
    choice,
    listed,
    numbers,
)
from skiplab.workload import DTYPES, LINEARS, LinearWorkload

LAYERS_ALLOWED = f"outputs x inputs, or {'; '.join(LINEARS)}; semicolons between"


def _sweep(names: tuple[str, ...], values: Mapping[str, Any], device: str, budget_s: float) -> LinearSweep:
    return LinearSweep(
        names, shape=values["shape"], rows=values["rows"], bits=values["bits"], group_size=values["group_size"],
        dtype=values["dtype"], device=device, budget_s=budget_s, interleave=interleaved(None, device),
    )  # fmt: skip


def layers(name: str, text: str) -> tuple[tuple[int, int], ...]:
    """`query; 4096x2048` as (outputs, inputs): names of `LINEARS` or numbers, semicolons between."""
    shapes = []
    for word in (word.strip() for word in text.split(";")):
        sizes = word.replace("×", "x").split("x")
        if word in LINEARS:
            shapes.append(LINEARS[word])
        elif len(sizes) == 2 and all(size.strip().isdecimal() and int(size) > 0 for size in sizes):
            shapes.append((int(sizes[0]), int(sizes[1])))
        elif word:
            raise ValueError(f"{name}: got {word!r}; allowed are {LAYERS_ALLOWED}")
    if not shapes:
        raise ValueError(f"{name}: got nothing; allowed are {LAYERS_ALLOWED}")
    return tuple(dict.fromkeys(shapes))


def _layers_shown(shapes: Iterable[tuple[int, int] | str]) -> str:
    names = {tuple(shape): name for name, shape in LINEARS.items()}
    return "; ".join(
        shape if isinstance(shape, str) else names.get(tuple(shape), f"{shape[0]}x{shape[1]}") for shape in shapes
    )


FORM = PanelForm(
    "linear", "quantised linear layer", ("blockskip", "bf16", "dequantize"),
    (
        Field("shape", "Layers", ("laptop", "query"), layers, _layers_shown, "outputs x inputs",
              LAYERS_ALLOWED),
        Field("rows", "Rows", (1,), numbers, listed, "tokens", "rows of activations, commas between"),
        Field("bits", "Bits", (4,), numbers, listed, "4 or 8", "bits of a code, commas between"),
        Field("group_size", "Group sizes", (32,), numbers, listed, "32, 64, 128", "weights that share a scale"),
        choice("dtype", "Number format", "bfloat16", DTYPES),
    ),
    LinearWorkload(2048, 2048), _sweep,
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
