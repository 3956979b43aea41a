"""Compiles the fused kernel for GPUs that are not there and prints what came out as JSON.

Usage: compile_fused.py CAPABILITY..., such as 9.0
"""

import re

import torch
from anatomies import print_rows
from blockskip.linear import launch
from blockskip.linear.plan import fused_config
from compile_linear import N, weight
from skiplab.anatomy import compiling_for, read

# (K, group_size, bits, rows, metadata)
CASES = [(5376, 32, 4, rows, "zero") for rows in (16, 32, 64, 128)]
CASES += [(8192, 128, 4, 64, "symmetric"), (5376, 32, 4, 128, "encoded")]
CASES += [(5376, 64, 8, rows, "zero") for rows in (64, 128)]
CASES += [(5376, 16, 8, rows, "symmetric of 16") for rows in (16, 64)]


def compiled(capability, k, group_size, bits, rows, metadata):
    w = weight(k, group_size, bits, metadata)
    config = fused_config(rows, w)
    x, out = torch.zeros((rows, k), dtype=torch.bfloat16), torch.zeros((1, rows, N), dtype=torch.bfloat16)
    one = launch.prepare_fused(x, w, None, out, config)
    with compiling_for(capability):
        options = {"num_warps": config.num_warps, "num_stages": config.num_stages}
        kernel = launch.fused.warmup(*one.arguments, **one.constants, **options, grid=one.grid)
    return read(kernel, capability)


def rows_of(capability):
    for case in CASES:
        anatomy = compiled(capability, *case)
        products = sum(anatomy.instructions[name] for name in ("HMMA", "HGMMA"))
        row = {
            "case": case,
            "registers": anatomy.registers,
            "spill_bytes": anatomy.spill_bytes,
            "products": products,
            "byte_loads": len(re.findall(r"\bLDG\.E\.[US]8\b", anatomy.sass)),
            "conversions": anatomy.instructions["I2F"] + anatomy.instructions["I2FP"],
        }
        yield row


if __name__ == "__main__":
    print_rows(rows_of)
