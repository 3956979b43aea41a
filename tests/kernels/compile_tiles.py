"""Compiles the product of a weight in tiles for GPUs that are not there and prints what came out as JSON.

Usage: compile_tiles.py 9.0
"""

import re
from functools import partial

import torch
from anatomies import print_rows
from blockskip.launching.dispatch import as_launched
from blockskip.linear.hopper import launch
from blockskip.linear.hopper.plan import choose_config
from skiplab.anatomy import compiling_for, read

# (rows, out_features, in_features, group_size, symmetric, dtype)
CASES = [(rows, 5376, 8192, 32, False, "bfloat16") for rows in (8, 16, 32)]
CASES += [(rows, 43008, 5376, 32, False, "bfloat16") for rows in (8, 64, 128, 256)]
CASES += [(300, 5376, 8192, 32, False, "bfloat16"), (512, 43008, 5376, 32, False, "bfloat16")]  # several blocks
CASES += [(8, 43008, 5376, 128, True, "bfloat16"), (32, 43008, 5376, 64, False, "float16")]


def compiled(capability, rows, n, k, group_size, symmetric, dtype):
    config, dtype = choose_config(rows, n, k, 132), getattr(torch, dtype)
    x, out = torch.zeros((rows, k), dtype=dtype), torch.zeros((rows, n), dtype=dtype)
    data = torch.zeros((n // 64, k // 256, 64, 32), dtype=torch.int32)
    scale = torch.zeros((n // 64, k // 256, 64, 256 // group_size), dtype=torch.bfloat16)
    needed = [None if one is None else torch.zeros(1, dtype=one[1]) for one in launch._memory(out, n, config)]
    zero = None if symmetric else scale
    one = launch.prepare_product(x, data, scale, zero, out[0], out, needed[1:], config, group_size)
    with compiling_for(capability):
        arguments = map(as_launched, one.arguments)
        return launch.product.warmup(*arguments, **one.constants, num_warps=4, launch_pdl=True, grid=one.grid), config


def innermost(sass):
    """The instructions of the loops that multiply and hold no other loop that does."""
    lines = [(int(a, 16), text) for a, text in re.findall(r"/\*([0-9a-f]{4,})\*/\s+(.*?);", sass)]
    places = {address: i for i, (address, _) in enumerate(lines)}
    loops = []
    for i, (address, text) in enumerate(lines):
        target = re.match(r"@!?U?P\d+ BRA.* 0x([0-9a-f]+)", text)  # who waited goes back by a plain branch
        begin = places.get(int(target[1], 16)) if target and int(target[1], 16) < address else None
        if begin is not None and any("MMA." in text for _, text in lines[begin:i]):
            loops.append((begin, i))
    inner = [a for a in loops if not any(b != a and a[0] <= b[0] and b[1] <= a[1] for b in loops)]
    return [text for begin, end in inner for _, text in lines[begin:end]]


def behind_waits(loops):
    """How many codes are scaled between a wait for a product and the next product."""
    waited, count = False, 0
    for text in loops:
        waited = (waited or "WARPGROUP.DEPBAR" in text) and "HGMMA" not in text
        count += waited and "HMUL2" in text
    return count


def row_of(case, config, anatomy):
    loops = innermost(anatomy.sass)
    return {
        "case": case,
        "groups": config.row_groups,
        "block_m": config.block_m,
        "block_k": config.block_k,
        "spill_bytes": anatomy.spill_bytes,
        "spilled_in_loops": sum("LDL" in text or "STL" in text for text in loops),
        "moved_in_loops": sum("R2UR" in text for text in loops),
        "scaled_behind_waits": behind_waits(loops),
        "loop_instructions": len(loops) // config.row_groups,
        "shared_bytes": anatomy.shared_bytes,
        "instructions": anatomy.instructions,
        "waits": anatomy.sass.count("WARPGROUP.DEPBAR"),
        "narrow_stores": anatomy.sass.count("STG.E.U16"),
        "wide_sums": min(anatomy.sass.count("LDG.E.128"), anatomy.sass.count("STG.E.128")),
        "matrix_loads": anatomy.sass.count("LDSM.16.M88.4"),
    }


def compile_all(capability):
    for case in CASES:
        kernel, config = compiled(capability, *case)
        yield partial(row_of, case, config), read(kernel, capability)


if __name__ == "__main__":
    print_rows(compile_all)
