"""Compiles the prefill kernel for GPUs that are not there and prints what came out, a JSON line each.

A process of its own, because kernels that were imported for the interpreter cannot be compiled.
Usage: compile_all.py CAPABILITY, such as 9.0
"""

import json
import sys

import blockskip as bs
import torch
from skiplab.anatomy import attention_anatomy

WORDS = bs.sliding_window(1024) | (bs.sink(4) & bs.causal())
CASES = [(d, skip, "bfloat16", "window") for d in (64, 128, 256, 512) for skip in ("none", "mask", "bounds", "map")]
CASES += [(d, "map", "bfloat16", "words") for d in (64, 128, 256, 512)]
CASES += [(128, skip, "float32", "window") for skip in ("none", "bounds")]


def main(capability):
    for head_dim, skip, dtype, kind in CASES:
        mask = WORDS if kind == "words" else bs.sliding_window(1024)
        one = attention_anatomy(capability, head_dim=head_dim, skip=skip, dtype=getattr(torch, dtype), mask=mask)
        row = {
            "case": [head_dim, skip, dtype, kind],
            "registers": one.registers,
            "spill_bytes": one.spill_bytes,
            "shared_bytes": one.shared_bytes,
            "wgmma": one.wgmma,
            "row_layouts": one.row_layouts,
            "ffma": one.instructions["FFMA"],
            "mufu": one.instructions["MUFU"],
        }
        print(json.dumps(row), flush=True)


if __name__ == "__main__":
    main(tuple(map(int, sys.argv[1].split("."))))
