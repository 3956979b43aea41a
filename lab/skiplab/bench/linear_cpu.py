"""Time int4 layers on this CPU beside float layers of the same shape, and write the table.

Each call is timed in turn with the others, and all points take turns too. Speeds stand beside the errors of the same
calls: against the reference in float64, which rounds activations where `linear` does.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence

import blockskip as bs
import torch
import torch.nn.functional as F

from skiplab.bench.cpu import OVER, CpuBenchmark, over
from skiplab.bench.record import Listed, least_and_median, options

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


def row(point: dict) -> list[str]:
    samples, errors = point["samples_ns"], point["errors"]
    cells = [point["dtype"], f"{point['out_features']} x {point['in_features']}", point["rows"]]
    cells += [point["activations"], point["impl"]]
    cells += [least_and_median(samples[name]) for name in (OURS, TILED, LAYER)]
    return cells + over(samples, OURS, (TILED, LAYER)) + [f"{errors[name]:.1e}" for name in (OURS, TILED)]


def main(arguments: Sequence[str]) -> None:
    parser = options("linear_cpu", __doc__)
    parser.add_argument("--shapes", action=Listed, default=list(SHAPES), help="outputs x inputs, such as 4096x4096")
    parser.add_argument("--rows", type=int, action=Listed, default=[1, 2, 4, 8, 16, 64])
    parser.add_argument("--dtypes", action=Listed, choices=DTYPES, default=list(DTYPES))
    parser.add_argument("--repeats", type=int, default=60)
    run = CpuBenchmark.begin(parser, arguments, "numba")
    chosen = run.chosen
    with torch.inference_mode():
        prepared = [prepare(shape, n, name) for name in chosen.dtypes for shape in chosen.shapes for n in chosen.rows]
        points = run.timed(prepared, chosen.repeats)
    head = ["dtype", "N x K", "rows", "activations", "impl", "ours ms", "tiled ms", "float layer ms", "over tiled"]
    head += ["over the layer", "error", "tiled's"]
    notes = [
        f"int4, groups of 32, asymmetric; numba {run.where['numba']}. {run.in_turn(f'{chosen.repeats} times')} float "
        "layer: torch's, its weight in the activations' dtype.",
        OVER,
        "error: largest, against the reference in float64 of the same activations, rounded to int8 where `activations` "
        "says so.",
    ]
    run.write("linear_cpu", "int4 layers on a CPU", head, map(row, points), notes, {"points": points})
