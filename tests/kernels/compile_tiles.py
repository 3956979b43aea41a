"""Compiles the product of a weight in tiles for a GPU that is not there and prints what came out, a JSON line each.

A process of its own, because kernels that were imported for the interpreter cannot be compiled.
"""

import json

import torch
from blockskip.launching.dispatch import as_launched
from blockskip.linear.hopper import launch
from blockskip.linear.hopper.plan import choose_config
from skiplab.anatomy import _pretend, read

# (rows, out_features, in_features, group_size, symmetric, dtype)
CASES = [(rows, 5376, 8192, 32, False, "bfloat16") for rows in (8, 16, 32)]
CASES += [(rows, 43008, 5376, 32, False, "bfloat16") for rows in (8, 64, 128)]
CASES += [(16, 43008, 5376, 128, True, "bfloat16"), (32, 43008, 5376, 64, False, "float16")]


def compiled(rows, n, k, group_size, symmetric, dtype):
    config, dtype = choose_config(rows, n, k, 132), getattr(torch, dtype)
    x, out = torch.zeros((rows, k), dtype=dtype), torch.zeros((rows, n), dtype=dtype)
    data = torch.zeros((n // 64, k // 256, 64, 128), dtype=torch.uint8)
    scale = torch.zeros((n // 64, k // 256, 64, 256 // group_size), dtype=torch.bfloat16)
    shares = torch.zeros(1) if launch._has_shares(n, config) else None
    zero = None if symmetric else scale
    made = launch.prepare_product(x, data, scale, zero, out[0], out, shares, config, group_size)
    launches = [(launch.product, made)]
    if shares is not None:
        launches.append((launch.combine, launch.prepare_combine(k, out[0], out, shares, config, True)))
    with _pretend((9, 0)):
        for kernel, one in launches:
            arguments = map(as_launched, one.arguments)
            yield kernel.warmup(*arguments, **one.constants, num_warps=4, launch_pdl=True, grid=one.grid), config


def main():
    for case in CASES:
        for kernel, config in compiled(*case):
            anatomy = read(kernel, (9, 0))
            row = {
                "case": case,
                "kernel": kernel.metadata.name,
                "groups": config.row_groups * config.k_groups,
                "block_k": config.block_k,
                "spill_bytes": anatomy.spill_bytes,
                "shared_bytes": anatomy.shared_bytes,
                "instructions": anatomy.instructions,
                "waits": anatomy.sass.count("WARPGROUP.DEPBAR"),
                "matrix_loads": anatomy.sass.count("LDSM.16.M88.4"),
            }
            print(json.dumps(row), flush=True)


if __name__ == "__main__":
    main()
