"""Compiles the kernels between products for GPUs that are not there and prints what came out as JSON.

Usage: compile_pointwise.py CAPABILITY..., such as 9.0
"""

import re

import torch
from anatomies import print_rows
from blockskip.pointwise import launch
from blockskip.pointwise.call import HeadLayout, HeadNorms, Rotation, Targets
from skiplab.anatomy import compiling_for, read

ROWS = (1, 64)


def zeros(*shape, dtype=torch.bfloat16):
    return torch.zeros(shape, dtype=dtype)


def norm(rows, overlap, columns=5376):
    x, weight = zeros(rows, columns), zeros(columns)
    return launch.prepare_norm(
        (x, x, zeros(rows, columns), zeros(rows, columns), weight, weight, zeros(1), 1e-6), overlap
    )


def heads(rows, overlap):
    layout = HeadLayout(32, 16, 256)
    cache, turn = zeros(1, layout.kv, 128, layout.dim), zeros(1, rows, 1, layout.dim // 2, dtype=torch.float32)
    slots = zeros(1, rows, dtype=torch.int64)
    norms = HeadNorms(zeros(layout.dim), zeros(layout.dim), value=True)
    q = zeros(1, layout.query, rows, layout.dim)
    targets = Targets(cache, cache, slots)
    return launch.prepare_heads(zeros(1, rows, layout.width), q, layout, Rotation(turn, turn), norms, targets, overlap)


def gate(rows, overlap, width=21504):
    return launch.prepare_gate(zeros(rows, 2 * width), zeros(rows, width), "gelu_tanh", overlap)


def rows_of(capability):
    overlap = capability >= (9, 0)
    for make in (norm, heads, gate):
        for rows in ROWS:
            kernel, one, options = make(rows, overlap)
            with compiling_for(capability):
                compiled = kernel.warmup(*one.arguments, **one.constants, **options, grid=one.grid)
            anatomy = read(compiled, capability)
            row = {
                "case": (make.__name__, rows),
                "registers": anatomy.registers,
                "spill_bytes": anatomy.spill_bytes,
                "wide_loads": len(re.findall(r"\bLDG\.E\.(?:128|64)\b", anatomy.sass)),
                "narrow_loads": len(re.findall(r"\bLDG\.E\.[US](?:8|16)\b", anatomy.sass)),
                "waits": compiled.asm["ptx"].count("griddepcontrol.wait"),
            }
            yield row


if __name__ == "__main__":
    print_rows(rows_of)
