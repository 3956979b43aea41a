"""Compiles the decode kernels for GPUs that are not there and prints what came out as JSON.

Usage: compile_decode.py CAPABILITY..., such as 9.0
"""

import re
from dataclasses import replace
from functools import partial

import blockskip as bs
import torch
from anatomies import print_rows
from blockskip.attention.call import DecodeCall
from blockskip.attention.decode import launch as decode_launch
from blockskip.attention.decode.plan import plan_decode_kernel
from skiplab.anatomy.launches import prepared_anatomy

# (head dim, rows of a KV head, dtype): 2 rows are one tile of 16, 64 rows the most that a program holds, or more
CASES = [(d, rows, "bfloat16") for d in (64, 128, 256, 512) for rows in (2, 64)]
CASES += [(d, 512, "bfloat16") for d in (64, 128, 256, 512)]
CASES += [(d, 2, "float32") for d in (128, 256, 512)] + [(96, 48, "float16")]
RINGS = [(d, 2, "bfloat16") for d in (128, 256, 512)]
CAPPED = [(64, 64, "bfloat16"), (128, 2, "bfloat16"), (128, 512, "bfloat16")]
"""With sinks and a soft cap."""
STARTED = [(128, 2, "bfloat16"), (512, 2, "bfloat16"), (512, 512, "bfloat16")]
"""With keys that begin at a slot of each batch's own."""
FLOAT8 = [(d, rows, "bfloat16") for d in (64, 128, 256, 512) for rows in (2, 64)] + [(96, 48, "float16")]
"""With keys and values in 8 bits, and scales."""
RAGGED = [(d, rows, "bfloat16") for d in (64, 128, 256, 512) for rows in (2, 64)]
"""Where programs share the work of a batch."""
KNOWN = [(d, 512, "bfloat16") for d in (64, 96, 128, 256, 512)]
"""Where the host knows how many keys there are."""
BITS = [(d, rows, "bfloat16") for d in (128, 512) for rows in (2, 64, 512)]
"""With a mask's bits."""
MERGES = [(96, 48, torch.float16), (512, 2, torch.bfloat16)]


def decode_anatomies(
    capability, head_dim, rows, dtype, length=4096, window=1024, ring=False, capped=False, started=False, float8=False,
    ragged=False, bits=False, known=False,
):  # fmt: skip
    """(name, anatomy) of the split kernel and the merge, as `decode` would launch them: 4 KV heads of `rows` rows."""
    q_len = min(8, rows // 2)
    group, batch = rows // q_len, 6 if ragged else 1
    q, out = (torch.empty((batch, 4 * group, q_len, head_dim), dtype=dtype) for _ in range(2))
    size, of_keys = (batch, 4, length, head_dim), torch.float8_e4m3fn if float8 else dtype
    k, v = (torch.empty(size, dtype=of_keys) for _ in range(2))
    lengths = torch.empty(batch, dtype=torch.int32)
    scores = (torch.empty(4 * group, dtype=dtype), 50.0) if capped else ()
    call = DecodeCall(q, k, v, head_dim**-0.5, length, lengths, window, None, "triton", True, ring, *scores)
    call = replace(call, starts=lengths if started else None)
    if float8:
        call = replace(call, k_scale=torch.empty(4), v_scale=torch.empty(4))
    if bits:
        words = torch.empty((1, 1, q_len, length // 64), dtype=torch.int64)
        call = replace(call, window=None, visible=bs.dense(torch.ones((q_len, length), dtype=torch.bool)), bits=words)
    if known:
        call = replace(call, lengths=None)
    plan = plan_decode_kernel(call, capability, 132)
    if ragged and not plan.ragged:
        return  # on this device the rows are in several blocks
    lse = torch.empty(q.shape[:3])
    parts = decode_launch.allocate_parts(call, plan)
    overlap = capability >= (9, 0)
    kernel, launch, options = decode_launch.prepare(call, plan, (q, k, v, out), lse, parts, overlap)
    if ragged:
        yield "decode", prepared_anatomy(capability, kernel, launch, **options)
        options = decode_launch.REDUCE_OPTIONS | ({"launch_pdl": True} if overlap else {})
        launch = decode_launch.prepare_reduce_ragged(plan, launch, overlap)
        yield "reduce", prepared_anatomy(capability, decode_launch.reduce_ragged, launch, **options)
        return
    name = "warp-specialized" if plan.config.warp_specialized else "fused" if plan.fused else "decode"
    yield name, prepared_anatomy(capability, kernel, launch, **options)
    if (head_dim, rows, dtype) in MERGES:
        launch = decode_launch.prepare_reduce(out, lse, parts, overlap)
        options = decode_launch.REDUCE_OPTIONS | ({"launch_pdl": True} if overlap else {})
        yield "reduce", prepared_anatomy(capability, decode_launch.reduce_kernel, launch, **options)


def row_of(case, one):
    return {
        "case": case,
        "registers": one.registers,
        "spill_bytes": one.spill_bytes,
        "shared_bytes": one.shared_bytes,
        "tensor_cores": one.instructions["HGMMA"] + one.instructions["HMMA"],
        "wgmma": one.instructions["HGMMA"],
        "wgmma_waits": one.instructions["WARPGROUP"],
        "copies": one.instructions["LDGSTS"],
        "bulk_copies": one.instructions["UTMALDG"],
        "byte_loads": len(re.findall(r"\bLDS\.U8\b", one.sass)),
        "slow_conversions": one.instructions["F2F"],
        "wide_copies": len(re.findall(r"LDGSTS\S*\.128\b", one.sass)),
    }


def compile_all(capability):
    kinds = {
        "": CASES,
        " ring": RINGS,
        " capped": CAPPED,
        " started": STARTED,
        " ragged": RAGGED,
        " bits": BITS,
        " known": KNOWN,
    }
    if capability >= (8, 9):
        kinds[" float8"] = FLOAT8
    for kind, (head_dim, rows, dtype) in [(kind, case) for kind, cases in kinds.items() for case in cases]:
        options = {
            name: kind == f" {name}" for name in ("ring", "capped", "started", "float8", "ragged", "bits", "known")
        }
        for kernel, one in decode_anatomies(capability, head_dim, rows, getattr(torch, dtype), **options):
            if kind not in ("", " ragged") and kernel == "reduce":
                continue  # it knows nothing of slots, nor of scores
            yield partial(row_of, [kernel + kind, head_dim, rows, dtype]), one


if __name__ == "__main__":
    print_rows(compile_all)
