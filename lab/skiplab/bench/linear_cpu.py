"""Time int4 layers on this CPU beside float layers of the same shape, and write the table.

Each call is timed in turn with the others, and all points take turns too. Speeds stand beside the errors of the same
calls: against the reference in float64, which rounds activations where `linear` does.
"""

from __future__ import annotations

import functools
import importlib.metadata
from collections.abc import Sequence
from pathlib import Path

import blockskip as bs
import torch
import torch.nn.functional as F

from skiplab.bench.record import (
    FOLDER,
    Listed,
    add_clock_options,
    interleaved,
    least_and_median,
    machine,
    options,
    paired_ratio,
    set_clock,
    table,
    write,
)

DTYPES = {"bf16": torch.bfloat16, "fp32": torch.float32}
SHAPES = ("1024x1024", "4096x4096", "6144x768")
OURS, TILED, LAYER = "blockskip", "blockskip tiled", "float layer"


def prepare(shape: str, rows: int, name: str) -> tuple[dict, dict]:
    """The point's record without its samples, and the calls to time."""
    outputs, inputs = map(int, shape.split("x"))
    generator = torch.Generator().manual_seed(rows)
    weight, x = (
        torch.randn(size, generator=generator, dtype=torch.float32, device="cpu").to(DTYPES[name])
        for size in ((outputs, inputs), (rows, inputs))
    )
    w = bs.quantize(weight)
    calls = {
        OURS: functools.partial(bs.linear, x, w),
        TILED: functools.partial(bs.linear, x, w, impl="tiled"),
        LAYER: functools.partial(F.linear, x, weight),
    }
    plan = bs.explain_linear(x, w)
    truth = bs.linear(x.double(), w, impl="reference", activations=plan.activations)
    errors = {one: (calls[one]().double() - truth).abs().max().item() for one in (OURS, TILED)}
    point = {"out_features": outputs, "in_features": inputs, "rows": rows, "dtype": name, "impl": plan.impl}
    return point | {"activations": plan.activations, "errors": errors}, calls


def measure(shapes: Sequence[str], rows: Sequence[int], dtypes: Sequence[str], repeats: int, clock) -> list[dict]:
    """Time all points in every repeat, so that a busy spell of the machine affects all of them alike."""
    prepared = [prepare(shape, count, dtype) for dtype in dtypes for shape in shapes for count in rows]
    calls = {(i, name): call for i, (_, some) in enumerate(prepared) for name, call in some.items()}
    samples = interleaved(calls, repeats, clock)
    return [
        point | {"samples_ns": {name: samples[i, name] for name in some}} for i, (point, some) in enumerate(prepared)
    ]


def row(point: dict) -> list[str]:
    samples, errors = point["samples_ns"], point["errors"]
    best = {name: min(times) for name, times in samples.items()}
    cells = [point["dtype"], f"{point['out_features']} x {point['in_features']}", point["rows"]]
    cells += [point["activations"], point["impl"]]
    cells += [least_and_median(samples[name]) for name in (OURS, TILED, LAYER)]
    cells += [
        f"{best[other] / best[OURS]:.2f} / {paired_ratio(samples[other], samples[OURS]):.2f}"
        for other in (TILED, LAYER)
    ]
    return cells + [f"{errors[name]:.1e}" for name in (OURS, TILED)]


def main(arguments: Sequence[str]) -> None:
    parser = options("linear_cpu", __doc__)
    parser.add_argument("--shapes", action=Listed, default=list(SHAPES), help="outputs x inputs, such as 4096x4096")
    parser.add_argument("--rows", type=int, action=Listed, default=[1, 2, 4, 8, 16, 64])
    parser.add_argument("--dtypes", action=Listed, choices=DTYPES, default=list(DTYPES))
    parser.add_argument("--repeats", type=int, default=60)
    add_clock_options(parser)
    parser.add_argument("--out", type=Path, default=FOLDER)
    chosen = parser.parse_args(arguments)
    clock, clock_name, ending = set_clock(chosen)
    where = machine() | {"numba": importlib.metadata.version("numba")}
    with torch.inference_mode():
        points = measure(chosen.shapes, chosen.rows, chosen.dtypes, chosen.repeats, clock)
    head = ["dtype", "N x K", "rows", "activations", "impl", "ours ms", "tiled ms", "float layer ms", "over tiled"]
    head += ["over the layer", "error", "tiled's"]
    notes = [
        f"int4, groups of 32, asymmetric; numba {where['numba']}. Each call timed in turn with the others, "
        f"{chosen.repeats} times, by {clock_name}: least / median ms; where the median is far off, the machine was "
        "busy with other work. float layer: torch's, its weight in the activations' dtype.",
        "over: their least time over ours / median of the ratios within one repeat.",
        "error: largest, against the reference in float64 of the same activations, rounded to int8 where `activations` "
        "says so.",
    ]
    parts = [table(head, [row(point) for point in points])]
    write(f"linear_cpu{ending}", "int4 layers on a CPU", notes, parts, {"machine": where, "points": points}, chosen.out)
